"""The server as a background process, for machines without systemd: one per shared directory.

The running server holds a lock on its pid file, and the kernel drops the lock with the process. So a pid that
was left behind, or has since been given to somebody else, is never signalled.
"""

import contextlib
import fcntl
import http.client
import os
import signal
import subprocess
import time

STOP_SECONDS_MAX = 10
START_SECONDS_MAX = 15
POLL_SECONDS = 0.02
LOG_BYTES_MAX = 4 * 1024 * 1024
LOG_TAIL_LINES = 20


class DaemonError(Exception):
    """The server could not be stopped, started or asked."""


def hold_pid_file(run_dir):
    """Called by the server: writes its pid and keeps the file locked for as long as it lives.

    A bare descriptor that nothing closes: a file object would be closed, and unlocked, while the interpreter still tidies up.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / "mootube.pid"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DaemonError(f"{path}: another server of this directory runs") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def running_pid(run_dir):
    """The server's pid while it runs, else None."""
    try:
        file = open(run_dir / "mootube.pid")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # Empty for an instant: locked, but the pid not yet written.
            text = file.read().strip()
            return int(text) if text else 0
    return None


@contextlib.contextmanager
def one_at_a_time(run_dir):
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "restart.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_stopped(run_dir):
    """TERM, a while for the requests that run, then KILL. The pid that was stopped, or None."""
    pid = wait_for(lambda: running_pid(run_dir) != 0, 1) and running_pid(run_dir)
    if not pid:
        return None
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        if wait_for(lambda: running_pid(run_dir) != pid, STOP_SECONDS_MAX):
            return pid
    raise DaemonError(f"process {pid} does not end")


def start(config):
    """Starts `bin/serve` of the current release and waits until it answers as that release. Its pid."""
    current = config.current.resolve()
    log_path = config.run_dir / "mootube.log"
    with open(log_path, "ab") as log:
        if log.tell() > LOG_BYTES_MAX:
            log.truncate(0)
        # Its own session: the agent ends the hook's process group when the hook is done.
        process = subprocess.Popen([current / "bin" / "serve", "--pid-file"], cwd=current, stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True)
    answered = wait_for(lambda: process.poll() is not None or answers(config, current.name), START_SECONDS_MAX)
    if process.poll() is not None or not answered:
        process.kill()
        process.wait()
        tail = log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        raise DaemonError("\n".join([f"release {current.name} does not listen on {':'.join(map(str, config.address))}", *tail]))
    # Not reaped here: it outlives this process.
    process.returncode = 0
    return process.pid


def answers(config, release):
    """Whether it is this node's server: on one machine, somebody else may have the port."""
    try:
        _, node, served = ask_health(config)
    except DaemonError:
        return False
    return (node, served) == (config.node, release)


def ask_health(config):
    """(status, node, release) of the server on this node's address."""
    host, port = config.address
    connection = http.client.HTTPConnection("127.0.0.1" if host == "0.0.0.0" else host, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("X-Node"), response.getheader("X-Release")
    except (OSError, http.client.HTTPException) as error:
        raise DaemonError(f"no answer from {host}:{port}: {error}") from error
    finally:
        connection.close()


def wait_for(condition, seconds_max):
    """Polls; whether it came true in time."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
