"""Tables of pieces: assembling by them gives what NumPy gives."""

from __future__ import annotations

from math import nan

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.plan.blocks import AxisChunks, slice_chunks, split_sizes, take_chunks
from tilework.plan.indexing import normalize_slice
from tilework.plan.pieces import (
    concat_pieces,
    overlap_pieces,
    rechunk_pieces,
    slice_pieces,
    take_pieces,
    whole_pieces,
)
from tilework.plan.stages import AxisPieces, IndexPieces, SlicePieces

axes = st.lists(st.integers(0, 9), min_size=1, max_size=7).map(AxisChunks)


def blocks_of(chunks: AxisChunks) -> list[np.ndarray]:
    return np.split(np.arange(chunks.total), chunks.bounds[1:-1])


def assemble(pieces: AxisPieces, blocks: list[np.ndarray], out: list[np.ndarray] | None = None) -> list[np.ndarray]:
    """The result's blocks, each element written exactly once."""
    out = [np.full(size, -1) for size in pieces.sizes] if out is None else out
    assert len(pieces.indptr) == len(out) + 1
    for k, block in enumerate(out):
        for p in range(pieces.indptr[k], pieces.indptr[k + 1]):
            assert (block[pieces.dst[p]] == -1).all()
            block[pieces.dst[p]] = blocks[pieces.blocks[p]][pieces.src[p]]
    return out


def joined(blocks: list[np.ndarray]) -> list[int]:
    return np.concatenate(blocks).tolist()


@given(axes)
def test_whole(chunks: AxisChunks) -> None:
    pieces = whole_pieces(chunks, 0)
    assert pieces.blocks.tolist() == list(range(len(chunks)))
    assert joined(assemble(pieces, blocks_of(chunks))) == list(range(chunks.total))


@given(axes, st.data())
def test_slice(chunks: AxisChunks, data: st.DataObject) -> None:
    n = chunks.total
    end = st.one_of(st.none(), st.integers(-n - 2, n + 2))
    raw = slice(data.draw(end), data.draw(end), data.draw(st.sampled_from([None, 1, 2, 5, -1, -3])))
    index = normalize_slice(raw, n)
    pieces = slice_pieces(chunks, index, 0)
    assert tuple(pieces.sizes) == slice_chunks(chunks, index)
    assert joined(assemble(pieces, blocks_of(chunks))) == list(range(n))[raw]


@given(st.integers(0, 30), st.data())
def test_rechunk(n: int, data: st.DataObject) -> None:
    def partition() -> AxisChunks:
        cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
        return AxisChunks(np.diff([0, *cuts, n]))

    src, dst = partition(), partition()
    pieces = rechunk_pieces(src, dst, 0)
    out = assemble(pieces, blocks_of(src))
    assert tuple(map(len, out)) == dst
    assert joined(out) == list(range(n))


@given(axes, st.integers(0, 12), st.integers(0, 12))
def test_overlap(chunks: AxisChunks, before: int, after: int) -> None:
    out = assemble(overlap_pieces(chunks, before, after, 0), blocks_of(chunks))
    whole = np.arange(chunks.total)
    for k, block in enumerate(out):
        lo, hi = chunks.bounds[k], chunks.bounds[k + 1]
        assert block.tolist() == whole[max(0, lo - before) : hi + after].tolist()


@given(st.lists(axes, min_size=1, max_size=4))
def test_concat(inputs: list[AxisChunks]) -> None:
    tables = concat_pieces(inputs, 0)
    out = [np.full(size, -1) for size in tables[0].sizes]
    for table, chunks in zip(tables, inputs, strict=True):
        assert table.sizes.tolist() == [len(block) for block in out]
        assemble(table, blocks_of(chunks), out)
    assert joined(out) == [i for chunks in inputs for i in range(chunks.total)]


@given(axes.filter(lambda chunks: chunks.total > 0), st.data())
def test_take(chunks: AxisChunks, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, chunks.total - 1))), np.int64)
    for order in (indices, np.sort(indices)):
        out = take_chunks(chunks, order)
        pieces = take_pieces(chunks, order, out, 0)
        assert joined(assemble(pieces, blocks_of(chunks))) == order.tolist()
        for k in range(len(out)):  # a block of the result asks each block of the input once
            needed = pieces.blocks[pieces.indptr[k] : pieces.indptr[k + 1]]
            assert (np.diff(needed) > 0).all()


def test_ordered_take_lands_in_slices() -> None:
    chunks = AxisChunks((4, 4))
    assert isinstance(take_pieces(chunks, np.array([0, 2, 5]), AxisChunks((3,)), 0).dst, SlicePieces)
    assert isinstance(take_pieces(chunks, np.array([5, 0, 6]), AxisChunks((3,)), 0).dst, IndexPieces)


def test_an_integer_index_is_one_piece_of_one_block() -> None:
    pieces = slice_pieces(AxisChunks((4, 4)), slice(6, 7, 1), None)
    assert (pieces.axis, pieces.blocks.tolist(), pieces.src[0]) == (None, [1], slice(2, 3, 1))


def test_unknown_sizes_pass_whole_blocks() -> None:
    unknown = AxisChunks((nan, nan))
    for pieces in (whole_pieces(unknown, 0), *concat_pieces([unknown, AxisChunks((3,))], 0)):
        assert set(pieces.sizes.tolist()) == {-1}
        assert all(pieces.src[p] == pieces.dst[p] == slice(0, None, 1) for p in range(len(pieces.blocks)))


def test_a_million_blocks() -> None:
    chunks = split_sizes(10**9, 1000)
    pieces = rechunk_pieces(chunks, split_sizes(10**9, 1500), 0)
    assert len(pieces.blocks) == 4 * 10**6 // 3 + 1 - 10**6 % 3 % 2
