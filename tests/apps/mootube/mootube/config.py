"""Where this process gets its settings: the environment first, then the release's .env."""

import os
import socket
from pathlib import Path

DEFAULT_PORT = 8080


class ConfigError(Exception):
    """A setting is missing or cannot be read; the text names it."""


class Config:
    """Settings of one process, for the release tree that it belongs to."""

    def __init__(self, root):
        self.root = Path(root)
        self._values = {**read_env_file(self.root / ".env"), **os.environ}

    @classmethod
    def of_this_release(cls):
        """The tree this code stands in. The link is resolved once: after the next switch, `current` is not us."""
        return cls(Path(__file__).resolve().parent.parent)

    def get(self, name, default=""):
        # An empty value is an absent one: the agent sets every COORD_ variable in every phase.
        return self._values.get(name) or default

    @property
    def release(self):
        return self.root.name

    @property
    def version(self):
        return (self.root / "VERSION").read_text().strip()

    @property
    def node(self):
        return self.get("MOOTUBE_NODE") or self.get("COORD_NODE") or socket.gethostname()

    @property
    def address(self):
        port = self.get("MOOTUBE_PORT", str(DEFAULT_PORT))
        if not port.isdigit():
            raise ConfigError(f"MOOTUBE_PORT is not a port number: {port!r}")
        return (self.get("MOOTUBE_HOST", "127.0.0.1"), int(port))

    @property
    def database_url(self):
        url = self.get("DATABASE_URL")
        if not url:
            raise ConfigError(f"DATABASE_URL is set neither in the environment nor in {self.root / '.env'}")
        return url

    @property
    def uploads(self):
        return self.root / "public" / "uploads"

    @property
    def current(self):
        """The tree to start: the link's, so that a restart finds whatever the agent switched to."""
        return Path(self.get("COORD_CURRENT_PATH", str(self.root)))

    @property
    def run_dir(self):
        """What outlives a release: pid file and log."""
        return Path(self.get("COORD_SHARED_PATH", str(self.root))) / "run"


def read_env_file(path):
    """KEY=VALUE lines; blank lines and lines that begin with # are skipped. No file means no values."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    values = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise ConfigError(f"{path}:{number}: expected KEY=VALUE")
        values[key.strip()] = value.strip().strip("\"'")
    return values
