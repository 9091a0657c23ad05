"""Where blocks come from and where they go: the two plug points of :mod:`tilework.io`.

Both are structural (:class:`typing.Protocol`). ``tilework.testing`` has one conformance suite for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

Region: TypeAlias = tuple[slice, ...]
"""One slice per axis, with explicit ``start < stop`` and positive ``step``: ``slice(0, 10, 1)``."""


@runtime_checkable
class Source(Protocol):
    """Something array-shaped that blocks are read from, any number of times, from any thread."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    token: str
    """Equal tokens promise equal contents."""
    free: bool
    """Reading costs next to nothing (a view, a constant): it may be read again instead of being kept."""
    storage_chunks: tuple[int, ...] | None
    """Shape of the unit that storage reads and decodes as a whole; None where there is no such unit."""

    def read(self, region: Region) -> np.ndarray:
        """Return the region as an ndarray of ``self.dtype``; may be a read-only view. Raises StorageError."""
        ...

    def stream(self, region: Region) -> Callable[[np.ndarray], None] | None:
        """Return a function that fills one C-contiguous tile after another in C order, or None.

        None means that this region can only be read as a whole. The tiles, laid end to end, must equal
        ``read(region).ravel()``. Only sources that *generate* values offer this; it spares the block.
        """
        ...


class Handle(Protocol):
    """A value that is on a cluster, or is being made there: a future. It stays there as long as its handles live.

    Nothing of it is looked at but by the engine of that cluster, which has it already, and by all other engines, which
    fetch it.
    """

    @property
    def number(self) -> int:
        """The future's number on its cluster."""
        ...

    @property
    def key(self) -> str:
        """Names the value: equal keys promise equal values."""
        ...

    @property
    def cluster(self) -> Any:
        """What tells clusters apart."""
        ...

    def result(self) -> Any:
        """Wait for the value, and return it. Raises what making it raised."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Something array-shaped that blocks are written to. Regions never overlap; any thread may write."""

    token: str
    resident_bytes: int
    """Memory that the sink itself holds while the plan runs (the result array); counted against the budget."""
    shared: bool
    """Whether a pickled copy of it writes to the same place from another process. For a sink that does not, an engine
    whose tasks run elsewhere brings every block back, and the process that has the sink writes it."""

    def finished(self) -> np.ndarray | None:
        """Which blocks need not be made, for storage holds them from an earlier run: a bool for each block of the grid.

        None if all are to be written. Asked when a run is prepared.
        """
        ...

    def buffer(self, region: Region) -> np.ndarray | None:
        """Return memory in which the block may be computed in place, or None. ``write`` follows all the same."""
        ...

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        """Take the block at chunk ``index``; ``region`` is None where chunk sizes are unknown.

        ``block`` may be reused after the call returns, unless it is the sink's own buffer. Raises StorageError.
        """
        ...
