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

import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from tilework.base.errors import ConfigError
from tilework.engine.cluster.wire.snapshot import Snapshot

if TYPE_CHECKING:
    from tilework.engine.cluster.scheduler.server import Server

MAX_HANDLERS = 8
"""Requests that are served at a time."""

MAX_REQUEST = 8 << 10
"""Bytes of a request, all its headers included."""

PATIENCE = 5.0
"""Seconds that a request, its answer, or the scheduler's word for it may take."""

LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
"""What this machine is called, by itself, in a ``Host`` header."""

_FRESH = 0.25  # seconds for which a snapshot is good for everybody who asks


def attach(server: Server) -> str | None:
    """The status page of a cluster, served in threads of the scheduler process. Returns the link to it.

    This is ``"tilework.diagnostics.status:attach"`` in a cluster's ``extras``.
    """
    port = server.config.dashboard_port
    if port is None:
        return None

    def ask() -> Snapshot:
        answer: SimpleQueue[Snapshot] = SimpleQueue()
        server.call(server.snapshot, answer.put)
        try:
            return answer.get(timeout=PATIENCE)
        except Empty:
            raise TimeoutError(f"no word from the scheduler for {PATIENCE:g} s") from None

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
    if not LOOPBACK.fullmatch(host) or ":" in host:
        raise ConfigError(f'the status page cannot listen at {host!r}: it is for this machine only; use "127.0.0.1"')
    try:
        listener = socket.create_server((host, port), backlog=128)
    except OSError as error:
        raise ConfigError(
            f"the status page cannot listen at {host}:{port}: {error.strerror}; use another port, or 0 for any free one"
        ) from error
    return StatusServer(snapshot, listener, token or secrets.token_urlsafe(24))


class StatusServer:
    """A status page that is being served.

    Parameters
    ----------
    snapshot, token
        See :func:`serve`.
    listener
        A listening socket, which is the server's from now on.

    Attributes
    ----------
    link
        What to open in a browser, token included.
    token
        What visitors must know.
    cookie
        Under which name browsers keep it. They give cookies to all ports of a host.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], listener: socket.socket, token: str) -> None:
        host, port = listener.getsockname()
        self.token = token
        self.cookie = f"tilework-{port}"
        self.link = f"http://{host}:{port}/?token={token}"
        self._snapshot = snapshot
        self._latest: tuple[float, Snapshot] | None = None
        self._asking = threading.Lock()
        self._listener = listener
        self._places = threading.Semaphore(MAX_HANDLERS)
        self._visitors: dict[socket.socket, None] = {}  # oldest first
        self._closed = False
        self._thread = threading.Thread(target=self._accept, name="tilework-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no longer. Does nothing the second time."""
        if not self._closed:
            self._closed = True
            self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
            self._thread.join()
            self._listener.close()

    def latest(self) -> Snapshot:
        """What the cluster is doing, or was a moment ago: many visitors cost it no more than one."""
        with self._asking:
            if self._latest is None or time.monotonic() - self._latest[0] > _FRESH:
                self._latest = (time.monotonic(), self._snapshot())
            return self._latest[1]

    def _accept(self) -> None:
        """Give each visitor a thread: to at most MAX_HANDLERS at a time."""
        while not self._closed:
            try:
                visitor, address = self._listener.accept()
            except OSError:  # closed, or it is gone already, or there are too many open files
                time.sleep(0.0 if self._closed else 0.05)
                continue
            wait = 0.0
            while not self._places.acquire(timeout=wait):
                self._cut_off_oldest()
                wait = 0.05
            self._visitors[visitor] = None
            threading.Thread(target=self._serve, args=(visitor, address), name="tilework-visit", daemon=True).start()

    def _cut_off_oldest(self) -> None:
        """Its thread sees the end of the connection, and gives up its place."""
        for oldest in list(self._visitors):
            if self._visitors.pop(oldest, self) is None:
                with suppress(OSError):  # it has just been served
                    oldest.shutdown(socket.SHUT_RDWR)
                return

    def _serve(self, visitor: socket.socket, address: Any) -> None:
        try:
            with visitor:
                # Loaded by name and only now: a cluster starts sooner without the standard library's HTTP.
                import_module("tilework.diagnostics.visit").Visit(visitor, address, self)
                visitor.shutdown(socket.SHUT_WR)
        except OSError:  # it hung up, or took too long
            pass
        finally:
            self._visitors.pop(visitor, None)
            self._places.release()
