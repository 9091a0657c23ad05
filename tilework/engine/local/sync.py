"""The engine for debugging: one task after another in the caller's own thread, in the order of ``graph.rank``.

A debugger stops where the user put the breakpoint, and a traceback leads from the caller straight into the task.
"""

from __future__ import annotations

from typing import Any

from tilework.engine.events import Listener
from tilework.engine.local.loop import LocalRun
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph


class SyncEngine:
    """Runs everything in the calling thread; ``options.workers`` does not matter."""

    name = "sync"

    def run(self, graph: TaskGraph, options: RunOptions, listener: Listener | None = None) -> list[Any]:
        """See :class:`~tilework.engine.protocol.Engine`."""
        with LocalRun(self.name, graph, options, 1, listener) as run:
            run.work(0)
            return run.results()
