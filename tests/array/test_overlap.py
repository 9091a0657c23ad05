"""Halos against NumPy's pad, filters against scipy's."""

import bottleneck
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import PlanError
from tilework.testing import assert_eq

PAD = {"reflect": "symmetric", "nearest": "edge", "periodic": "wrap"}
"""NumPy's names for kinds of boundary."""


def padded(x, depth, boundary):
    for axis, (pair, kind) in enumerate(zip(depth, boundary, strict=True)):
        width = [(0, 0)] * x.ndim
        width[axis] = pair
        if kind == "none":
            continue
        x = np.pad(x, width, PAD[kind]) if kind in PAD else np.pad(x, width, constant_values=kind)
    return x


@st.composite
def problems(draw):
    ndim = draw(st.integers(1, 2))
    chunks = tuple(tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))) for _ in range(ndim))
    shape = tuple(map(sum, chunks))
    depth = tuple((draw(st.integers(0, min(n, 5))), draw(st.integers(0, min(n, 5)))) for n in shape)
    boundary = tuple(draw(st.sampled_from(["none", "reflect", "nearest", "periodic", 7])) for _ in range(ndim))
    return np.arange(np.prod(shape)).reshape(shape), chunks, depth, boundary


@settings(deadline=None, max_examples=40)
@given(problems())
def test_blocks_with_halo(problem):
    x, chunks, depth, boundary = problem
    wide = ta.overlap.overlap(ta.from_array(x, chunks=chunks), dict(enumerate(depth)), boundary)
    whole = padded(x, depth, boundary)
    pieces = []
    for sizes, (before, after), kind, n in zip(chunks, depth, boundary, whole.shape, strict=True):
        shift = 0 if kind == "none" else before
        stops = np.cumsum(sizes) + shift
        pieces.append(
            [(max(0, stop - size - before), min(n, stop + after)) for stop, size in zip(stops, sizes, strict=True)]
        )
    expected = whole[np.ix_(*[np.concatenate([np.arange(*p) for p in axis]) for axis in pieces])]
    assert wide.chunks == tuple(tuple(b - a for a, b in axis) for axis in pieces)
    np.testing.assert_array_equal(wide.compute(), expected)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_map_overlap_of_the_identity_changes_nothing(problem):
    x, chunks, depth, boundary = problem
    y = ta.from_array(x, chunks=chunks).map_overlap(lambda b: b.copy(), dict(enumerate(depth)), boundary)
    assert y.chunks == chunks
    np.testing.assert_array_equal(y.compute(), x)


@pytest.mark.parametrize(
    ("boundary", "mode"), [("reflect", "reflect"), ("nearest", "nearest"), ("periodic", "wrap"), (0, "constant")]
)
@pytest.mark.parametrize("chunks", [4, 2, 11])
def test_filters(boundary, mode, chunks):
    x = np.random.default_rng(1).normal(size=(11, 9))
    y = ta.from_array(x, chunks=chunks).map_overlap(scipy.ndimage.uniform_filter, depth=3, boundary=boundary, size=5)
    np.testing.assert_allclose(y.compute(), scipy.ndimage.uniform_filter(x, size=5, mode=mode))


def test_nothing_lies_beyond_the_ends_of_none():
    x = np.arange(16).reshape(4, 4)
    y = ta.from_array(x, chunks=(2, 2)).map_overlap(lambda b: b + b.size, {0: 1, 1: 1}, {0: "reflect", 1: "none"})
    np.testing.assert_array_equal(y.compute(), x + 12)


def test_asymmetric_depth():
    x = np.arange(10)
    y = ta.from_array(x, chunks=3).map_overlap(lambda b: b - np.roll(b, 1), depth={0: (1, 0)}, boundary=0)
    np.testing.assert_array_equal(y.compute(), np.diff(x, prepend=0))


def test_several_arrays_with_their_own_depths():
    x, y = np.arange(32.0).reshape(4, 8), np.arange(8.0)
    a, b = ta.from_array(x, chunks=(2, 4)), ta.from_array(y, chunks=2)

    def function(block, row):
        return block + row[1:-1].mean()

    z = ta.map_overlap(function, a, b, depth=[0, {0: 1}], boundary=["none", "nearest"], dtype=float)
    np.testing.assert_array_equal(z.compute(), x + np.repeat(y.reshape(-1, 2).mean(axis=1), 2))


def test_without_trim_the_function_cuts_itself():
    x = np.arange(12)
    y = ta.from_array(x, chunks=4).map_overlap(lambda b: b[1:-1] * 2, depth=1, boundary="reflect", trim=False)
    np.testing.assert_array_equal(y.compute(), x * 2)


def test_dropped_and_new_axes():
    x = np.arange(24.0).reshape(4, 6)
    a = ta.from_array(x, chunks=(2, 3))
    y = a.map_overlap(lambda b: b.sum(axis=1), depth={0: 1}, boundary="nearest", drop_axis=1, dtype=float)
    np.testing.assert_array_equal(y.compute(), x.sum(axis=1))
    z = a.map_overlap(lambda b: b[None], depth={1: 1}, boundary="nearest", new_axis=0, dtype=float)
    np.testing.assert_array_equal(z.compute(), x[None])


def test_no_depth_is_map_blocks():
    x = ta.ones(10, chunks=5, dtype=int)
    whole = {"chunks": (), "drop_axis": 0}
    assert ta.map_overlap(np.sum, x, **whole, boundary="reflect").compute() == 10


def test_trim_internal():
    x = ta.from_array(np.arange(9), chunks=3)
    np.testing.assert_array_equal(ta.overlap.trim_internal(x, {0: 1}, "none").compute(), [0, 1, 4, 7, 8])
    np.testing.assert_array_equal(ta.overlap.trim_overlap(x, 1, "reflect").compute(), [1, 4, 7])


@pytest.mark.parametrize("chunks", [2, 3, 20])
def test_sliding_window_view(chunks):
    x = np.arange(70).reshape(10, 7)
    a = ta.from_array(x, chunks=chunks)
    view = np.lib.stride_tricks.sliding_window_view
    np.testing.assert_array_equal(ta.overlap.sliding_window_view(a, (4, 3)).compute(), view(x, (4, 3)))
    np.testing.assert_array_equal(ta.overlap.sliding_window_view(a, 7, axis=1).compute(), view(x, 7, axis=1))
    np.testing.assert_array_equal(
        ta.overlap.sliding_window_view(a, (2, 3), axis=(0, 0)).compute(), view(x, (2, 3), axis=(0, 0))
    )


def test_refusals():
    x = ta.ones((4, 4), chunks=2)
    with pytest.raises(PlanError, match="-1"):
        x.map_overlap(np.sqrt, depth=-1)
    with pytest.raises(PlanError, match="no boundary 'mirror'"):
        x.map_overlap(np.sqrt, depth=1, boundary="mirror")
    with pytest.raises(PlanError, match="larger than its 4 elements"):
        x.map_overlap(np.sqrt, depth=5, boundary="reflect")
    with pytest.raises(PlanError, match="3 values for an array of 2"):
        x.map_overlap(np.sqrt, depth=(1, 1, 1))
    with pytest.raises(TypeError, match="must be arrays"):
        ta.map_overlap(np.sqrt, np.ones(3), depth=1)
    with pytest.raises(PlanError, match="longer than the array"):
        ta.overlap.sliding_window_view(x, (5, 1))


def test_numpys_own_function_finds_lazy_arrays():
    view = np.lib.stride_tricks.sliding_window_view(ta.arange(5, chunks=2), 3)
    assert isinstance(view, ta.Array)
    np.testing.assert_array_equal(view.compute()[:, 0], [0, 1, 2])


# ---------------------------------------------------------------- push


@pytest.mark.parametrize("n", [None, 1, 3, 9, 24])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_push(n, axis):
    rng = np.random.default_rng(0)
    a = rng.random((24, 10))
    a[rng.random(a.shape) < 0.6] = np.nan
    assert_eq(ta.push(ta.from_array(a, chunks=(5, 3)), n, axis), bottleneck.push(a, n, axis))


def test_push_of_dates():
    a = np.array(["NaT", "2001-01-01", "NaT", "NaT", "2002-01-01"], "M8[D]")
    expected = np.array(["NaT", "2001-01-01", "2001-01-01", "NaT", "2002-01-01"], "M8[D]")
    assert_eq(ta.push(ta.from_array(a, chunks=2), 1, 0), expected)


def test_windows_of_one_in_empty_blocks():
    x = ta.from_array(np.arange(4), chunks=((0, 3, 0, 1),))
    expected = np.lib.stride_tricks.sliding_window_view(np.arange(4), 1)
    assert_eq(ta.sliding_window_view(x, 1), expected)
    assert_eq(ta.sliding_window_view(x[x > 1], 1), expected[2:])
