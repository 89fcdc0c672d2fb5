"""The pages: static files of serve/ui, and of no other place."""

import hashlib
import mimetypes
from pathlib import Path

from pynanochat.serve.faults import Fault
from pynanochat.serve.wire import send

FOLDER = Path(__file__).parent / "ui"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}


class Pages:
    """Serves the files that are in the folder; a browser asks each time whether its copy is still the right one."""

    def __init__(self, folder: Path = FOLDER):
        self.folder = folder
        self._read: dict[str, tuple[tuple, bytes, str]] = {}  # name -> (mtime and size, bytes, hash)

    async def page(self, request, name: str):
        """The answer that is file `name` of the folder. Raises Fault (404)."""
        file = self._files().get(name)
        if file is None:
            raise Fault(404, "there is no such page; the chat is at /")
        content, tag = self._content(name, file)
        headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if tag in request.headers.get("If-None-Match", ""):
            return await send(request, b"", _type(name), 304, headers)
        return await send(request, content, _type(name), 200, headers)

    def _files(self) -> dict[str, Path]:
        """Name -> file. Looking names up here, rather than joining them to a path, leaves no way out of the folder."""
        return {f.relative_to(self.folder).as_posix(): f for f in self.folder.rglob("*") if f.is_file()}

    def _content(self, name, file):
        stat = file.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
        if self._read.get(name, (None,))[0] != stamp:
            content = file.read_bytes()
            self._read[name] = (stamp, content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
        return self._read[name][1:]


def _type(name: str) -> str:
    kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    return kind + "; charset=utf-8" if kind.startswith("text/") else kind
