"""Which tasks need which: the dependences of stages as flat arrays, by arithmetic on whole index arrays."""

from __future__ import annotations

from math import prod

import numpy as np

from tilework.base.errors import InternalError
from tilework.plan.stages import AxisMap, Dependence, ExplicitMap, GridMap, LinearMap


def needed_blocks(
    dependence: Dependence, grid: tuple[int, ...], producer_grid: tuple[int, ...], tasks: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Blocks (flat numbers) that tasks need.

    Parameters
    ----------
    grid, producer_grid
        Grids of the stage and of the stage it needs.
    tasks
        Flat numbers of the tasks asked for, ascending; None for all of the grid.

    Returns
    -------
    counts
        How many blocks each task needs; None means one each.
    blocks
        The blocks, task by task.
    """
    n = prod(grid) if tasks is None else len(tasks)
    if isinstance(dependence, LinearMap):
        return None, np.arange(n) if tasks is None else tasks
    if isinstance(dependence, ExplicitMap):
        return _explicit(dependence, n, tasks)
    if not isinstance(dependence, GridMap):
        raise InternalError(f"unknown dependence {dependence!r}")
    # axes with one block, along which a function contracts, may follow: they number nothing
    if set(producer_grid[len(dependence.maps) :]) - {1}:
        raise InternalError(f"{len(dependence.maps)} axis maps for a producer with grid {producer_grid}")
    producer_grid = producer_grid[: len(dependence.maps)]
    index = None if tasks is None else np.unravel_index(tasks, grid) if grid else ()
    if all(_single(m) for m in dependence.maps):
        return None, _one_each(dependence.maps, grid, producer_grid, index, n)
    return _products(dependence.maps, grid, producer_grid, index, n)


def _single(m: AxisMap) -> bool:
    return len(m.blocks) == len(m.indptr) - 1 and bool((np.diff(m.indptr) == 1).all())


def _explicit(m: ExplicitMap, n: int, tasks: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    counts = np.diff(m.indptr)
    if tasks is None:
        return counts, m.blocks
    return counts[tasks], m.blocks[_ranges(m.indptr[tasks], counts[tasks])]


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``start, start + 1, ...`` of each range, laid end to end."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def _strides(grid: tuple[int, ...]) -> list[int]:
    return [prod(grid[k + 1 :]) for k in range(len(grid))]


def _along(m: AxisMap, values: np.ndarray, grid: tuple[int, ...], index: tuple[np.ndarray, ...] | None) -> np.ndarray:
    """``values[k]`` for each task, where ``k`` is the grid index that the map follows; broadcasts over the grid."""
    if index is not None:
        return values[np.zeros(1, np.int64) if m.axis is None else index[m.axis]]
    if m.axis is None:
        return values[:1].reshape((1,) * len(grid))
    return values.reshape([-1 if k == m.axis else 1 for k in range(len(grid))])


def _one_each(
    maps: tuple[AxisMap, ...],
    grid: tuple[int, ...],
    producer_grid: tuple[int, ...],
    index: tuple[np.ndarray, ...] | None,
    n: int,
) -> np.ndarray:
    out: np.ndarray = np.zeros((1,) * (len(grid) if index is None else 1), np.int64)
    for m, stride in zip(maps, _strides(producer_grid), strict=True):
        out = out + _along(m, m.blocks[m.indptr[:-1]] * stride, grid, index)
    return np.broadcast_to(out, grid if index is None else (n,)).reshape(-1)


def _products(
    maps: tuple[AxisMap, ...],
    grid: tuple[int, ...],
    producer_grid: tuple[int, ...],
    index: tuple[np.ndarray, ...] | None,
    n: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The product of one list of blocks per axis, for each task, in C order."""
    shape = grid if index is None else (n,)
    per_axis = [np.broadcast_to(_along(m, np.diff(m.indptr), grid, index), shape).reshape(-1) for m in maps]
    counts = np.ones(n, np.int64)
    for c in per_axis:
        counts = counts * c
    place = _ranges(np.zeros(n, np.int64), counts)  # number of the block within its task
    blocks = np.zeros(len(place), np.int64)
    for m, c, stride in zip(maps[::-1], per_axis[::-1], _strides(producer_grid)[::-1], strict=True):
        first = np.broadcast_to(_along(m, m.indptr[:-1], grid, index), shape).reshape(-1)
        width = np.repeat(c, counts)
        blocks += m.blocks[np.repeat(first, counts) + place % width] * stride
        place = place // width
    return counts, blocks
