"""Indexing against NumPy, for shapes, chunks and indices that hypothesis invents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import tilework.array as ta
from tilework.base.errors import UnknownChunksError, UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays, chunks

few = settings(max_examples=25)


@few
@given(st.data(), arrays(dtypes=["int64"], min_side=1))
def test_basic_index(data, pair):
    a, x = pair
    index = data.draw(npst.basic_indices(a.shape, allow_newaxis=True))
    assert_eq(x[index], a[index])


def entry(n):
    """Anything that may stand for an axis of length n."""
    return st.one_of(
        st.integers(-n, n - 1),
        st.slices(n),
        st.lists(st.integers(-n, n - 1), max_size=5).map(lambda i: np.array(i, int)),
        npst.arrays(bool, n),
    )


@few
@given(st.data(), arrays(dtypes=["int64"], min_dims=1, min_side=1))
def test_one_index_array_among_other_entries(data, pair):
    a, x = pair
    entries = [data.draw(entry(n)) for n in a.shape]
    several = [k for k, e in enumerate(entries) if isinstance(e, np.ndarray)]
    for k in several[1:]:
        entries[k] = slice(None)
    for at in data.draw(st.lists(st.integers(0, len(entries)), max_size=2)):
        entries.insert(at, None)
    index = tuple(entries)
    assert_eq(x[index], a[index])


@few
@given(st.data(), arrays(dtypes=["int64"], min_dims=2, min_side=1))
def test_several_index_arrays_select_points(data, pair):
    a, x = pair
    shape = data.draw(npst.array_shapes(max_dims=2, max_side=4))
    entries = []
    for n in a.shape:
        kind = data.draw(st.sampled_from(["array", "array", "int", "slice", "broadcast"]))
        positions = npst.arrays(int, shape if kind == "array" else shape[-1:], elements=st.integers(-n, n - 1))
        entries.append(
            data.draw(
                positions
                if kind in ("array", "broadcast")
                else st.slices(n)
                if kind == "slice"
                else st.integers(-n, n - 1)
            )
        )
    index = tuple(entries)
    assert_eq(x[index], a[index])


@few
@given(st.data(), arrays(dtypes=["int64"], min_dims=1, min_side=1))
def test_grid(data, pair):
    a, x = pair
    index = np.ix_(*(data.draw(npst.arrays(int, st.integers(0, 4), elements=st.integers(-n, n - 1))) for n in a.shape))
    assert_eq(x[index], a[index])


@few
@given(st.data(), arrays(dtypes=["float64"], min_dims=1, min_side=1))
def test_masks_of_several_axes(data, pair):
    a, x = pair
    ndim = data.draw(st.integers(1, a.ndim))
    start = data.draw(st.integers(0, a.ndim - ndim))
    mask = data.draw(npst.arrays(bool, a.shape[start : start + ndim]))
    index = (slice(None),) * start + (mask,)
    assert_eq(x[index], a[index])
    lazy = ta.from_array(mask, chunks=data.draw(chunks(mask.shape)))
    result = x[(*index[:-1], lazy)]
    assert np.isnan(result.shape[start])
    assert_eq(result, a[index])


@few
@given(st.data(), arrays(dtypes=["float64"], min_dims=1, min_side=1))
def test_lazy_integer_arrays(data, pair):
    a, x = pair
    axis = data.draw(st.integers(0, a.ndim - 1))
    shape = data.draw(npst.array_shapes(min_dims=0, max_dims=2, max_side=4))
    positions = data.draw(npst.arrays(int, shape, elements=st.integers(-a.shape[axis], a.shape[axis] - 1)))
    lazy = ta.from_array(positions, chunks=data.draw(chunks(shape)))
    before = (slice(None),) * axis
    assert_eq(x[(*before, lazy)], a[(*before, positions)])


FLAGS = [
    True, False, np.True_, np.array(False), (True, 0), (0, True), (slice(None), True), (..., True), (True, [0, 1]),
    ([0, 1], slice(None), True), (True, True), (None, True), (True, None, [1]), (0, True, None), (True, [[0, 1]]),
]  # fmt: skip


@pytest.mark.parametrize("index", FLAGS, ids=str)
def test_single_booleans(index):
    a = np.arange(6.0).reshape(2, 3)
    x = ta.from_array(a, chunks=2)
    result = x[index]
    assert result.shape == a[index].shape
    assert_eq(result, a[index])
    a, x = a.copy(), x.copy()
    a[index] = x[index] = -1
    assert_eq(x, a)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), (0, 0)])
def test_masks_of_no_elements_fit_any_axis(shape):
    a = np.arange(6.0).reshape(2, 3)
    x = ta.from_array(a, chunks=2)
    mask = np.zeros(shape, bool)
    for index in (mask, ta.from_array(mask)):
        assert x[index].shape == a[mask].shape  # known, though the mask is lazy
        assert_eq(x[index], a[mask])
        x[index] = -1
    assert_eq(x, a)


def test_ints_beside_arrays_count_as_arrays():
    a = np.arange(60).reshape(3, 4, 5)
    x = ta.from_array(a, chunks=2)
    for index in [
        (0, slice(None), [1, 2]),
        (0, [1, 2]),
        (slice(None), 1, [0, 3]),
        ([0, 2], slice(None), 1),
        ([0, 1], None, 2),
    ]:
        assert_eq(x[index], a[index])


def test_indices_that_numpy_refuses():
    x = ta.ones((3, 4), chunks=2)
    for index in [5, (0, 0, 0), (slice(None), -5), "field", 1.5, ([0, 1], [0, 1, 2]), np.ones(4, bool), ([7],)]:
        with pytest.raises(IndexError):
            x[index]


@few
@given(st.data(), arrays(dtypes=["int64"], min_dims=2, min_side=1))
def test_several_index_arrays_of_which_some_are_lazy(data, pair):
    a, x = pair
    shape = data.draw(npst.array_shapes(max_dims=2, max_side=4))
    plain, lazy = [], []
    for n in a.shape:
        kind = data.draw(st.sampled_from(["array", "lazy", "int", "slice"]))
        positions = npst.arrays(int, shape, elements=st.integers(-n, n - 1))
        number = st.integers(-n, n - 1)
        plain.append(data.draw(positions if kind in ("array", "lazy") else st.slices(n) if kind == "slice" else number))
        lazy.append(ta.from_array(plain[-1], chunks=2) if kind == "lazy" else plain[-1])
    assert_eq(x[tuple(lazy)], a[tuple(plain)])


def test_lazy_positions_outside():
    x = ta.ones((3, 4), chunks=2)
    with pytest.raises(IndexError, match="out of bounds"):
        x[ta.asarray([3])].compute()
    with pytest.raises(IndexError, match="5 is out of bounds for size 4"):
        x[ta.asarray([0]), ta.asarray([5])].compute()


def test_a_mask_and_an_index_array_that_are_lazy():
    x = ta.ones((4, 4), chunks=2)
    mask = ta.ones(4, dtype=bool, chunks=2)
    with pytest.raises(UnsupportedError, match="compute"):
        x[mask, [0, 1, 2, 3]]


def test_masks_without_axes():
    a = np.arange(6).reshape(2, 3)
    x = ta.from_array(a, chunks=2)
    for value in (True, False):
        assert_eq(x[ta.asarray(value)], a[np.bool_(value)])
        assert_eq(ta.asarray(5)[ta.asarray(value)], np.asarray(5)[np.bool_(value)])


def test_unknown_sizes_are_named_and_can_be_found_out():
    a = np.arange(12)
    x = ta.from_array(a, chunks=5)
    picked = x[x % 3 == 0]
    assert picked.chunks == ((np.nan,) * 3,) or all(np.isnan(n) for n in picked.chunks[0])
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        picked[1:]
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        len(picked)
    table = np.multiply.outer(picked, picked)
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        table[table > 3]
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        ta.flatnonzero(picked)
    assert_eq(picked + 1, a[a % 3 == 0] + 1)
    assert_eq(picked.sum(), a[a % 3 == 0].sum())
    assert picked.compute_chunk_sizes() is picked
    assert picked.chunks == ((2, 2, 0),)
    assert_eq(picked[1:], a[a % 3 == 0][1:])


@pytest.mark.parametrize("optimize_graph", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: x[:, :0],
        lambda x: x[:, []],
        lambda x: x[:, np.zeros(3, bool)],
        lambda x: x[:, :0, 1],
        lambda x: x[:, :0, :0],
        lambda x: (x + 1)[:, :0].sum(axis=1),
        lambda x: x[:, :0].T,
        lambda x: np.concatenate([x[:, :0], x], axis=1),
        lambda x: x[:, [0, 2, 1], [1, 0, 0]],
    ],
)
def test_beside_an_unknown_length(call, optimize_graph):
    a = np.arange(24).reshape(4, 3, 2)
    x = ta.from_array(a, chunks=2)
    result = call(x[x.sum(axis=(1, 2)) > 60])
    np.testing.assert_array_equal(result.compute(optimize_graph=optimize_graph), call(a[a.sum(axis=(1, 2)) > 60]))
    assert_eq(result, result.compute())


def test_masks_of_unknown_lengths_that_select_nothing():
    x = ta.ones((4, 3), chunks=2)
    y = x[x.sum(axis=1) > 0][:, :0]
    assert y[y > 0].shape == (0,)
    y[y > 0] = 5
    assert y.compute().shape == (4, 0)


def test_fields():
    a = np.array([(1, 2.5), (3, 4.5), (5, 6.5)], dtype=[("i", "int32"), ("f", "float64")])
    x = ta.from_array(a, chunks=2)
    assert_eq(x["f"], a["f"])
    assert x[["i"]].dtype == a[["i"]].dtype
    assert x[["f", "i"]].compute().tolist() == a[["f", "i"]].tolist()


# ---------------------------------------------------------------- accessors


@few
@given(st.data(), arrays(dtypes=["int64"], min_dims=2, min_side=1))
def test_vindex_puts_points_first(data, pair):
    a, x = pair
    indexed = sorted(data.draw(st.sets(st.integers(0, a.ndim - 1), min_size=1)))
    n = data.draw(st.integers(0, 6))
    positions = {k: data.draw(npst.arrays(int, n, elements=st.integers(-a.shape[k], a.shape[k] - 1))) for k in indexed}
    index = tuple(positions.get(k, slice(None)) for k in range(a.ndim))
    expected = np.moveaxis(a, indexed, range(len(indexed)))[tuple(positions.values())]
    assert_eq(x.vindex[index], expected)


def test_vindex_broadcasts_and_takes_slices():
    a = np.arange(60).reshape(3, 4, 5)
    x = ta.from_array(a, chunks=2)
    assert_eq(x.vindex[[[0], [2]], 1:3, [1, 4]], np.moveaxis(a[:, 1:3], 1, 2)[[[0], [2]], [1, 4]])
    assert_eq(x.vindex[1:], a[1:])
    with pytest.raises(IndexError, match="None"):
        x.vindex[None, [0]]


def test_blocks():
    a = np.arange(70).reshape(7, 10)
    x = ta.from_array(a, chunks=((2, 3, 2), (4, 4, 2)))
    assert x.blocks.shape == (3, 3)
    assert x.blocks.size == 9
    assert_eq(x.blocks[1], a[2:5])
    assert_eq(x.blocks[-1, 1:], a[5:, 4:])
    assert_eq(x.blocks[::2, 0], a[[0, 1, 5, 6], :4])
    assert x.blocks[::2].chunks == ((2, 2), (4, 4, 2))
    assert_eq(x.blocks[[2, 0]], a[[5, 6, 0, 1]])
    assert x.blocks[:].node is x.node
    assert [b.shape for b in x.blocks.ravel()][:4] == [(2, 4), (2, 4), (2, 2), (3, 4)]
    assert_eq(x.partitions[0, 0], a[:2, :4])
    with pytest.raises(IndexError):
        x.blocks[3]
    with pytest.raises(ValueError, match="one list"):
        x.blocks[[0], [1]]
    with pytest.raises(ValueError, match="newaxis"):
        x.blocks[None]


def test_take_and_compress():
    a = np.arange(24).reshape(4, 6)
    x = ta.from_array(a, chunks=(2, 4))
    assert_eq(ta.take(x, [5, 0, 7]), np.take(a, [5, 0, 7]))
    assert_eq(np.take(x, [[1, 0]], axis=0), np.take(a, [[1, 0]], axis=0))
    assert_eq(ta.take(x, [7, -8], axis=1, mode="wrap"), np.take(a, [7, -8], axis=1, mode="wrap"))
    assert_eq(ta.take(x, [7, -8], axis=1, mode="clip"), np.take(a, [7, -8], axis=1, mode="clip"))
    assert_eq(ta.take(x, [], axis=1), np.take(a, np.array([], int), axis=1))
    assert_eq(ta.compress([True, False, True], x, axis=1), np.compress([True, False, True], a, axis=1))
    assert_eq(ta.extract(x % 5 == 0, x), np.extract(a % 5 == 0, a))
