"""Ranks: valid for one worker, and depth first, so that little is held."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilework.array as ta
from tilework import session
from tilework.base import config
from tilework.engine.ordering import depth_first_rank
from tilework.engine.taskgraph import TaskGraph
from tilework.io.memory import MemorySink
from tilework.plan import build


@st.composite
def graphs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stages of tasks that need tasks of earlier stages; some need earlier ones of their own."""
    sizes = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    inner = [draw(st.integers(0, 4)) == 0 for _ in sizes]
    deps: list[list[int]] = []
    for s, n in enumerate(sizes):
        for task in range(int(offsets[s]), int(offsets[s]) + n):
            limit = task if inner[s] else int(offsets[s])
            deps.append(draw(st.lists(st.integers(0, limit - 1), max_size=3)) if limit else [])
    indptr = np.cumsum([0, *map(len, deps)])
    return offsets, indptr, np.array([d for row in deps for d in row], np.int32)


def assert_valid(rank: np.ndarray, indptr: np.ndarray, deps: np.ndarray) -> None:
    assert sorted(rank.tolist()) == list(range(len(rank)))
    users = np.repeat(np.arange(len(rank)), np.diff(indptr))
    assert (rank[deps] < rank[users]).all()


@given(graphs())
def test_ranks_are_a_permutation_with_inputs_first(graph: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    offsets, indptr, deps = graph
    rank = depth_first_rank(offsets, indptr, deps)
    assert rank.dtype == np.int32
    assert_valid(rank, indptr, deps)


def test_no_tasks_have_no_ranks() -> None:
    assert len(depth_first_rank(np.array([0, 0, 0]), np.zeros(1, np.int64), np.zeros(0, np.int32))) == 0


# ---------------------------------------------------------------- what is held


def graph_of(*arrays: ta.Array) -> TaskGraph:
    stores = [build.store(a.node, MemorySink(a.shape, a.dtype)) for a in arrays]
    return session.prepare(stores, config.get(memory="100GB")).graph


def most_held(graph: TaskGraph) -> int:
    """Most blocks that are held at once, task by task in the order of ranks."""
    left = np.diff(graph.dependents[0])
    held = most = 0
    for task in graph.order.tolist():
        held += 1
        most = max(most, held)
        for d in graph.deps[graph.indptr[task] : graph.indptr[task + 1]].tolist():
            left[d] -= 1
            held -= left[d] == 0
        held -= left[task] == 0
    return most


@pytest.mark.parametrize(("blocks", "levels"), [(16, 1), (256, 2), (4096, 3)])
def test_a_tree_holds_one_group_a_level(blocks: int, levels: int) -> None:
    graph = graph_of(ta.ones(blocks, chunks=1).sum())
    assert graph.n_tasks >= blocks
    assert most_held(graph) <= 16 * levels + 1


def test_a_tree_over_two_axes() -> None:
    graph = graph_of(ta.ones((64, 64), chunks=1).sum())
    assert most_held(graph) <= 16 * 3 + 1


def test_columns_are_reduced_one_after_another() -> None:
    graph = graph_of(ta.ones((64, 64), chunks=1).sum(axis=0))
    assert most_held(graph) <= 2 * 16 + 64


def test_joining_neighbours_holds_a_few() -> None:
    x = ta.ones(500, chunks=1).map_blocks(np.sqrt, dtype="f8")
    graph = graph_of(x.rechunk(5))
    assert most_held(graph) <= 6


def test_a_scan_holds_a_block_and_an_offset() -> None:
    graph = graph_of(ta.ones(300, chunks=1).cumsum())
    assert most_held(graph) <= 4


def test_independent_things_do_not_wait_for_each_other() -> None:
    many = [ta.full((8,), k, chunks=1).map_blocks(np.sqrt, dtype="f8").rechunk(8) for k in range(50)]
    assert most_held(graph_of(*many)) <= 9


def order_of(*edges: Sequence[int], sizes: Sequence[int]) -> list[int]:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    deps: list[list[int]] = [[] for _ in range(int(offsets[-1]))]
    for user, needed in edges:
        deps[user].append(needed)
    indptr = np.cumsum([0, *map(len, deps)])
    rank = depth_first_rank(offsets, indptr, np.array([d for row in deps for d in row], np.int32))
    return np.argsort(rank).tolist()


def test_inputs_come_right_before_their_user_in_the_order_it_names_them() -> None:
    assert order_of((4, 1), (4, 0), (5, 3), (5, 2), sizes=[4, 2]) == [1, 0, 4, 3, 2, 5]


def test_what_is_shared_is_made_for_its_first_user() -> None:
    # 0 feeds 2 and 3; 1 feeds 3 only
    assert order_of((2, 0), (3, 0), (3, 1), sizes=[2, 2]) == [0, 2, 1, 3]


def test_trees_that_share_something_follow_each_other() -> None:
    # 0, 1: columns; 2, 3: what is made of each; 4 to 7: users, row by row
    edges = [(2, 0), (3, 1), (4, 2), (5, 3), (6, 2), (7, 3)]
    assert order_of(*edges, sizes=[2, 2, 4]) == [0, 2, 4, 6, 1, 3, 5, 7]


def test_a_column_is_done_before_the_next_one_begins() -> None:
    x = ta.ones((20, 30), chunks=1).map_blocks(np.sqrt, dtype="f8")
    assert most_held(graph_of(x - x.mean(axis=0))) <= 20 + 16
    assert most_held(graph_of(x - x.mean(axis=0), x.max(axis=0))) <= 2 * 20 + 16


def test_what_shares_something_comes_together_within_a_tree_too() -> None:
    # 8 to 11: joined row by row to 12; each needs the mean (4 to 7) of its column (0 to 3), and the column itself
    columns = [(k + 4, k) for k in range(4)]
    rows = [(8, 4), (8, 5), (9, 6), (9, 7), (10, 4), (10, 5), (11, 6), (11, 7)]
    edges = [*columns, *rows, (12, 8), (12, 9), (12, 10), (12, 11)]
    order = order_of(*edges, sizes=[4, 4, 4, 1])
    assert [task for task in order if task >= 8] == [8, 10, 9, 11, 12]


def test_a_reduction_of_anomalies_holds_few_columns() -> None:
    x = ta.ones((64, 64), chunks=1).map_blocks(np.sqrt, dtype="f8")
    graph = graph_of((x - x.mean(axis=0)).max())  # whose last level joins sixteen columns at a time
    assert most_held(graph) <= 16 * 64
