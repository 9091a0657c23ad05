"""Pointwise indexing: which blocks hold the points of each block of the result, and how to pick them out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import Points
from tilework.plan.stages import BlockPlace, ExplicitMap


@dataclass(frozen=True)
class GatherPoints:
    """Picks the points of one result block out of the blocks that hold them.

    ``picks[b]`` belongs to point block ``b``: for each input block it needs (in the order of the dependence) the
    points' places in the result and, per indexed axis, inside the block.
    """

    axes: tuple[int, ...]
    chunks: tuple[AxisChunks, ...]
    picks: tuple[tuple[tuple[np.ndarray, tuple[np.ndarray, ...]], ...], ...]
    dtype: np.dtype[Any]

    def __call__(self, blocks: list[np.ndarray], block_place: BlockPlace) -> np.ndarray:
        shape = [c[k] for c, k in zip(self.chunks, block_place.index, strict=True)]
        fronts = [np.moveaxis(block, self.axes, range(len(self.axes))) for block in blocks]
        if fronts:  # which know lengths that the plan does not
            shape[1:] = fronts[0].shape[len(self.axes) :]
        out = np.empty(shape, self.dtype)
        for front, (where, inside) in zip(fronts, self.picks[block_place.index[0]], strict=True):
            out[where] = front[inside]
        return out


def gather_points(node: Points) -> tuple[GatherPoints, ExplicitMap]:
    """The function of a Points node and the blocks that each task of its grid needs."""
    source = node.inputs[0]
    indexed = [source.chunks[a] for a in node.axes]
    block_of = [np.searchsorted(c.bounds, p, side="right") - 1 for c, p in zip(indexed, node.positions, strict=True)]
    bounds = node.chunks[0].bounds
    rest_axes = [a for a in range(source.ndim) if a not in node.axes]
    strides = np.cumprod([1, *source.grid[:0:-1]])[::-1] if source.grid else np.ones(0, np.int64)
    picks, needs = [], []
    for lo, hi in pairwise(bounds.tolist()):
        flat = np.ravel_multi_index(tuple(k[lo:hi] for k in block_of), [len(c) for c in indexed])
        found = []
        wanted = []
        for one in np.unique(flat):
            where = np.flatnonzero(flat == one)
            index = np.unravel_index(one, [len(c) for c in indexed])
            inside = tuple(
                p[lo:hi][where] - c.bounds[k] for p, c, k in zip(node.positions, indexed, index, strict=True)
            )
            found.append((where, inside))
            wanted.append(int(sum(int(k) * int(strides[a]) for k, a in zip(index, node.axes, strict=True))))
        picks.append(tuple(found))
        needs.append(wanted)
    blocks: list[int] = []
    indptr = [0]
    for wanted in needs:
        for rest in product(*(range(source.grid[a]) for a in rest_axes)):
            shift = sum(k * int(strides[a]) for k, a in zip(rest, rest_axes, strict=True))
            blocks.extend(w + shift for w in wanted)
            indptr.append(len(blocks))
    gather = GatherPoints(node.axes, node.chunks, tuple(picks), node.dtype)
    return gather, ExplicitMap(np.array(indptr, np.int64), np.array(blocks, np.int64))
