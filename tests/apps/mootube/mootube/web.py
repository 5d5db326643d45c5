"""The web server: one thread per request, HTTP/1.0, so that a stop waits for answers and for nothing else."""

import json
import os
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from . import schema, videos
from .database import DatabaseError, connect
from .pages import Pages
from .uploads import UPLOAD_BYTES_MAX, UploadError, Uploads, from_form

REQUEST_SECONDS_MAX = 15


class Site:
    """What every request needs; fixed at start, like the release."""

    def __init__(self, config):
        self.config = config
        self.url = config.database_url
        self.pages = Pages(config)
        self.uploads = Uploads(config.uploads)
        self.needs = schema.needed_version(config.root)

    def health(self):
        """(status, report). Healthy: the database answers and its schema is not older than this release needs."""
        report = {"release": self.config.release, "version": self.config.version, "needs": self.needs}
        # A release that brings this file is a bad one: for trying out what a failed health check leads to.
        if (self.config.root / "BROKEN").exists():
            return HTTPStatus.INTERNAL_SERVER_ERROR, {**report, "error": "this release is broken on purpose"}
        try:
            with connect(self.url) as db:
                report["schema"] = schema.database_version(db)
        except DatabaseError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, {**report, "error": f"database: {error}"}
        if report["schema"] < self.needs:
            return HTTPStatus.SERVICE_UNAVAILABLE, {**report, "error": "the schema is older than this release needs"}
        return HTTPStatus.OK, report


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close() then waits for the requests that run
    request_queue_size = 128

    def __init__(self, site):
        self.site = site
        super().__init__(site.config.address, Handler)


class Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_SECONDS_MAX

    def do_GET(self):
        self.answer(self.get)

    do_HEAD = do_GET

    def do_POST(self):
        self.answer(self.post)

    def answer(self, route):
        site = self.server.site
        try:
            route(site, urlsplit(self.path))
        except DatabaseError as error:
            self.log_error("database: %s", error)
            self.page(HTTPStatus.SERVICE_UNAVAILABLE, site.pages.message("Out to pasture", "The database does not answer."))
        except UploadError as error:
            self.page(HTTPStatus.BAD_REQUEST, site.pages.message("Not an upload", str(error)))

    def get(self, site, url):
        head, _, key = url.path[1:].partition("/")
        if url.path == "/":
            with connect(site.url) as db:
                listed, count = videos.all_videos(db), videos.count(db)
            self.page(HTTPStatus.OK, site.pages.home(listed, count, site.uploads.names()))
        elif url.path == "/healthz":
            self.json(*site.health())
        elif url.path == "/status.json":
            with connect(site.url) as db:
                status = {"videos": videos.count(db), "schema": schema.database_version(db)}
            config = site.config
            self.json(HTTPStatus.OK, {
                "node": config.node, "release": config.release, "version": config.version, "pid": os.getpid(),
                "uploads": site.uploads.names(), **status})
        elif head == "uploads" and (file := site.uploads.read(unquote(key))):
            self.send(HTTPStatus.OK, *file)
        elif head == "watch" and (video := self.find_video(site, unquote(key))):
            self.page(HTTPStatus.OK, site.pages.watch(video))
        else:
            self.not_found(site)

    def post(self, site, url):
        body = self.body()
        if url.path == "/upload":
            content_type = self.headers.get("Content-Type", "")
            if content_type.startswith("multipart/form-data"):
                name, data = from_form(content_type, body)
            else:
                name, data = parse_qs(url.query).get("name", [""])[0], body
            site.uploads.store(name, data)
            self.see_other("/")
        elif url.path == "/videos":
            title = parse_qs(body.decode(errors="replace")).get("title", [""])[0].strip()[:200]
            if not title:
                return self.page(HTTPStatus.BAD_REQUEST, site.pages.message("No title", "A video needs a title."))
            with connect(site.url) as db:
                videos.add(db, title, "Visitors", 60)
            self.see_other("/")
        else:
            self.not_found(site)

    def find_video(self, site, key):
        with connect(site.url) as db:
            return videos.find(db, key)

    def body(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            raise UploadError("Content-Length is missing")
        if int(length) > UPLOAD_BYTES_MAX:
            raise UploadError(f"at most {UPLOAD_BYTES_MAX} bytes")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise UploadError("the body ended early")
        return body

    def not_found(self, site):
        self.page(HTTPStatus.NOT_FOUND, site.pages.message("Not found", "There is nothing at this address."))

    def page(self, status, html):
        self.send(status, "text/html; charset=utf-8", html.encode())

    def json(self, status, value):
        self.send(status, "application/json", json.dumps(value).encode() + b"\n")

    def see_other(self, where):
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, status, content_type, data):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        # Uploads come from strangers: no browser may take one for a page.
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def end_headers(self):
        # Here, because the error answers of the base class pass through it too.
        self.send_header("X-Node", self.server.site.config.node)
        self.send_header("X-Release", self.server.site.config.release)
        super().end_headers()

    def log_message(self, format, *args):
        print(f"{schema.now()} {self.address_string()} {format % args}", file=sys.stderr, flush=True)


def serve(config):
    """Runs until TERM or INT, then finishes the requests that were accepted."""
    server = Server(Site(config))

    def stop(*_):
        # shutdown() waits for the loop, which runs in this very thread.
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    host, port = server.server_address[:2]
    print(f"{schema.now()} node {config.node}: release {config.release} listens on {host}:{port}", file=sys.stderr, flush=True)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
