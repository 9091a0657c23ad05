"""Clusters and futures: ``Client``, ``LocalCluster``, ``as_completed``, ``wait`` and their kin.

>>> from tilework.distributed import Client
>>> with Client(n_workers=2) as client:
...     client.submit(sum, [1, 2]).result()
3

Importing this starts nothing and imports nothing more: each name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import CancelledError

    from tilework.base.errors import KilledWorker
    from tilework.distributed.client import Client, get_client
    from tilework.distributed.cluster import LocalCluster
    from tilework.distributed.executor import ClientExecutor
    from tilework.distributed.future import Future, futures_of
    from tilework.distributed.tasks import Worker, get_worker, rejoin, secede, worker_client
    from tilework.distributed.waiting import (
        ALL_COMPLETED,
        FIRST_COMPLETED,
        FIRST_EXCEPTION,
        as_completed,
        fire_and_forget,
        progress,
        wait,
    )

    TimeoutError = TimeoutError

_HOME = {
    "ALL_COMPLETED": "tilework.distributed.waiting",
    "CancelledError": "concurrent.futures",
    "Client": "tilework.distributed.client",
    "ClientExecutor": "tilework.distributed.executor",
    "FIRST_COMPLETED": "tilework.distributed.waiting",
    "FIRST_EXCEPTION": "tilework.distributed.waiting",
    "Future": "tilework.distributed.future",
    "KilledWorker": "tilework.base.errors",
    "LocalCluster": "tilework.distributed.client",  # which tells it what its clients are
    "TimeoutError": "builtins",
    "Worker": "tilework.distributed.tasks",
    "as_completed": "tilework.distributed.waiting",
    "fire_and_forget": "tilework.distributed.waiting",
    "futures_of": "tilework.distributed.future",
    "get_client": "tilework.distributed.client",
    "get_worker": "tilework.distributed.tasks",
    "progress": "tilework.distributed.waiting",
    "rejoin": "tilework.distributed.tasks",
    "secede": "tilework.distributed.tasks",
    "wait": "tilework.distributed.waiting",
    "worker_client": "tilework.distributed.tasks",
}
"""The module in which each public name lives."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tilework.distributed' has no attribute {name!r}; it has {', '.join(_HOME)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "CancelledError",
    "Client",
    "ClientExecutor",
    "Future",
    "KilledWorker",
    "LocalCluster",
    "TimeoutError",
    "Worker",
    "as_completed",
    "fire_and_forget",
    "futures_of",
    "get_client",
    "get_worker",
    "progress",
    "rejoin",
    "secede",
    "wait",
    "worker_client",
]
