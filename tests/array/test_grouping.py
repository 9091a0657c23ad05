"""Grouped reductions against a loop over groups, and against flox on NumPy arrays."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.array.grouping import FUNCTIONS, groupby_reduce
from tilework.base.errors import DTypeError, PlanError, UnsupportedError

RNG = np.random.default_rng(0)
N = 60
CODES = {
    "months": np.arange(N) % 12,
    "scattered": RNG.integers(-1, 9, N),
    "in order, some missing": np.where(RNG.random(N) < 0.2, -1, np.sort(RNG.integers(0, 20, N))),
    "two large": np.arange(N) // 30,
    "gaps": np.sort(RNG.choice([1, 2, 7], N)),
}
OPTIONS = {"quantile": {"q": [0.25, 0.6]}, "nanquantile": {"q": [0.25, 0.6]}}
OPTIONS |= {name: {"ddof": 1} for name in ("var", "nanvar", "std", "nanstd")}


def values(dtype):
    x = RNG.standard_normal((3, N, 4)) * 3
    x[RNG.random(x.shape) < 0.3] = np.nan
    x[1, :5, 2] = np.nan
    return x.astype(dtype) if dtype[0] == "f" else np.nan_to_num(x).astype(dtype)


def by_flox(x, codes, size, func, fill_value, min_count):
    flox = pytest.importorskip("flox")
    engine = "flox" if "quantile" in func else "numpy"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result, _ = flox.groupby_reduce(
            np.moveaxis(x, 1, -1), codes, func=func, expected_groups=pd.RangeIndex(size), fill_value=fill_value,
            min_count=min_count, finalize_kwargs=OPTIONS.get(func), engine=engine,
        )  # fmt: skip
    return np.moveaxis(result, -1, result.ndim - 2)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float64", "int16"])
@pytest.mark.parametrize("codes", CODES, ids=str)
@pytest.mark.parametrize("func", FUNCTIONS)
def test_like_flox(func, codes, dtype):
    x, codes = values(dtype), CODES[codes]
    size = int(codes.max()) + 1
    complete = len(set(codes.tolist()) - {-1}) == size
    for fill_value, min_count in [(np.nan, 1)] + [(None, None)] * complete:
        if func in ("prod", "nanprod") and dtype == "int16" and fill_value is not None:
            continue  # flox multiplies floats then, which do not overflow
        expected = by_flox(x, codes, size, func, fill_value, min_count)
        options = {"fill_value": fill_value, "min_count": min_count or 0, **OPTIONS.get(func, {})}
        for chunks in [(2, 7, 4), (1, 25, 2)]:
            lazy = groupby_reduce(ta.from_array(x, chunks=chunks), codes, size, func, 1, **options)
            assert lazy.shape == expected.shape
            found = lazy.compute(scheduler="sync")
            assert lazy.dtype == found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def by_loop(function, x, codes, size, axis, also):
    groups = [np.take(x, np.flatnonzero(codes == k), axis) for k in range(size)]
    rows = [function(g, axis=tuple(sorted((axis, *also))), keepdims=True) for g in groups]
    return np.squeeze(np.concatenate(rows, axis), tuple(also))


@given(st.data())
def test_any_chunks_and_axes(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    axis = data.draw(st.integers(0, 2))
    also = sorted(data.draw(st.sets(st.sampled_from([a for a in range(3) if a != axis]))))
    size = data.draw(st.integers(1, 4))
    order = data.draw(st.booleans())
    labels = data.draw(st.lists(st.integers(0, size - 1), min_size=shape[axis], max_size=shape[axis]))
    codes = np.array(sorted(labels) if order else labels)
    x = np.arange(np.prod(shape)).reshape(shape) * 37 % 101
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    for name, function in {"sum": np.sum, "count": lambda g, **kw: np.isfinite(g).sum(**kw)}.items():
        lazy = groupby_reduce(ta.from_array(x, chunks=chunks), codes, size, name, axis, also=also)
        np.testing.assert_array_equal(lazy.compute(), by_loop(function, x, codes, size, axis, also))
    if len(set(labels)) == size:
        for name, function in {"max": np.max, "mean": np.mean, "var": np.var, "median": np.median}.items():
            lazy = groupby_reduce(ta.from_array(x, chunks=chunks), codes, size, name, axis, also=also)
            np.testing.assert_allclose(lazy.compute(), by_loop(function, x, codes, size, axis, also))


# ---------------------------------------------------------------- the way that is chosen


def labels_of(x):
    found, left = [], [x.node]
    while left:
        node = left.pop()
        found.append(type(node).__name__)
        left.extend(node.inputs)
    return set(found)


def test_groups_in_order_are_reduced_block_by_block():
    x = ta.ones((120, 6), chunks=(30, 6))
    months = groupby_reduce(x, np.arange(120) // 10, 12, "mean", 0)
    assert "Reduce" not in labels_of(months)
    assert months.chunks[0] == (3, 3, 3, 3)
    # Bounds of blocks move to the nearest end of a group.
    assert groupby_reduce(x, np.arange(120) // 8, 15, "mean", 0).chunks[0] == (4, 3, 4, 4)


def test_groups_larger_than_blocks_are_a_tree():
    x = ta.ones((120, 6), chunks=(10, 6))
    with tw.config.set(chunk_size="1kiB"):
        years = groupby_reduce(x, np.arange(120) // 60, 2, "mean", 0)
    assert "Reduce" in labels_of(years)
    assert "Reduce" not in labels_of(groupby_reduce(x, np.arange(120) // 60, 2, "mean", 0))  # small all the same
    np.testing.assert_array_equal(years.compute(), np.ones((2, 6)))


def test_scattered_groups_are_a_tree_if_blocks_shrink():
    x = ta.ones((120, 6), chunks=(60, 6))
    assert "Reduce" in labels_of(groupby_reduce(x, np.arange(120) % 12, 12, "mean", 0))
    days = groupby_reduce(x, np.arange(120) % 40, 40, "mean", 0)  # one or two members to a block
    assert "Take" in labels_of(days)
    assert len(days.chunks[0]) == 2
    np.testing.assert_array_equal(days.compute(), np.ones((40, 6)))


def test_large_groups_divide_other_axes():
    x = ta.ones((1000, 64, 64), chunks=(10, 64, 64))
    with tw.config.set(chunk_size="1MiB"):
        found = groupby_reduce(x, np.arange(1000) % 2, 2, "median", 0)
    assert found.chunks[1].largest * found.chunks[2].largest * 500 * 8 <= 1 << 20
    np.testing.assert_array_equal(found.compute(), np.ones((2, 64, 64)))


def test_prediction_holds():
    """Partial results weigh what the plan says: memory is a contract."""
    x = ta.random.default_rng(0).random((400, 200, 50), chunks=(50, 200, 50))
    found = groupby_reduce(x, np.arange(400) % 5, 5, "nanstd", 0)
    np.testing.assert_allclose(found.compute(memory="40MB").mean(), np.sqrt(1 / 12), rtol=1e-2)


def test_slices_are_pushed_below():
    x = np.arange(120.0).reshape(20, 6)
    found = groupby_reduce(ta.from_array(x, chunks=(8, 2)), np.arange(20) % 3, 3, "sum", 0)
    expected = np.stack([x[np.arange(20) % 3 == k].sum(0) for k in range(3)])
    np.testing.assert_array_equal(found[1, 2:5].compute(), expected[1, 2:5])
    np.testing.assert_array_equal(found[:, 3].compute(), expected[:, 3])


# ---------------------------------------------------------------- kinds of values


def test_dates():
    dates = np.arange(12).astype("M8[D]").astype("M8[ns]")
    dates[3] = "NaT"
    x, codes = ta.from_array(dates, chunks=5), np.arange(12) % 2
    means = groupby_reduce(x, codes, 2, "nanmean", 0).compute()
    np.testing.assert_array_equal(means, np.array(["1970-01-06", "1970-01-07T14:24"], "M8[ns]"))
    firsts = groupby_reduce(x, codes, 3, "first", 0).compute()
    np.testing.assert_array_equal(firsts, np.array(["1970-01-01", "1970-01-02", "NaT"], "M8[ns]"))
    maxima = groupby_reduce(x, codes, 3, "nanmax", 0, fill_value=np.nan, min_count=1).compute()
    np.testing.assert_array_equal(maxima, np.array(["1970-01-11", "1970-01-12", "NaT"], "M8[ns]"))


def test_strings_and_flags():
    words = ta.from_array(np.array(["a", "b", "c", "d"]), chunks=3)
    assert groupby_reduce(words, np.array([0, 1, 0, 1]), 2, "last", 0).compute().tolist() == ["c", "d"]
    found = groupby_reduce(words, np.array([0, 2, 0, 2]), 3, "first", 0).compute()
    assert found[[0, 2]].tolist() == ["a", "b"]
    assert np.isnan(found[1])
    flags = ta.from_array(np.array([True, False, False, False]), chunks=2)
    codes = np.array([0, 0, 1, 1])
    assert groupby_reduce(flags, codes, 3, "any", 0).compute().tolist() == [True, False, False]
    assert groupby_reduce(flags, codes, 2, "max", 0).dtype == bool
    assert groupby_reduce(flags, codes, 2, "median", 0).compute().tolist() == [0.5, 0]


def test_fill_values():
    x, codes = ta.arange(4, chunks=2), np.array([0, 0, 2, -1])
    assert groupby_reduce(x, codes, 3, "sum", 0).compute().tolist() == [1, 0, 2]
    assert groupby_reduce(x, codes, 3, "sum", 0, fill_value=-9).compute().tolist() == [1, -9, 2]
    assert groupby_reduce(x, codes, 3, "sum", 0, fill_value=-9, min_count=2).compute().tolist() == [1, -9, -9]
    maxima = groupby_reduce(x, codes, 3, "max", 0).compute()
    np.testing.assert_array_equal(maxima, [1, np.nan, 2])
    nobody = groupby_reduce(ta.ones((3, 4), chunks=2), np.full(4, -1), 2, "mean", 1, also=(0,))
    np.testing.assert_array_equal(nobody.compute(), [np.nan, np.nan])


def test_refused():
    x = ta.ones((4, 3), chunks=2)
    with pytest.raises(UnsupportedError, match="no reduction 'mode'"):
        groupby_reduce(x, np.zeros(4, int), 1, "mode", 0)
    with pytest.raises(PlanError, match=r"codes of shape \(3,\) do not fit axis 0"):
        groupby_reduce(x, np.zeros(3, int), 1, "sum", 0)
    with pytest.raises(PlanError, match="number 5 is out of range for 2 groups"):
        groupby_reduce(x, np.full(4, 5), 2, "sum", 0)
    with pytest.raises(PlanError, match="needs q"):
        groupby_reduce(x, np.zeros(4, int), 1, "quantile", 0)
    with pytest.raises(DTypeError, match="var is not possible"):
        groupby_reduce(ta.from_array(np.array(["a", "b"]), chunks=1), np.zeros(2, int), 1, "var", 0)


# ---------------------------------------------------------------- lazy codes


@pytest.mark.parametrize("dtype", ["float64", "int16"])
@pytest.mark.parametrize("func", FUNCTIONS)
def test_lazy_codes_give_what_known_ones_give(func, dtype):
    x, codes = ta.from_array(values(dtype), chunks=(2, 25, 4)), CODES["scattered"]
    also = () if func.endswith(("first", "last")) else (2,)
    for options in ({}, {"fill_value": np.nan, "min_count": 1}, {"fill_value": -1, "min_count": 9}):
        options |= OPTIONS.get(func, {}) | {"also": also}
        known = groupby_reduce(x, codes, 12, func, 1, **options)
        lazy = groupby_reduce(x, ta.from_array(codes, chunks=11), 12, func, 1, **options)
        assert lazy.shape == known.shape
        np.testing.assert_allclose(lazy.compute().astype(float), known.compute().astype(float))


def test_lazy_codes_are_read_once_and_need_no_more_than_blocks():
    x = ta.random.default_rng(0).random((100_000, 50), chunks=(5_000, 50))
    codes = (x[:, 0] * 7).astype(int)
    means = groupby_reduce(x, codes, 8, "mean", 0)
    assert means.explain(memory="40MB", workers=2).predicted_peak < 40e6
    found = means.compute(memory="40MB", workers=2)
    whole, labels = tw.compute(x, codes)
    np.testing.assert_allclose(found[:7], [whole[labels == k].mean(axis=0) for k in range(7)])
    assert np.isnan(found[7]).all()
