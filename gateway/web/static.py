"""The files that pages load: styles, scripts, the chart library. Read once, served from memory.

Their addresses hold a digest of all of them, so that browsers may keep them for ever.
"""

import gzip
import hashlib
import importlib.resources

from aiohttp import web

PREFIX = "/dashboard/static"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_KEPT = "public, max-age=31536000, immutable"


class Static:
    """All files of `gateway/web/static`."""

    def __init__(self) -> None:
        folder = importlib.resources.files("gateway.web").joinpath("static")
        self._files = {
            each.name: each.read_bytes()
            for each in sorted(folder.iterdir(), key=lambda one: one.name)
            if each.is_file()
        }
        self._packed = {
            name: gzip.compress(body, 9, mtime=0)
            for name, body in self._files.items()
            if not name.endswith(".png")
        }
        whole = hashlib.sha256()
        for name, body in self._files.items():
            whole.update(f"{name} {len(body)}\n".encode() + body)
        self._version = whole.hexdigest()[:12]

    def path(self, name: str) -> str:
        """The address of a file; KeyError where there is none, so that no page links to nothing."""
        self._files[name]
        return f"{PREFIX}/{self._version}/{name}"

    async def serve(self, request: web.Request) -> web.Response:
        """A file, whatever version was asked for."""
        name = request.match_info["name"]
        body = self._files.get(name)
        if body is None:
            raise web.HTTPNotFound
        fields = {
            "Content-Type": _TYPES[name[name.rindex(".") :]],
            "Cache-Control": _KEPT,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Vary": "Accept-Encoding",
        }
        packed = self._packed.get(name)
        if packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            body = packed
            fields["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=fields)
