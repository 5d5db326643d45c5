"""The videos table, as release 1 knows it."""

import secrets

from .schema import now


def all_videos(db):
    """Newest first; `key` is what stands in the address."""
    return db.rows("SELECT id AS key, title, channel, seconds FROM videos ORDER BY created_at DESC, id LIMIT 100")


def find(db, key):
    rows = db.rows("SELECT id AS key, title, channel, seconds FROM videos WHERE id = ?", key)
    return rows[0] if rows else None


def count(db):
    return db.value("SELECT count(*) FROM videos")


def add(db, title, channel, seconds):
    db.rows("INSERT INTO videos (id, title, channel, seconds, created_at) VALUES (?, ?, ?, ?, ?)",
            secrets.token_urlsafe(8), title, channel, seconds, now())
