"""What every engine offers, local or remote: run a task graph, return the blocks that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from tilework.engine.events import Listener
from tilework.plan.protocols import Handle

if TYPE_CHECKING:
    from tilework.engine.taskgraph import TaskGraph

Receiver: TypeAlias = Callable[[int, Any], None]
"""Called with the place and the value of each of ``graph.outputs``, in order."""


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
    priority, only
        On a cluster: whether its tasks go before those of others (higher is earlier), and the names or numbers of the
        workers that may run them (None: any).
    """

    workers: int
    budget: int
    retries: int = 0
    spill_directory: str | None = None
    priority: int = 0
    only: tuple[int | str, ...] | None = None


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


@runtime_checkable
class RemoteEngine(Protocol):
    """An engine whose tasks run in other processes of this machine, which keep what they make as futures."""

    name: str
    inline: int
    """Results of fewer bytes are no stores: they come back as values."""

    def size(self) -> tuple[int, int]:
        """How many tasks run at a time, at least 1; and bytes that blocks, scratch and results may take together."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return memory for a result, in which its processes write as well."""
        ...

    def run(
        self,
        graph: TaskGraph,
        options: RunOptions,
        listener: Listener | None = None,
        receive: Receiver | None = None,
    ) -> list[Any]:
        """See :meth:`Engine.run`. With ``receive`` values are handed to it while the run goes on, and not returned."""
        ...

    def submit(self, graph: TaskGraph, options: RunOptions) -> Sequence[Handle]:
        """Start the graph. Return a handle for each of ``graph.outputs``, and one for the whole, which gives None."""
        ...
