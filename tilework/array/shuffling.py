"""Positions along an axis in another order, group by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.base.errors import PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks


def shuffle(x: Any, indexer: Sequence[Sequence[int]], axis: int, chunks: Any = "auto") -> Array:
    """Bring the members of each group together.

    Parameters
    ----------
    x
        Array.
    indexer
        For each group the positions of its members along ``axis``. Negative positions count from the end.
    axis
        The axis to reorder.
    chunks
        ``"auto"``: a block takes whole groups, as many as fit into the largest block that ``x`` has there.

    Returns
    -------
    Array
        Lazy. ``x`` at the positions of the first group, then the second, and so on. No group is divided between blocks.

    Raises
    ------
    IndexError
        If a position lies outside the axis.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.shuffle(ta.arange(6, chunks=2), [[0, 3], [1, 4], [2, 5]], axis=0).compute()
    array([0, 3, 1, 4, 2, 5])
    """
    if chunks != "auto":
        raise UnsupportedError(f'shuffle(chunks={chunks!r}) is not supported; use chunks="auto" and rechunk')
    array = asarray(x)
    (axis,) = build.normalize_axis(axis, array.ndim)
    if isinstance(indexer, str) or not indexer or not all(np.ndim(group) == 1 for group in indexer):
        raise PlanError(f"shuffle: the indexer must be a list of lists of positions, not {indexer!r}")
    groups = [np.asarray(group, np.int64) for group in indexer]
    positions = np.concatenate(groups)
    n = array.shape[axis]
    if len(positions) and not (-n <= positions.min() and positions.max() < n):
        wrong = positions[(positions < -n) | (positions >= n)][0]
        raise IndexError(f"shuffle: position {wrong} is out of bounds for axis {axis} with size {n}")
    sizes = _together([len(group) for group in groups], array.chunks[axis].largest)
    return Array(build.take(array.node, np.where(positions < 0, positions + n, positions), axis, sizes))


def _together(lengths: Sequence[int], most: int) -> AxisChunks:
    """Block sizes: consecutive groups together while they have at most ``most`` members."""
    sizes: list[int] = []
    open_ = 0
    for length in lengths:
        if open_ and open_ + length > most:
            sizes.append(open_)
            open_ = 0
        open_ += length
    return AxisChunks([*sizes, open_])
