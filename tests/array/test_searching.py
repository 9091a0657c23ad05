"""Sorting, searching and distinct elements against NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays

few = settings(max_examples=20)


@few
@given(st.data(), arrays(dtypes=["int64", "float32"], min_dims=1))
def test_sort(data, pair):
    a, x = pair
    axis = data.draw(st.one_of(st.none(), st.integers(-a.ndim, a.ndim - 1)))
    assert_eq(np.sort(x, axis=axis), np.sort(a, axis=axis))
    assert_eq(np.argsort(x, axis=axis, stable=True), np.argsort(a, axis=axis, stable=True))
    if axis is not None:
        downwards = ta.argsort(x, axis=axis, descending=True, stable=True)
        assert_eq(ta.take_along_axis(x, downwards, axis=axis), np.flip(np.sort(a, axis=axis), axis))
        assert_eq(ta.sort(x, axis=axis, descending=True), np.flip(np.sort(a, axis=axis), axis))


def test_descending_order_is_stable():
    few = np.random.default_rng(0).integers(0, 3, 1000).astype("uint32")
    assert_eq(ta.argsort(ta.from_array(few, chunks=-1)), np.argsort(few, kind="stable"))  # which NumPy leaves open
    assert_eq(ta.argsort(ta.asarray([1, 2, 1, 2]), descending=True, stable=True), np.array([1, 3, 0, 2]))


def test_sorting_unknown_lengths():
    x = ta.arange(10, chunks=4)
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        ta.sort(x[x > 3])


def test_searchsorted():
    a, v = np.arange(0, 20, 2), np.arange(-3, 24).reshape(3, 9)
    x, w = ta.from_array(a, chunks=3), ta.from_array(v, chunks=(2, 4))
    for side in ("left", "right"):
        assert_eq(np.searchsorted(x, w, side=side), np.searchsorted(a, v, side=side))
    assert_eq(x.searchsorted(v), a.searchsorted(v))
    assert_eq(ta.searchsorted(x[::-1], w, sorter=np.arange(10)[::-1]), np.searchsorted(a, v))
    with pytest.raises(PlanError, match="one-dimensional"):
        ta.searchsorted(w, x)
    with pytest.raises(PlanError, match="side"):
        ta.searchsorted(x, w, side="middle")


@few
@given(arrays(dtypes=["int64", "bool"], min_dims=1))
def test_nonzero(pair):
    a, x = pair
    a, x = a % 3, x % 3
    for mine, theirs in zip(np.nonzero(x), np.nonzero(a), strict=True):
        assert_eq(mine, theirs)
    for mine, theirs in zip(ta.where(x), np.where(a), strict=True):
        assert_eq(mine, theirs)
    assert_eq(ta.flatnonzero(x), np.flatnonzero(a))
    assert_eq(ta.argwhere(x), np.argwhere(a))


def test_nonzero_of_a_scalar():
    with pytest.raises(ValueError, match="atleast_1d"):
        ta.nonzero(ta.asarray(1))


@few
@given(arrays(dtypes=["int64", "float64"]), st.lists(st.integers(-5, 20), max_size=5))
def test_isin(pair, among):
    a, x = pair
    assert_eq(np.isin(x, among), np.isin(a, among))
    assert_eq(ta.isin(x, ta.asarray(np.array(among, int)), invert=True), np.isin(a, among, invert=True))


@few
@given(st.data(), arrays(dtypes=["int64"], min_dims=1, min_side=1))
def test_take_along_axis(data, pair):
    a, x = pair
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    positions = np.argsort(a, axis=axis)
    assert_eq(
        ta.take_along_axis(x, ta.from_array(positions, chunks=2), axis=axis), np.take_along_axis(a, positions, axis)
    )
    assert_eq(np.take_along_axis(x, np.argsort(a, axis=None), axis=None), np.sort(a, axis=None))


def test_take_along_axis_refuses():
    with pytest.raises(IndexError, match="integers"):
        ta.take_along_axis(ta.ones(3), ta.ones(3))
    with pytest.raises(ValueError, match="axes"):
        ta.take_along_axis(ta.ones((3, 3)), ta.ones(3, dtype=int))


@few
@given(arrays(dtypes=["int64", "float32"]))
def test_unique(pair):
    a, x = pair
    assert_eq(np.unique(x), np.unique(a))
    flags = {"return_index": True, "return_inverse": True, "return_counts": True}
    for mine, theirs in zip(np.unique(x, **flags), np.unique(a, **flags), strict=True):
        assert_eq(mine, theirs)
    for name in ("unique_all", "unique_counts", "unique_inverse"):
        mine, theirs = getattr(ta, name)(x), getattr(np, name)(a)
        assert mine._fields == theirs._fields
        for m, t in zip(mine, theirs, strict=True):
            assert_eq(m, t)
    assert_eq(ta.unique_values(x), np.sort(np.unique_values(a)))


def test_distinct_nans():
    a = np.array([np.nan, 1, np.nan])
    assert_eq(ta.unique(ta.from_array(a, chunks=1)), np.unique(a))
    assert_eq(ta.unique(ta.from_array(a, chunks=1), equal_nan=False), np.unique(a, equal_nan=False))


# ---------------------------------------------------------------- arrays larger than a block


RUNS = {
    "floats": np.random.default_rng(0).random(3001),
    "few values": np.random.default_rng(0).integers(0, 5, 2500),
    "one value": np.zeros(1500),
    "NaN": np.where(np.arange(2000) % 3 == 0, np.nan, np.random.default_rng(0).random(2000)),
    "backwards": np.arange(2000, dtype="f4")[::-1],
    "strings": np.array(list("tilework") * 250),
    "dates": np.random.default_rng(0).integers(0, 99, 1500).astype("M8[D]"),
    "complex": np.random.default_rng(0).integers(0, 9, 1200) + 1j * np.random.default_rng(1).integers(0, 9, 1200),
}


@pytest.mark.parametrize("plain", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("chunks", [40, 333, ((0, 700, 1, 0, -1),)])
def test_sorting_what_is_larger_than_a_block(plain: np.ndarray, chunks: Any) -> None:
    if not isinstance(chunks, int):
        chunks = ((*chunks[0][:-1], len(plain) - 701),)
    with tw.config.set(chunk_size="2KiB"):
        x = ta.from_array(plain, chunks=chunks)
        made = [ta.sort(x), ta.argsort(x), ta.sort(x, descending=True), ta.argsort(x, descending=True)]
    assert all(y.explain().scratch_bytes for y in made)
    backwards = len(plain) - 1 - np.argsort(plain[::-1], kind="stable")[::-1]
    assert_eq(made[0], np.sort(plain))
    assert_eq(made[1], np.argsort(plain, kind="stable"))
    assert_eq(made[2], np.sort(plain)[::-1])
    assert_eq(made[3], backwards)
    assert_eq(made[0][700:720:3], np.sort(plain)[700:720:3])


def test_sorting_takes_tasks_in_proportion_to_the_blocks() -> None:
    with tw.config.set(chunk_size="1KiB"):
        few, many = (ta.sort(ta.random.default_rng(0).random(n, chunks=100)) for n in (10_000, 100_000))
    assert few.explain().n_tasks == 4 * 100 + 3
    assert many.explain().n_tasks == 4 * 1000 + 3


def test_union1d():
    a, b = np.arange(12).reshape(3, 4) % 5, np.arange(6, 12)
    assert_eq(ta.union1d(ta.from_array(a, chunks=2), ta.from_array(b, chunks=4)), np.union1d(a, b))
    assert_eq(np.union1d(ta.from_array(a, chunks=2), b), np.union1d(a, b))
