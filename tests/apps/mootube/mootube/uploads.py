"""Uploaded files: in a directory that every release of this server shares."""

import email.parser
import email.policy
import mimetypes
import os
import re
import tempfile

UPLOAD_BYTES_MAX = 64 * 1024 * 1024
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class UploadError(Exception):
    """The request is not an upload that can be stored."""


class Uploads:
    def __init__(self, directory):
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def names(self):
        return sorted(entry.name for entry in os.scandir(self._directory)
                      if entry.is_file() and SAFE_NAME.fullmatch(entry.name))

    def store(self, name, data):
        """Appears whole or not at all: written aside (a leading dot is never listed), then renamed."""
        if not SAFE_NAME.fullmatch(name):
            raise UploadError("a file name is letters, digits, dot, dash and underscore, at most 128")
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".upload-", delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
                os.rename(file.name, self._directory / name)
            except BaseException:
                os.unlink(file.name)
                raise

    def read(self, name):
        """(content type, bytes), or None when there is no such file."""
        if not SAFE_NAME.fullmatch(name):
            return None
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        return mimetypes.guess_type(name)[0] or "application/octet-stream", data


def from_form(content_type, body):
    """(name, bytes) of the first file in a multipart/form-data body."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    for part in message.iter_parts():
        name = part.get_filename()
        if name:
            return os.path.basename(name).replace(" ", "-"), part.get_payload(decode=True)
    raise UploadError("the form holds no file")
