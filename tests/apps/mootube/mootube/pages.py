"""HTML out of the release's own templates, so that what a visitor sees is what this release brought."""

from html import escape
from string import Template
from urllib.parse import quote


class Pages:
    def __init__(self, config):
        self._pages = config.root / "pages"
        self._frame = {
            "theme": self._read("theme.css"),
            "version": escape(config.version),
            "node": escape(config.node),
            "release": escape(config.release),
        }

    def home(self, videos, count, uploads):
        body = Template(self._read("home.html")).substitute(
            count=count, videos="\n".join(map(card, videos)), uploads=file_list(uploads))
        return self._page("MooTube", body)

    def watch(self, video):
        return self._page(f"{video['title']} – MooTube", f'<ul class="grid">{card(video)}</ul>')

    def message(self, title, text):
        return self._page(title, f"<h2>{escape(title)}</h2><p>{escape(text)}</p>")

    def _page(self, title, body):
        return Template(self._read("layout.html")).substitute(self._frame, title=escape(title), body=body)

    def _read(self, name):
        return (self._pages / name).read_text()


def card(video):
    return (f'<li class="card"><div class="still"><span>{length(video["seconds"])}</span></div>'
            f'<a href="/watch/{quote(video["key"], safe="")}">{escape(video["title"])}</a>'
            f'<p>{escape(video["channel"])}</p></li>')


def file_list(names):
    if not names:
        return '<p class="none">Nothing yet.</p>'
    items = "".join(f'<li><a href="/uploads/{quote(name, safe="")}">{escape(name)}</a></li>' for name in names)
    return f'<ul class="files">{items}</ul>'


def length(seconds):
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
