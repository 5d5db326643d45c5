"""The schema's version: what the release needs, what the database has, and how one becomes the other.

Every migration commits in ONE transaction with its row in schema_migrations, so a process that dies at any
point leaves it applied or not applied, never half. Every start leaves a row in migration_starts first, in a
transaction of its own: whoever wants to know how often the command was started asks the database.
"""

import re
import time
from datetime import datetime, timezone

from .database import DatabaseError

FILE_NAME = re.compile(r"(\d{4})_\w+\.sql")

BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version    INTEGER PRIMARY KEY,
    release    TEXT NOT NULL,
    node       TEXT NOT NULL,
    fence      BIGINT,
    attempt    INTEGER,
    applied_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS migration_starts (
    release    TEXT NOT NULL,
    node       TEXT NOT NULL,
    fence      BIGINT,
    attempt    INTEGER,
    started_at TEXT NOT NULL
);
"""


class Superseded(Exception):
    """Another start of this release holds a later fence: this process was presumed dead and must not write."""


def migrations(root):
    """Version → file of every migration in the release, in order."""
    found = {}
    for path in sorted((root / "migrations").iterdir()):
        match = FILE_NAME.fullmatch(path.name)
        if match:
            found[int(match[1])] = path
    return found


def needed_version(root):
    return max(migrations(root), default=0)


def database_version(db):
    return db.value("SELECT max(version) FROM schema_migrations") or 0


def migrate(db, config, sleep_seconds=0.0):
    """Applies what is missing; the versions that this call applied."""
    start = Start(config)
    db.prepare()
    with db.transaction():
        db.lock_setup()
        db.script(BOOKKEEPING)
    with db.transaction():
        start.record(db)
    applied = []
    for version, path in migrations(config.root).items():
        with db.transaction():
            db.lock_migrations()
            start.refuse_if_superseded(db)
            if db.value("SELECT version FROM schema_migrations WHERE version = ?", version):
                continue
            # Before the statements: they may lock tables that the servers read.
            time.sleep(sleep_seconds)
            try:
                db.script(path.read_text())
            except DatabaseError as error:
                raise DatabaseError(f"{path.name}: {error}") from error
            start.applied(db, version)
        applied.append(version)
    return applied


class Start:
    """One start of the migration command, as the agent described it in the environment."""

    def __init__(self, config):
        self.release = config.get("COORD_RELEASE", config.release)
        self.node = config.node
        self.fence = number(config, "COORD_FENCE")
        self.attempt = number(config, "COORD_ATTEMPT")

    def record(self, db):
        db.rows("INSERT INTO migration_starts VALUES (?, ?, ?, ?, ?)",
                self.release, self.node, self.fence, self.attempt, now())

    def applied(self, db, version):
        db.rows("INSERT INTO schema_migrations VALUES (?, ?, ?, ?, ?, ?)",
                version, self.release, self.node, self.fence, self.attempt, now())

    def refuse_if_superseded(self, db):
        """What COORD_FENCE is for: it grows with every claim, and the database compares it under its own lock."""
        if self.fence is None:
            return
        latest = db.value("SELECT max(fence) FROM migration_starts WHERE release = ?", self.release)
        if latest is not None and latest > self.fence:
            raise Superseded(f"fence {self.fence} of release {self.release} was superseded by {latest}")


def number(config, name):
    text = config.get(name)
    return int(text) if text else None


def now():
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
