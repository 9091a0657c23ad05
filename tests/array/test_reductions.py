"""Reductions and cumulative operations against NumPy."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import PlanError, UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays

few = settings(max_examples=12)
REDUCTIONS = ["sum", "prod", "min", "max", "any", "all", "mean", "std", "var", "ptp", "count_nonzero",
              "nansum", "nanprod", "nanmin", "nanmax", "nanmean", "nanstd", "nanvar"]  # fmt: skip
FLOATS_AND_INTS = ("float64", "int64", "bool")


def axes(ndim):
    several = st.sets(st.integers(0, ndim - 1)).map(tuple) if ndim else st.just(())
    return st.one_of(st.none(), several, *([st.integers(-ndim, ndim - 1)] if ndim else []))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", REDUCTIONS)
@few
@given(data=st.data(), pair=arrays(dtypes=FLOATS_AND_INTS))
def test_reductions(name, data, pair):
    a, x = pair
    assume(not (name == "ptp" and a.dtype == bool))
    if a.dtype.kind == "f" and a.size and name.startswith("nan"):
        a = a.copy()
        a.flat[data.draw(st.sets(st.integers(0, a.size - 1)).map(list))] = np.nan
        x = ta.from_array(a, chunks=x.chunks)
    options = {"axis": data.draw(axes(a.ndim)), "keepdims": data.draw(st.booleans())}
    try:
        expected = getattr(np, name)(a, **options)
    except ValueError:
        with pytest.raises(ValueError):
            getattr(ta, name)(x, **options)
        return
    assert_eq(getattr(ta, name)(x, split_every=data.draw(st.sampled_from([None, 2, 3])), **options), expected)
    assert_eq(getattr(np, name)(x, **options), expected)


@pytest.mark.parametrize(
    "name", ["sum", "prod", "min", "max", "any", "all", "mean", "std", "var", "ptp", "argmin", "argmax"]
)
def test_reductions_as_methods(name):
    a = np.arange(24.0).reshape(4, 6) % 7
    x = ta.from_array(a, chunks=(3, 2))
    assert_eq(getattr(x, name)(), getattr(np, name)(a))
    assert_eq(getattr(x, name)(axis=1, keepdims=True), getattr(np, name)(a, axis=1, keepdims=True))
    assert_eq(getattr(x, name)(0), getattr(np, name)(a, 0))


@pytest.mark.parametrize("dtype", ["float32", "int64", "complex128"])
def test_dtype(dtype):
    a = np.arange(24, dtype="int16").reshape(4, 6)
    x = ta.from_array(a, chunks=(3, 2))
    for name in ("sum", "prod"):
        assert_eq(getattr(ta, name)(x, axis=0, dtype=dtype), getattr(np, name)(a, axis=0, dtype=dtype))
    if dtype != "int64":
        assert_eq(ta.mean(x, dtype=dtype), np.mean(a, dtype=dtype))


def test_ddof_and_correction():
    a = np.arange(24.0).reshape(4, 6) ** 2
    x = ta.from_array(a, chunks=(3, 2))
    for name in ("std", "var", "nanstd", "nanvar"):
        assert_eq(getattr(ta, name)(x, axis=0, ddof=1), getattr(np, name)(a, axis=0, ddof=1))
    assert_eq(ta.var(x, correction=1), np.var(a, ddof=1))


def test_out():
    x = ta.arange(6, chunks=4)
    out = ta.zeros((), dtype="float64")
    assert ta.sum(x, out=out) is out
    assert_eq(out, np.float64(15))
    assert_eq(np.mean(x, out=ta.zeros(())), np.float64(2.5))
    with pytest.raises(TypeError, match="same_kind"):
        ta.mean(x, out=ta.zeros((), dtype=int))


def test_where_and_initial():
    a = np.arange(24.0).reshape(4, 6)
    x, mask = ta.from_array(a, chunks=(3, 2)), a % 3 > 0
    lazy = ta.from_array(mask, chunks=2)
    for where in (mask, lazy):
        assert_eq(ta.sum(x, axis=0, where=where), np.sum(a, axis=0, where=mask))
        assert_eq(ta.prod(x, axis=0, where=where), np.prod(a, axis=0, where=mask))
        assert_eq(ta.mean(x, axis=1, where=where), np.mean(a, axis=1, where=mask))
        assert_eq(ta.any(x > 22, axis=1, where=where), np.any(a > 22, axis=1, where=mask))
        assert_eq(ta.all(x > 22, axis=1, where=where), np.all(a > 22, axis=1, where=mask))
        assert_eq(ta.max(x, axis=1, where=where, initial=-1), np.max(a, axis=1, where=mask, initial=-1))
    assert_eq(ta.sum(x, initial=5), np.sum(a, initial=5))
    assert_eq(ta.max(ta.zeros((0, 2)), axis=0, initial=3.0), np.full(2, 3.0))
    with pytest.raises(ValueError, match="initial"):
        ta.min(x, where=mask)
    with pytest.raises(UnsupportedError, match="nanstd"):
        ta.std(x, where=mask)


@pytest.mark.parametrize("name", ["argmin", "argmax", "nanargmin", "nanargmax"])
@few
@given(data=st.data(), pair=arrays(dtypes=("float64", "int64"), min_side=1))
def test_positions(name, data, pair):
    a, x = pair
    if name.startswith("nan") and a.dtype.kind == "f" and a.size > 1:
        a = a.copy()
        a.flat[0] = np.nan
        x = ta.from_array(a, chunks=x.chunks)
    axis = data.draw(st.one_of(st.none(), *([st.integers(-a.ndim, a.ndim - 1)] if a.ndim else [])))
    keepdims = data.draw(st.booleans())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = getattr(np, name)(a, axis=axis, keepdims=keepdims)
        except ValueError:  # nothing but NaN
            with pytest.raises(ValueError):
                getattr(ta, name)(x, axis=axis, keepdims=keepdims).compute(scheduler="sync")
            return
    assert_eq(getattr(ta, name)(x, axis=axis, keepdims=keepdims), expected)


def test_nothing_to_choose_from():
    for name in ("min", "max", "nanmin"):
        with pytest.raises(PlanError, match="zero-size array to reduction operation"):
            getattr(ta, name)(ta.zeros((0, 3)), axis=0)
    for name in ("argmin", "argmax"):
        with pytest.raises(ValueError, match="empty sequence"):
            getattr(ta, name)(ta.zeros((0, 3)))
    assert_eq(ta.max(ta.zeros((0, 3)), axis=1), np.zeros(0))


@pytest.mark.parametrize("bad", [3, -4, (0, 5)])
def test_axes_that_do_not_exist(bad):
    with pytest.raises(np.exceptions.AxisError):
        ta.sum(ta.ones((2, 3)), axis=bad)
    with pytest.raises(ValueError, match="repeated axis"):
        ta.sum(ta.ones((2, 3)), axis=(1, 1))


def test_dates():
    a = np.array(["2001-02-03", "1999-01-01", "NaT"], dtype="M8[s]")
    x = ta.from_array(a, chunks=2)
    assert_eq(x[:2].min(), a[:2].min())
    assert_eq(ta.max(x), a.max())
    d = ta.from_array(np.arange(5).astype("m8[s]"), chunks=2)
    assert_eq(d.sum(), np.arange(5).astype("m8[s]").sum())
    assert_eq(d.mean(), np.arange(5).astype("m8[s]").mean())


def test_many_blocks_are_joined_in_a_tree():
    a = np.arange(1000.0)
    x = ta.from_array(a, chunks=1)
    assert_eq(x.mean(split_every=4), a.mean())
    assert_eq(x.reshape(10, 100).sum(axis=1, split_every={1: 3}), a.reshape(10, 100).sum(axis=1))
    with pytest.raises(ValueError, match="split_every"):
        x.sum(split_every=1)


def test_average():
    a, w = np.arange(24.0).reshape(4, 6), np.arange(6)
    x = ta.from_array(a, chunks=(3, 2))
    assert_eq(ta.average(x), np.average(a))
    assert_eq(ta.average(x, axis=1, weights=w), np.average(a, axis=1, weights=w))
    assert_eq(np.average(x, weights=a), np.average(a, weights=a))
    for mine, theirs in zip(
        ta.average(x, axis=1, weights=ta.from_array(w, chunks=4), returned=True),
        np.average(a, axis=1, weights=w, returned=True),
        strict=True,
    ):
        assert_eq(mine, theirs)
    for mine, theirs in zip(ta.average(x, axis=0, returned=True), np.average(a, axis=0, returned=True), strict=True):
        assert_eq(mine, theirs)
    assert_eq(ta.average(x, axis=1, weights=w, keepdims=True), np.average(a, axis=1, weights=w, keepdims=True))
    with pytest.raises(TypeError, match="axis"):
        ta.average(x, weights=w)


def test_trace():
    a = np.arange(60).reshape(3, 4, 5)
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.trace(x), np.trace(a))
    assert_eq(x.trace(offset=-1, axis1=2, axis2=0), a.trace(offset=-1, axis1=2, axis2=0))


# ---------------------------------------------------------------- cumulative


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "nancumsum", "nancumprod"])
@few
@given(data=st.data(), pair=arrays(dtypes=("float64", "int64"), min_dims=1))
def test_cumulative(name, data, pair):
    a, x = pair
    if name.startswith("nan") and a.dtype.kind == "f" and a.size:
        a = a.copy()
        a.flat[a.size // 2] = np.nan
        x = ta.from_array(a, chunks=x.chunks)
    axis = data.draw(st.one_of(st.none(), st.integers(-a.ndim, a.ndim - 1)))
    assert_eq(getattr(ta, name)(x, axis=axis), getattr(np, name)(a, axis=axis))


def test_cumulative_with_what_comes_first():
    a = np.arange(12, dtype="int8").reshape(3, 4)
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.cumulative_sum(x, axis=1), np.cumulative_sum(a, axis=1))
    assert_eq(ta.cumulative_sum(x, axis=0, include_initial=True), np.cumulative_sum(a, axis=0, include_initial=True))
    assert_eq(
        np.cumulative_prod(x, axis=-1, include_initial=True), np.cumulative_prod(a, axis=-1, include_initial=True)
    )
    assert_eq(ta.cumsum(x, axis=0, dtype=float), np.cumsum(a, axis=0, dtype=float))
    assert_eq(x.cumsum(1), a.cumsum(1))
    with pytest.raises(ValueError, match="axis must be given"):
        ta.cumulative_sum(x)


@few
@given(st.data(), arrays(dtypes=("float64", "int64", "bool"), min_dims=1, min_side=1))
def test_diff(data, pair):
    a, x = pair
    options = {"n": data.draw(st.integers(0, 3)), "axis": data.draw(st.integers(-a.ndim, a.ndim - 1))}
    for end in data.draw(st.sets(st.sampled_from(["prepend", "append"]))):
        options[end] = data.draw(st.sampled_from([0, a]))
    if a.dtype == bool:
        options = {k: v for k, v in options.items() if k not in ("prepend", "append")}
    assert_eq(ta.diff(x, **options), np.diff(a, **options))


def test_ediff1d():
    a = np.arange(12).reshape(3, 4) ** 2
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.ediff1d(x), np.ediff1d(a))
    assert_eq(ta.ediff1d(x, [7, 8], ta.asarray(9)), np.ediff1d(a, [7, 8], 9))
    assert_eq(np.ediff1d(x, to_begin=0), np.ediff1d(a, to_begin=0))
    with pytest.raises(TypeError, match="to_end must be compatible"):
        ta.ediff1d(x, 0.5)


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum])
@pytest.mark.parametrize("dtype", [None, int, float])
def test_cumulative_operations_of_ones_own(ufunc, dtype):
    a = np.linspace(0, 10, 10)
    x = ta.from_array(a, chunks=3)
    assert_eq(
        ta.cumreduction(ufunc.accumulate, ufunc, ufunc.identity, x, dtype=dtype), ufunc.accumulate(a, dtype=dtype)
    )
    out = ta.zeros((2, 5))
    found = ta.cumreduction(np.cumsum, np.add, 0, x.reshape(2, 5), axis=1, out=out, method="blelloch", preop=np.sum)
    assert found is out
    assert_eq(out, np.cumsum(a.reshape(2, 5), 1))


def test_integer_sums_of_what_has_nan():
    a = np.array([1, np.nan, 2.5])
    for name in ("nansum", "nanprod"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_eq(getattr(ta, name)(ta.from_array(a, chunks=2), dtype=int), getattr(np, name)(a, dtype=int))


@pytest.mark.parametrize("name", ["argmin", "nanargmax"])
def test_positions_in_blocks_of_unknown_size(name):
    a = np.array([[3.0, 1, 2], [0, 5, 4], [9, 8, 7]])
    x, one = ta.from_array(a, chunks=2), ta.from_array(a, chunks=-1)
    with pytest.raises(ValueError, match="unknown chunksize"):
        getattr(ta, name)(x[x[:, 0] > 1])
    rows = getattr(ta, name)(x[x[:, 0] > 1], axis=1)
    assert_eq(rows, getattr(np, name)(a[a[:, 0] > 1], axis=1))
    for options in ({}, {"axis": 0}, {"axis": 0, "keepdims": True}):
        found = getattr(ta, name)(one[one[:, 0] > 1], **options)
        assert_eq(found, getattr(np, name)(a[a[:, 0] > 1], **options))


def test_empty_reductions_are_refused_in_numpys_words():
    for name in ("min", "max", "nanmin", "nanmax"):
        with pytest.raises(ValueError) as numpys:
            getattr(np, name)(np.zeros(0))
        with pytest.raises(ValueError) as ours:
            getattr(ta, name)(ta.zeros(0))
        assert str(ours.value) == str(numpys.value)
