"""What one worker thread keeps between tasks: scratch memory, and what it has worked out about segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilework.engine.kernels.pool import Allocator

TILE_BYTES = 512 << 10
"""Size of a tile for a thread on its own: it, its operands and its result share the level-2 cache."""

TILE_BYTES_THREADED = 1 << 20
"""Size of a tile where several threads run: every call into NumPy hands over the interpreter lock, so fewer and larger
ones pay, even past the cache."""


class Cancelled(Exception):
    """The run was cancelled while a block was being made. Internal: engines catch it."""


class Context:
    """One per worker thread; never shared.

    Parameters
    ----------
    pool
        Memory for blocks; shared by the threads of a run.
    threads
        How many threads run tasks at the same time.
    cancelled
        Polled between tiles; once it returns True, the block is given up.
    """

    def __init__(self, pool: Allocator, threads: int = 1, cancelled: Callable[[], bool] | None = None) -> None:
        self.pool = pool
        self.cancelled = cancelled
        self.tile_bytes = TILE_BYTES if threads == 1 else TILE_BYTES_THREADED
        self.plans: dict[Any, Any] = {}  # tilings.py: how segments run over blocks of a shape
        self._scratch: list[np.ndarray] = []

    def scratch(self, slot: int) -> np.ndarray:
        """Bytes of scratch ``slot``, ``tile_bytes`` long; the same memory at every call."""
        while len(self._scratch) <= slot:
            self._scratch.append(np.empty(self.tile_bytes, np.uint8))
        return self._scratch[slot]

    @property
    def scratch_bytes(self) -> int:
        """Memory that this thread keeps as scratch."""
        return len(self._scratch) * self.tile_bytes

    def check(self) -> None:
        """Raise Cancelled if the run was cancelled."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled
