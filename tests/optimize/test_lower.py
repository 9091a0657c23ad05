"""What becomes one stage, what is kept, what is made again; and what tasks are said to weigh."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import tilework.array as ta
from tilework import session
from tilework.array.core import Array
from tilework.engine import taskgraph
from tilework.engine.local.sync import SyncEngine
from tilework.engine.protocol import RunOptions
from tilework.io.memory import ArraySource, MemorySink
from tilework.optimize.keeping import repeatable
from tilework.optimize.lower import Lowered, lower
from tilework.optimize.pipeline import PASSES, optimize
from tilework.optimize.weigh import TILE_SCRATCH
from tilework.plan import build, ops
from tilework.plan.blocks import AxisChunks, normalize_chunks, split_sizes
from tilework.plan.graph import topological
from tilework.plan.ops import ArrayNode, BlockFunction, Node, Slot
from tilework.plan.protocols import Region
from tilework.plan.spec import verify_stages
from tilework.plan.stages import Assembled, Block, BlockSegment, Calls, Held, Leaf, Program, Stage, TileSegment

BLOCK = 100 * 100 * 8


class Dear(ArraySource):
    """Counts how often it is read."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array)
        self.free = False
        self.reads = 0

    def read(self, region: Region) -> np.ndarray:
        self.reads += 1
        return super().read(region)


def dear(shape: tuple[int, ...] = (400, 300), chunks: Any = 100) -> tuple[Dear, Array]:
    source = Dear(np.random.default_rng(0).random(shape))
    return source, Array(build.source(source, normalize_chunks(chunks, shape)))


def lowered_from(outputs: Sequence[Node], again: bool = False) -> Lowered:
    """Lowered, with all that is cheap to repeat made again if ``again``."""
    plan = optimize(outputs)
    lowered = lower(plan, repeatable(topological(plan)) if again else ())
    verify_stages(lowered.stages)
    return lowered


def stages(*arrays: Array, again: bool = False) -> list[Stage]:
    stores = [build.store(a.node, MemorySink(a.shape, a.dtype), label=a.node.label) for a in arrays]
    return lowered_from(stores, again).stages


def labels(made: Sequence[Stage]) -> list[str]:
    return [stage.label for stage in made]


def program(stage: Stage) -> Program:
    assert isinstance(stage.work, Program)
    return stage.work


# ---------------------------------------------------------------- what runs together


def test_a_chain_is_one_stage_of_one_segment() -> None:
    _, x = dear()
    (stage,) = stages(((x + 1) * 2 - x).T)
    assert stage.operations == ("array", "add", "multiply", "subtract", "transpose")
    (segment,) = program(stage).segments
    assert isinstance(segment, TileSegment)
    assert [step.label for step in segment.steps] == ["add", "multiply", "subtract"]


def test_a_reduction_ends_the_chain_that_it_reduces() -> None:
    _, x = dear()
    first, last = stages(np.sqrt(x + 1).sum())
    (segment,) = program(first).segments
    assert isinstance(segment, TileSegment)
    assert [step.label for step in segment.steps] == ["add", "sqrt"]
    assert [result.reduction is not None for result in segment.results] == [True]
    assert (first.size, last.size) == (12, 1)


@pytest.mark.parametrize("free", [False, True])
def test_several_reductions_of_one_array_are_one_pass(free: bool) -> None:
    source, x = dear()
    source.free = free
    y = x + 1
    made = stages(y.sum(), y.mean(), y.std(axis=0), x.max())
    first = program(made[0])
    assert made[0].label == "sum+mean+std+max"
    assert len(first.outputs) == 4
    assert len(first.segments) == 1
    assert all(not isinstance(operand, Leaf) for stage in made[1:] for operand in program(stage).operands)
    session.compute(y.sum(), y.mean(), y.std(axis=0), x.max(), scheduler="sync")
    assert source.reads == 12


def test_equal_work_is_done_once() -> None:
    calls = []

    def count(block: np.ndarray) -> np.ndarray:
        calls.append(block.shape)
        return block

    x = ta.ones((4, 4), chunks=2)
    one, two = (x.map_blocks(count, dtype="f8") + 1 for _ in range(2))
    calls.clear()
    first, second = session.compute(one, (two * 2).sum(), scheduler="sync")
    assert len(calls) == 4
    assert first.sum() * 2 == second


def test_blocks_that_nobody_needs_are_not_made() -> None:
    calls = []

    def count(block: np.ndarray) -> np.ndarray:
        calls.append(block.shape)
        return block

    y = ta.ones((10, 10), chunks=2).map_blocks(count, dtype="f8")
    calls.clear()
    y[3:5, 7].compute(scheduler="sync")
    assert len(calls) == 2


def test_work_that_nobody_needs_is_dropped() -> None:
    _, x = dear()
    _ = x.std() + (x * 2).T
    assert labels(stages(x + 1)) == ["add"]


def test_a_reduction_is_never_made_by_the_stage_that_uses_it() -> None:
    _, x = dear(chunks=(-1, 100))  # the mean over axis 0 lies along the very same blocks
    y = x - x.mean(axis=0)
    made = stages(y.sum(axis=0), again=True)
    assert labels(made) == ["mean", "sum", "sum"]
    assert np.allclose(y.sum(axis=0).compute(scheduler="sync"), 0)


def test_calls_between_two_reductions_keep_them_apart() -> None:
    _, x = dear()
    first = x.sum()
    call = ops.Call(float, (Slot(0),), {}, (build.whole(first.node),), "float", "float", True)
    other = ops.Call(float, (2,), {}, (), "two", "two", True)
    second = (x + Array(build.from_value(other, (), "f8"))).sum()
    lowered = lower(optimize([call, build.store(second.node, MemorySink((), "f8"))]))
    verify_stages(lowered.stages)
    assert sum(stage.label == "sum" for stage in lowered.stages) == 4


def test_every_pass_has_a_name_and_is_shown() -> None:
    seen = []
    _, x = dear()
    optimize([x.node], after=lambda name, outputs: seen.append((name, outputs)))
    assert [name for name, _ in seen] == [name for name, _ in PASSES]
    assert seen[-1][1] == (x.node,)


# ---------------------------------------------------------------- what is kept and what is made again


@pytest.mark.parametrize(("again", "reads"), [(False, 12), (True, 24)])
def test_a_dear_source_is_read_once_if_it_is_kept(again: bool, reads: int) -> None:
    source, x = dear()
    node = build.store((x - x.mean(axis=0)).node, sink := MemorySink(x.shape, x.dtype))
    run([node], again)
    assert source.reads == reads
    assert np.allclose(sink.array.mean(axis=0), 0)


@pytest.mark.parametrize(("again", "reads"), [(False, 12), (True, 24)])
def test_elementwise_work_on_a_dear_source_goes_the_same_way(again: bool, reads: int) -> None:
    source, x = dear()
    y = np.sqrt(x * 2)
    node = build.store((y - y.mean(axis=0)).node, sink := MemorySink(x.shape, x.dtype))
    lowered = run([node], again)
    assert source.reads == reads
    assert np.allclose(sink.array.mean(axis=0), 0)
    assert any(stage.label == "sqrt" for stage in lowered.stages) == (not again)


def test_what_is_dear_to_make_is_always_kept() -> None:
    _, x = dear()
    y = x.map_blocks(np.sort, dtype="f8")
    made = stages(y - y.mean(axis=0), again=True)
    assert [stage.label for stage in made if "sort" in stage.operations] == ["sort"]


def test_a_free_source_is_read_wherever_it_is_wanted() -> None:
    x = Array(build.source(ArraySource(np.ones((4, 4))), normalize_chunks(2, (4, 4))))
    made = stages(x.T + x, x.rechunk(3))
    assert {type(operand) for operand in program(made[-1]).operands} == {Leaf}


def run(outputs: list[Node], again: bool) -> Lowered:
    lowered = lowered_from(outputs, again)
    graph = taskgraph.build(lowered.stages, [], lowered.stores, lowered.resident_bytes)
    SyncEngine().run(graph, RunOptions(1, 1 << 30))
    return lowered


# ---------------------------------------------------------------- segments


def test_steps_wait_for_what_they_meet_instead_of_becoming_blocks() -> None:
    _, x = dear(chunks=(-1, 100))
    made = stages((x * 2 + 1 - x.mean(axis=0)).sum(), again=True)
    (stage,) = (stage for stage in made if "subtract" in stage.operations)
    end, tiles = program(stage).segments
    assert isinstance(end, BlockSegment)
    assert isinstance(tiles, TileSegment)
    assert [step.label for step in tiles.steps] == ["multiply", "add", "subtract"]
    assert len(tiles.results) == 1


def test_a_function_of_blocks_divides_the_chain() -> None:
    _, x = dear()
    (stage,) = stages((x + 1).map_blocks(np.sort, dtype="f8") * 2)
    kinds = [type(segment) for segment in program(stage).segments]
    assert kinds == [TileSegment, BlockSegment, TileSegment]


def test_what_several_blocks_need_is_made_once() -> None:
    _, x = dear()
    row = Array(build.source(ArraySource(np.ones(300)), (AxisChunks((100,) * 3),)))
    first, second = stages(x * (row + 1))
    assert (first.label, first.size, second.size) == ("add", 3, 12)


def test_other_axes_of_what_tiles_made_are_a_view() -> None:
    _, x = dear()
    (stage,) = stages((x + 1)[None] * 2)
    kinds = [type(segment) for segment in program(stage).segments]
    assert kinds == [TileSegment, BlockSegment, TileSegment]
    assert only(stage)[1] <= 2 * BLOCK + TILE_SCRATCH


# ---------------------------------------------------------------- weights


def only(stage: Stage) -> tuple[int, int]:
    (out,), (work,) = stage.out_bytes, stage.work_bytes
    return int(out), int(work)


def test_a_block_that_is_read_to_be_kept_weighs_once() -> None:
    _, x = dear((300, 300))
    read, *_ = stages(x - x.mean(axis=0))
    assert only(read) == (BLOCK, 0)


def test_a_block_that_is_computed_in_place_weighs_nothing() -> None:
    _, x = dear((300, 300))
    (stage,) = stages(x + 1)
    out, work = only(stage)
    assert out == 0
    assert BLOCK <= work <= BLOCK + 2 * BLOCK  # what is read, and tiles


def test_a_function_of_blocks_needs_its_inputs_and_output_and_what_it_says_besides() -> None:
    x = Array(build.source(ArraySource(np.ones((300, 300))), normalize_chunks(100, (300, 300))))
    for scratch in (0.5, 1.0, 2.5):
        function = BlockFunction(np.sort, (Slot(0),), scratch=scratch)
        node = build.blockwise(function, "ij", [(x.node, "ij")], "f8", label="sort")
        (stage,) = stages(Array(node))
        assert only(stage) == (0, BLOCK + int(scratch * 2 * BLOCK))


def test_a_chain_of_functions_needs_what_its_heaviest_part_needs() -> None:
    x = Array(build.source(ArraySource(np.ones((300, 300))), normalize_chunks(100, (300, 300))))
    y = x
    for _ in range(20):
        y = y.map_blocks(np.sort, dtype="f8")
    (stage,) = stages(y)
    assert only(stage)[1] <= 4 * BLOCK


def test_views_weigh_nothing() -> None:
    _, x = dear((300, 300))
    made = stages(x.rechunk((300, 100)).T[None].reshape(300, 300).map_blocks(np.sort, dtype="f8"))
    last = made[-1]
    assert only(last)[1] <= 4 * 3 * BLOCK


def test_pieces_of_several_blocks_weigh_and_single_ones_do_not() -> None:
    _, x = dear((300, 300))
    for chunks, copied in ((70, True), ((100, 50), False)):
        *_, last = stages((x + 1).rechunk(chunks).map_blocks(np.sort, dtype="f8"))
        (operand,) = program(last).operands
        assert isinstance(operand, Assembled)
        work = last.work_bytes.max()
        block = 70 * 70 * 8 if copied else 100 * 50 * 8
        assert work == block * (4 if copied else 3)


def test_generated_tiles_never_are_a_block() -> None:
    x = ta.random.default_rng(0).random((4000, 1000), chunks=(2000, 1000))
    first, *_ = stages(x.mean())
    assert only(first)[1] <= TILE_SCRATCH + 1000
    kept, *_ = stages(x.rechunk(500))
    assert only(kept) == (2000 * 1000 * 8, 0)


def test_unknown_sizes_weigh_nothing() -> None:
    x = ta.ones(10, chunks=5)
    first, *_ = stages((x[x > 0] + 1).sum())
    assert first.out_bytes.max() <= 64


def test_blocks_of_different_sizes_weigh_differently() -> None:
    _, x = dear((250, 100))
    read, *_ = stages((x + 1).rechunk(70))
    assert read.out_bytes.tolist() == [BLOCK, BLOCK, BLOCK // 2]


def test_bytes_read_and_written() -> None:
    class Storage(MemorySink):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.resident_bytes = 0

    _, x = dear((300, 200))
    row = x[:1]
    node = build.store((x + row).node, Storage((300, 200), "f8"))
    made = lower(optimize([node])).stages
    assert sum(stage.read_bytes for stage in made) == 300 * 200 * 8
    assert sum(stage.write_bytes for stage in made) == 300 * 200 * 8
    (again,) = lowered_from([build.store((x[:100] + x[100:101]).node, Storage((100, 200), "f8"))], again=True).stages
    assert again.read_bytes == 100 * 200 * 8 + 200 * 8


# ---------------------------------------------------------------- scaling


def array(n: int = 100) -> ArrayNode:
    return build.source(ArraySource(np.random.default_rng(0).random(n)), (split_sizes(n, 10),))


def add(x: ArrayNode, y: Any) -> ArrayNode:
    return build.elementwise(np.add, [x, y])


def total(x: ArrayNode) -> ArrayNode:
    return Array(x).sum().node  # type: ignore[no-any-return]


def chain(n: int) -> list[Node]:
    x = array()
    for k in range(n):
        x = add(x, k)
    return [x]


def chain_with_sums(n: int) -> list[Node]:
    x, outputs = array(), []
    for k in range(n):
        x = add(x, k)
        outputs.append(total(x))
    return list(outputs)


def rechunks(n: int) -> list[Node]:
    x = array()
    for k in range(n):
        x = build.rechunk(add(x, k), (split_sizes(100, 10 if k % 2 else 20),))
    return [x]


def centring(n: int) -> list[Node]:
    x = array()
    for _ in range(n):
        x = build.elementwise(np.subtract, [x, total(x)])
    return [x]


def late_slice(n: int) -> list[Node]:
    (x,) = chain(n)
    return [build.slice_(x, [slice(0, 5, 1)])]  # type: ignore[arg-type]


def independent(n: int) -> list[Node]:
    return [total(add(array(), k)) for k in range(n)]


def delayed(n: int) -> list[Node]:
    calls = [ops.Call(int, (k,), {}, (), f"call-{k}", "int", True) for k in range(10 * n)]
    last: Node = calls[0]
    for k, call in enumerate(calls):
        last = ops.Call(print, (Slot(0), Slot(1)), {}, (last, call), f"join-{k}", "print", True)
    return [last, *calls]


SHAPES = [chain, chain_with_sums, rechunks, centring, late_slice, independent, delayed]


def work(make: Callable[[int], list[Node]], n: int) -> int:
    """How many functions are called to get from a program to a task graph."""
    outputs = make(n)
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        lowered = lower(optimize(outputs))
        taskgraph.build(lowered.stages, [place for places in lowered.outputs for place in places])
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("make", SHAPES)
def test_work_is_linear_in_the_number_of_operations(make: Callable[[int], list[Node]]) -> None:
    work(make, 10)  # what is done once, is done
    few, many = work(make, 60), work(make, 240)
    assert many < 5 * few


@pytest.mark.parametrize("make", SHAPES)
def test_two_thousand_operations_and_twenty_thousand_calls(make: Callable[[int], list[Node]]) -> None:
    lowered = lower(optimize(make(2000 if make is not centring else 500)))
    verify_stages(lowered.stages)


def test_the_number_of_chunks_does_not_matter_before_the_task_graph() -> None:
    few, many = (
        lower(optimize([total(add(build.source(ArraySource(np.zeros(n)), (split_sizes(n, 1),)), 1))])).stages
        for n in (16, 100_000)
    )
    assert len(many) - len(few) == 4  # levels of the tree


def test_a_finished_block_is_an_operand_of_its_users() -> None:
    _, x = dear()
    made = stages(x - x.mean(axis=0))
    assert Block in {type(operand) for operand in program(made[-1]).operands}


def test_a_view_weighs_nothing() -> None:
    x = Array(build.source(ArraySource(np.ones((300, 300))), normalize_chunks(100, (300, 300))))
    function = BlockFunction(np.transpose, (Slot(0),), scratch=0.0)
    node = build.blockwise(function, "ji", [(x.node, "ij")], "f8", label="view")
    (stage,) = stages(Array(node))
    assert only(stage) == (0, 0)


def test_reading_a_part_of_a_chunk_weighs_the_chunk() -> None:
    drawn = ta.random.default_rng(0).random((1000, 1000), chunks=(100, 1000))
    whole, part = stages(drawn.sum(axis=1))[0], stages(drawn[:, :10].sum(axis=1))[0]
    assert whole.work_bytes.max() <= TILE_SCRATCH
    assert part.work_bytes.max() >= 8 * 100 * 1000 > 8 * 100 * 10


# ---------------------------------------------------------------- futures


class Future:
    """Notes how often its value is fetched."""

    cluster = None

    def __init__(self, number: int, value: Any) -> None:
        self.number, self.key, self.value, self.fetched = number, f"future-{number}", value, 0

    def result(self) -> Any:
        self.fetched += 1
        return self.value


def held(shape: tuple[int, ...] = (400, 300), chunk: int = 100) -> tuple[list[Future], Array]:
    chunks = normalize_chunks(chunk, shape)
    futures = [Future(k, np.full((chunk, chunk), float(k))) for k in range(int(np.prod([len(c) for c in chunks])))]
    return futures, Array(build.held_array(futures, chunks, "f8"))


def test_futures_are_a_stage_that_several_stages_share() -> None:
    _, x = held()
    made = stages(x + 1, x.T, x.sum())
    assert [type(stage.work).__name__ for stage in made].count("Held") == 1
    blocks = made[0]
    assert (blocks.label, blocks.grid, blocks.out_bytes.tolist(), blocks.work_bytes.tolist()) == (
        "held",
        (4, 3),
        [BLOCK],
        [0],
    )
    assert lowered_from([(x + 1).node, x.sum().node]).shared == [], "it is not the plan that keeps them"


def test_what_is_needed_of_an_array_of_futures_is_fetched_once() -> None:
    futures, x = held()
    first, total = session.compute(x[:150, :1] * 2, x[:150, :1].sum(), scheduler="sync")
    np.testing.assert_array_equal(first[:, 0], [0.0] * 100 + [6.0] * 50)
    assert total == 150.0
    assert [future.fetched for future in futures] == [1, 0, 0, 1] + [0] * 8


def test_outputs_are_all_blocks_of_an_array_and_the_value_of_a_future() -> None:
    futures, x = held()
    one, two = build.held_value(futures[0]), build.held_value(futures[1])
    call = ops.Call(max, (Slot(0), Slot(1)), {}, (one, two), "max", "max", True)
    lowered = lowered_from([one, call, x.node, (x + 1).node])
    places = lowered.outputs
    assert [len(found) for found in places] == [1, 1, 12, 12]
    graph = taskgraph.build(lowered.stages, [place for found in places for place in found])
    assert [graph.held.get(task) for task in graph.outputs.tolist()] == [futures[0], None, *futures, *[None] * 12]
    assert set(graph.held.values()) == {*futures}


def test_workers_are_not_told_of_futures() -> None:
    _, x = held()
    lowered = lowered_from([(x + 1).node])
    assert pickle.loads(pickle.dumps(lowered.stages[0])).work == Held(())


def test_calls_travel_without_the_plan_that_they_stand_in() -> None:
    _, x = held()
    first = ops.Call(max, (3, 4), {}, (), "max", "max", True)
    call = ops.Call(print, (Slot(0), [Slot(1)]), {"sep": ""}, (first, build.whole(x.node)), "print", "print", False)
    (calls,) = (stage.work for stage in lowered_from([call]).stages if isinstance(stage.work, Calls))
    _, there = pickle.loads(pickle.dumps(calls)).calls
    assert (there.fn, there.args, there.kwargs, there.label, there.flat) == (
        print,
        (Slot(0), [Slot(1)]),
        {"sep": ""},
        "print",
        False,
    )
    assert there.inputs == (None, None)
