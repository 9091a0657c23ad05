"""A cluster that is looked at, and those who look."""

from __future__ import annotations

import socket
from urllib.error import HTTPError
from urllib.request import OpenerDirector, Request, build_opener

from tilework.diagnostics.status import StatusServer
from tilework.engine.cluster.wire.snapshot import (
    ClientSnapshot,
    Counters,
    EventSnapshot,
    MemorySnapshot,
    OperationSnapshot,
    Snapshot,
    WorkerSnapshot,
)

TOKEN = "the-token"
BEARER = f"Bearer {TOKEN}"
NOW = Snapshot(
    cluster="mine",
    address="tcp://127.0.0.1:8786",
    version="0.1.0",
    started=1000.0,
    time=1060.5,
    workers=(
        WorkerSnapshot("0", 4711, "running", 2, 300, 1000, ("sum", 'load "x"'), 41),
        WorkerSnapshot("1", 4712, "starting", 2, 0, None, (), 0),
    ),
    memory=MemorySnapshot(held=500, reserved=20, limit=2000, on_disk=7),
    operations=(OperationSnapshot("sum", 40, 1, 2, 0), OperationSnapshot('load "x"\\y\nz', 1, 1, 0, 3)),
    clients=(ClientSnapshot("notebook", 99, 1001.0, 5),),
    counters=Counters(tasks_done=41, tasks_failed=3, bytes_spilled=7),
    events=(EventSnapshot(1002.0, "info", "worker 0 started"),),
)


def root(page: StatusServer) -> str:
    return page.link.partition("/?")[0]


def port(page: StatusServer) -> int:
    return int(root(page).rpartition(":")[2])


def get(page: StatusServer, path: str, opener: OpenerDirector | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    request = Request(root(page) + path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with (opener or build_opener()).open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def connected(page: StatusServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port(page)), timeout=30)
