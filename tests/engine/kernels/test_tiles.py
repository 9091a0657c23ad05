"""Chains run tile by tile give what NumPy gives whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.engine.kernels import BufferPool, Cancelled, Context, run_stage
from tilework.plan import reducers
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import Slot
from tilework.plan.reductions import Reduction
from tilework.plan.stages import Block, GridMap, StageInput, TileResult, TileSegment, TileStep
from tilework.plan.tilefuncs import where

UNARY = [np.negative, np.absolute, np.logical_not, np.isfinite, np.sqrt, np.square, np.conjugate, np.sign]
BINARY = [np.add, np.multiply, np.subtract, np.maximum, np.fmin, np.greater, np.logical_and, np.true_divide]
DTYPES = [
    "bool",
    "int8",
    "uint16",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "object",
]  # object last: not for 0-d arrays, which NumPy unwraps
SCALARS = [2, -1.5, True, np.float32(0.5), np.int8(3), np.array(2.5)]
TOTALS: dict[Callable[..., Any], Callable[..., Reduction]] = {np.sum: reducers.sum_, np.max: reducers.max_}


def _random_array(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Small whole numbers, in any memory layout, so that no sum depends on its order."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    layout = draw(st.sampled_from("CFSNB"))
    if layout == "S":
        values = rng.integers(-4, 5, tuple(2 * n for n in shape))[tuple(slice(None, None, 2) for _ in shape)]
    else:
        values = rng.integers(-4, 5, shape)
    array = np.array(np.abs(values) if dtype == "uint16" else values).astype(dtype, order="F" if layout == "F" else "K")
    if layout == "N" and shape:
        return array[::-1]
    if layout == "B" and shape:
        return np.broadcast_to(array[:1], shape) if shape[0] else array
    return array


@st.composite
def programs(draw: st.DrawFn) -> dict[str, Any]:
    """A random segment, its inputs, and the values of all its steps as NumPy makes them."""
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=3)))
    ndim = len(shape)
    inputs, arrays, values = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        axes = draw(st.permutations([a for a in range(ndim) if draw(st.booleans())]))
        mine = tuple(draw(st.sampled_from([1, shape[a]])) for a in axes)
        array = _random_array(draw, mine, draw(st.sampled_from(DTYPES if ndim else DTYPES[:-1])))
        inputs.append((len(arrays), tuple(axes)))
        arrays.append(array)
        spread = array.transpose(np.argsort(axes)) if axes else array
        values.append(np.broadcast_to(spread[tuple(slice(None) if a in axes else None for a in range(ndim))], shape))
    steps = []
    for _ in range(draw(st.integers(0, 6))):
        operand = st.one_of(
            st.integers(0, len(values) - 1).map(Slot),
            st.integers(0, len(values) - 1).map(Slot),
            st.sampled_from(SCALARS),
        )
        fn = draw(st.sampled_from([*UNARY, *BINARY, where]))
        args = tuple(draw(operand) for _ in range(1 if fn in UNARY else 2 if fn in BINARY else 3))
        if not any(isinstance(arg, Slot) for arg in args):
            continue
        full = [np.asarray(values[a.index]) if isinstance(a, Slot) else a for a in args]
        try:
            value = np.asarray(np.where(*full) if fn is where else fn(*full))
        except (TypeError, ZeroDivisionError):  # no such loop, or not of these objects
            continue
        steps.append(TileStep(fn, args, value.dtype, getattr(fn, "__name__", "where")))
        values.append(value)
    results, expected = [], []
    for _ in range(draw(st.integers(1, 4))):
        number = draw(st.integers(0, len(values) - 1))
        axes = tuple(draw(st.permutations(range(ndim))))
        whole = values[number].transpose(axes)
        function = draw(st.sampled_from([None, np.sum, np.max]))
        along = tuple(a for a in range(ndim) if draw(st.booleans()))
        usable = function is not None and whole.dtype != object and whole.dtype != np.float16
        if not usable or (function is np.max and 0 in shape):
            results.append(TileResult(number, axes))
            expected.append(whole)
        else:
            reduction = TOTALS[function](whole.dtype)
            results.append(TileResult(number, axes, reduction, along))
            expected.append(function(whole, axis=along, keepdims=True))
    chunks = tuple(AxisChunks((n,)) for n in shape)
    segment = TileSegment(tuple(inputs), tuple(steps), tuple(results), tuple(range(ndim)), chunks)
    return {"shape": shape, "arrays": arrays, "segment": segment, "expected": expected}


@settings(max_examples=400)
@given(program=programs(), tile_bytes=st.integers(16, 2000))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_any_chain_agrees_with_numpy(program: dict[str, Any], tile_bytes: int, tools: Any) -> None:
    segment, arrays = program["segment"], program["arrays"]
    n = len(arrays)
    stage = tools.one_stage(
        [(k,) for k in program["shape"]],
        [tools.leaf(array) for array in arrays],
        [segment],
        [n + k for k in range(len(segment.results))],
    )
    before = [array.copy() for array in arrays]
    got = tools.run(stage, tile_bytes=tile_bytes)
    got = got if len(segment.results) > 1 else (got,)
    for result, value, want in zip(segment.results, got, program["expected"], strict=True):
        if result.reduction is not None:
            value = result.reduction.finalize(value)
            np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(value, want)
        assert value.dtype == want.dtype
        assert value.shape == want.shape
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def _chain(shape: tuple[int, ...], steps: list[TileStep], value: int, n: int = 1) -> TileSegment:
    axes = tuple(range(len(shape)))
    chunks = tuple(AxisChunks((k,)) for k in shape)
    return TileSegment(tuple((i, axes) for i in range(n)), tuple(steps), (TileResult(value, axes),), axes, chunks)


FLOAT = np.dtype(float)
DOUBLE = TileStep(np.multiply, (Slot(0), 2), FLOAT, "double")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_results_keep_the_memory_order_of_the_input(order: tuple[int, ...], tools: Any) -> None:
    x = np.random.default_rng(0).random((4, 5, 6)).transpose(order)
    stage = tools.one_stage([(n,) for n in x.shape], [tools.leaf(x)], [_chain(x.shape, [DOUBLE], 1)], [1])
    got = tools.run(stage)
    assert got.strides == (x * 2).strides
    np.testing.assert_array_equal(got, x * 2)


def test_values_that_do_not_differ_between_tiles_are_made_once(tools: Any) -> None:
    calls = []

    def noted(x: Any, out: Any) -> Any:
        calls.append(np.shape(x))
        return np.sqrt(x, out=out)

    x, row = np.ones((64, 16)), np.full(16, 4.0)
    steps = [TileStep(noted, (Slot(1),), FLOAT, "sqrt"), TileStep(np.add, (Slot(0), Slot(2)), FLOAT, "add")]
    chunks = (AxisChunks((64,)), AxisChunks((16,)))
    segment = TileSegment(((0, (0, 1)), (1, (1,))), tuple(steps), (TileResult(3, (0, 1)),), (0, 1), chunks)
    stage = tools.one_stage(chunks, [tools.leaf(x), tools.leaf(row)], [segment], [2])
    np.testing.assert_array_equal(tools.run(stage, tile_bytes=1024), x + 2)
    assert calls == [(1, 16)]


def test_a_ufunc_works_in_place_and_a_function_does_not(tools: Any) -> None:
    """Three steps in a row need one slot; what is no ufunc may read its arguments after it has begun to write."""
    context = Context(BufferPool(0))
    context.tile_bytes = 1024
    x = np.arange(1000.0)
    in_place = [TileStep(np.add, (Slot(k), 1), FLOAT, "add") for k in range(4)]
    total = TileResult(4, (0,), reducers.sum_(FLOAT), (0,))
    segment = TileSegment(((0, (0,)),), tuple(in_place), (total,), (0,), (AxisChunks((1000,)),))
    stage = tools.one_stage([(1000,)], [tools.leaf(x)], [segment], [1])
    assert run_stage(stage, (0,), [], context)[0] == x.sum() + 4000
    assert context.scratch_bytes == 1024

    def careless(a: Any, b: Any, out: Any) -> Any:
        out[...] = 0
        out += a
        out += b
        return out

    steps = [TileStep(np.add, (Slot(0), 1), FLOAT, "add"), TileStep(careless, (Slot(1), Slot(1)), FLOAT, "careless")]
    segment = TileSegment(
        ((0, (0,)),), tuple(steps), (TileResult(2, (0,), total.reduction, (0,)),), (0,), segment.chunks
    )
    stage = tools.one_stage([(1000,)], [tools.leaf(x)], [segment], [1])
    assert run_stage(stage, (0,), [], context)[0] == 2 * (x + 1).sum()


def test_python_scalars_stay_weak(tools: Any) -> None:
    x = np.arange(10, dtype=np.float32)
    step = TileStep(np.multiply, (Slot(0), 2.5), np.dtype(np.float32), "multiply")
    got = tools.run(tools.one_stage([(10,)], [tools.leaf(x)], [_chain((10,), [step], 1)], [1]))
    np.testing.assert_array_equal(got, x * 2.5)
    assert got.dtype == np.float32


def test_unknown_sizes_come_from_the_blocks(tools: Any) -> None:
    x = np.arange(7.0)
    nan = float("nan")
    total = TileResult(1, (0, 1), reducers.sum_(FLOAT), (0,))
    segment = TileSegment(
        ((0, (0, 1)),), (DOUBLE,), (TileResult(1, (1, 0)), total), (0, 1), ((AxisChunks((nan,))),) * 2
    )
    stage = tools.one_stage([(nan,), (nan,)], [Block(0)], [segment], [1, 2], [StageInput(0, GridMap(()))])
    got, partial = tools.run(stage, blocks=[[x[:, None]]])
    np.testing.assert_array_equal(got, 2 * x[None])
    np.testing.assert_array_equal(partial[0], [[2 * x.sum()]])


def test_segments_over_fewer_axes_and_squeezed_inputs(tools: Any) -> None:
    x = np.arange(6.0).reshape(1, 6)
    segment = TileSegment(((0, (-1, 1)),), (DOUBLE,), (TileResult(1, (1,)),), (1,), (AxisChunks((6,)),))
    stage = tools.one_stage([(3,), (6,)], [tools.leaf(x)], [segment], [1])
    np.testing.assert_array_equal(tools.run(stage), 2 * x[0])


def test_several_reductions_of_one_chain_in_one_pass(tools: Any) -> None:
    source = tools.Counting((50, 40))
    made = [reducers.sum_(FLOAT), reducers.mean(FLOAT), reducers.std(FLOAT), reducers.max_(FLOAT)]
    results = tuple(TileResult(1, (0, 1), reduction, (0, 1)) for reduction in made)
    segment = TileSegment(((0, (0, 1)),), (DOUBLE,), results, (0, 1), (AxisChunks((50,)), AxisChunks((40,))))
    partials = tools.run(tools.one_stage([(50,), (40,)], [tools.leaf(source)], [segment], [1, 2, 3, 4]))
    x = 2 * source.array
    for reduction, partial, want in zip(made, partials, [x.sum(), x.mean(), x.std(), x.max()], strict=True):
        np.testing.assert_allclose(reduction.finalize(partial), [[want]])
    assert not source.reads
    assert sum(map(np.prod, source.tiles)) == 2000


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), tile_bytes=st.integers(8, 400))
def test_generated_leaves_never_exist_as_blocks(rows: int, columns: int, tile_bytes: int, tools: Any) -> None:
    source, other = tools.Counting((rows, columns)), np.arange(float(rows * columns)).reshape(rows, columns, order="F")
    steps = [TileStep(np.add, (Slot(0), Slot(1)), FLOAT, "add"), TileStep(np.square, (Slot(2),), FLOAT, "square")]
    stage = tools.one_stage(
        [(rows,), (columns,)],
        [tools.leaf(source), tools.leaf(other)],
        [_chain((rows, columns), steps, 3, 2)],
        [2],
    )
    np.testing.assert_array_equal(tools.run(stage, tile_bytes=tile_bytes), (source.array + other) ** 2)
    assert not source.reads


@pytest.mark.parametrize("why", ["transposed", "broadcast", "used twice", "wanted whole"])
def test_generated_leaves_are_read_where_tiles_would_not_do(why: str, tools: Any) -> None:
    source = tools.Counting((4, 1) if why == "broadcast" else (4, 4))
    axes = (1, 0) if why == "transposed" else (0, 1)
    inputs = ((0, axes), (0, (0, 1))) if why == "used twice" else ((0, axes),)
    steps = (TileStep(np.add, (Slot(0), Slot(len(inputs) - 1)), FLOAT, "add"),)
    results = (TileResult(0 if why == "wanted whole" else len(inputs), (0, 1)),)
    segment = TileSegment(inputs, steps, results, (0, 1), (AxisChunks((4,)),) * 2)
    got = tools.run(tools.one_stage([(4,), (4,)], [tools.leaf(source)], [segment], [1]))
    x = source.array
    want = {"transposed": 2 * x.T, "broadcast": np.broadcast_to(2 * x, (4, 4)), "used twice": 2 * x, "wanted whole": x}
    np.testing.assert_array_equal(got, want[why])
    assert len(source.reads) == 1
    assert not source.tiles


def test_a_reduction_without_accumulator_gets_its_block_whole(tools: Any) -> None:
    x = np.random.default_rng(0).random((4, 6))
    chunks = (AxisChunks((2, 2)), AxisChunks((3, 3)))
    reduction = reducers.argmax(FLOAT)
    segment = TileSegment(((0, (0, 1)),), (DOUBLE,), (TileResult(1, (1, 0), reduction, (0,)),), (0, 1), chunks)
    stage = tools.one_stage(chunks, [tools.leaf(x, chunks)], [segment], [1])
    _, place, _ = tools.run(stage, (1, 1))
    np.testing.assert_array_equal(place, 3 + x.T[3:, 2:].argmax(axis=0, keepdims=True))
    empty = TileSegment(segment.inputs, segment.steps, segment.results, (0, 1), (chunks[0], AxisChunks((0, 0))))
    stage = tools.one_stage(empty.chunks, [tools.leaf(x[:, :0], empty.chunks)], [empty], [1])
    assert [part.shape for part in tools.run(stage, (1, 1))] == [(0, 2), (0, 2), (1, 1)]


def test_errors_name_the_step(tools: Any) -> None:
    step = TileStep(np.sqrt, (Slot(0),), FLOAT, "root of evil")
    stage = tools.one_stage([(3,)], [tools.leaf(np.array([1.0, -1.0, 4.0]))], [_chain((3,), [step], 1)], [1])
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError) as caught:
        tools.run(stage)
    assert "root of evil" in caught.value.__notes__[0]


def test_warnings_are_numpys(tools: Any) -> None:
    step = TileStep(np.sqrt, (Slot(0),), FLOAT, "sqrt")
    stage = tools.one_stage([(2,)], [tools.leaf(np.array([1.0, -1.0]))], [_chain((2,), [step], 1)], [1])
    with pytest.warns(RuntimeWarning, match="invalid value encountered in sqrt"):
        tools.run(stage)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("error")
        tools.run(stage)


def test_a_cancelled_run_stops_between_tiles(tools: Any) -> None:
    polls = iter([False, False, True])
    context = Context(BufferPool(0), cancelled=lambda: next(polls))
    context.tile_bytes = 64
    stage = tools.one_stage([(100,)], [tools.leaf(np.ones(100))], [_chain((100,), [DOUBLE], 1)], [1])
    with pytest.raises(Cancelled):
        run_stage(stage, (0,), [], context)
    assert next(polls, "used up") == "used up"


def test_a_thread_keeps_what_it_has_worked_out_within_bounds(tools: Any) -> None:
    context = Context(BufferPool(0))
    for n in range(1, 300):
        x = np.ones(n)
        stage = tools.one_stage([(n,)], [tools.leaf(x)], [_chain((n,), [DOUBLE], 1)], [1])
        np.testing.assert_array_equal(run_stage(stage, (0,), [], context), 2 * x)
    assert len(context.plans) <= 65
    assert context.scratch_bytes == 0
