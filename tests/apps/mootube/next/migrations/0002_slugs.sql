-- Expand only: release 1 keeps running on this schema until the last server has switched.
ALTER TABLE videos ADD COLUMN slug TEXT;

UPDATE videos SET slug = lower(replace(title, ' ', '-')) WHERE slug IS NULL;

CREATE INDEX videos_slug ON videos (slug);
