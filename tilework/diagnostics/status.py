"""The status page of a cluster: what it is doing, for people, for programs and for Prometheus.

``/`` is the page, ``/status.json`` what it shows, ``/metrics`` the same for Prometheus, ``/health`` says "ok".

Only this machine is served, and all but ``/health`` only to who has the page's token: once in the link
(``?token=...``), from then on in a cookie; or as ``Authorization: Bearer``. The ``Host`` must be this machine, too, or
a page from elsewhere could reach us under a name that its owner lets point here (DNS rebinding). Nothing can be changed
by a request, so there is nothing that a forged one could do.

A request is read as a whole before anything is done: at most :data:`MAX_REQUEST` bytes in :data:`PATIENCE` seconds. At
most :data:`MAX_HANDLERS` are served at a time. One more, and the oldest is cut off, so connections that say nothing
keep nobody out.
"""

from __future__ import annotations

import hmac
import io
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from tilework.base.errors import ConfigError
from tilework.engine.cluster.snapshot import Counters, Snapshot

if TYPE_CHECKING:
    from tilework.engine.cluster.server import Server

MAX_HANDLERS = 8
"""Requests that are served at a time."""

MAX_REQUEST = 8 << 10
"""Bytes of a request, all its headers included."""

PATIENCE = 5.0
"""Seconds that a request, its answer, or the scheduler's word for it may take."""

_FRESH = 0.25  # seconds for which a snapshot is good for everybody who asks
_HOST = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
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


def attach(server: Server) -> str | None:
    """The status page of a cluster, served in threads of the scheduler process. Returns the link to it.

    This is ``"tilework.diagnostics.status:attach"`` in a cluster's ``extras``.
    """
    port = server.config.dashboard_port
    if port is None:
        return None

    def ask() -> Snapshot:
        answer: Future[Snapshot] = Future()
        server.call(server.snapshot, answer.set_result)
        return answer.result(PATIENCE)

    return serve(ask, port=port).link


def serve(
    snapshot: Callable[[], Snapshot], host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> StatusServer:
    """Serve a status page until it is closed.

    Parameters
    ----------
    snapshot
        Says what the cluster is doing. Called from threads of the page's, one call at a time.
    host
        An address of this machine's loopback.
    port
        0 is any free one.
    token
        What visitors must know: letters, digits, "-" and "_". Default: a new random one.

    Raises
    ------
    ConfigError
        If the port is taken, or other machines could reach the address.
    """
    if not _HOST.fullmatch(host) or ":" in host:
        raise ConfigError(f'the status page cannot listen at {host!r}: it is for this machine only; use "127.0.0.1"')
    try:
        return StatusServer(_Server(snapshot, host, port, token or secrets.token_urlsafe(24)))
    except OSError as error:
        raise ConfigError(
            f"the status page cannot listen at {host}:{port}: {error.strerror}; use another port, or 0 for any free one"
        ) from error


class StatusServer:
    """A status page that is being served.

    Attributes
    ----------
    link
        What to open in a browser, token included.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.link = f"http://{server.address}/?token={server.token}"
        self._thread = threading.Thread(target=server.accept_visitors, name="tilework-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no longer. Does nothing the second time."""
        self._server.close()
        self._thread.join()


class _Server(HTTPServer):
    """Accepts connections, and gives each a thread: at most MAX_HANDLERS."""

    request_queue_size = 128

    def __init__(self, snapshot: Callable[[], Snapshot], host: str, port: int, token: str) -> None:
        super().__init__((host, port), _Handler)
        self.token = token
        self.address = f"{host}:{self.server_port}"
        self.cookie = f"tilework-{self.server_port}"  # browsers give cookies to all ports of a host
        self.page = files("tilework.diagnostics").joinpath("status.html").read_bytes()
        self._snapshot = snapshot
        self._latest: tuple[float, Snapshot] | None = None
        self._asking = threading.Lock()
        self._places = threading.Semaphore(MAX_HANDLERS)
        self._served: dict[socket.socket, None] = {}  # oldest first
        self._closed = False

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer would ask the name service who we are
        self.server_port = self.server_address[1]

    def latest(self) -> Snapshot:
        """What the cluster is doing, or was a moment ago: many visitors cost it no more than one."""
        with self._asking:
            if self._latest is None or time.monotonic() - self._latest[0] > _FRESH:
                self._latest = (time.monotonic(), self._snapshot())
            return self._latest[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        wait = 0.0
        while not self._places.acquire(timeout=wait):
            self._cut_off_oldest()
            wait = 0.05
        self._served[request] = None
        threading.Thread(target=self._serve, args=(request, client_address), name="tilework-visit", daemon=True).start()

    def _cut_off_oldest(self) -> None:
        """Its thread sees the end of the connection, and gives up its place."""
        for oldest in list(self._served):
            if self._served.pop(oldest, self) is None:
                with suppress(OSError):  # it has just been served
                    oldest.shutdown(socket.SHUT_RDWR)
                return

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # it hung up, or took too long
            pass
        finally:
            self._served.pop(request, None)
            self.shutdown_request(request)
            self._places.release()

    def accept_visitors(self) -> None:
        """Until closed. The base class's ``serve_forever`` would wake up twice a second to see whether it is."""
        while not self._closed:
            try:
                self.process_request(*self.get_request())
            except OSError:  # closed, or a visitor is gone already, or there are too many open files
                time.sleep(0.0 if self._closed else 0.05)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.socket.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
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
        if not _HOST.fullmatch(self.headers.get("Host", "")):
            self._answer(421, "This page is for this machine only: open it as http://127.0.0.1:PORT/\n")
        elif url.path == "/health":
            self._answer(200, "ok\n")
        elif not self._knows_token(parse_qs(url.query)):
            self._answer(401, "Open this page by its whole link, token included: cluster.dashboard_link\n")
        elif url.path == "/" and url.query:
            server = self._page_server
            cookie = f"{server.cookie}={server.token}; Path=/; HttpOnly; SameSite=Lax"
            self._answer(303, "", **{"Location": "/", "Set-Cookie": cookie})
        elif url.path == "/":
            self._answer(200, self._page_server.page, _HTML)
        elif url.path in _VIEWS:
            kind, view = _VIEWS[url.path]
            try:
                snapshot = self._page_server.latest()
            except Exception as error:
                self._answer(503, f"The cluster does not answer: {error!r}\n")
            else:
                self._answer(200, view(snapshot), kind)
        else:
            self._answer(404, f"There are /, {', '.join(_VIEWS)} and /health\n")

    @property
    def _page_server(self) -> _Server:
        return cast(_Server, self.server)

    def _knows_token(self, query: dict[str, list[str]]) -> bool:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self._page_server.cookie)
        except CookieError:
            cookie = None
        offered = [cookie.value if cookie else "", *query.get("token", [])]
        offered.append(self.headers.get("Authorization", "").removeprefix("Bearer "))
        token = self._page_server.token.encode()
        return any(hmac.compare_digest(candidate.encode("utf-8", "replace"), token) for candidate in offered)

    def _answer(self, status: int, body: str | bytes, kind: str = _TEXT, /, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {**_COMMON, "Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


# ---------------------------------------------------------------- what is shown


def status_json(snapshot: Snapshot) -> str:
    """A snapshot as JSON: names as in :mod:`tilework.engine.cluster.snapshot`."""
    return json.dumps(asdict(snapshot))


_Samples = Iterable[tuple[dict[str, str], float]]
_COUNTERS = {
    "tasks_done": ("tasks_done", "Tasks that have a result."),
    "tasks_failed": ("tasks_failed", "Tasks that raised, or needed one that did, or were cancelled."),
    "tasks_retried": ("tasks_retried", "Times that a task was tried again."),
    "workers_started": ("workers_started", "Worker processes that were started."),
    "workers_died": ("workers_died", "Worker processes that died without being told to end."),
    "bytes_made": ("made_bytes", "Bytes of all results."),
    "bytes_spilled": ("spilled_bytes", "Bytes written to disk for want of memory."),
    "bytes_read_back": ("read_back_bytes", "Bytes read back from disk."),
    "strangers_refused": ("strangers_refused", "Connections that did not prove who they are."),
}
"""Field of Counters → name between ``tilework_`` and ``_total``, help."""


def metrics(snapshot: Snapshot) -> str:
    """A snapshot in the text format of Prometheus."""
    workers, memory = snapshot.workers, snapshot.memory
    named = [({"worker": worker.name}, worker) for worker in workers]
    families: list[tuple[str, str, str, _Samples]] = [
        ("info", "gauge", "Which cluster this is.", [(_info(snapshot), 1)]),
        ("start_time_seconds", "gauge", "When it was started, since the epoch.", [({}, snapshot.started)]),
        ("memory_held_bytes", "gauge", "Finished blocks in memory.", [({}, memory.held)]),
        ("memory_reserved_bytes", "gauge", "Promised to running tasks.", [({}, memory.reserved)]),
        ("memory_limit_bytes", "gauge", "What held and reserved may take together.", [({}, memory.limit)]),
        ("memory_on_disk_bytes", "gauge", "Finished blocks in the spill file.", [({}, memory.on_disk)]),
        ("workers", "gauge", "Worker processes.", [({"status": worker.status}, 1) for worker in workers]),
        ("worker_threads", "gauge", "Tasks it may run at a time.", [(name, w.threads) for name, w in named]),
        ("worker_tasks_running", "gauge", "Tasks it runs.", [(name, len(w.running)) for name, w in named]),
        ("worker_memory_bytes", "gauge", "Its own memory.", [(name, w.memory) for name, w in named]),
        (
            "worker_memory_limit_bytes",
            "gauge",
            "At more it is stopped.",
            [(name, w.memory_limit) for name, w in named if w.memory_limit is not None],
        ),
        ("worker_tasks_done_total", "counter", "Tasks it has run.", [(name, w.tasks_done) for name, w in named]),
        ("tasks", "gauge", "Tasks by operation and state.", _tasks(snapshot)),
        (
            "client_futures",
            "gauge",
            "Futures that clients hold.",
            [({"client": client.name, "pid": str(client.pid)}, client.futures) for client in snapshot.clients],
        ),
    ]
    counters: Counters = snapshot.counters
    for name, (metric, text) in _COUNTERS.items():
        families.append((f"{metric}_total", "counter", text, [({}, getattr(counters, name))]))
    return "".join(_family(*family) for family in families)


def _info(snapshot: Snapshot) -> dict[str, str]:
    return {"cluster": snapshot.cluster, "version": snapshot.version}


def _tasks(snapshot: Snapshot) -> _Samples:
    for operation in snapshot.operations:
        for state in ("done", "running", "waiting", "failed"):
            yield {"operation": operation.label, "state": state}, getattr(operation, state)


def _family(name: str, kind: str, text: str, samples: _Samples) -> str:
    """One metric. Samples of the same labels are added up, for Prometheus takes none twice."""
    totals: dict[str, float] = {}
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escape(content)}"' for label, content in labels.items())
        key = f"{{{inner}}}" if inner else ""
        totals[key] = totals.get(key, 0) + value
    lines = [f"# HELP tilework_{name} {text}", f"# TYPE tilework_{name} {kind}"]
    lines += [f"tilework_{name}{key} {value!r}" for key, value in totals.items()]
    return "\n".join(lines) + "\n"


def _escape(content: str) -> str:
    return content.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_VIEWS: dict[str, tuple[str, Callable[[Snapshot], str]]] = {
    "/status.json": (_JSON, status_json),
    "/metrics": (_PROMETHEUS, metrics),
}
