"""Blocks put together from pieces are what NumPy's indexing gives on the whole array."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.engine.kernels.assemble import join, nest
from tilework.plan import pieces
from tilework.plan.blocks import AxisChunks, slice_chunks, take_chunks
from tilework.plan.stages import Assembled, AxisMap, AxisPieces, ExplicitMap, GridMap, Grouped, LinearMap, StageInput

axis_chunks = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(AxisChunks)


def _blocks(array: np.ndarray, chunks: tuple[AxisChunks, ...]) -> dict[tuple[int, ...], np.ndarray]:
    return {
        index: array[tuple(slice(c.bounds[k], c.bounds[k + 1]) for c, k in zip(chunks, index, strict=True))]
        for index in product(*(range(len(c)) for c in chunks))
    }


def _check(
    tools: Any, arrays: list[np.ndarray], chunks: list[Any], tables: list[tuple[AxisPieces, ...]], want: np.ndarray
) -> None:
    """Assemble every block and compare it with its part of ``want``."""
    sizes = [AxisChunks(max(t[axis].sizes.tolist() for t in tables)) for axis in range(len(chunks[0]))]
    operand = Assembled(tuple(range(len(arrays))), tuple(tables), arrays[0].dtype)
    inputs = [StageInput(0, GridMap(tuple(AxisMap(p.axis, p.indptr, p.blocks) for p in table))) for table in tables]
    stage = tools.one_stage(sizes, [operand], [], [0], inputs)
    have = [_blocks(array, c) for array, c in zip(arrays, chunks, strict=True)]
    for index, expected in _blocks(want, tuple(sizes)).items():
        needed = []
        for blocks, table in zip(have, tables, strict=True):
            rows = [0 if p.axis is None else index[p.axis] for p in table]
            spans = [p.blocks[p.indptr[k] : p.indptr[k + 1]].tolist() for p, k in zip(table, rows, strict=True)]
            needed.append([blocks[key] for key in product(*spans)])
        got = tools.run(stage, index, needed)
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == want.dtype


@st.composite
def selections(draw: st.DrawFn, chunks: AxisChunks, axis: int) -> tuple[AxisPieces, Any]:
    """A table for one axis, and the NumPy index that it stands for."""
    n = chunks.total
    kind = draw(st.sampled_from(["slice", "take", "rechunk", "whole"]))
    if kind == "slice":
        start, stop = sorted((draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1))))
        step = draw(st.integers(1, 4))
        index = slice(start, stop + 1, step) if draw(st.booleans()) else slice(stop, start - 1, -step)
        table = pieces.slice_pieces(chunks, index, axis)
        assert table.sizes.tolist() == list(slice_chunks(chunks, index))
        return table, np.arange(index.start, index.stop, index.step)
    if kind == "take":
        chosen = np.array(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8)))
        return pieces.take_pieces(chunks, chosen, take_chunks(chunks, chosen), axis), chosen
    if kind == "rechunk":
        cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=4))) if n > 1 else []
        return pieces.rechunk_pieces(chunks, AxisChunks(np.diff([0, *cuts, n])), axis), np.arange(n)
    return pieces.whole_pieces(chunks, axis), np.arange(n)


@given(data=st.data(), chunks=st.lists(axis_chunks, min_size=1, max_size=3).map(tuple))
def test_selections_along_every_axis(data: st.DataObject, chunks: tuple[AxisChunks, ...], tools: Any) -> None:
    shape = tuple(c.total for c in chunks)
    array = np.arange(np.prod(shape)).reshape(shape)
    chosen = [data.draw(selections(c, axis)) for axis, c in enumerate(chunks)]
    want = array[np.ix_(*(index for _, index in chosen))]
    _check(tools, [array], [chunks], [tuple(table for table, _ in chosen)], want)


@given(parts=st.lists(axis_chunks, min_size=1, max_size=3), other=axis_chunks)
def test_concatenation(parts: list[AxisChunks], other: AxisChunks, tools: Any) -> None:
    arrays = [np.arange(c.total * other.total).reshape(c.total, other.total) + 1000 * k for k, c in enumerate(parts)]
    tables = pieces.concat_pieces(parts, 0)
    both = [(table, pieces.whole_pieces(other, 1)) for table in tables]
    _check(tools, arrays, [(c, other) for c in parts], both, np.concatenate(arrays))


def test_blocks_of_unknown_size_are_passed_on(tools: Any) -> None:
    unknown = AxisChunks((float("nan"),) * 2)
    tables = pieces.concat_pieces([unknown, unknown], 0)
    maps = [StageInput(0, GridMap((AxisMap(t.axis, t.indptr, t.blocks),))) for t in tables]
    operand = Assembled((0, 1), tuple((t,) for t in tables), np.dtype(float))
    stage = tools.one_stage([(float("nan"),) * 4], [operand], [], [0], maps)
    x = np.arange(5.0)
    assert np.shares_memory(tools.run(stage, (2,), [[], [x]]), x)


def test_pieces_beside_an_axis_of_unknown_size(tools: Any) -> None:
    unknown, known = AxisChunks((float("nan"),) * 2), AxisChunks((2, 2))
    table = (pieces.whole_pieces(unknown, 0), pieces.rechunk_pieces(known, AxisChunks((3, 1)), 1))
    stage = tools.one_stage([unknown, (3, 1)], [Assembled((0,), (table,), np.dtype(float))], [], [0])
    x = np.arange(20.0).reshape(5, 4)
    np.testing.assert_array_equal(tools.run(stage, (1, 0), [[x[:, :2], x[:, 2:]]]), x[:, :3])


def test_one_piece_is_a_view_and_axes_are_dropped(tools: Any) -> None:
    chunks = (AxisChunks((4, 4)), AxisChunks((6,)))
    x = np.arange(24.0).reshape(4, 6)
    table = (pieces.slice_pieces(chunks[0], slice(5, 6, 1), None), pieces.slice_pieces(chunks[1], slice(0, 5, 1), None))
    operand = Assembled((0,), (table,), x.dtype, drop=(0,))
    stage = tools.one_stage([(5,)], [operand], [], [0])
    got = tools.run(stage, (0,), [[x]])
    np.testing.assert_array_equal(got, x[1, :5])


def test_an_empty_selection(tools: Any) -> None:
    chunks = AxisChunks((4, 4))
    table = pieces.slice_pieces(chunks, slice(3, 3, 1), None)
    stage = tools.one_stage([(0,)], [Assembled((0,), ((table,),), np.dtype(float))], [], [0])
    assert tools.run(stage, (0,), [[]]).shape == (0,)


@given(st.lists(axis_chunks, min_size=1, max_size=3).map(tuple))
def test_join_and_nest_are_numpys_block(chunks: tuple[AxisChunks, ...]) -> None:
    shape = tuple(c.total for c in chunks)
    array = np.arange(np.prod(shape)).reshape(shape)
    blocks = list(_blocks(array, chunks).values())
    counts = tuple(map(len, chunks))
    np.testing.assert_array_equal(join(blocks, counts), array)
    np.testing.assert_array_equal(np.block(nest(blocks, counts)), array)
    whole, half = join([(block, block / 2) for block in blocks], counts)
    np.testing.assert_array_equal(whole, array)
    np.testing.assert_array_equal(half, array / 2)


def test_groups_take_their_shape_from_the_dependence(tools: Any) -> None:
    x = [np.full((2, 2), k) for k in range(6)]
    grid = GridMap((AxisMap.all(2), AxisMap.all(3)))
    for concatenate, dependence, want in [
        (True, grid, np.block([x[:3], x[3:]])),
        (False, grid, [x[:3], x[3:]]),
        (False, ExplicitMap(np.array([0, 6]), np.arange(6)), x),
        (False, GridMap((AxisMap(None, np.zeros(2, int), np.zeros(0, int)), AxisMap.all(3))), []),
        (False, GridMap((AxisMap.all(3), AxisMap(None, np.zeros(2, int), np.zeros(0, int)))), [[], [], []]),
    ]:
        stage = tools.one_stage([], [Grouped(0, concatenate)], [], [0], [StageInput(0, dependence)])
        blocks = x if not isinstance(want, list) or want is x or want[:1] == [x[:3]] else []
        got = tools.run(stage, (), [blocks])
        np.testing.assert_array_equal(got, want)
    stage = tools.one_stage([(6,)], [Grouped(0, False)], [], [0], [StageInput(0, LinearMap())])
    assert tools.run(stage, (0,), [[x[0]]]) is x[0]
