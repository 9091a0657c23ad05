"""The arithmetic of chunks: pure functions of integers.

``Chunks`` is one :class:`AxisChunks` per axis. An ``AxisChunks`` is a plain tuple of sizes to the user, and carries
its bounds so that nobody sums the same million sizes twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from math import isnan, nan
from typing import Any, TypeAlias

import numpy as np


class AxisChunks(tuple[Any, ...]):
    """Sizes of the blocks along one axis; NaN for each size that is unknown."""

    @classmethod
    def of(cls, sizes: Iterable[Any]) -> AxisChunks:
        """Sizes as an AxisChunks, without copying one that is one already."""
        return sizes if isinstance(sizes, AxisChunks) else cls(sizes)

    @cached_property
    def known(self) -> bool:
        """Whether every size is known. An axis is known as a whole or not at all, so its first size tells."""
        return not (self and isinstance(self[0], float) and isnan(self[0]))

    @cached_property
    def sizes(self) -> np.ndarray:
        """The sizes as int64. Known sizes only."""
        return np.fromiter(self, np.int64, len(self))

    @cached_property
    def bounds(self) -> np.ndarray:
        """``bounds[i]:bounds[i+1]`` is block ``i``; int64, one longer than the axis has blocks. Known sizes only."""
        out = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.sizes, out=out[1:])
        return out

    @cached_property
    def total(self) -> Any:
        """Length of the axis; NaN if unknown."""
        return int(self.bounds[-1]) if self.known else nan

    @cached_property
    def largest(self) -> Any:
        """The largest block; NaN if unknown."""
        return (int(self.sizes.max()) if self else 0) if self.known else nan

    @cached_property
    def _hash(self) -> int:
        return tuple.__hash__(self)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return (AxisChunks, (tuple(self),))


Chunks: TypeAlias = tuple[AxisChunks, ...]
