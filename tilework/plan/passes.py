"""Rechunk in several passes: a pure integer planner.

One pass cuts every block at all bounds of the chunks that come next, and moves the pieces. If the two sides are cut
along different axes the pieces become tiny: 10,000 rows that become 10,000 columns are 100,000,000 pieces of one
element. Then a few passes over larger blocks in between move far fewer pieces: rows are joined as far as memory allows,
the columns are cut from joined columns, and if that is not enough, blocks of sizes in between follow one another.

The idea of joining on both sides is that of rechunker (https://rechunker.readthedocs.io/en/latest/algorithm.html),
that of sizes in geometric progression is xarray-beam's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod

import numpy as np

from tilework.plan.blocks import Chunks, regroup, sorted_unique, split_sizes

SMALL_PIECE = 4096
"""Bytes. Moving a piece costs about as much as copying a block of twice this size twice: smaller ones on average are
worth another pass over everything."""

FEW_PIECES = 10_000
"""So many pieces are moved in a fraction of a second whatever their size."""

MOST_BETWEEN = 4


def rechunk_passes(have: Chunks, want: Chunks, itemsize: int, limit: int) -> tuple[Chunks, ...]:
    """Chunks to go through one after another, the last being ``want``.

    Parameters
    ----------
    have, want
        Known chunks of the same shape.
    itemsize
        Bytes of an element.
    limit
        Bytes that a block in between may have at most; if blocks of either side are larger, so may these be.

    Examples
    --------
    >>> rows = split_sizes(10_000, 1), split_sizes(10_000, 10_000)
    >>> columns = rows[::-1]
    >>> [(c[0].largest, c[1].largest) for c in rechunk_passes(rows, columns, 8, 16_000_000)]
    [(200, 10000), (10000, 200), (10000, 1)]
    """
    if _is_cheap(have, want, itemsize):
        return (want,)
    elements = max(1, limit // itemsize)
    first, last = _joined(have, want, elements), _joined(want, have, elements)
    best: tuple[Chunks, ...] = (want,)
    for n in range(MOST_BETWEEN + 1):
        between = [_between(first, last, k / (n + 1), elements) for k in range(1, n + 1)]
        steps = _without_repeats([have, first, *between, last, want])
        if n == 0 or _n_pieces(steps) < _n_pieces([have, *best]):
            best = tuple(steps[1:])
        if all(_is_cheap(a, b, itemsize) for a, b in pairwise([first, *between, last])):
            break
    return best


def _pieces(have: Chunks, want: Chunks) -> int:
    """How many pieces one pass moves."""
    return prod(
        len(a) if a == b else max(1, len(sorted_unique(np.append(a.bounds, b.bounds))) - 1)
        for a, b in zip(have, want, strict=True)
    )


def _n_pieces(steps: Sequence[Chunks]) -> int:
    return sum(_pieces(a, b) for a, b in pairwise(steps))


def _is_cheap(have: Chunks, want: Chunks, itemsize: int) -> bool:
    n = _pieces(have, want)
    return n <= FEW_PIECES or n * SMALL_PIECE <= itemsize * prod(axis.total for axis in have)


def _joined(chunks: Chunks, toward: Chunks, elements: int) -> Chunks:
    """Neighbouring blocks joined where the other side has longer ones: along the last axes first, since long runs of
    memory are copied fastest.
    """
    out = list(chunks)
    for axis in reversed(range(len(chunks))):
        others = prod(c.largest for k, c in enumerate(out) if k != axis)
        size = min(toward[axis].largest, elements // max(1, others))
        if size > chunks[axis].largest:
            out[axis] = regroup(chunks[axis], size)
    return tuple(out)


def _between(first: Chunks, last: Chunks, share: float, elements: int) -> Chunks:
    """Even blocks whose sizes lie between those of two chunks, on the way from the one to the other."""
    sizes = [max(1, ceil(a.largest ** (1 - share) * b.largest**share)) for a, b in zip(first, last, strict=True)]
    while prod(sizes) > max(elements, *(prod(axis.largest for axis in chunks) for chunks in (first, last))):
        longest = sizes.index(max(sizes))
        sizes[longest] = sizes[longest] // 2
    return tuple(a if a == b else split_sizes(a.total, size) for a, b, size in zip(first, last, sizes, strict=True))


def _without_repeats(steps: Sequence[Chunks]) -> list[Chunks]:
    out = [steps[0]]
    for chunks in steps[1:]:
        if chunks != out[-1]:
            out.append(chunks)
    return out


__all__ = ["rechunk_passes"]
