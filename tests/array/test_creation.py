"""Creation against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.base.errors import ChunkError, DTypeError, PlanError, StorageError, UnsupportedError
from tilework.testing import assert_eq


class Recorded:
    """Looks like an array on disk, and tells what was read."""

    def __init__(self, a, chunks=None):
        self._a, self.shape, self.dtype, self.chunks, self.reads = a, a.shape, a.dtype, chunks, []

    def __getitem__(self, index):
        self.reads.append(index)
        return self._a[index]


# ---------------------------------------------------------------- from_array


def test_from_array_chunks():
    a = np.arange(60).reshape(6, 10)
    for chunks, expected in [
        (4, ((4, 2), (4, 4, 2))),
        ((3, -1), ((3, 3), (10,))),
        ((3, None), ((3, 3), (10,))),
        (((1, 5), 5), ((1, 5), (5, 5))),
        ({1: 5}, ((6,), (5, 5))),
        ("auto", ((6,), (10,))),
        ("160B", ((4, 2), (4, 4, 2))),
    ]:
        x = ta.from_array(a, chunks=chunks)
        assert x.chunks == expected
        assert_eq(x, a)
    with tw.config.set(chunk_size="80B"):
        assert ta.from_array(a).chunks == ((3, 3), (3, 3, 3, 1))


@pytest.mark.parametrize("chunks", [((3, 2), 10), (0, 5), (-2, 5), (3, 3, 3), "many", ((4, -1), 10), {5: 1}, 2.5])
def test_chunks_that_make_no_sense(chunks):
    with pytest.raises(ValueError):
        ta.from_array(np.zeros((6, 10)), chunks=chunks)


def test_from_array_reads_what_is_needed_only():
    source = Recorded(np.arange(100).reshape(10, 10), chunks=(2, 5))
    x = ta.from_array(source, chunks=(4, 5))
    assert ta.from_array(source).chunks == ((10,), (10,))
    assert source.reads == []
    assert_eq(x[5, 2:4], source._a[5, 2:4], check_chunks=False)
    assert source.reads == [(slice(5, 6, 1), slice(2, 4, 1))]


def test_names():
    a, b = Recorded(np.arange(4)), Recorded(np.arange(4))
    assert ta.from_array(a, name="same").name == ta.from_array(b, name="same").name
    assert ta.from_array(a).name == ta.from_array(a).name
    assert ta.from_array(a).name != ta.from_array(b).name
    assert ta.from_array(a, name=False).name != ta.from_array(a, name=False).name
    assert ta.from_array(np.arange(4)).name == ta.from_array(np.arange(4)).name


def test_lock():
    class Lock:
        held = 0

        def __enter__(self):
            self.held += 1

        def __exit__(self, *args):
            pass

    lock = Lock()
    ta.from_array(Recorded(np.arange(4)), chunks=2, lock=lock, inline_array=True, fancy=False, asarray=True).compute()
    assert lock.held == 2


def test_what_from_array_takes_and_refuses():
    assert_eq(ta.from_array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]))
    assert_eq(ta.from_array(5), np.array(5))
    assert_eq(ta.from_array(np.float32(5)), np.array(5, "float32"))
    with pytest.raises(PlanError, match="rechunk"):
        ta.from_array(ta.ones(3))
    with pytest.raises(UnsupportedError, match="getitem"):
        ta.from_array(np.ones(3), getitem=print)
    with pytest.raises(UnsupportedError, match="filled"):
        ta.from_array(np.ma.masked_array([1, 2], [True, False]))
    with pytest.raises(DTypeError, match="object"):
        ta.from_array(np.array([None, 1], dtype=object))
    x = ta.from_array(np.array([None, 1, "a"], dtype=object), chunks=2)
    assert x.compute().tolist() == [None, 1, "a"]

    class Sparse(Recorded):
        def __array_function__(self, *args):
            raise NotImplementedError

    with pytest.raises(UnsupportedError, match="todense"):
        ta.from_array(Sparse(np.arange(3)))


def test_sources_that_fail_or_lie():
    class Broken(Recorded):
        def __getitem__(self, index):
            raise RuntimeError("file is closed")

    class Short(Recorded):
        def __getitem__(self, index):
            return self._a[:1]

    with pytest.raises(StorageError, match="file is closed"):
        ta.from_array(Broken(np.arange(4)), chunks=2).compute()
    with pytest.raises(ValueError, match="shape"):
        ta.from_array(Short(np.arange(4)), chunks=2).compute()


def test_asarray_and_array():
    x = ta.ones(3, chunks=2)
    assert ta.asarray(x) is x
    assert ta.asanyarray(x, dtype=float) is x
    assert ta.asarray(x, copy=True) is not x
    assert_eq(ta.asarray(x, dtype=int), np.ones(3, int))
    assert_eq(ta.asarray([x, x + 1]), np.array([[1.0, 1, 1], [2, 2, 2]]))
    assert_eq(ta.asarray([[x.sum(), 4], [5, 6]]), np.array([[3.0, 4], [5, 6]]))
    assert_eq(ta.asarray([1, 2], dtype="int8"), np.array([1, 2], dtype="int8"))
    assert ta.asarray(np.array([None, 3])).dtype == object
    assert ta.array(x) is not x
    assert_eq(ta.array([1, 2], ndmin=3), np.array([1, 2], ndmin=3))
    with pytest.raises(UnsupportedError, match="cpu"):
        ta.asarray([1], device="gpu")


# ---------------------------------------------------------------- constants


@pytest.mark.parametrize("name", ["zeros", "ones", "empty"])
def test_constants(name):
    create, theirs = getattr(ta, name), getattr(np, name)
    for shape, dtype in [((3, 4), "int8"), (5, float), ((), bool), ((0, 2), "complex64"), ([2, 3], "M8[D]")]:
        x = create(shape, dtype=dtype, chunks=2) if name != "ones" or dtype != "M8[D]" else None
        if x is not None:
            expected = theirs(shape, dtype)
            assert x.shape == expected.shape
            assert x.dtype == expected.dtype
            assert_eq(x, np.zeros(shape, dtype) if name == "empty" else expected)
    assert create((10**6, 10**6), chunks=(10**5, 10**5)).npartitions == 100


def test_full():
    assert_eq(ta.full((2, 3), 7, chunks=1), np.full((2, 3), 7))
    assert_eq(ta.full(3, 2.5, dtype="int16"), np.full(3, 2.5, dtype="int16"))
    assert_eq(ta.full(2, np.nan), np.full(2, np.nan))
    assert_eq(ta.full(2, "abc"), np.full(2, "abc"))
    assert ta.full(2, None).compute().tolist() == [None, None]
    with pytest.raises(ValueError, match="broadcast_to"):
        ta.full((2, 2), [1, 2])
    with pytest.raises(ValueError, match="negative"):
        ta.zeros((2, -1))
    with pytest.raises((TypeError, AttributeError)):
        ta.zeros(2.5)


def test_like():
    a = np.arange(12, dtype="int16").reshape(3, 4)
    x = ta.from_array(a, chunks=(2, 3))
    for name in ("zeros_like", "ones_like", "empty_like"):
        y = getattr(np, name)(x)
        assert y.chunks == x.chunks
        assert y.dtype == x.dtype
    assert_eq(ta.zeros_like(a), np.zeros_like(a))
    assert_eq(ta.ones_like(x, dtype=float), np.ones_like(a, dtype=float))
    assert_eq(np.full_like(x, 7.5), np.full_like(a, 7.5))
    assert ta.full_like(x, 1, shape=(5,)).shape == (5,)
    assert ta.full_like(x, 1, chunks=1).numblocks == (3, 4)
    unknown = x[x > 5]
    assert_eq(ta.full_like(unknown, 3), np.full_like(a[a > 5], 3))


# ---------------------------------------------------------------- ranges


@settings(max_examples=40)
@given(st.data())
def test_arange(data):
    number = data.draw(st.sampled_from([st.integers(-20, 20), st.floats(-20, 20, width=16)]))
    step = data.draw(number.filter(lambda s: abs(s) > 0.3))
    args = data.draw(st.sampled_from([(data.draw(number),), (data.draw(number), data.draw(number), step)]))
    dtype = data.draw(st.sampled_from([None, "float32", "int64"]))
    if dtype == "int64":
        args = tuple(int(v) or 1 for v in args)
    assert_eq(ta.arange(*args, dtype=dtype, chunks=3), np.arange(*args, dtype=dtype))


def test_arange_of_dates():
    assert_eq(ta.arange("2000-01", "2000-05", dtype="M8[M]", chunks=2), np.arange("2000-01", "2000-05", dtype="M8[M]"))
    with pytest.raises(ZeroDivisionError):
        ta.arange(0, 3, 0)


def test_linspace():
    for options in ({}, {"num": 7}, {"endpoint": False}, {"num": 1}, {"num": 0}, {"dtype": int}):
        assert_eq(ta.linspace(-1, 5, chunks=4, **options), np.linspace(-1, 5, **options))
    _, step = ta.linspace(0, 1, 11, retstep=True, chunks=4)
    assert step == np.linspace(0, 1, 11, retstep=True)[1]
    with pytest.raises(ValueError):
        ta.linspace(0, 1, -1)
    with pytest.raises(UnsupportedError, match="linspace"):
        ta.linspace([0, 1], 2)


def test_eye_and_tri():
    for n, m, k in [(3, None, 0), (3, 5, 1), (4, 2, -2), (3, 3, 9), (0, 3, 0)]:
        assert_eq(ta.eye(n, m, k=k, chunks=2), np.eye(n, m, k))
        assert_eq(ta.tri(n, m, k=k, chunks=2), np.tri(n, m, k))
    assert ta.eye(3, dtype=bool).dtype == bool
    assert_eq(ta.eye(3, chunks=2, M=5, k=1), np.eye(3, M=5, k=1))


def test_indices_meshgrid_fromfunction():
    assert_eq(ta.indices((3, 4), chunks=2), np.indices((3, 4)))
    assert_eq(ta.indices((), dtype=int), np.indices(()))
    for mine, theirs in zip(ta.indices((3, 4), sparse=True), np.indices((3, 4), sparse=True), strict=True):
        assert_eq(mine, theirs)
    vectors = [np.arange(3), np.arange(4.0), 7]
    for options in ({}, {"indexing": "ij"}, {"sparse": True}):
        for count in (1, 2, 3):
            mine, theirs = ta.meshgrid(*vectors[:count], **options), np.meshgrid(*vectors[:count], **options)
            for m, t in zip(mine, theirs, strict=True):
                assert_eq(m, t)
    with pytest.raises(ValueError, match="indexing"):
        ta.meshgrid([1], indexing="yx")
    assert_eq(
        ta.fromfunction(lambda i, j: i * 10 + j, shape=(3, 4), chunks=2),
        np.fromfunction(lambda i, j: i * 10 + j, (3, 4)),
    )
    assert_eq(ta.fromfunction(lambda i: 5.0, shape=3, dtype=int, chunks=2), np.full(3, 5.0))


def test_nothing_is_made_before_it_is_computed():
    assert ta.ones((10**9, 10**9), chunks=(10**6, 10**6)).nbytes == 8 * 10**18
    assert ta.arange(10**15, chunks=10**9)[-1].compute() == 10**15 - 1
    with pytest.raises(ChunkError):
        ta.ones((3, 3), chunks=((1, 1), 3))


def test_names_begin_with_the_operation():
    x = ta.ones((4, 4), chunks=2)
    for made, name in ((x, "ones"), (ta.zeros_like(x), "zeros_like"), (ta.full_like(x, 3), "full_like")):
        assert made.name.startswith(f"{name}-")
    assert x[1:].name != x.name
    with pytest.raises(ValueError, match="fill_value must be scalar"):
        ta.full_like(x, [1, 2])


def test_meshgrid_flattens():
    a, b = np.arange(6).reshape(2, 3), np.arange(4)
    for mine, theirs in zip(ta.meshgrid(ta.from_array(a, chunks=2), b), np.meshgrid(a, b), strict=True):
        assert_eq(mine, theirs)


@pytest.mark.parametrize("name", ["ones", "zeros", "empty"])
def test_a_name_that_was_asked_for(name: str) -> None:
    make, like = getattr(ta, name), getattr(ta, name + "_like")
    named = make(3, name="mine")
    assert named.name == "mine"
    assert like(named, name="other").name == "other"
    assert make(3).name == make(3).name != "mine"
    assert_eq(named + make(3), named.compute() * 2)  # of the same contents, whatever they are called
