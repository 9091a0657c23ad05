"""An engine that runs every graph in another process, which has seen nothing of what the tests have made."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.events import Listener
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph

_PROGRAM = """
import pickle, sys
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.local.sync import SyncEngine

arena = Arena.open(eval(sys.argv[1]))
slot = Slot(arena, 1)
while True:
    try:
        job = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    found, error = [], None
    try:
        graph, options = values.load(job, arena)
        found = [values.dump(value, slot)[0] for value in SyncEngine().run(graph, options)]
    except Exception as raised:
        error = values.dump_error(raised)
    graph = None
    pickle.dump((found, error), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class ElsewhereEngine:
    """See :class:`~tilework.engine.protocol.RemoteEngine`.

    Parameters
    ----------
    directory
        Where the other process works.
    """

    name = "elsewhere"
    inline = values.INLINE

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.budget = 1 << 28
        self.last: values.Value | None = None  # the graph that ran last, as it travelled
        self.scratch_bytes = 0  # of that graph
        self._arena = Arena.create(2, 1 << 28)
        self.slot = Slot(self._arena, 0)
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, repr(self._arena.place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            cwd=directory,
        )

    def size(self) -> tuple[int, int]:
        return 1, self.budget

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.slot.empty(shape, np.dtype(dtype), shared=True)

    def run(
        self,
        graph: TaskGraph,
        options: RunOptions,
        listener: Listener | None = None,
        receive: Callable[[int, Any], None] | None = None,
    ) -> list[Any]:
        job, _ = values.dump((graph, options), self.slot, copy=True)
        self.last, self.scratch_bytes = job, sum(int(stage.scratch_bytes.sum()) for stage in graph.stages)
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        pickle.dump(job, stdin)
        stdin.flush()
        found, error = pickle.load(stdout)
        if isinstance(job, values.Stored):
            self.slot.free(offset for offset, _ in job.extents)
        if error is not None:
            raise values.load_error(error)
        out = [values.load(value, self._arena) for value in found]
        if receive is None:
            return out
        for k, value in enumerate(out):
            receive(k, value)
        return []

    def submit(self, graph: TaskGraph, options: RunOptions) -> Sequence[Any]:
        raise NotImplementedError

    def close(self) -> None:
        self._process.communicate()
        self._arena.close()
