"""Operands are read, functions called, results checked, outputs delivered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilework.base.errors import BlockResultError, InternalError
from tilework.engine.kernels import BufferPool, Context, run_stage
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Slot
from tilework.plan.protocols import Region
from tilework.plan.stages import (
    Block,
    BlockPlace,
    BlockSegment,
    Calls,
    GridMap,
    Leaf,
    Output,
    Stage,
    StageInput,
    TileResult,
    TileSegment,
    TileStep,
)

FLOAT = np.dtype(float)
DOUBLE = TileStep(np.multiply, (Slot(0), 2), FLOAT, "double")


def _segment(function: Any, inputs: tuple[int, ...] = (0,), dtype: Any = FLOAT, expected: Any = None) -> BlockSegment:
    if not isinstance(function, BlockFunction):
        function = BlockFunction(function, tuple(Slot(k) for k in range(len(inputs))))
    return BlockSegment(function, inputs, dtype, expected, "f")


class Remembering:
    """A sink that notes what it is given. With ``memory`` it lends that."""

    token = "sink"
    resident_bytes = 0
    shared = False

    def __init__(self, memory: np.ndarray | None = None) -> None:
        self.memory = memory
        self.written: list[tuple[tuple[int, ...], Region | None, np.ndarray]] = []

    def finished(self) -> None:
        return None

    def buffer(self, region: Region) -> np.ndarray | None:
        return None if self.memory is None else self.memory[region]

    def write(self, index: tuple[int, ...], region: Region | None, block: np.ndarray) -> None:
        self.written.append((index, region, block))


# ---------------------------------------------------------------- leaves


def test_a_leaf_is_the_block_of_its_region(tools: Any) -> None:
    x = np.arange(200.0).reshape(10, 20)
    chunks = tuple(map(AxisChunks, ((2, 3), (1,), (4, 1))))
    region = (slice(1, 10, 2), slice(0, 1, 1), slice(3, 18, 3))
    leaf = Leaf(tools.InMemory(x[:, None]), region, chunks, (0, None, 1), drop=(1,))
    stage = tools.one_stage([(2, 3), (4, 1)], [leaf], [], [0])
    whole = x[1:10:2, 3:18:3]
    np.testing.assert_array_equal(tools.run(stage, (0, 0)), whole[:2, :4])
    np.testing.assert_array_equal(tools.run(stage, (1, 1)), whole[2:, 4:])


def test_empty_blocks_are_not_read(tools: Any) -> None:
    class Untouched(tools.InMemory):  # type: ignore[misc, name-defined]
        def read(self, region: Region) -> np.ndarray:
            raise AssertionError(f"read {region}")

    leaf = tools.leaf(Untouched(np.ones((3, 2))), [(0, 3), (2,)])
    got = tools.run(tools.one_stage([(0, 3), (2,)], [leaf], [], [0]))
    assert got.shape == (0, 2)
    assert got.dtype == float


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((3, 3)), r"Wrong, region \[0:2, 0:3\]: its read returned shape \(3, 3\), but \(2, 3\) was announced"),
        (np.ones((2, 3), "f4"), "returned dtype float32, but float64 was announced"),
        (np.ma.ones((2, 3)), r"returned a numpy.ma(\.core)?.MaskedArray. Blocks are plain numpy.ndarray"),
        ([[1.0] * 3] * 2, "returned a builtins.list"),
    ],
)
def test_a_source_that_lies_is_found_out(wrong: Any, message: str, tools: Any) -> None:
    class Wrong(tools.InMemory):  # type: ignore[misc, name-defined]
        def read(self, region: Region) -> Any:
            return wrong

    stage = tools.one_stage([(2,), (3,)], [tools.leaf(Wrong(np.ones((2, 3))))], [], [0])
    with pytest.raises(BlockResultError, match=message):
        tools.run(stage)


# ---------------------------------------------------------------- functions of blocks


def test_slots_are_filled_at_any_depth(tools: Any) -> None:
    def show(*args: Any, **kwargs: Any) -> np.ndarray:
        return np.array([repr((args, kwargs))], object)

    function = BlockFunction(show, (1, [Slot(1), (Slot(0),)]), {"k": {"d": Slot(1)}})
    segment = _segment(function, (0, 1), None)
    stage = tools.one_stage([], [Block(0), Block(1)], [segment], [2], [StageInput(0, GridMap(()))] * 2)
    (got,) = tools.run(stage, blocks=[[7], [8]])
    assert got == "((1, [8, (7,)]), {'k': {'d': 8}})"


def test_the_place_of_the_block(tools: Any) -> None:
    places: list[BlockPlace] = []

    def function(x: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        places.append(block_place)
        return x

    made = BlockFunction(function, (Slot(0),), place=True)
    x = np.ones((5, 4))
    stage = tools.one_stage([(2, 3), (4,)], [tools.leaf(x, [(2, 3), (4,)])], [_segment(made)], [1])
    tools.run(stage, (1, 0))
    (place,) = places
    assert (place.index, place.grid, place.offset(0), place.offset(1)) == ((1, 0), (2, 1), 2, 0)
    assert made.kwargs == {}


@pytest.mark.parametrize("value", [np.float64(3), 3.0, np.array(3.0), np.memmap])
def test_scalars_and_maps_are_blocks(value: Any, tools: Any, tmp_path: Any) -> None:
    if value is np.memmap:
        value = np.memmap(tmp_path / "x", float, "w+", shape=())
        value[...] = 3
    stage = tools.one_stage([], [tools.leaf(np.ones(()))], [_segment(lambda x: value, expected=())], [1])
    got = tools.run(stage)
    assert type(got) is np.ndarray
    assert got.shape == ()
    assert got == 3


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            np.ones((2, 2)),
            r"operation 'f', block \(1,\): its function returned shape \(2, 2\), but \(3,\) was announced",
        ),
        (np.ones(2), r"returned shape \(2,\), but \(3,\) was announced: say with chunks="),
        (np.ones(3, int), "returned dtype int64, but float64 was announced: pass dtype='int64'"),
        (np.ma.ones(3), r"returned a numpy\.ma(\.core)?\.MaskedArray"),
        (np.ones(3).view(np.recarray), r"returned a numpy.*recarray"),
        ([1.0, 2.0, 3.0], "returned a builtins.list"),
        (None, "returned a builtins.NoneType"),
        ("text", r"returned a builtins.str\. Blocks are plain numpy.ndarray: convert it inside the function"),
    ],
)
def test_wrong_results_are_named(result: Any, message: str, tools: Any) -> None:
    segment = _segment(lambda x: result, expected=((AxisChunks((2, 3)), 0),))
    stage = tools.one_stage([(2, 3)], [tools.leaf(np.ones(5), [(2, 3)])], [segment], [1])
    with pytest.raises(BlockResultError, match=message):
        tools.run(stage, (1,))


def test_errors_keep_their_class_and_name_the_operation(tools: Any) -> None:
    stage = tools.one_stage([(3,)], [tools.leaf(np.ones(3))], [_segment(lambda x: x[7])], [1])
    with pytest.raises(IndexError) as caught:
        tools.run(stage)
    assert caught.value.__notes__ == ["raised by the function of operation 'f'"]


def test_unknown_sizes_are_not_compared(tools: Any) -> None:
    nan = AxisChunks((float("nan"), float("nan")))
    stage = tools.one_stage(
        [(2, 3)], [tools.leaf(np.ones(5), [(2, 3)])], [_segment(lambda x: x[1:], expected=((nan, 0),))], [1]
    )
    assert tools.run(stage, (1,)).shape == (2,)


def test_another_byte_order_is_converted(tools: Any) -> None:
    stage = tools.one_stage([(3,)], [tools.leaf(np.ones(3))], [_segment(lambda x: x.astype(">f8"))], [1])
    assert tools.run(stage).dtype == FLOAT


def test_unchecked_results_pass(tools: Any) -> None:
    stage = tools.one_stage([(3,)], [tools.leaf(np.ones(3))], [_segment(lambda x: (x, 2), dtype=None)], [1])
    assert tools.run(stage)[1] == 2


def test_values_are_dropped_after_their_last_use(tools: Any) -> None:
    alive: list[int] = []

    class Noticed(np.ndarray):
        def __del__(self) -> None:
            alive.append(-1)

    def make(x: np.ndarray) -> Any:
        alive.append(1)
        return x.view(Noticed)

    def look(x: Any) -> np.ndarray:
        return np.array([float(sum(alive))])

    segments = [_segment(make, dtype=None), _segment(look, (1,)), _segment(look, (2,))]
    stage = tools.one_stage([(3,)], [tools.leaf(np.ones(3))], segments, [2, 3])
    assert [x.item() for x in tools.run(stage)] == [1, 0]


# ---------------------------------------------------------------- outputs


def test_several_outputs_are_a_tuple(tools: Any) -> None:
    x = np.arange(3.0)
    segment = TileSegment(((0, (0,)),), (DOUBLE,), (TileResult(1, (0,)),), (0,), (AxisChunks((3,)),))
    a, b = tools.run(tools.one_stage([(3,)], [tools.leaf(x)], [segment], [1, 0]))
    np.testing.assert_array_equal(a, 2 * x)
    np.testing.assert_array_equal(b, x)


def test_blocks_are_computed_in_the_memory_of_the_sink(tools: Any) -> None:
    x = np.arange(40.0).reshape(5, 8)
    memory = np.full((9, 6), -1.0)
    sink = Remembering(memory)
    chunks = ((2, 3), (4, 4))
    segment = TileSegment(((0, (0, 1)),), (DOUBLE,), (TileResult(1, (1, 0)),), (0, 1), tuple(map(AxisChunks, chunks)))
    output = Output(1, sink, (1, 1), (AxisChunks((4, 4)), AxisChunks((2, 3))), (1, 0))
    stage = tools.one_stage(chunks, [tools.leaf(x, chunks)], [segment], [output])
    for index in np.ndindex(2, 2):
        assert tools.run(stage, index) is None
    np.testing.assert_array_equal(memory[1:, 1:], 2 * x.T)
    assert (memory[0] == -1).all()
    assert (memory[:, 0] == -1).all()
    index, region, block = sink.written[1]
    assert index == (1, 0)
    assert region == (slice(5, 9, 1), slice(1, 3, 1))
    assert np.shares_memory(block, memory)


def test_sinks_without_memory_are_written_to(tools: Any) -> None:
    x = np.arange(5.0)
    sink = Remembering()
    segment = TileSegment(((0, (0,)),), (DOUBLE,), (TileResult(1, (0,)),), (0,), (AxisChunks((2, 3, 0)),))
    outputs = [Output(1, sink, (10,), (AxisChunks((2, 3, 0)),), (0,)), 1]
    stage = tools.one_stage([(2, 3, 0)], [tools.leaf(x, [(2, 3, 0)])], [segment], outputs)
    nothing, block = tools.run(stage, (1,))
    assert nothing is None
    np.testing.assert_array_equal(block, 2 * x[2:])
    ((index, region, written),) = sink.written
    assert (index, region) == ((1,), (slice(12, 15, 1),))
    np.testing.assert_array_equal(written, 2 * x[2:])
    tools.run(stage, (2,))
    assert len(sink.written) == 1, "an empty block has nowhere to go"


def test_a_sink_of_another_dtype_converts_itself(tools: Any) -> None:
    sink = Remembering(np.zeros(3, np.float32))
    segment = TileSegment(((0, (0,)),), (DOUBLE,), (TileResult(1, (0,)),), (0,), (AxisChunks((3,)),))
    output = Output(1, sink, (0,), (AxisChunks((3,)),), (None,))
    tools.run(tools.one_stage([(3,)], [tools.leaf(np.ones(3))], [segment], [output]))
    assert sink.written[0][2].dtype == float


def test_blocks_of_unknown_size_have_no_region(tools: Any) -> None:
    sink = Remembering(np.zeros(3))
    nan = AxisChunks((float("nan"),))
    output = Output(0, sink, (0,), (nan,), (None,))
    tools.run(tools.one_stage([nan], [Block(0)], [], [output], [StageInput(0, GridMap(()))]), blocks=[[np.ones(4)]])
    ((index, region, block),) = sink.written
    assert (index, region, block.shape) == ((0,), None, (4,))


def test_small_views_do_not_keep_large_blocks(tools: Any) -> None:
    x = np.arange(1000.0)
    segments = [_segment(lambda x: x[:10]), _segment(lambda x: x[::-1])]
    stage = tools.one_stage([(10,)], [Block(0)], segments, [1, 2], [StageInput(0, GridMap(()))])
    small, view = tools.run(stage, blocks=[[x]])
    np.testing.assert_array_equal(small, x[:10])
    assert not np.shares_memory(small, x)
    assert np.shares_memory(view, x)
    leaf = tools.one_stage([(10, 990)], [tools.leaf(x, [(10, 990)])], [], [0])
    assert np.shares_memory(tools.run(leaf), x), "memory of the user's own arrays is not ours to copy"


def test_blocks_come_from_the_pool(tools: Any) -> None:
    n = 1 << 18
    pool = BufferPool(1 << 30)
    context = Context(pool)
    segment = TileSegment(((0, (0,)),), (DOUBLE,), (TileResult(1, (0,)),), (0,), (AxisChunks((n,)),))
    stage = tools.one_stage([(n,)], [tools.leaf(np.ones(n))], [segment], [1])
    first = run_stage(stage, (0,), [], context)
    part = first[:3]
    del first
    second = run_stage(stage, (0,), [], context)
    second[:] = 5
    assert (part == 2).all()
    assert pool.idle_bytes == 0
    del part, second
    assert pool.idle_bytes == 2 * 8 * n


def test_delayed_calls_are_not_run_here() -> None:
    zero = np.zeros(1, np.int64)
    stage = Stage("calls", (1,), (), Calls([], zero, zero, zero), zero, zero)
    with pytest.raises(InternalError, match="'calls'"):
        run_stage(stage, (0,), [], Context(BufferPool(0)))
