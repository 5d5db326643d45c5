"""The videos table, as release 2 knows it: addresses by slug.

Release 1 runs beside this one during the rollout and adds rows without a slug; those keep their id.
"""

import re
import secrets

from .schema import now

COLUMNS = "coalesce(slug, id) AS key, title, channel, seconds"


def all_videos(db):
    """Newest first; `key` is what stands in the address."""
    return db.rows(f"SELECT {COLUMNS} FROM videos ORDER BY created_at DESC, id LIMIT 100")


def find(db, key):
    # By id too: the links of release 1 stay good.
    rows = db.rows(f"SELECT {COLUMNS} FROM videos WHERE slug = ? OR id = ?", key, key)
    return rows[0] if rows else None


def count(db):
    return db.value("SELECT count(*) FROM videos")


def add(db, title, channel, seconds):
    video = secrets.token_urlsafe(8)
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or video
    if find(db, slug):
        slug = f"{slug}-{video}"
    db.rows("INSERT INTO videos (id, title, channel, seconds, created_at, slug) VALUES (?, ?, ?, ?, ?, ?)",
            video, title, channel, seconds, now(), slug)
