"""The builders: what they check, what they infer, what they leave alone, and which work they call equal."""

from __future__ import annotations

from collections.abc import Callable
from math import nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import ChunkError, PlanError, UnknownChunksError
from tilework.io.memory import ArraySource, MemorySink
from tilework.plan import build, ops
from tilework.plan.blocks import AxisChunks, Chunks, normalize_chunks
from tilework.plan.graph import topological
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.reductions import Reduction
from tilework.plan.spec import verify

SUM = Reduction("sum", np.sum, np.sum, np.asarray)


def array(shape: tuple[int, ...], chunks: Any = 2, dtype: str = "f8", seed: int = 0) -> ops.Source:
    values = np.random.default_rng(seed).integers(0, 99, shape).astype(dtype)
    return build.source(ArraySource(values), normalize_chunks(chunks, shape))


def unknown(x: ArrayNode, axis: int = 0) -> ArrayNode:
    """``x`` with unknown sizes along an axis."""
    labels = list(range(x.ndim))
    function = BlockFunction(np.asarray, (Slot(0),))
    return build.blockwise(function, labels, [(x, labels)], x.dtype, adjust_chunks={axis: lambda n: nan})


def chunks_of(*sizes: tuple[int, ...]) -> Chunks:
    return tuple(map(AxisChunks, sizes))


# ---------------------------------------------------------------- elementwise and rearranging


@given(st.data())
def test_elementwise_broadcasts_like_numpy(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 6), max_size=3))
    nodes = []
    for seed in range(2):
        mine = [n if data.draw(st.booleans()) else 1 for n in shape[data.draw(st.integers(0, len(shape))) :]]
        nodes.append(array(tuple(mine), data.draw(st.integers(1, 4)), seed=seed))
    node = build.elementwise(np.add, nodes)
    assert node.shape == np.broadcast_shapes(*(n.shape for n in nodes))
    verify([node], "program")


@pytest.mark.parametrize(
    "args",
    [
        ("f4", 1),
        ("f4", 1.0),
        ("f4", np.float64(1)),
        ("i4", 1),
        ("i4", 1.5),
        ("u1", np.int64(1)),
        ("?", 1),
        ("i8", "f4"),
    ],
)
def test_elementwise_has_numpys_dtype(args: tuple[str, Any]) -> None:
    left = np.ones(3, args[0])
    right = np.ones(3, args[1]) if isinstance(args[1], str) else args[1]
    operand = array((3,), dtype=args[1], seed=1) if isinstance(args[1], str) else right
    assert build.elementwise(np.add, [array((3,), dtype=args[0]), operand]).dtype == (left + right).dtype


def test_elementwise_raises_what_numpy_raises_for_operands_it_cannot_combine() -> None:
    with pytest.raises(TypeError, match="ufunc 'bitwise_and' not supported"):
        build.elementwise(np.bitwise_and, [array((3,)), array((3,), dtype="i8")])


def test_user_code_runs_once_to_find_a_dtype_and_never_if_it_is_given() -> None:
    calls = []

    def fn(x: np.ndarray) -> np.ndarray:
        calls.append(x.shape)
        return x

    build.elementwise(fn, [array((4, 4))])
    assert calls == [(0,)]
    build.elementwise(fn, [array((4, 4))], dtype="f8")
    assert len(calls) == 1


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ChunkError, match=r"add: operands of shapes \(3,\) and \(4,\) .* lengths 3 and 4 differ"):
        build.elementwise(np.add, [array((3,)), array((4,))])


def test_chunks_of_operands_are_made_equal_and_only_where_they_differ() -> None:
    x, y = array((6,), 3), array((6,), 2, seed=1)
    node = build.elementwise(np.add, [x, y])
    assert node.chunks == chunks_of((2, 1, 1, 2))
    assert all(isinstance(i, ops.Rechunk) for i in node.inputs)
    assert build.elementwise(np.add, [x, x]).inputs == (x,)


def test_an_axis_of_length_one_in_several_blocks_broadcasts() -> None:
    x = build.rechunk(array((1,)), chunks_of((1, 0)))
    node = build.elementwise(np.add, [x, array((4,))])
    assert node.chunks == chunks_of((2, 2))
    verify([node], "program")


def test_unknown_sizes_fit_their_own_kind_only() -> None:
    x = unknown(array((6,)))
    assert build.elementwise(np.add, [x, 1]).chunks == x.chunks
    assert build.elementwise(np.add, [x, build.elementwise(np.negative, [x])]).chunks == x.chunks
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        build.elementwise(np.add, [x, array((6,))])


def test_axes_of_a_reduction_are_numpys() -> None:
    assert build.normalize_axis((-1, 0), 3) == (0, 2)
    assert build.normalize_axis(None, 2) == (0, 1)
    assert build.normalize_axis(0, 0) == build.normalize_axis(-1, 0) == ()
    for axis, error in [(3, np.exceptions.AxisError), (np.array([0, 1]), TypeError), ((1, 1), ValueError)]:
        with pytest.raises(error):
            build.normalize_axis(axis, 2)
    with pytest.raises(np.exceptions.AxisError):
        build.normalize_axis((0,), 0)


def test_rearranging_nothing_is_nothing() -> None:
    x = array((2, 3))
    assert build.rearrange(x, (0, 1)) is x


def test_only_axes_of_length_one_can_be_dropped() -> None:
    with pytest.raises(PlanError, match="axis 1 of length 3 cannot be dropped"):
        build.rearrange(array((1, 3)), (0,))


# ---------------------------------------------------------------- blockwise


def test_blockwise_contracts_labels_that_are_not_in_the_result() -> None:
    function = BlockFunction(np.matmul, (Slot(0), Slot(1)))
    node = build.blockwise(function, "ik", [(array((4, 6)), "ij"), (array((6, 2)), "jk")], "f8")
    assert node.chunks == chunks_of((2, 2), (2,))
    assert node.axes == ((0, 2), (2, 1))


@pytest.mark.parametrize(
    ("how", "expected"), [(5, (5, 5)), ((1, 2), (1, 2)), (lambda n: n + 1, (3, 3)), ([4, 3], (4, 3))]
)
def test_adjust_chunks(how: Any, expected: tuple[int, ...]) -> None:
    node = build.blockwise(
        BlockFunction(np.asarray, (Slot(0),)), "i", [(array((4,)), "i")], "f8", adjust_chunks={"i": how}
    )
    assert node.chunks == chunks_of(expected)


def test_new_axes_have_lengths_or_chunks() -> None:
    function = BlockFunction(np.asarray, (Slot(0),))
    node = build.blockwise(function, "nim", [(array((4,)), "i")], "f8", new_axes={"n": 3, "m": (1, 2)})
    assert node.chunks == chunks_of((3,), (2, 2), (1, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: build.blockwise(NOOP, "ij", [(x, "ij")], "f8"), "1 dimensions was given 2 index labels"),
        (lambda x: build.blockwise(NOOP, "ij", [(x, "i")], "f8"), "stands in no input; give its length in new_axes"),
        (
            lambda x: build.blockwise(NOOP, "i", [(x, "i")], "f8", adjust_chunks={"i": (1, 2, 3)}),
            "adjust_chunks gives 3 sizes for an axis of 2 blocks",
        ),
        (
            lambda x: build.blockwise(NOOP, "i", [(x, "i"), (array((9,), 3), "i")], "f8", align=False),
            "2 and 3 blocks along one index",
        ),
    ],
)
def test_blockwise_refuses(call: Callable[[ArrayNode], Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        call(array((4,)))


NOOP = BlockFunction(np.asarray, (Slot(0),))

# ---------------------------------------------------------------- reductions


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), ()])
def test_reductions_have_numpys_shape(axis: Any, keepdims: bool) -> None:
    x = array((3, 4, 5))
    node = build.reduce(x, SUM, axis, "f8", keepdims=keepdims)
    assert node.shape == np.zeros((3, 4, 5)).sum(axis=axis, keepdims=keepdims).shape
    verify([node], "program")


def test_reduction_axes_are_checked() -> None:
    with pytest.raises(np.exceptions.AxisError, match="axis 2 is out of bounds"):
        build.reduce(array((3, 4)), SUM, 2, "f8")
    with pytest.raises(ValueError, match="repeated axis"):
        build.reduce(array((3, 4)), SUM, (0, 0), "f8")


@pytest.mark.parametrize("every", [1, 0, {0: 1}])
def test_fewer_than_two_blocks_cannot_be_joined(every: Any) -> None:
    with pytest.raises(PlanError, match="split_every"):
        build.reduce(array((3,)), SUM, 0, "f8", split_every=every)


def test_split_every_is_spread_over_the_axes() -> None:
    x = array((8, 8), 1)
    assert build.reduce(x, SUM, None, "f8").split_every == (4, 4)
    assert build.reduce(x, SUM, 0, "f8").split_every == (16,)
    assert build.reduce(x, SUM, None, "f8", split_every={0: 8}).split_every == (8, 2)


# ---------------------------------------------------------------- indexing and structure


@pytest.mark.parametrize(
    "change",
    [
        lambda x: build.slice_(x, [slice(None), slice(0, 6, 1)]),
        lambda x: build.rechunk(x, x.chunks),
        lambda x: build.rechunk(x, normalize_chunks(2, x.shape)),
        lambda x: build.concatenate([x], 0),
        lambda x: build.overlap(x, [(0, 0), (0, 0)]),
        lambda x: build.reshape(x, (4, 6)),
        lambda x: build.one_block(build.one_block(x)).inputs[0],
    ],
)
def test_what_changes_nothing_is_the_array_itself(change: Callable[[ArrayNode], ArrayNode]) -> None:
    x = array((4, 6))
    assert change(x) is x


@pytest.mark.parametrize(
    "use",
    [
        lambda x: build.slice_(x, [0]),
        lambda x: build.slice_(x, [slice(0, 2, 1)]),
        lambda x: build.take(x, np.array([0]), 0),
        lambda x: build.rechunk(x, chunks_of((6,))),
        lambda x: build.overlap(x, [(1, 1)]),
        lambda x: build.reshape(x, (2, 3)),
        lambda x: build.concatenate([x, array((3,))], 0) and build.elementwise(np.add, [x, array((3,), 1)]),
    ],
)
def test_what_needs_sizes_says_so_where_they_are_unknown(use: Callable[[ArrayNode], Any]) -> None:
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        use(unknown(array((6,))))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda x: build.rechunk(x, chunks_of((4,), (5,))), "add up to 5, the axis has length 6"),
        (lambda x: build.concatenate([x, array((4, 5))], 0), r"shapes \(4, 6\), \(4, 5\) differ outside axis 0"),
        (lambda x: build.concatenate([x, array((4,))], 0), "differ outside axis 0"),
        (lambda x: build.overlap(x, [(-1, 0), (0, 0)]), "is negative"),
        (lambda x: build.reshape(x, (5, 5)), r"cannot reshape an array of shape \(4, 6\) into \(5, 5\)"),
        (lambda x: build.source(x.source, chunks_of((4,), (5,))), r"add up to \(4, 5\), but the array has shape"),
    ],
)
def test_builders_refuse(use: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        use(array((4, 6)))


def test_rechunks_in_a_row_are_one() -> None:
    x = array((6,))
    node = build.rechunk(build.rechunk(x, chunks_of((6,))), chunks_of((3, 3)))
    assert node.inputs == (x,)
    assert build.rechunk(node, x.chunks) is x


def test_halos_end_with_the_array_and_may_reach_over_several_blocks() -> None:
    node = build.overlap(array((7,)), [(3, 1)])
    assert node.chunks == chunks_of((3, 5, 6, 4))


@given(st.data())
def test_reshaping_keeps_the_order_of_elements(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(4, 6), (24,), (2, 3, 4), (8, 3), (1, 24), (6, 2, 2)]))
    target = data.draw(st.sampled_from([(4, 6), (24,), (2, 3, 4), (8, 3), (3, 8), (2, 12, 1)]))
    node = build.reshape(array(shape, data.draw(st.integers(1, 5))), target)
    assert node.shape == target
    verify([node], "program")


# ---------------------------------------------------------------- equal work


def program(x: ArrayNode, seed: int = 0) -> list[ops.Node]:
    """One of each kind."""
    y = array((4, 6), 3, seed=seed)
    return [
        build.elementwise(np.add, [x, 1]),
        build.elementwise(np.add, [x, y]),
        build.rearrange(x, (1, 0)),
        build.blockwise(BlockFunction(np.matmul, (Slot(0), Slot(1))), "ik", [(x, "ij"), (y, "kj")], "f8"),
        build.reduce(x, SUM, 0, "f8"),
        build.scan(x, 0, (np.cumsum, np.sum, np.add), "f8", "cumsum"),
        build.slice_(x, [1, slice(0, 4, 2)]),
        build.take(x, np.array([1, 2]), 0),
        build.points(x, [0], [np.array([1, 2])]),
        build.rechunk(x, chunks_of((4,), (6,))),
        build.concatenate([x, y], 0),
        build.overlap(x, [(1, 1), (0, 0)]),
        build.reshape(x, (24,)),
        build.whole(x),
        build.from_value(ops.Call(print, (), {}, (), "call", "call", True), (2,), "f8"),
    ]


def test_equal_work_has_equal_tokens_and_other_work_has_not() -> None:
    once, again, other = (program(array((4, 6), seed=seed)) for seed in (0, 0, 1))
    assert [node.token for node in once] == [node.token for node in again]
    assert len({node.token for node in once}) == len(once)
    differ = [a.token != b.token for a, b in zip(once, other, strict=True)]
    assert differ == [True] * (len(once) - 1) + [False]  # the last one does not use the array
    for node in once:
        verify([node], "program")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (lambda x: build.elementwise(np.add, [x, 1]), lambda x: build.elementwise(np.add, [x, 1.0])),
        (lambda x: build.elementwise(np.add, [x, 1]), lambda x: build.elementwise(np.subtract, [x, 1])),
        (lambda x: build.elementwise(np.subtract, [x, 1]), lambda x: build.elementwise(np.subtract, [1, x])),
        (lambda x: build.elementwise(np.add, [x, 1]), lambda x: build.elementwise(np.add, [x, 1], dtype="f4")),
        (lambda x: build.rearrange(x, (1, 0)), lambda x: build.rearrange(x, (0, 1, None))),
        (lambda x: build.reduce(x, SUM, 0, "f8"), lambda x: build.reduce(x, SUM, 1, "f8")),
        (lambda x: build.reduce(x, SUM, 0, "f8"), lambda x: build.reduce(x, SUM, 0, "f8", keepdims=True)),
        (lambda x: build.slice_(x, [0, 0]), lambda x: build.slice_(x, [0, 1])),
        (lambda x: build.slice_(x, [0, 0]), lambda x: build.slice_(x, [slice(0, 1, 1), 0])),
        (lambda x: build.take(x, np.array([0, 1]), 0), lambda x: build.take(x, np.array([1, 0]), 0)),
        (lambda x: build.take(x, np.array([0, 1]), 0), lambda x: build.take(x, np.array([0, 1]), 1)),
        (lambda x: build.overlap(x, [(1, 0), (0, 0)]), lambda x: build.overlap(x, [(0, 1), (0, 0)])),
        (lambda x: build.concatenate([x, x], 0), lambda x: build.concatenate([x, x], 1)),
    ],
)
def test_different_work_has_different_tokens(one: Callable[[Any], ops.Node], two: Callable[[Any], ops.Node]) -> None:
    x = array((4, 6))
    assert one(x).token != two(x).token


def test_writes_to_different_sinks_are_different() -> None:
    x = array((4,))
    tokens = {build.store(x, MemorySink((4,), "f8")).token for _ in range(2)}
    assert len(tokens) == 2


def test_the_size_of_a_plan_does_not_depend_on_the_number_of_chunks() -> None:
    plans = [program(array((4, 6), chunks))[::4] for chunks in (6, 1)]
    assert len({len(topological(plan)) for plan in plans}) == 1
