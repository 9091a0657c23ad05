"""Chunk arithmetic against NumPy, and against Dask where its documented rules are ours."""

from __future__ import annotations

import itertools
import pickle
from math import nan, prod

import numpy as np
import pytest
from dask.array.core import common_blockdim
from dask.array.core import normalize_chunks as dask_normalize
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import ChunkError, ConfigError, DTypeError, UnknownChunksError
from tilework.plan.blocks import (
    AxisChunks,
    normalize_chunks,
    rechunk_target,
    regroup,
    slice_chunks,
    take_chunks,
    unify,
)
from tilework.plan.indexing import normalize_slice

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=8)
unknown = AxisChunks((nan, nan))


@st.composite
def partitions(draw: st.DrawFn, total: int) -> AxisChunks:
    """Chunks of an axis of a given length."""
    cuts = draw(st.sets(st.integers(1, max(1, total - 1)), max_size=6)) if total > 1 else set()
    return AxisChunks(np.diff([0, *sorted(cuts), total]))


def elements_of(chunks: tuple[AxisChunks, ...]) -> int:
    return prod(axis.largest for axis in chunks)


class TestAxisChunks:
    def test_numbers_become_python_ints(self) -> None:
        axis = AxisChunks([np.int32(2), 3.0, True])
        assert axis == (2, 3, 1)
        assert [type(size) for size in axis] == [int, int, int]

    def test_fractions_are_refused(self) -> None:
        with pytest.raises(ChunkError, match=r"2\.5 is not a whole number"):
            AxisChunks((2.5, 2.5))

    def test_one_unknown_size_makes_the_axis_unknown(self) -> None:
        axis = AxisChunks((2, np.float64("nan"), 3))
        assert not axis.known
        assert axis == AxisChunks((nan,) * 3)
        assert hash(axis) == hash(AxisChunks((nan,) * 3))

    @pytest.mark.parametrize("axis", [AxisChunks((3, 4)), unknown, AxisChunks((0,))])
    def test_pickle(self, axis: AxisChunks) -> None:
        back = pickle.loads(pickle.dumps(axis))
        assert type(back) is AxisChunks
        assert back == axis
        assert back.known is axis.known

    @given(sizes)
    def test_bounds(self, given_sizes: list[int]) -> None:
        axis = AxisChunks.from_array(np.array(given_sizes))
        assert axis == tuple(given_sizes)
        assert axis.bounds.tolist() == [sum(given_sizes[:i]) for i in range(len(given_sizes) + 1)]
        assert (axis.total, axis.largest) == (sum(given_sizes), max(given_sizes))


class TestNormalize:
    @pytest.mark.parametrize(
        ("chunks", "shape"),
        [
            (((2, 2, 1), (2, 2, 2)), (5, 6)),
            ((2, 2), (5, 6)),
            ((3, 2), (5,)),
            (10, (30, 5)),
            ({0: 2, 1: 3}, (6, 6)),
            ({1: 3}, (6, 6)),
            ((5, -1), (10, 10)),
            ((5, None), (10, 10)),
            ([[2, 2], [3, 3]], (4, 6)),
            ((), (0, 0)),
            ((1,), ()),
            (4, (0, 3)),
            ((), ()),
            (100, (7,)),
            (1e1, (30,)),
            (((0, 5),), (5,)),
            (-1, (3, 4)),
            (np.array([2, 3]), (4, 6)),
        ],
    )
    def test_same_as_dask(self, chunks: object, shape: tuple[int, ...]) -> None:
        assert normalize_chunks(chunks, shape) == dask_normalize(chunks, shape)

    @given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(1, 5000), st.data())
    def test_auto_without_previous_chunks_is_dasks(self, shape: list[int], limit: int, data: st.DataObject) -> None:
        chunks = tuple(data.draw(st.one_of(st.just("auto"), st.just(-1), st.integers(1, n))) for n in shape)
        ours = normalize_chunks(chunks, shape, "float64", limit)
        assert ours == dask_normalize(chunks, tuple(shape), limit=limit, dtype="float64")

    @given(st.integers(1, 3), st.integers(1, 2000), st.data())
    def test_auto_groups_or_divides_previous_chunks(self, ndim: int, limit: int, data: st.DataObject) -> None:
        shape = tuple(data.draw(st.integers(1, 60)) for _ in range(ndim))
        previous = tuple(data.draw(partitions(n)) for n in shape)
        chunks = normalize_chunks("auto", shape, "uint8", limit, previous)
        assert tuple(axis.total for axis in chunks) == shape
        assert elements_of(chunks) <= limit
        for new, old in zip(chunks, previous, strict=True):
            joined, divided = set(new.bounds) <= set(old.bounds), set(new.bounds) >= set(old.bounds)
            assert joined or divided

    def test_auto_takes_multiples_of_storage_chunks(self) -> None:
        chunks = normalize_chunks("auto", (10_000, 10_000), "float32", "16MiB", previous_chunks=(300, 300))
        assert [axis[0] % 300 for axis in chunks] == [0, 0]
        assert 0.7 * 2**22 < elements_of(chunks) <= 2**22

    def test_auto_keeps_the_aspect_of_previous_chunks(self) -> None:
        chunks = normalize_chunks("auto", (4000, 4000), "uint8", 80_000, previous_chunks=((10,) * 400, (200,) * 20))
        assert [axis[0] for axis in chunks] == [60, 1200]

    def test_auto_divides_a_storage_chunk_over_the_limit_evenly(self) -> None:
        assert normalize_chunks("auto", (4000,), "uint8", 300, previous_chunks=(1000,)) == ((250,) * 16,)

    def test_byte_sizes(self) -> None:
        assert normalize_chunks("1kiB", (2000,), "float32") == dask_normalize("1kiB", (2000,), dtype="float32")
        assert normalize_chunks((-1, "800 B"), (10, 100), "float64", limit=10**9) == ((10,), (10,) * 10)

    def test_unknown_axes(self) -> None:
        chunks = normalize_chunks((1, (np.nan,)), (1, np.nan))
        assert chunks == ((1,), AxisChunks((nan,)))

    @pytest.mark.parametrize(
        ("chunks", "shape", "error", "words"),
        [
            (((3, 3),), (5,), ChunkError, "add up to 6, but its length is 5"),
            (((7, -2),), (5,), ChunkError, "negative"),
            ((-2,), (5,), ChunkError, "-2"),
            (0, (5,), ChunkError, "positive"),
            ((2, 2), (5, 5, 5), ChunkError, "name 2 axes"),
            (((),), (5,), ChunkError, "empty"),
            ((), (5,), ChunkError, "name 0 axes"),
            (((), (5,)), (5, 5), ChunkError, "empty"),
            ({2: 3}, (5, 5), ChunkError, "axis 2"),
            (None, (5,), ChunkError, "chunks=None"),
            ((2.5,), (5,), ChunkError, "whole number"),
            (("1 MB", "2 MB"), (5, 5), ChunkError, "two byte sizes"),
            (("many",), (5,), ConfigError, "many"),
            (({},), (5,), ChunkError, "axis 0"),
            (3, (nan,), UnknownChunksError, "compute_chunk_sizes"),
            ("auto", (nan,), UnknownChunksError, "compute_chunk_sizes"),
        ],
    )
    def test_errors(self, chunks: object, shape: tuple[int, ...], error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words):
            normalize_chunks(chunks, shape, "float64")

    @pytest.mark.parametrize("dtype", ["O", "S0", "V0", None])
    def test_auto_needs_elements_with_a_size(self, dtype: str | None) -> None:
        with pytest.raises(DTypeError, match="auto"):
            normalize_chunks("auto", (5,), dtype)

    def test_long_chunks_are_cut_in_errors(self) -> None:
        with pytest.raises(ChunkError, match=r"1000 blocks") as caught:
            normalize_chunks(((1,) * 1000,), (5,))
        assert len(str(caught.value)) < 200


class TestRechunkTarget:
    current = normalize_chunks((4, 5), (10, 10))

    @pytest.mark.parametrize(
        ("chunks", "expected"),
        [
            ({0: -1}, ((10,), (5, 5))),
            ({-1: 3}, ((4, 4, 2), (3, 3, 3, 1))),
            ({0: None, 1: -1}, ((4, 4, 2), (10,))),
            ((None, 2), ((4, 4, 2), (2,) * 5)),
            (((3, 7), -1), ((3, 7), (10,))),
            (6, ((6, 4), (6, 4))),
            ("auto", ((10,), (10,))),
        ],
    )
    def test_arguments(self, chunks: object, expected: object) -> None:
        assert rechunk_target(chunks, self.current, "float64") == expected

    def test_one_axis(self) -> None:
        assert rechunk_target((3, 7), self.current[:1]) == ((3, 7),)
        assert rechunk_target({}, self.current[:1]) == ((4, 4, 2),)

    def test_balance(self) -> None:
        assert rechunk_target((400, -1), normalize_chunks(-1, (1000, 1000)), balance=True) == ((500, 500), (1000,))

    @given(st.integers(1, 300).flatmap(partitions))
    def test_balanced_blocks(self, before: AxisChunks) -> None:
        (after,) = rechunk_target({}, (before,), balance=True)
        assert after.total == before.total
        assert len(after) <= len(before)
        assert after.largest <= 1.25 * before.largest
        assert after.largest == -(-after.total // len(after))

    def test_unknown_axes_keep_their_chunks(self) -> None:
        current = (unknown, AxisChunks((4, 4)))
        assert rechunk_target({1: -1}, current) == (unknown, (8,))
        assert rechunk_target(((np.nan, np.nan), 2), current) == (unknown, (2,) * 4)
        assert rechunk_target(-1, (AxisChunks((nan,)),)) == (AxisChunks((nan,)),)

    @pytest.mark.parametrize("chunks", [{0: 3}, {0: -1}, {0: "auto"}, {1: "auto"}, -1, {0: (nan, nan, nan)}])
    def test_unknown_axes_cannot_change(self, chunks: object) -> None:
        with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
            rechunk_target(chunks, (unknown, AxisChunks((4, 4))), "float64")


@given(st.integers(0, 80).flatmap(partitions), st.integers(1, 90))
def test_regroup(axis: AxisChunks, target: int) -> None:
    new = regroup(axis, target)
    assert new.total == axis.total
    assert new.largest <= target
    if axis.largest <= target:
        assert set(new.bounds) <= set(axis.bounds)
        assert all(a + b > target for a, b in itertools.pairwise(new))
    else:
        assert set(new.bounds) >= set(axis.bounds)
        assert len(new) == sum(max(1, -(-size // -(-size // -(-size // target)))) for size in axis)


class TestUnify:
    @given(st.integers(1, 40), st.data())
    def test_same_as_dask(self, total: int, data: st.DataObject) -> None:
        axes = data.draw(st.lists(partitions(total), min_size=1, max_size=4))
        assert unify(axes) == common_blockdim([tuple(axis) for axis in axes])

    def test_length_one_broadcasts(self) -> None:
        assert unify([AxisChunks((1,)), AxisChunks((2, 3))]) == (2, 3)
        assert unify([AxisChunks((1,)), AxisChunks((1,))]) == (1,)
        assert unify([AxisChunks((1,)), AxisChunks((0,))]) == (0,)
        assert unify([AxisChunks((1,)), unknown]) == unknown

    def test_equal_unknown_chunks_fit(self) -> None:
        assert unify([unknown, AxisChunks((nan, nan))]) == unknown

    @pytest.mark.parametrize("other", [(5, 5), (10,), (nan,), (nan, nan, nan)])
    def test_unknown_sizes_fit_nothing_else(self, other: tuple[float, ...]) -> None:
        with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
            unify([unknown, AxisChunks(other)])

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(ChunkError, match="lengths 5 and 6 differ"):
            unify([AxisChunks((5,)), AxisChunks((3, 3))])

    def test_empty_axes(self) -> None:
        assert unify([AxisChunks((0, 0)), AxisChunks((0,)), AxisChunks((0, 0, 0))]) == (0,)


@st.composite
def slices(draw: st.DrawFn, n: int) -> slice:
    end = st.one_of(st.none(), st.integers(-n - 3, n + 3))
    step = draw(st.sampled_from([None, 1, 2, 3, 7, -1, -2, -5]))
    return normalize_slice(slice(draw(end), draw(end), step), n)


@given(st.integers(0, 40).flatmap(lambda n: st.tuples(partitions(n), slices(n))))
def test_slice_chunks(case: tuple[AxisChunks, slice]) -> None:
    axis, index = case
    block_of = np.repeat(np.arange(len(axis)), axis.sizes)
    touched = block_of[list(range(index.start, index.stop, index.step))]
    counts = [int((touched == b).sum()) for b in dict.fromkeys(touched.tolist())]
    assert slice_chunks(axis, index) == tuple(counts or [0])


def test_full_slice_is_the_same_object() -> None:
    axis = AxisChunks((3, 4))
    assert slice_chunks(axis, slice(0, 7, 1)) is axis


class TestTakeChunks:
    @given(st.integers(1, 40).flatmap(lambda n: st.tuples(partitions(n), st.lists(st.integers(0, n - 1)))))
    def test_sizes(self, case: tuple[AxisChunks, list[int]]) -> None:
        axis, indices = case
        for order in (indices, sorted(indices)):
            out = take_chunks(axis, np.array(order, np.int64))
            assert out.total == len(indices)
            assert out.largest <= axis.largest
            assert len(out) <= max(1, len(axis) + 2 * len(indices) // axis.largest)

    def test_everything_in_order_keeps_the_chunks(self) -> None:
        axis = AxisChunks((3, 5, 2, 4))
        assert take_chunks(axis, np.arange(14)) == axis
