use std::path::Path;

use coord_proto::limits::{HOOK_LOG_BYTES_MAX, LOG_TAIL_BYTES_MAX};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

fn spec(dir: &Path, script: &str) -> CommandSpec {
    CommandSpec {
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        cwd: dir.into(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        redact: vec![],
        user: None,
        deadline: Duration::from_secs(20),
        log_file: dir.join("logs/hook.log"),
        cancel: CancellationToken::new(),
    }
}

fn alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    state.is_some_and(|s| s.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

#[tokio::test]
async fn status_output_and_environment() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), "echo out; echo err >&2; env | sort; exit 3")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Exited(3));
    assert!(end.log_tail.contains("out") && end.log_tail.contains("err"), "{}", end.log_tail);
    assert!(!end.log_tail.contains("CARGO"), "the agent's own environment leaked: {}", end.log_tail);
}

#[tokio::test]
async fn a_signal_is_not_an_exit_status() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), "kill -9 $$")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Signaled(9));
}

#[tokio::test]
async fn a_hook_that_hangs_and_forks_is_ended_with_all_its_children() {
    let dir = tempfile::tempdir().expect("dir");
    let pids = dir.path().join("pids");
    let script = format!("(trap '' TERM; sleep 600) & echo $! >{0}; setsid sleep 600 & echo $! >>{0}; sleep 600", pids.display());
    let hang = CommandSpec { deadline: Duration::from_millis(300), ..spec(dir.path(), &script) };
    let end = run(hang).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::TimedOut);
    let left: Vec<i32> = std::fs::read_to_string(pids).expect("pids").lines().filter_map(|l| l.parse().ok()).collect();
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|pid| !alive(*pid)), "left behind: {left:?}");
}

#[tokio::test]
async fn cancelling_ends_it() {
    let dir = tempfile::tempdir().expect("dir");
    let hang = spec(dir.path(), "sleep 600");
    hang.cancel.cancel();
    assert_eq!(run(hang).await.expect("run").outcome, CommandOutcome::Cancelled);
}

/// A lost lease: whatever the command does with TERM, also in the grace after its deadline, nothing of it may be left.
#[tokio::test]
async fn what_runs_only_while_a_lease_is_held_is_killed_without_a_grace() {
    for deadline in [Duration::from_secs(60), Duration::from_millis(100)] {
        let dir = tempfile::tempdir().expect("dir");
        let pids = dir.path().join("pids");
        let script = format!("trap '' TERM; sleep 600 & echo $! $$ >{0}.new; mv {0}.new {0}; while :; do sleep 1; done", pids.display());
        let deaf = CommandSpec { deadline, ..spec(dir.path(), &script) };
        let lost = deaf.cancel.clone();
        let running = tokio::spawn(run_while_held(deaf));
        while !pids.exists() {
            assert!(!running.is_finished(), "it ended before it was cancelled");
            sleep(LOOK).await;
        }
        // The second one is past its deadline by now, or soon will be: TERM has no effect on it.
        sleep(Duration::from_millis(200)).await;
        lost.cancel();
        let cancelled = Instant::now();
        let end = running.await.expect("no panic").expect("run");
        assert!(cancelled.elapsed() < GRACE / 2, "it had {:?} after the lease", cancelled.elapsed());
        assert!(matches!(end.outcome, CommandOutcome::Cancelled | CommandOutcome::TimedOut));
        let left = std::fs::read_to_string(pids).expect("pids");
        assert!(left.split_whitespace().all(|pid| !alive(pid.parse().expect("a pid"))), "left behind: {left}");
    }
}

/// As when the agent is killed: no destructor runs.
#[test]
fn a_command_does_not_outlive_the_thread_that_runs_it() {
    let dir = tempfile::tempdir().expect("dir");
    let (path, pid_file) = (dir.path().to_owned(), dir.path().join("pid"));
    let agent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut running = Box::pin(run(spec(&path, "echo $$ >pid.new; mv pid.new pid; exec sleep 600")));
        let started = async {
            while !path.join("pid").exists() {
                sleep(LOOK).await;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                ended = &mut running => panic!("{ended:?}"),
                () = started => {}
            }
        });
        std::mem::forget((running, runtime));
    });
    agent.join().expect("the agent's thread has ended");
    let pid: i32 = std::fs::read_to_string(pid_file).expect("started").trim().parse().expect("a pid");
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while alive(pid) {
        if std::time::Instant::now() > until {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            panic!("the command outlived its agent");
        }
        std::thread::sleep(LOOK);
    }
}

#[tokio::test]
async fn a_hook_that_prints_a_lot_neither_blocks_nor_fills_the_disk() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), "head -c 100000000 /dev/zero | tr '\\0' 'x'; echo; echo the end")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Exited(0));
    assert!(end.log_tail.ends_with("the end") && end.log_tail.len() <= LOG_TAIL_BYTES_MAX);
    let kept = std::fs::metadata(dir.path().join("logs/hook.log")).expect("log").len();
    assert!(kept <= (HOOK_LOG_BYTES_MAX + LOG_TAIL_BYTES_MAX + 100) as u64, "{kept}");
}

#[tokio::test]
async fn secrets_do_not_reach_the_log() {
    let dir = tempfile::tempdir().expect("dir");
    let secret = CommandSpec { redact: vec!["hunter22".into()], ..spec(dir.path(), "printf 'pass=hun'; sleep 0.1; echo 'ter22;'") };
    let end = run(secret).await.expect("run");
    assert_eq!(end.log_tail, "pass=[redacted];");
    let file = std::fs::read_to_string(dir.path().join("logs/hook.log")).expect("log");
    assert!(!file.contains("hunter22"), "{file}");
}

#[tokio::test]
async fn a_daemon_that_keeps_the_pipe_open_does_not_hold_up_the_deploy() {
    let dir = tempfile::tempdir().expect("dir");
    let daemon = spec(dir.path(), "echo started; setsid sleep 30 & echo $! >pid; exit 0");
    let end = tokio::time::timeout(Duration::from_secs(10), run_leaving_daemons(daemon)).await.expect("not held up").expect("run");
    assert_eq!((end.outcome, end.log_tail.as_str()), (CommandOutcome::Exited(0), "started"));
    let pid: i32 = std::fs::read_to_string(dir.path().join("pid")).expect("pid").trim().parse().expect("a number");
    assert!(alive(pid), "what a hook started on purpose stays");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("ended");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let missing = CommandSpec { argv: vec!["bin/none".into()], ..spec(dir.path(), "") };
    let error = run(missing).await.expect_err("no such program");
    assert!(error.to_string().contains("bin/none"), "{error}");
}

/// A script's background process, by the number that it wrote; it writes before the leader ends.
fn written_pid(dir: &Path) -> i32 {
    std::fs::read_to_string(dir.join("pid")).expect("pid").trim().parse().expect("a number")
}

#[tokio::test]
async fn what_stays_in_the_session_ends_with_the_leader() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run_leaving_daemons(spec(dir.path(), "sleep 600 & echo $! >pid; exit 0")).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::Exited(0));
    assert!(!alive(written_pid(dir.path())), "a background process outlived its hook");
}

#[tokio::test]
async fn a_migration_leaves_nothing_behind_in_any_session() {
    let dir = tempfile::tempdir().expect("dir");
    run(spec(dir.path(), "setsid sh -c 'echo $$ >pid; exec sleep 600' & while ! [ -s pid ]; do :; done")).await.expect("run");
    assert!(!alive(written_pid(dir.path())), "a process of a run-once command outlived it");
}

#[tokio::test]
async fn a_hook_that_fails_leaves_no_daemon() {
    let dir = tempfile::tempdir().expect("dir");
    let script = "setsid sh -c 'echo $$ >pid; exec sleep 600' & while ! [ -s pid ]; do :; done; exit 1";
    run_leaving_daemons(spec(dir.path(), script)).await.expect("run");
    assert!(!alive(written_pid(dir.path())));
}

#[tokio::test]
async fn who_forked_twice_into_another_session_is_found_by_the_mark() {
    let dir = tempfile::tempdir().expect("dir");
    // The middle process ends at once, so that neither parent nor group nor session lead back to the hook.
    let script = "(setsid sh -c 'setsid sh -c \"echo \\$\\$ >pid; exec sleep 600\" &' &); while ! [ -s pid ]; do :; done; sleep 600";
    let hang = CommandSpec { deadline: Duration::from_secs(1), ..spec(dir.path(), script) };
    assert_eq!(run(hang).await.expect("run").outcome, CommandOutcome::TimedOut);
    assert!(!alive(written_pid(dir.path())));
}

#[tokio::test]
async fn a_dropped_run_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("dir");
    let pid = dir.path().join("pid");
    let running = run(spec(dir.path(), "setsid sh -c 'echo $$ >pid; exec sleep 600' & sleep 600"));
    let started = async {
        while std::fs::read_to_string(&pid).unwrap_or_default().trim().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = running => panic!("it does not end by itself"),
        () = started => {}
    }
    // The signal was sent when the future was dropped; the kernel takes a moment.
    let gone = async {
        while alive(written_pid(dir.path())) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("killed by the drop");
}

#[tokio::test]
async fn term_comes_first_and_kill_only_after_the_grace() {
    let dir = tempfile::tempdir().expect("dir");
    let polite = "trap 'echo tidied; exit 0' TERM; echo up; while :; do :; done";
    let spec = CommandSpec { deadline: Duration::from_millis(500), ..spec(dir.path(), polite) };
    let end = run(spec.clone()).await.expect("run");
    assert_eq!((end.outcome, end.log_tail.as_str()), (CommandOutcome::TimedOut, "up\ntidied"));
    let deaf = CommandSpec { argv: vec!["/bin/sh".into(), "-c".into(), "trap '' TERM; while :; do :; done".into()], ..spec };
    let end = run_with(deaf, Survivors::None, OnCancel::Terminate, Duration::from_millis(100)).await.expect("run");
    assert_eq!(end.outcome, CommandOutcome::TimedOut);
}

#[tokio::test]
async fn a_command_becomes_its_user_with_all_groups() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: nobody to become");
        return;
    }
    let dir = tempfile::tempdir().expect("dir");
    let ids = UserIds { uid: 65534, gid: 65534, groups: vec![65534, 33] };
    let spec = CommandSpec { cwd: "/".into(), user: Some(ids), ..spec(dir.path(), "id -u; id -g; id -G") };
    let end = run(spec).await.expect("run");
    assert_eq!(end.log_tail, "65534\n65534\n65534 33");
}

#[tokio::test]
async fn escape_sequences_do_not_reach_the_tail() {
    let dir = tempfile::tempdir().expect("dir");
    let end = run(spec(dir.path(), r"printf '\033[31mred\033[0m\n'")).await.expect("run");
    assert_eq!(end.log_tail, "[31mred[0m");
}

#[tokio::test]
async fn a_daemon_that_leaves_the_session_late_stays() {
    let dir = tempfile::tempdir().expect("dir");
    // It leaves when the hook's own process is gone: the moment that a busy machine stretches.
    let script = "(while kill -0 $$ 2>/dev/null; do :; done; exec setsid sleep 30) & echo $! >pid; exit 0";
    run_leaving_daemons(spec(dir.path(), script)).await.expect("run");
    let pid = written_pid(dir.path());
    assert!(alive(pid), "killed before it could leave");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("ended");
}
