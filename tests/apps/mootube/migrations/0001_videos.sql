CREATE TABLE videos (
    id         TEXT PRIMARY KEY,
    title      TEXT NOT NULL,
    channel    TEXT NOT NULL,
    seconds    INTEGER NOT NULL,
    created_at TEXT NOT NULL
);

INSERT INTO videos (id, title, channel, seconds, created_at) VALUES
    ('b4rnd00r', 'Closing the barn door in time', 'Farm Operations', 754, '2026-01-04T08:00:00.000+00:00'),
    ('cudcud01', 'Chewing the cud slowly', 'Calm Cows', 3605, '2026-01-05T08:00:00.000+00:00'),
    ('hedgerow', 'A walk along the hedgerow', 'Calm Cows', 1268, '2026-01-06T08:00:00.000+00:00'),
    ('milkflow', 'Milk flow without a pipeline', 'Farm Operations', 412, '2026-01-07T08:00:00.000+00:00'),
    ('overmoon', 'Over the moon and back', 'Moo Space Agency', 5403, '2026-01-08T08:00:00.000+00:00'),
    ('tippingx', 'Tipping is a myth', 'Cow Facts', 187, '2026-01-09T08:00:00.000+00:00');
