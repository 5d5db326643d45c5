"""One small interface to SQLite (demo) and PostgreSQL (tests): autocommit, with transactions written out."""

import contextlib
import sqlite3

CONNECT_SECONDS_MAX = 3
SQLITE_BUSY_SECONDS_MAX = 60
# Any constant will do, as long as nothing else in the database uses it.
POSTGRES_SETUP_LOCK = 0x6D6F6F


class DatabaseError(Exception):
    """The database could not be reached or refused a statement."""


def connect(url):
    """Opens `sqlite:///absolute/path` or `postgresql://…`."""
    if url.startswith("sqlite://"):
        return Sqlite(url[len("sqlite://"):])
    if url.startswith(("postgresql://", "postgres://")):
        return Postgres(url)
    raise DatabaseError(f"DATABASE_URL: neither sqlite:// nor postgresql://: {url.partition(':')[0]}")


class Database:
    """What both have in common. Statements use ? for parameters."""

    def rows(self, sql, *params):
        """Runs one statement; the rows as dictionaries, none for a statement without a result."""
        with self._errors():
            cursor = self._connection.cursor()
            cursor.execute(self._dialect(sql), params)
            if cursor.description is None:
                return []
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row)) for row in cursor.fetchall()]

    def value(self, sql, *params):
        """The first column of the first row, or None."""
        rows = self.rows(sql, *params)
        return next(iter(rows[0].values())) if rows else None

    @contextlib.contextmanager
    def transaction(self):
        self.rows(self.BEGIN)
        try:
            yield
        except BaseException:
            # Best effort: a lost connection has rolled back already.
            with contextlib.suppress(DatabaseError):
                self.rows("ROLLBACK")
            raise
        self.rows("COMMIT")

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except self._error as error:
            raise DatabaseError(str(error).strip()) from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._connection.close()


class Sqlite(Database):
    # IMMEDIATE: take the write lock now, so that whatever is read next stays true until COMMIT.
    BEGIN = "BEGIN IMMEDIATE"
    _error = sqlite3.Error

    def __init__(self, path):
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=SQLITE_BUSY_SECONDS_MAX, isolation_level=None)

    def _dialect(self, sql):
        return sql

    def script(self, sql):
        """Several statements. Not executescript(): that one commits the open transaction first."""
        statement = ""
        for line in sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.rows(statement)
                statement = ""
        if statement.strip():
            self.rows(statement)

    def prepare(self):
        # Readers go on while a migration holds the write lock.
        self.rows("PRAGMA journal_mode = WAL")

    def lock_setup(self):
        pass  # BEGIN IMMEDIATE did

    def lock_migrations(self):
        pass  # BEGIN IMMEDIATE did


class Postgres(Database):
    BEGIN = "BEGIN"

    def __init__(self, url):
        import psycopg2  # here, because the demo runs without it

        self._error = psycopg2.Error
        with self._errors():
            self._connection = psycopg2.connect(url, connect_timeout=CONNECT_SECONDS_MAX)
            self._connection.autocommit = True

    def _dialect(self, sql):
        return sql.replace("?", "%s")

    def script(self, sql):
        with self._errors():
            self._connection.cursor().execute(sql)

    def prepare(self):
        pass

    def lock_setup(self):
        # CREATE TABLE IF NOT EXISTS by two sessions at once fails in one of them.
        self.rows(f"SELECT pg_advisory_xact_lock({POSTGRES_SETUP_LOCK})")

    def lock_migrations(self):
        # Blocks other migrations, not the servers that read the schema version.
        self.rows("LOCK TABLE schema_migrations IN EXCLUSIVE MODE")
