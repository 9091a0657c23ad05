"""Dependences on whole arrays against the plain product, block by block."""

from __future__ import annotations

from itertools import pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import InternalError
from tilework.engine.dependencies import needed_blocks
from tilework.plan.stages import AxisMap, Dependence, ExplicitMap, GridMap, LinearMap


@st.composite
def axis_maps(draw: st.DrawFn, grid: tuple[int, ...], n: int) -> AxisMap:
    axis = draw(st.none() | st.integers(0, len(grid) - 1)) if grid else None
    rows = 1 if axis is None else grid[axis]
    kind = draw(st.sampled_from(["one", "any"]))
    lists = [
        draw(st.lists(st.integers(0, n - 1), max_size=3)) if kind == "any" else [draw(st.integers(0, n - 1))]
        for _ in range(rows)
    ]
    indptr = np.cumsum([0, *map(len, lists)])
    return AxisMap(axis, indptr, np.array([b for row in lists for b in row], np.int64))


@st.composite
def grid_maps(draw: st.DrawFn) -> tuple[GridMap, tuple[int, ...], tuple[int, ...], np.ndarray | None]:
    grid = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    producer = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    maps = tuple(draw(axis_maps(grid, n)) for n in producer)
    extra = (1,) * draw(st.integers(0, 1))  # contracted axes of the producer
    tasks = draw(st.none() | st.sets(st.integers(0, prod(grid) - 1)))
    chosen = None if tasks is None else np.array(sorted(tasks), np.int64)
    return GridMap(maps), grid, producer + extra, chosen


def expected(dependence: GridMap, grid: tuple[int, ...], producer: tuple[int, ...], task: int) -> list[int]:
    index = np.unravel_index(task, grid) if grid else ()
    per_axis = []
    for m in dependence.maps:
        k = 0 if m.axis is None else int(index[m.axis])
        per_axis.append(m.blocks[m.indptr[k] : m.indptr[k + 1]].tolist())
    shape = producer[: len(dependence.maps)]
    return [int(np.ravel_multi_index(b, shape)) if shape else 0 for b in product(*per_axis)]


def rows(counts: np.ndarray | None, blocks: np.ndarray, n: int) -> list[list[int]]:
    bounds = np.arange(n + 1) if counts is None else np.cumsum([0, *counts])
    assert bounds[-1] == len(blocks)
    return [blocks[a:b].tolist() for a, b in pairwise(bounds)]


@given(grid_maps())
def test_products_of_axes(case: tuple[GridMap, tuple[int, ...], tuple[int, ...], np.ndarray | None]) -> None:
    dependence, grid, producer, tasks = case
    asked = range(prod(grid)) if tasks is None else tasks.tolist()
    found = rows(*needed_blocks(dependence, grid, producer, tasks), len(asked))
    assert found == [expected(dependence, grid, producer, task) for task in asked]


@given(grid_maps())
def test_a_map_counts_the_blocks_of_a_task(
    case: tuple[GridMap, tuple[int, ...], tuple[int, ...], np.ndarray | None],
) -> None:
    dependence, grid, producer, _ = case
    for task, index in enumerate(np.ndindex(grid)):
        assert prod(dependence.counts(index)) == len(expected(dependence, grid, producer, task))


@pytest.mark.parametrize("tasks", [None, [0, 2, 5], []])
def test_block_by_block(tasks: list[int] | None) -> None:
    chosen = None if tasks is None else np.array(tasks, np.int64)
    counts, blocks = needed_blocks(LinearMap(), (2, 3), (6,), chosen)
    assert counts is None
    assert blocks.tolist() == (list(range(6)) if tasks is None else tasks)


@pytest.mark.parametrize("tasks", [None, [0, 2], [1], []])
def test_lists_of_blocks(tasks: list[int] | None) -> None:
    lists = [[3, 1], [], [0, 0, 2]]
    dependence = ExplicitMap(np.array([0, 2, 2, 5]), np.array([3, 1, 0, 0, 2]))
    chosen = None if tasks is None else np.array(tasks, np.int64)
    found = needed_blocks(dependence, (3,), (4,), chosen)
    asked = range(3) if tasks is None else tasks
    assert rows(*found, len(asked)) == [lists[task] for task in asked]


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (AxisMap.identity(0, 4), [[0], [1], [2], [3]]),
        (AxisMap.groups(0, 5, 2), [[0, 1], [2, 3], [4]]),
        (AxisMap.groups(0, 4, 2), [[0, 1], [2, 3]]),
        (AxisMap.all(3), [[0, 1, 2]]),
    ],
)
def test_common_maps(m: AxisMap, expected: list[list[int]]) -> None:
    grid = (len(expected),) if m.axis is not None else ()
    assert rows(*needed_blocks(GridMap((m,)), grid, (5,), None), len(expected)) == expected


@pytest.mark.parametrize("dependence", [GridMap((AxisMap.all(1),)), "everything"])
def test_what_fits_no_grid_is_a_bug(dependence: Dependence) -> None:
    with pytest.raises(InternalError):
        needed_blocks(dependence, (2,), (2, 2), None)
