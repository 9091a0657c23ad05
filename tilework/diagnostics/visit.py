"""One request to the status page, and its answer. See :mod:`tilework.diagnostics.status` for who is answered and why.

Loaded when somebody first looks.
"""

from __future__ import annotations

import hmac
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from tilework.diagnostics.metrics import metrics
from tilework.diagnostics.status import LOOPBACK, MAX_REQUEST, PATIENCE
from tilework.engine.cluster.wire.snapshot import Snapshot

if TYPE_CHECKING:
    from tilework.diagnostics.status import StatusServer

_PAGE = files("tilework.diagnostics").joinpath("status.html")
_COMMON = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_HTML, _TEXT, _JSON = "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def status_json(snapshot: Snapshot) -> str:
    """A snapshot as JSON: names as in :mod:`tilework.engine.cluster.wire.snapshot`."""
    return json.dumps(asdict(snapshot))


_VIEWS: dict[str, tuple[str, Callable[[Snapshot], str]]] = {
    "/status.json": (_JSON, status_json),
    "/metrics": (_PROMETHEUS, metrics),
}


class Visit(BaseHTTPRequestHandler):
    """One request, which is the only one of its connection."""

    server_version, sys_version = "tilework", ""
    timeout = PATIENCE

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BytesIO(self._read_request())

    def _read_request(self) -> bytes:
        """All of the request; nothing if it is too long, or takes too long."""
        deadline = time.monotonic() + PATIENCE
        data = b""
        while b"\r\n\r\n" not in data:
            left = deadline - time.monotonic()
            if left <= 0 or len(data) >= MAX_REQUEST:
                return b""
            self.connection.settimeout(left)
            more = self.connection.recv(MAX_REQUEST - len(data))
            if not more:
                return b""
            data += more
        self.connection.settimeout(PATIENCE)
        return data

    def log_message(self, format: str, *args: Any) -> None:
        """A scheduler's terminal is not the place for it."""

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._answer(400, "This is no path\n")
            return
        if not LOOPBACK.fullmatch(self.headers.get("Host", "")):
            self._answer(421, "This page is for this machine only: open it as http://127.0.0.1:PORT/\n")
        elif url.path == "/health":
            self._answer(200, "ok\n")
        elif not self._knows_token(parse_qs(url.query)):
            self._answer(401, "Open this page by its whole link, token included: cluster.dashboard_link\n")
        elif url.path == "/" and url.query:
            page = self._page
            cookie = f"{page.cookie}={page.token}; Path=/; HttpOnly; SameSite=Lax"
            self._answer(303, "", **{"Location": "/", "Set-Cookie": cookie})
        elif url.path == "/":
            self._answer(200, _PAGE.read_bytes(), _HTML)
        elif url.path in _VIEWS:
            kind, view = _VIEWS[url.path]
            try:
                snapshot = self._page.latest()
            except Exception as error:
                self._answer(503, f"The cluster does not answer: {error!r}\n")
            else:
                self._answer(200, view(snapshot), kind)
        else:
            self._answer(404, f"There are /, {', '.join(_VIEWS)} and /health\n")

    @property
    def _page(self) -> StatusServer:
        return cast("StatusServer", self.server)

    def _knows_token(self, query: dict[str, list[str]]) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self._page.cookie)
        except CookieError:
            cookie = None
        offered = [cookie.value if cookie else "", *query.get("token", [])]
        offered.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
        token = self._page.token.encode()
        return any(hmac.compare_digest(candidate.encode("utf-8", "replace"), token) for candidate in offered)

    def _answer(self, status: int, body: str | bytes, kind: str = _TEXT, /, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {**_COMMON, "Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
