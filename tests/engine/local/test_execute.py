"""Programs: which blocks reach the kernels, and what the buffers that they reuse weigh."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from tilework.engine import taskgraph
from tilework.engine.local.budget import predict_peak
from tilework.engine.local.sync import SyncEngine
from tilework.engine.local.threads import ThreadsEngine
from tilework.engine.protocol import RunOptions
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Slot
from tilework.plan.stages import (
    AxisMap,
    Block,
    BlockPlace,
    BlockSegment,
    ExplicitMap,
    GridMap,
    Grouped,
    LinearMap,
    Output,
    Program,
    Stage,
    StageInput,
    TileResult,
    TileSegment,
    TileStep,
)

MiB = 2**20


@pytest.fixture(params=[SyncEngine, ThreadsEngine], ids=["sync", "threads"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param()


def test_inputs_are_told_apart_and_picked(engine: Any) -> None:
    ones = AxisChunks((1, 1)), AxisChunks((1, 1, 1))

    def value(sign: int) -> BlockSegment:
        def fn(block_place: BlockPlace) -> np.ndarray:
            i, j = block_place.index
            return np.full((1, 1), sign * (10 * i + j))

        return BlockSegment(BlockFunction(fn, (), place=True), (), None, None, "value")

    pairs = Stage(
        "pairs", (2, 3), (), Program(ones, (), (value(1), value(-1)), (Output(0), Output(1))),
        np.array([16]), np.array([0]),
    )  # fmt: skip

    def collect(row: Any, one: Any, some: Any) -> np.ndarray:
        return np.array([*(int(x[0, 0]) for x in row[0]), 1000, int(one[0, 0]), 1000, *(int(x[0, 0]) for x in some)])

    inputs = (
        StageInput(0, GridMap((AxisMap.identity(0, 2), AxisMap.all(3))), 0),
        StageInput(0, LinearMap(), 1),
        StageInput(0, ExplicitMap(np.array([0, 1, 4]), np.array([5, 3, 0, 3])), 1),
    )
    function = BlockFunction(collect, (Slot(0), Slot(1), Slot(2)), check=False)
    program = Program(
        (AxisChunks((6, 8)),), (Grouped(0, False), Block(1), Grouped(2, False)),
        (BlockSegment(function, (0, 1, 2), None, None, "collect"),), (Output(3),),
    )  # fmt: skip
    stage = Stage("collect", (2,), inputs, program, np.array([64]), np.array([0]))

    expected = [[0, 1, 2, 1000, 0, 1000, -12], [10, 11, 12, 1000, -1, 1000, -10, 0, -10]]
    options = RunOptions(2, 10**6)
    both = engine.run(taskgraph.build([pairs, stage], [(1, 0), (1, 1)]), options)
    assert [block.tolist() for block in both] == expected
    (second,) = engine.run(taskgraph.build([pairs, stage], [(1, 1)]), options)
    assert second.tolist() == expected[1], "tasks that nobody needs are left out; the others keep their places"


def chain(length: int, blocks: int, size: int) -> taskgraph.TaskGraph:
    """Blocks of float64 ones; each of ``length`` stages adds one, tile by tile; the last block of each row is kept."""
    chunks = AxisChunks((size // 8,) * blocks)
    made = BlockSegment(
        BlockFunction(lambda: np.ones(size // 8), ()), (), np.dtype("f8"), ((chunks, 0),), "ones"
    )  # fmt: skip
    step = TileStep(np.add, (Slot(0), 1.0), np.dtype("f8"), "add")
    add = TileSegment(((0, (0,)),), (step,), (TileResult(1, (0,)),), (0,), (chunks,))
    end = BlockSegment(BlockFunction(lambda x: x[:1].copy(), (Slot(0),), check=False), (0,), None, None, "end")
    weight, nothing = np.array([size]), np.array([0])
    stages = [Stage("ones", (blocks,), (), Program((chunks,), (), (made,), (Output(0),)), weight, nothing)]
    for _ in range(length):
        program = Program((chunks,), (Block(0),), (add,), (Output(1),))
        stages.append(Stage("add", (blocks,), (StageInput(len(stages) - 1, LinearMap()),), program, weight, nothing))
    program = Program((chunks,), (Block(0),), (end,), (Output(1),))
    stages.append(Stage("end", (blocks,), (StageInput(len(stages) - 1, LinearMap()),), program, np.array([8]), nothing))
    return taskgraph.build(stages, [(len(stages) - 1, k) for k in range(blocks)])


@pytest.mark.parametrize("budget", [10 * MiB, 10**9], ids=["tight", "ample"])
def test_buffers_that_wait_for_their_next_use_do_not_raise_the_peak(engine: Any, budget: int) -> None:
    graph = chain(4, 12, 2 * MiB)
    engine.run(graph, RunOptions(2, budget))  # what Python and the kernels keep from the first run on
    events: list[Any] = []
    tracemalloc.start()
    try:
        results = engine.run(graph, RunOptions(2, budget), events.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [block.tolist() for block in results] == [[5.0]] * 12
    scratch = 3 * MiB  # for the tiles of two threads; measured 2.1
    results_bytes = 12 * 8  # a worker may be ahead by more small results than was predicted
    assert events[-1].peak_held <= min(budget, predict_peak(graph, 2) + results_bytes)
    assert peak <= events[-1].peak_held + scratch
