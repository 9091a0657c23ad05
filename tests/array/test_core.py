"""The array object itself: metadata, conversions, containers, pickles, pictures."""

import copy
import pickle
import xml.etree.ElementTree as ET

import cloudpickle
import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.array.core import Array
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.testing import assert_eq


@pytest.fixture
def a():
    return np.arange(60, dtype="float32").reshape(3, 4, 5)


@pytest.fixture
def x(a):
    return ta.from_array(a, chunks=(2, 3, 2))


@pytest.fixture
def unknown():
    x = ta.arange(10, chunks=4)
    return x[x > 3]


# ---------------------------------------------------------------- metadata


def test_metadata(x):
    assert (x.shape, x.dtype, x.ndim, x.size, x.itemsize, x.nbytes) == ((3, 4, 5), np.float32, 3, 60, 4, 240)
    assert x.chunks == ((2, 1), (3, 1), (2, 2, 1))
    assert (x.chunksize, x.numblocks, x.npartitions) == ((2, 3, 2), (2, 2, 3), 12)
    assert len(x) == 3
    assert x.name == x.node.token
    assert x.device == "cpu"
    assert x.to_device("cpu") is x
    assert x.__array_namespace__() is ta
    assert tw.is_tilework_collection(x)
    assert not hasattr(x, "__dask_graph__")


def test_unknown_metadata(unknown):
    assert np.isnan(unknown.shape[0])
    assert np.isnan(unknown.size)
    assert np.isnan(unknown.nbytes)
    assert repr(unknown) == "tilework.array<getitem, shape=(nan,), dtype=int64, chunksize=(nan,)>"
    with pytest.raises(UnknownChunksError):
        len(unknown)


def test_repr(x):
    assert repr(x.mean(axis=(0, 1))) == "tilework.array<mean, shape=(5,), dtype=float32, chunksize=(2,)>"
    assert repr(x.sum()) == "tilework.array<sum, shape=(), dtype=float32, chunksize=()>"


def test_every_declared_method_is_bound():
    for name in Array.__annotations__:
        assert name == "node" or hasattr(Array, name), name


def test_equal_programs_have_equal_names(a):
    def program(x):
        return ta.where(x[1:] > 3, x[1:].sum(axis=0), 0)

    assert program(ta.from_array(a, chunks=2)).name == program(ta.from_array(a, chunks=2)).name
    assert program(ta.from_array(a, chunks=2)).name != program(ta.from_array(a + 1, chunks=2)).name


# ---------------------------------------------------------------- conversions


def test_conversions(a, x):
    np.testing.assert_array_equal(np.asarray(x), a)
    np.testing.assert_array_equal(np.array(x, dtype=int), a.astype(int))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, copy=False)
    one = x[0, 1, 2]
    assert (float(one), int(one), complex(one), bool(one), one.item()) == (7.0, 7, 7 + 0j, True, 7.0)
    assert x.item(3) == a.item(3)
    assert x.item(0, 1, 2) == x.item((0, 1, 2)) == a.item(0, 1, 2)
    assert isinstance(one.compute(), np.float32)
    assert [10, 20, 30][ta.asarray(1)] == 20
    assert list(range(5))[ta.asarray(1) : ta.asarray(3)] == [1, 2]
    assert float(ta.ones((1, 1))[0]) == 1


def test_conversions_that_make_no_sense(x):
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)
    for convert in (float, int, complex):
        with pytest.raises(TypeError, match="one element"):
            convert(x)
    with pytest.raises(TypeError, match="index"):
        [1, 2][ta.asarray(1.0)]
    with pytest.raises(TypeError, match="unsized"):
        len(x.sum())
    with pytest.raises(TypeError, match="0-d"):
        iter(x.sum())
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


def test_iteration_and_membership(a, x):
    for mine, theirs in zip(x, a, strict=True):
        assert_eq(mine, theirs)
    assert 7 in x
    assert 700 not in x


# ---------------------------------------------------------------- copies and pickles


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda x: x.copy(), np.copy])
def test_copies_are_apart(a, x, clone):
    y = clone(x)
    y[0] = -1
    assert_eq(x, a)
    assert y.dtype == x.dtype


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_pickle(a, x, dumps):
    y = (x + 1).sum(axis=0).T[::-1]
    again = pickle.loads(dumps(y))
    assert again.name == y.name
    assert again.chunks == y.chunks
    assert_eq(again, (a + 1).sum(axis=0).T[::-1])


# ---------------------------------------------------------------- running


def test_persist_and_compute(a, x):
    y = (x * 2).persist()
    assert y.chunks == x.chunks
    assert_eq(y, a * 2)
    assert_eq(y[1:], a[1:] * 2)
    total, most = tw.compute(x.sum(), x.max())
    assert (total, most) == (a.sum(), a.max())
    assert np.isnan(ta.from_array(np.array([1, np.nan]), chunks=1).persist().sum().compute())


@pytest.mark.parametrize("chunks", [((0,), (4,)), ((2, 0, 1), (4,)), ((3,), (0, 4, 0))])
def test_persisted_blocks_may_be_empty(chunks):
    x = ta.ones(tuple(map(sum, chunks)), chunks=chunks).persist(scheduler="sync")
    assert x.chunks == chunks
    assert_eq(x, np.ones(x.shape))


def test_persisted_arrays_of_unknown_size_know_it(unknown):
    y = unknown.persist()
    assert y.chunks == ((0, 4, 2),)
    assert_eq(y[1:], np.arange(5, 10))


def test_compute_chunk_sizes_of_several_axes():
    a = np.arange(36).reshape(6, 6)
    x = ta.from_array(a, chunks=(4, 3))
    y = x[x[:, 0] > 6][:, ta.from_array(np.arange(6) % 2 == 0, chunks=3)]
    assert y.compute_chunk_sizes() is y
    assert y.chunks == ((2, 2), (2, 1))
    assert_eq(y, a[2:, ::2])
    assert_eq(y[1, 1:], a[3, 2::2])


def test_explain_and_visualize(x, tmp_path):
    assert "sum" in str(x.sum().explain())
    assert x.sum().visualize(filename=None) is not None


def test_to_delayed(a, x):
    blocks = x.to_delayed()
    assert blocks.shape == x.numblocks
    np.testing.assert_array_equal(blocks[1, 0, 2].compute(), a[2:, :3, 4:])
    assert tw.delayed(lambda b: b.sum())(blocks[0, 0, 0]).compute() == a[:2, :3, :2].sum()


def test_view(a, x):
    assert_eq(x.view("int32"), a.view("int32"))
    assert_eq(x.view("int16"), a.view("int16"))
    assert_eq(ta.from_array(a[..., :4], chunks=2).view("int64"), a[..., :4].copy().view("int64"))
    with pytest.raises(PlanError, match="rechunk"):
        x.view("int64")
    with pytest.raises(TypeError, match="objects"):
        x.view(object)
    assert_eq(x.view("int16", order="F"), np.ascontiguousarray(a.T).view("int16").T)
    with pytest.raises(PlanError, match="order"):
        x.view("int32", order="A")


def test_methods_of_blocks(a, x):
    assert_eq(x.map_blocks(lambda b: b + 1), a + 1)
    assert_eq(x.map_overlap(lambda b: b, depth=1, boundary="none"), a)
    assert_eq(x.rechunk(-1), a)
    assert_eq(x.dot(a[0].T), a.dot(a[0].T))


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "x",
    [
        ta.ones(10, chunks=3),
        ta.ones((4, 5), chunks=2),
        ta.ones((4, 5, 6), chunks=2),
        ta.ones((4, 5, 6, 7, 8), chunks=2),
        ta.ones((10**5, 3), chunks=(10, 1)),
        ta.ones(()),
        ta.ones((0, 3)),
        ta.arange(10, chunks=3)[ta.arange(10, chunks=3) > 3],
        ta.full(2, "<b>&"),
    ],
    ids=str,
)
def test_html(x):
    html = x._repr_html_()
    root = ET.fromstring(html.replace("&nbsp;", " "))
    pictures = root.findall(".//svg")
    assert len(pictures) == -(-x.ndim // 3)
    assert "numpy.ndarray" in html
    for size in x.shape:
        assert ("?" if size != size else str(size)) in html
    assert len(html) < 30_000


def test_the_picture_has_a_line_between_blocks():
    def lines(x):
        return sum(p.get("d").count("M") for p in ET.fromstring(x._repr_html_()).iter("path"))

    assert lines(ta.ones(10, chunks=3)) == 3
    assert lines(ta.ones((4, 6), chunks=2)) == 3
    assert lines(ta.ones((4, 6, 2), chunks=2)) == (1 + 2) + (2 + 0) + (1 + 0)


@pytest.mark.parametrize("ndim", [0, 1, 3, 5])
def test_svg(ndim):
    picture = ET.fromstring(ta.ones((8,) * ndim, chunks=4).to_svg(size=300))
    assert picture.get("width") == "300"
    assert len(list(picture)) == (ndim + 2) // 3
