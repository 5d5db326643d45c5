"""MooTube, the sample application: videos, uploads, one database for the whole fleet."""
