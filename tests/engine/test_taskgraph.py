"""The task graph of stages: numbering, dependencies, weights, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest

import tilework.array as ta
from tilework import session
from tilework.base import config
from tilework.base.errors import InternalError
from tilework.engine import taskgraph
from tilework.engine.dependencies import needed_blocks
from tilework.engine.taskgraph import TaskGraph
from tilework.io.memory import MemorySink
from tilework.plan import build
from tilework.plan.ops import Call, Slot
from tilework.plan.stages import AxisMap, Calls, GridMap, Program, Stage, StageInput


def graph_of(*arrays: ta.Array) -> TaskGraph:
    stores = [build.store(a.node, MemorySink(a.shape, a.dtype)) for a in arrays]
    return session.prepare(stores, config.get(memory="1GB")).graph


def x() -> ta.Array:
    return ta.ones((6, 8), chunks=(2, 3)).map_blocks(np.sqrt, dtype="f8")


PROGRAMS: dict[str, Callable[[], list[ta.Array]]] = {
    "one block": lambda: [ta.ones(3) + 1],
    "tree": lambda: [ta.ones((40, 3), chunks=1).sum(axis=0)],
    "rechunk": lambda: [x().rechunk((3, -1))],
    "culled": lambda: [x()[3, 1:5]],
    "culled everywhere": lambda: [x().rechunk((3, 4)).map_blocks(np.sort, dtype="f8")[0], x().T[5:]],
    "shared": lambda: [x() - x().mean(axis=0), x().sum()],
    "scan": lambda: [x().cumsum(axis=1)],
    "points": lambda: [x().vindex[[0, 5, 0], [7, 0, 1]]],
    "culled points": lambda: [x().vindex[[0, 5, 0, 1, 2], [7, 0, 1, 1, 1]].map_blocks(np.sort, dtype="f8")[1:2]],
    "halo": lambda: [x().map_overlap(np.sqrt, depth=1, boundary="none", dtype="f8")],
    "reshape": lambda: [x().reshape(48)],
    "product": lambda: [x() @ x().T],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_dependencies_are_those_of_the_stages(name: str) -> None:
    graph = graph_of(*PROGRAMS[name]())
    number = {}  # stage and block → task
    for task in range(graph.n_tasks):
        s, stage, flat = graph.locate(task)
        assert graph.stages[s] is stage
        assert np.ravel_multi_index(graph.index(task), stage.grid) == flat if stage.grid else flat == 0
        number[s, flat] = task
    assert len(number) == graph.n_tasks
    for task in range(graph.n_tasks):
        s, stage, flat = graph.locate(task)
        expected = []
        for i in stage.inputs:
            producer = graph.stages[i.producer]
            _, blocks = needed_blocks(i.blocks, stage.grid, producer.grid, np.array([flat]))
            expected += [number[i.producer, b] for b in blocks.tolist()]
        assert graph.deps[graph.indptr[task] : graph.indptr[task + 1]].tolist() == expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_only_what_the_outputs_need_is_in(name: str) -> None:
    graph = graph_of(*PROGRAMS[name]())
    writes = {
        s
        for s, stage in enumerate(graph.stages)
        if isinstance(stage.work, Program) and any(out.sink is not None for out in stage.work.outputs)
    }
    needed = {task for task in range(graph.n_tasks) if graph.locate(task)[0] in writes}
    stack = list(needed)
    while stack:
        task = stack.pop()
        for d in graph.deps[graph.indptr[task] : graph.indptr[task + 1]].tolist():
            if d not in needed:
                needed.add(d)
                stack.append(d)
    assert needed == set(range(graph.n_tasks))
    assert all(graph.stages[s].size == graph.offsets[s + 1] - graph.offsets[s] for s in writes)


@pytest.mark.parametrize("name", PROGRAMS)
def test_arrays_fit_together(name: str) -> None:
    graph = graph_of(*PROGRAMS[name]())
    n = graph.n_tasks
    assert len(graph.indptr) == n + 1
    assert graph.indptr[-1] == len(graph.deps)
    for weight in (graph.out_bytes, graph.work_bytes):
        assert (len(weight), weight.dtype) == (n, np.int64)
    users = np.repeat(np.arange(n), np.diff(graph.indptr))
    assert (graph.rank[graph.deps] < graph.rank[users]).all()
    assert (graph.deps < users).all()
    assert np.array_equal(graph.rank[graph.order], np.arange(n))
    indptr, tasks = graph.dependents
    for task in range(n):
        assert tasks[indptr[task] : indptr[task + 1]].tolist() == users[graph.deps == task].tolist()


def test_weights_follow_their_tasks_when_blocks_are_left_out() -> None:
    y = ta.ones(23, chunks=10).map_blocks(np.sqrt, dtype="f8").rechunk(5).map_blocks(np.sort, dtype="f8")
    whole, culled = graph_of(y), graph_of(y[21:])
    assert whole.out_bytes[:3].tolist() == [80, 80, 24]
    assert culled.out_bytes[0] == 24


def test_a_million_tasks_are_a_few_arrays() -> None:
    graph = graph_of((ta.ones((1000, 1000), chunks=1) + 1).sum())
    assert graph.n_tasks == 10**6 + 62500 + 3969 + 256 + 16 + 1
    assert sum(a.nbytes for a in (graph.indptr, graph.deps, graph.out_bytes, graph.work_bytes, graph.rank)) < 50e6


# ---------------------------------------------------------------- calls


def calls(n: int, work: Callable[[int], list[int]]) -> Stage:
    """A stage of ``n`` calls, of which ``k`` needs the calls ``work(k)``."""
    made: list[Call] = []
    for k in range(n):
        needed = [made[d] for d in work(k)]
        made.append(Call(max, tuple(map(Slot, range(len(needed)))), {}, tuple(needed), f"call-{k}", "max", True))
    needs = [work(k) for k in range(n)]
    flat = np.array([d for row in needs for d in row], np.int64)
    indptr = np.cumsum([0, *map(len, needs)])
    zero = np.zeros(1, np.int64)
    return Stage("max", (n,), (), Calls(made, indptr, np.zeros(len(flat), np.int32), flat), zero, zero)


def test_calls_are_never_left_out() -> None:
    graph = taskgraph.build([calls(5, lambda k: [k - 1] if k else [])], [(0, 4)])
    assert graph.n_tasks == 5
    assert graph.deps.tolist() == [0, 1, 2, 3]
    assert graph.outputs.tolist() == [4]


def test_outputs_may_be_asked_for_twice() -> None:
    graph = taskgraph.build([calls(2, lambda k: [])], [(0, 1), (0, 0), (0, 1)])
    assert graph.outputs.tolist() == [1, 0, 1]


def test_no_stages_are_no_tasks() -> None:
    graph = taskgraph.build([], [])
    assert (graph.n_tasks, len(graph.deps), len(graph.outputs)) == (0, 0, 0)
    assert graph.dependents[1].tolist() == []


# ---------------------------------------------------------------- by hand


def plain(grid: tuple[int, ...], *inputs: StageInput, out: Any = 8) -> Stage:
    weight = np.atleast_1d(np.array(out, np.int64))
    return Stage("plain", grid, inputs, Program((), (), (), ()), weight, np.zeros(1, np.int64))


def test_users_before_producers_are_a_bug() -> None:
    late = plain((2,), StageInput(1, GridMap((AxisMap.identity(0, 2),))))
    with pytest.raises(InternalError, match="needs the later stage 1"):
        taskgraph.build([late, plain((2,))], [(0, 0)])


def test_blocks_are_asked_for_input_by_input() -> None:
    every, same = GridMap((AxisMap.all(3),)), GridMap((AxisMap.identity(0, 2),))
    graph = taskgraph.build(
        [plain((3,)), plain((2,)), plain((2,), StageInput(0, every), StageInput(1, same), StageInput(0, every))],
        [(2, 0), (2, 1)],
    )
    assert graph.deps.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 4, 0, 1, 2]


@pytest.mark.parametrize("wanted", list(product([False, True], repeat=4)))
def test_any_part_of_a_grid(wanted: tuple[bool, ...]) -> None:
    outputs = [(1, k) for k, want in enumerate(wanted) if want]
    same = GridMap((AxisMap.identity(0, 2), AxisMap.identity(1, 2)))
    graph = taskgraph.build([plain((2, 2), out=[1, 2, 3, 4]), plain((2, 2), StageInput(0, same))], outputs)
    assert graph.n_tasks == 2 * len(outputs)
    assert [graph.locate(t)[2] for t in range(len(outputs))] == [k for _, k in outputs]
    assert graph.out_bytes[: len(outputs)].tolist() == [k + 1 for _, k in outputs]
    assert graph.deps.tolist() == list(range(len(outputs)))


def test_a_stage_of_which_every_task_runs() -> None:
    graph = taskgraph.build([plain((3,)), plain((2, 2))], [], always=[1])
    assert (graph.n_tasks, prod(graph.stages[1].grid)) == (4, 4)
