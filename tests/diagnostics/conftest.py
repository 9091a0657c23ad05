"""Made-up runs: task graphs without work in them, and the events that an engine would send. A status page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.diagnostics.visitors import NOW, TOKEN
from tilework.diagnostics.status import StatusServer, serve
from tilework.engine.events import BatchFinished, Listener, RunFinished, RunStarted
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.stages import Calls, Stage

MIB = 2**20


def make_graph(tasks: dict[str, int], read: int = 0, written: int = 0) -> TaskGraph:
    """Stages with so many independent tasks each. Blocks weigh 1 MiB; the first stage reads, the last one writes."""
    empty = np.zeros(0, np.int64)
    stages = [
        Stage(label, (n,), (), Calls([], np.zeros(n + 1, np.int64), empty, empty), np.array([MIB]), np.array([0]))
        for label, n in tasks.items()
    ]
    stages[0].read_bytes, stages[-1].write_bytes = read, written
    offsets = np.concatenate([[0], np.cumsum(list(tasks.values()))])
    n = int(offsets[-1])
    return TaskGraph(
        stages,
        offsets,
        np.zeros(n + 1, np.int64),
        np.zeros(0, np.int32),
        np.full(n, MIB),
        np.zeros(n, np.int64),
        np.arange(n, dtype=np.int32),
        np.array([n - 1], np.int32),
    )


def play(listener: Listener, graph: TaskGraph, batches: int | None = None, error: BaseException | None = None) -> None:
    """Two workers in turn, one task a batch, one second each; ``batches`` of them if it ends before its time."""
    listener(RunStarted(graph, "threads", 2, 1000 * MIB, 100.0))
    done = graph.n_tasks if batches is None else batches
    for k in range(done):
        start = 100.0 + k // 2
        listener(BatchFinished(k % 2, (k,), start, start + 1, (k + 1) * MIB, 0))
    listener(RunFinished(100.0 + -(-done // 2), done * MIB, 0, error))


@pytest.fixture
def graph() -> TaskGraph:
    return make_graph({"load": 6, "mean": 2}, read=600 * MIB, written=10 * MIB)


@pytest.fixture
def played() -> Callable[..., None]:
    return play


@pytest.fixture
def page() -> Iterator[StatusServer]:
    server = serve(lambda: NOW, token=TOKEN)
    yield server
    server.close()
