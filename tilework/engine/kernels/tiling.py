"""How a block is cut into tiles: pure functions of shapes and strides.

Axes are first put into *memory order* (slowest first), so that tiles are taken from memory in the order in which it
lies there. Then the block is cut along its leading axes: a tile is a slab, contiguous where the block is. Only where
leading axes are reduced and rows are long, rows are cut too, so that a tile keeps several of them: reducing one row at
a time would cost as much as not reducing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from math import prod

import numpy as np

ROWS = 16
"""Rows that a tile should have along leading axes that are reduced."""


def memory_order(array: np.ndarray) -> tuple[int, ...]:
    """Axes by falling stride. Axes of length one say nothing and stay behind the one before them."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    keys: list[int] = []
    for n, stride in zip(array.shape, array.strides, strict=True):
        keys.append(abs(stride) if n > 1 or not keys else keys[-1])
    return tuple(sorted(range(array.ndim), key=keys.__getitem__, reverse=True))


def cut(shape: Sequence[int], limit: int) -> tuple[int, ...]:
    """Lengths of a tile of at most ``limit`` elements: whole trailing axes, a part of one, single elements before it.

    Examples
    --------
    >>> cut((365, 200, 200), 131072)
    (3, 200, 200)
    """
    lengths = []
    for n in reversed(shape):
        length = max(1, min(n, limit))
        lengths.append(length)
        limit = limit // length if length == n else 1
    return tuple(reversed(lengths))


def _head(shape: Sequence[int], reduced: frozenset[int]) -> int:
    """Number of axes up to the last one that is reduced: what follows are the rows."""
    return max(reduced, default=-1) + 1


def tile_lengths(shape: Sequence[int], limit: int, reduced: frozenset[int]) -> tuple[int, ...]:
    """Lengths of a tile of at most ``limit`` elements of a block that is reduced along the axes ``reduced``.

    Examples
    --------
    >>> tile_lengths((4000, 50000), 65536, frozenset())
    (1, 50000)
    >>> tile_lengths((4000, 50000), 65536, frozenset({0}))
    (16, 4096)
    """
    head = _head(shape, reduced)
    row = prod(shape[head:])
    rows = min(ROWS, prod(shape[:head]))
    if row <= limit // rows:
        return cut(shape, limit)
    tail = cut(shape[head:], max(1, limit // rows))
    return cut(shape[:head], limit // prod(tail)) + tail


def pieces(n: int, length: int) -> list[slice]:
    """An axis in as few parts of at most ``length`` as possible, whose sizes differ by one at most."""
    count = -(-n // length)
    bounds = [k * n // count for k in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def regions(
    shape: Sequence[int], lengths: Sequence[int], reduced: frozenset[int] = frozenset()
) -> list[tuple[slice, ...]]:
    """The tiles of a block without zero sizes, each as slices of all axes.

    In C order, but where rows are cut all tiles of one part of the rows come first, so that their reduction is done
    with before the next begins.
    """
    axes = [pieces(n, length) for n, length in zip(shape, lengths, strict=True)]
    head = _head(shape, reduced)
    heads = list(product(*axes[:head]))
    return [first + rest for rest in product(*axes[head:]) for first in heads] if reduced else list(product(*axes))
