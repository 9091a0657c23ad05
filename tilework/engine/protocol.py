"""What every engine offers, local or remote: run a task graph, return the blocks that were asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tilework.engine.events import Listener

if TYPE_CHECKING:
    from tilework.engine.taskgraph import TaskGraph


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run one graph.

    Attributes
    ----------
    workers
        Tasks at a time; at least 1.
    budget
        Bytes that blocks, scratch and results may take together.
    retries
        How often a task that raised is tried again (``Call.retries`` may ask for more).
    spill_directory
        Where blocks go when nothing fits.
    """

    workers: int
    budget: int
    retries: int = 0
    spill_directory: str | None = None


class Engine(Protocol):
    """A way to run task graphs. Engines keep no state between runs unless they say so."""

    name: str

    def run(self, graph: TaskGraph, options: RunOptions, listener: Listener | None = None) -> list[Any]:
        """Run the graph; return the values of ``graph.outputs`` in order.

        Raises
        ------
        MemoryBudgetError
            Before anything has run, if one task alone can never fit.
        Exception
            What a task raised, with a note that names the operation and the block, once its retries are used up.
        KeyboardInterrupt
            Within a second of Ctrl-C; nothing is left behind.
        """
        ...
