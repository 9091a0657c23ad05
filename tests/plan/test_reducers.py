"""Reductions of blocks, tiles and trees of them are NumPy's reductions of the whole."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.base.errors import DTypeError
from tilework.plan import reducers
from tilework.plan.blocks import AxisChunks
from tilework.plan.reductions import Partial, Reduction
from tilework.plan.stages import BlockPlace

FOLDS = ["sum_", "prod", "nansum", "nanprod", "any_", "all_", "count_nonzero"]
EXTREMES = ["min_", "max_", "nanmin", "nanmax"]
MOMENTS = ["mean", "nanmean", "var", "std", "nanvar", "nanstd"]
ARGS = ["argmin", "argmax", "nanargmin", "nanargmax"]
NUMBERS = ["bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64", "longdouble"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def _numpy(name: str) -> Callable[..., Any]:
    return getattr(np, name.rstrip("_"))


@st.composite
def cut(draw: st.DrawFn, n: int) -> AxisChunks:
    """An axis in random blocks, some of them empty."""
    bounds = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    return AxisChunks(np.diff([0, *bounds, n]))


def _concatenate(partials: list[Partial], axis: int) -> Partial:
    if isinstance(partials[0], tuple):
        return tuple(np.concatenate(parts, axis) for parts in zip(*partials, strict=True))
    return np.concatenate(partials, axis)


def _by_tiles(draw: st.DrawFn, reduction: Reduction, block: np.ndarray, axes: tuple[int, ...]) -> Partial:
    """The partial of a block, through the accumulator, in random tiles."""
    assert reduction.accumulator is not None
    accumulator = reduction.accumulator(block.shape, axes, block.dtype)
    parts = [[s for s in _slices(draw(cut(n))) if s.start < s.stop] for n in block.shape]
    for numbers in np.ndindex(*map(len, parts)):
        where = tuple(part[k] for part, k in zip(parts, numbers, strict=True))
        owned = draw(st.booleans())
        tile = block[(*where, ...)].copy(order=draw(st.sampled_from("CF")))
        kept = tile.copy()
        accumulator.update(tile, tuple(slice(0, 1) if a in axes else s for a, s in enumerate(where)), owned, {})
        if not owned:
            np.testing.assert_array_equal(tile, kept)
    return accumulator.result()


def _slices(chunks: AxisChunks) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in zip(chunks.bounds[:-1], chunks.bounds[1:], strict=True)]


def _in_blocks(draw: st.DrawFn, reduction: Reduction, array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The reduction of an array in random blocks, joined in a random tree."""
    domain = tuple(draw(cut(n)) for n in array.shape)
    grid = tuple(map(len, domain))
    partials: dict[tuple[int, ...], Partial] = {}
    for index in np.ndindex(*grid):
        block = array[(*(_slices(c)[k] for c, k in zip(domain, index, strict=True)), ...)]
        if reduction.place:
            partials[index] = reduction.partial(block, axis=axes, block_place=BlockPlace(index, grid, domain))
        elif block.size and draw(st.booleans()):
            partials[index] = _by_tiles(draw, reduction, block, axes)
        else:
            partials[index] = reduction.partial(block, axis=axes)
    while any(grid[a] > 1 for a in axes):
        grid, partials = _join(draw, reduction, grid, partials, axes)
    rows: Any = {index: reduction.finalize(partial) for index, partial in partials.items()}
    for axis in reversed(range(len(grid))):
        lower: dict[tuple[int, ...], list[Any]] = {}
        for index, value in rows.items():
            lower.setdefault(index[:axis], []).append(value)
        rows = {index: _concatenate(values, axis) for index, values in lower.items()}
    return rows[()]


def _join(draw: st.DrawFn, reduction: Reduction, grid: Any, partials: Any, axes: tuple[int, ...]) -> Any:
    """One level of a tree: neighbours along one axis, in groups of random size."""
    axis = draw(st.sampled_from([a for a in axes if grid[a] > 1]))
    every = draw(st.integers(2, 4))
    smaller = tuple(-(-n // every) if a == axis else n for a, n in enumerate(grid))
    joined = {}
    for index in np.ndindex(*smaller):
        along = range(index[axis] * every, min((index[axis] + 1) * every, grid[axis]))
        group = [partials[(*index[:axis], k, *index[axis + 1 :])] for k in along]
        joined[index] = reduction.combine(_concatenate(group, axis), axis=axes)
    return smaller, joined


@st.composite
def arrays(draw: st.DrawFn, dtypes: list[str], min_size: int = 0) -> np.ndarray:
    shape = tuple(draw(st.lists(st.integers(min_size, 6), max_size=3)))
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    elements = st.integers(0, 3) if dtype.kind in "bu" else st.integers(-3, 3)
    if dtype.kind in "fc":
        elements |= st.sampled_from([np.nan, 0.5, -1.25] + ([np.inf] if draw(st.booleans()) else []))
    values = draw(st.lists(elements, min_size=prod(shape), max_size=prod(shape)))
    return np.array(values).astype(dtype).reshape(shape, order=draw(st.sampled_from("CF")))


def _outcome(function: Callable[[], Any]) -> Any:
    """A result, or the class and text of the error instead of it."""
    try:
        return np.asarray(function())
    except ValueError as error:
        return str(error)


def _agree(got: Any, want: Any, rtol: float) -> None:
    if isinstance(want, str):
        assert isinstance(got, str), f"{got} instead of the error {want!r}"
        return
    assert not isinstance(got, str), f"error {got!r} instead of {want}"
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


def _some_axes(draw: st.DrawFn, ndim: int) -> tuple[int, ...]:
    return tuple(a for a in range(ndim) if draw(st.booleans()))


@settings(max_examples=300)
@given(data=st.data(), name=st.sampled_from(FOLDS + MOMENTS))
def test_folds_and_moments_agree_with_numpy(data: st.DataObject, name: str) -> None:
    array = data.draw(arrays(NUMBERS))
    axes = _some_axes(data.draw, array.ndim)
    options = {"ddof": data.draw(st.integers(0, 2))} if name[-3:] in ("var", "std") else {}
    reduction = getattr(reducers, name)(array.dtype, **options)
    want = _outcome(lambda: _numpy(name)(array, axis=axes, keepdims=True, **options))
    assert reduction.dtype == want.dtype
    if not axes and array.dtype.kind == "c" and options:
        return  # NumPy keeps x - x as NaN or zero with an imaginary part to square
    low = {"e": 2e-2, "f": 1e-4, "F": 1e-4}.get(array.dtype.char, 1e-12)
    _agree(_outcome(lambda: _in_blocks(data.draw, reduction, array, axes)), want, low)


@settings(max_examples=200)
@given(data=st.data(), name=st.sampled_from(EXTREMES))
def test_extremes_agree_with_numpy(data: st.DataObject, name: str) -> None:
    array = data.draw(arrays(NUMBERS))
    axes = _some_axes(data.draw, array.ndim)
    reduction = getattr(reducers, name)(array.dtype)
    want = _outcome(lambda: _numpy(name)(array, axis=axes, keepdims=True))
    _agree(_outcome(lambda: _in_blocks(data.draw, reduction, array, axes)), want, 0)


@settings(max_examples=200)
@given(data=st.data(), name=st.sampled_from(ARGS))
def test_places_agree_with_numpy(data: st.DataObject, name: str) -> None:
    array = data.draw(arrays([d for d in NUMBERS if d != "complex64"]))
    if name.startswith("nan") and np.isinf(array.astype(float)).any():
        return  # NumPy's own documentation: not to be trusted with NaN and infinity
    axis = data.draw(st.sampled_from([None, *range(array.ndim)]))
    reduction = getattr(reducers, name)(array.dtype)
    axes = tuple(range(array.ndim)) if axis is None else (axis,)
    want = _outcome(lambda: _numpy(name)(array, axis=axis, keepdims=True))
    _agree(_outcome(lambda: _in_blocks(data.draw, reduction, array, axes)), want, 0)
    if not isinstance(want, str):
        assert reduction.dtype == want.dtype


@pytest.mark.parametrize("name", ["cumsum", "cumprod", "nancumsum", "nancumprod"])
@given(data=st.data())
def test_scans_agree_with_numpy(data: st.DataObject, name: str) -> None:
    array = data.draw(arrays([d for d in NUMBERS if d != "float16"], 1).filter(lambda a: a.ndim))
    axis = data.draw(st.integers(0, array.ndim - 1))
    made = getattr(reducers, name)(array.dtype)
    local, total, join = made.functions
    want = _numpy(name)(array, axis=axis)
    blocks = [np.moveaxis(np.moveaxis(array, axis, 0)[s], 0, axis) for s in _slices(data.draw(cut(array.shape[axis])))]
    before, parts = None, []
    for block in blocks:
        scan = local(block, axis=axis)
        parts.append(scan if before is None else join(before, scan))
        before = total(block, axis=axis) if before is None else join(before, total(block, axis=axis))
    _agree(np.concatenate(parts, axis), want, 1e-4)
    assert made.dtype == want.dtype


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize("name", FOLDS + EXTREMES + MOMENTS)
@pytest.mark.parametrize("dtype", [*NUMBERS, "m8[s]", "M8[D]", "O", "U3", "S2"])
def test_other_dtypes_work_where_numpy_does(name: str, dtype: str) -> None:
    kind = np.dtype(dtype)
    array = np.array([3, 1, 2, 5, 4, 6]).astype(kind).reshape(2, 3)
    try:
        want = np.asarray(_numpy(name)(array, axis=(1,), keepdims=True))
    except TypeError:
        want = None
    if want is None:
        with pytest.raises(DTypeError, match=name.rstrip("_")):
            getattr(reducers, name)(kind)
        return
    reduction = getattr(reducers, name)(kind)
    assert reduction.accumulator is not None
    accumulator = reduction.accumulator(array.shape, (1,), kind)
    for k in range(3):
        accumulator.update(array[:, k : k + 1], (slice(0, 2), slice(0, 1)), False, {})
    got = reduction.finalize(reduction.combine(accumulator.result(), axis=(1,)))
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype == reduction.dtype


@pytest.mark.parametrize("name", ["sum_", "prod", "nansum", "nanprod", "mean", "nanmean", "var", "nanstd"])
@pytest.mark.parametrize("source", ["bool", "int16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex128", "int64"])
def test_the_dtype_that_is_asked_for(name: str, source: str, dtype: str) -> None:
    array = np.array([1, 2, 3, 4, 0, 1]).astype(source).reshape(2, 3)
    try:
        want = _numpy(name)(array, axis=0, keepdims=True, dtype=dtype)
    except TypeError:
        with pytest.raises(DTypeError, match=name.rstrip("_")):
            getattr(reducers, name)(source, dtype=dtype)
        return
    reduction = getattr(reducers, name)(source, dtype=dtype)
    got = reduction.finalize(reduction.partial(array, axis=(0,)))
    assert reduction.dtype == got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-3)


def test_dates_have_extremes_and_no_sum() -> None:
    dates = np.array(["2001-01-03", "NaT", "1999-12-31"], "M8[D]")
    for name in EXTREMES:
        reduction = getattr(reducers, name)(dates.dtype)
        np.testing.assert_array_equal(reduction.finalize(reduction.partial(dates, axis=(0,))), [_numpy(name)(dates)])
    with pytest.raises(DTypeError, match=r"sum is not possible for dtype datetime64\[D\]"):
        reducers.sum_(dates.dtype)


# ---------------------------------------------------------------- numbers


def test_float32_sums_are_as_accurate_as_numpys_pairwise() -> None:
    x = np.random.default_rng(0).random(1 << 22, dtype=np.float32)
    exact = x.sum(dtype=np.float64)
    accumulator = reducers.sum_("f4").accumulator(x.shape, (0,), x.dtype)  # type: ignore[misc]
    for start in range(0, x.size, 1000):
        accumulator.update(x[start : start + 1000], (slice(0, 1),), False, {})
    (got,) = accumulator.result()
    assert got.dtype == np.float32
    assert abs(got[0] - exact) <= max(abs(x.sum() - exact), np.spacing(np.float32(exact)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 0.0])
def test_long_rows_with_infinities_and_nan(dtype: str, special: float) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 700)).astype(dtype)
    x[1, 1, ::5] = special
    for name in ("sum_", "nansum", "mean", "nanmean"):
        reduction = getattr(reducers, name)(dtype)
        found = reduction.finalize(reduction.partial(x, axis=(1, 2)))
        expected = _numpy(name)(x, axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 1e-12)
        assert found.dtype == expected.dtype


def test_sums_along_leading_axes_are_more_accurate_than_numpys() -> None:
    x = np.random.default_rng(0).random((1 << 16, 8), dtype=np.float32)
    exact = x.sum(axis=0, dtype=np.float64)
    accumulator = reducers.sum_("f4").accumulator(x.shape, (0,), x.dtype)  # type: ignore[misc]
    for start in range(0, len(x), 128):
        accumulator.update(x[start : start + 128], (slice(0, 1), slice(0, 8)), False, {})
    (got,) = accumulator.result()
    assert np.abs(got[0] - exact).max() < np.abs(x.sum(axis=0) - exact).max() / 4


def test_variance_survives_a_large_mean_and_parts_that_differ() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 1000)) + 1e9
    reduction = reducers.var("f8")
    parts = _concatenate([reduction.partial(row, axis=(0,)) for row in x], 0)
    np.testing.assert_allclose(reduction.finalize(reduction.combine(parts, axis=(0,))), [x.var()], rtol=1e-9)
    x = np.sort(rng.standard_normal(100_000) * 1e3)
    parts = _concatenate([reduction.partial(part, axis=(0,)) for part in np.array_split(x, 7)], 0)
    np.testing.assert_allclose(reduction.finalize(reduction.combine(parts, axis=(0,))), [x.var()], rtol=1e-12)


def test_float16_is_summed_in_float32() -> None:
    x = np.ones(5000, np.float16)
    for name, want in [("sum_", 5000), ("mean", 1), ("nansum", 5000), ("nanmean", 1), ("var", 0)]:
        reduction = getattr(reducers, name)(x.dtype)
        parts = _concatenate([reduction.partial(part, axis=(0,)) for part in np.array_split(x, 3)], 0)
        got = reduction.finalize(reduction.combine(parts, axis=(0,)))
        assert got.dtype == np.float16
        assert got == want


@pytest.mark.parametrize("shape", [(700, 1, 700), (3, 200_000), (200_000, 3), (5, 300, 401)])
@pytest.mark.parametrize("name", ["sum_", "nanmean", "nanvar", "std", "max_", "count_nonzero"])
def test_large_blocks_are_taken_in_slabs(shape: tuple[int, ...], name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.random(shape, dtype=np.float32)
    x[rng.random(shape) < 0.3] = np.nan if name.startswith("nan") else 0
    for axes in [(0,), (len(shape) - 1,), tuple(range(len(shape))), tuple(range(1, len(shape)))]:
        reduction = getattr(reducers, name)(x.dtype)
        got = reduction.finalize(reduction.partial(x, axis=axes))
        want = _numpy(name)(x.astype(float), axis=axes, keepdims=True)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- warnings, errors, data


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("nanmean", [[np.nan, np.nan], [1.0, 2.0]], "Mean of empty slice"),
        ("nanvar", [[np.nan, np.nan], [1.0, 2.0]], "Degrees of freedom <= 0"),
        ("nanmin", [[np.nan, np.nan], [1.0, 2.0]], "All-NaN slice encountered"),
        ("nanmax", [[np.nan, np.nan], [1.0, 2.0]], "All-NaN slice encountered"),
        ("mean", np.ones((2, 0)), "Mean of empty slice"),
        ("var", np.ones((2, 0)), "Degrees of freedom <= 0"),
    ],
)
def test_warnings_are_numpys(name: str, values: Any, message: str) -> None:
    x = np.array(values)

    def reduced() -> np.ndarray:
        reduction = getattr(reducers, name)(x.dtype)
        return reduction.finalize(reduction.partial(x, axis=(1,)))

    with pytest.warns(RuntimeWarning, match=message):
        got = reduced()
    with pytest.warns(RuntimeWarning, match=message):
        want = _numpy(name)(x, axis=1, keepdims=True)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["nanmean", "nanvar", "nanmax"])
def test_nothing_is_said_where_warnings_were_ignored(name: str) -> None:
    """Filters of the place where a reduction is written hold when it runs, as they would with NumPy."""
    x = np.full((1, 2), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reduction = getattr(reducers, name)(x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(reduction.finalize(reduction.partial(x, axis=(1,)))).all()


@pytest.mark.parametrize("name", FOLDS + EXTREMES + MOMENTS)
def test_nothing_is_said_where_nothing_is_wrong(name: str) -> None:
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    reduction = getattr(reducers, name)(x.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reduction.finalize(reduction.partial(x, axis=(1,)))


@pytest.mark.parametrize("name", EXTREMES)
def test_no_extreme_of_nothing(name: str) -> None:
    reduction = getattr(reducers, name)(float)
    with pytest.raises(ValueError, match=r"operation f?m(in|ax)(imum)? which has no identity"):
        reduction.finalize(reduction.partial(np.ones((3, 0)), axis=(1,)))
    assert reduction.finalize(reduction.partial(np.ones((3, 0)), axis=(0,))).shape == (1, 0)


def test_an_all_nan_slice_has_no_place() -> None:
    x = np.array([[np.nan, np.nan], [1.0, 2.0]])
    place = BlockPlace((0, 0), (1, 1), (AxisChunks((2,)), AxisChunks((2,))))
    reduction = reducers.nanargmin(float)
    with pytest.raises(ValueError, match="All-NaN slice encountered"):
        reduction.finalize(reduction.partial(x, axis=(1,), block_place=place))


def test_the_first_of_equal_values_counts_in_order_of_the_array_not_of_the_blocks() -> None:
    x = np.zeros((2, 4))
    x[0, 3] = x[1, 0] = 1
    domain = (AxisChunks((2,)), AxisChunks((2, 2)))
    reduction = reducers.argmax(float)
    parts = [
        reduction.partial(x[:, 2 * k : 2 * k + 2], axis=(0, 1), block_place=BlockPlace((0, k), (1, 2), domain))
        for k in range(2)
    ]
    assert reduction.finalize(reduction.combine(_concatenate(parts, 1), axis=(0, 1))) == x.argmax() == 3


@pytest.mark.parametrize("name", FOLDS + EXTREMES + MOMENTS + ARGS)
def test_reductions_are_plain_data(name: str) -> None:
    reduction = getattr(reducers, name)(np.float32)
    copy = pickle.loads(pickle.dumps(reduction))
    assert copy.name == name.rstrip("_")
    assert copy.dtype == reduction.dtype
    assert copy.finalize.__self__ == reduction.finalize.__self__  # type: ignore[attr-defined]


def test_the_memory_of_a_partial_is_announced() -> None:
    for name in FOLDS + EXTREMES + MOMENTS:
        reduction = getattr(reducers, name)(np.float32)
        parts = reduction.partial(np.ones((3, 50), np.float32), axis=(0,))
        assert reduction.partial_itemsize * 50 == sum(part.nbytes for part in parts if part.size > 1)
