"""Reshape plans: reshaping block by block gives what NumPy gives."""

from __future__ import annotations

import itertools
from math import nan, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import PlanError, UnknownChunksError
from tilework.plan.blocks import AxisChunks, Chunks, normalize_chunks
from tilework.plan.reshaping import reshape_plan, reshape_route, resolve_shape


@st.composite
def partitions(draw: st.DrawFn, total: int) -> AxisChunks:
    """Chunks of an axis of a given length."""
    cuts = draw(st.sets(st.integers(1, total - 1), max_size=6)) if total > 1 else set()
    return AxisChunks(np.diff([0, *sorted(cuts), total]))


def regions(chunks: Chunks) -> list[tuple[slice, ...]]:
    """Every block's place, in C order of the grid."""
    along = [[slice(a, b) for a, b in itertools.pairwise(axis.bounds.tolist())] for axis in chunks]
    return list(itertools.product(*along))


def blockwise_reshape(x: np.ndarray, needed: Chunks, out: Chunks) -> np.ndarray:
    result = np.full(tuple(axis.total for axis in out), -1)
    for before, after in zip(regions(needed), regions(out), strict=True):
        result[after] = x[before].reshape(result[after].shape)
    return result


@st.composite
def shapes_of(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """Some shape with this many elements, with axes of length one here and there."""
    shape = []
    while size > 1:
        factor = draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0]))
        shape.append(factor)
        size //= factor
    for _ in range(draw(st.integers(0, 2))):
        shape.insert(draw(st.integers(0, len(shape))), 1)
    return tuple(shape)


@given(st.sampled_from([1, 2, 7, 24, 30, 36, 64, 120]), st.data())
def test_route_and_plan(size: int, data: st.DataObject) -> None:
    shape, target = data.draw(shapes_of(size)), data.draw(shapes_of(size))
    chunks = tuple(data.draw(partitions(n)) for n in shape)
    largest = prod(axis.largest for axis in chunks)
    x = np.arange(size).reshape(shape)
    route = reshape_route(shape, target)
    assert route[-1] == target
    assert len(route) <= 2
    for step in route:
        needed, out = reshape_plan(x.shape, chunks, step)
        x, chunks = blockwise_reshape(x, needed, out), out
        assert (x == np.arange(size).reshape(step)).all()
    assert prod(axis.largest for axis in chunks) <= largest * 2 ** min(len(shape), 3)


@given(st.sampled_from([24, 36, 120]), st.data())
def test_plan_alone_is_right_for_any_shape(size: int, data: st.DataObject) -> None:
    shape, target = data.draw(shapes_of(size)), data.draw(shapes_of(size))
    chunks = tuple(data.draw(partitions(n)) for n in shape)
    x = np.arange(size).reshape(shape)
    assert (blockwise_reshape(x, *reshape_plan(shape, chunks, target)) == x.reshape(target)).all()


@pytest.mark.parametrize(
    ("shape", "chunks", "target", "needed", "out"),
    [
        # Whole rows stay as they are.
        ((10, 6), ((4, 6), (6,)), (60,), ((4, 6), (6,)), ((24, 36),)),
        # Rows that are divided: as many elements in a run as in a block before.
        ((8, 6), ((4, 4), (3, 3)), (48,), ((2, 2, 2, 2), (6,)), ((12,) * 4,)),
        # Rows larger than a block: pieces of one row.
        ((3, 100), ((1, 1, 1), (50, 50)), (300,), ((1, 1, 1), (50, 50)), ((50,) * 6,)),
        # An axis beside keeps its chunks.
        ((6, 4, 4), ((3, 3), (2, 2), (4,)), (6, 16), ((3, 3), (2, 2), (4,)), ((3, 3), (8, 8))),
        # Divided: bounds move down to the start of a row.
        ((24,), ((9, 9, 6),), (6, 4), ((8, 8, 8),), ((2, 2, 2), (4,))),
        ((24,), ((2,) * 12,), (6, 4), ((2,) * 12,), ((1,) * 6, (2, 2))),
        ((4, 6), ((2, 2), (6,)), (4, 1, 6), ((2, 2), (6,)), ((2, 2), (1,), (6,))),
        ((0, 3), ((0,), (3,)), (5, 0), ((0,), (3,)), ((5,), (0,))),
        ((1, 1), ((1,), (1,)), (), ((1,), (1,)), ()),
    ],
)
def test_chunks(shape: tuple[int, ...], chunks: object, target: object, needed: object, out: object) -> None:
    assert reshape_plan(shape, normalize_chunks(chunks, shape), target) == (needed, out)


def test_several_axes_into_several_others_go_through_flat() -> None:
    assert reshape_route((5, 4, 6), (5, 8, 3)) == ((5, 24), (5, 8, 3))
    assert reshape_route((5, 4, 6), (5, 24)) == ((5, 24),)


@pytest.mark.parametrize(
    ("shape", "target", "expected"), [((4, 6), (-1,), (24,)), ((4, 6), (3, -1), (3, 8)), ((0, 3), (-1, 3), (0, 3))]
)
def test_resolve(shape: tuple[int, ...], target: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert resolve_shape(shape, target) == expected == np.empty(shape).reshape(target).shape


@pytest.mark.parametrize("target", [(5, 5), (-1, 5), (-1, -1), (-2, 12), (0, -1), (24, 2)])
def test_sizes_must_agree(target: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="cannot reshape"):
        resolve_shape((4, 6), target)


def test_unknown_sizes() -> None:
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        reshape_plan((nan,), (AxisChunks((nan,)),), (2, 3))
