"""Ufuncs and elementwise functions against NumPy."""

import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays, chunks

few = settings(max_examples=25)
UFUNCS = [f for f in vars(ta).values() if isinstance(f, np.ufunc) and f.signature is None]


@pytest.fixture
def a():
    return np.linspace(-2, 2, 12).reshape(3, 4)


@pytest.fixture
def x(a):
    return ta.from_array(a, chunks=(2, 3))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda f: f.__name__)
def test_every_ufunc_of_the_namespace(ufunc):
    tried = 0
    for dtype in ("float64", "int64", "bool", "complex64", "M8[D]"):
        values = np.arange(1, 13).reshape(3, 4).astype(dtype)
        try:
            expected = ufunc(*[values] * ufunc.nin)
        except TypeError:
            with pytest.raises(TypeError):
                ufunc(*[ta.from_array(values, chunks=2)] * ufunc.nin)
            continue
        tried += 1
        found = ufunc(*[ta.from_array(values, chunks=2)] * ufunc.nin)
        for mine, theirs in zip(*[(r if ufunc.nout > 1 else [r]) for r in (found, expected)], strict=True):
            assert_eq(mine, theirs)
    assert tried


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
          operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op", BINARY, ids=lambda f: f.__name__)
def test_operators_with_all_kinds_of_operands(op, a, x):
    for other in (2, 2.5, np.float32(3), np.int8(2), a + 3, a[0] + 3, ta.from_array(a + 3, chunks=2), ta.asarray(3)):
        plain = other.compute() if isinstance(other, ta.Array) else other
        assert_eq(op(x, other), op(a, plain))
        assert_eq(op(other, x), op(plain, a))


@pytest.mark.parametrize("op", [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift])
def test_operators_of_integers(op):
    a = np.arange(6)
    assert_eq(op(ta.from_array(a, chunks=4), 3), op(a, 3))
    assert_eq(op(3, ta.from_array(a, chunks=4)), op(3, a))


def test_unary_operators_and_divmod(a, x):
    assert_eq(-x, -a)
    assert_eq(+x, +a)
    assert_eq(abs(x), abs(a))
    assert_eq(~(x > 0), ~(a > 0))
    for mine, theirs in zip(divmod(x, 0.7), divmod(a, 0.7), strict=True):
        assert_eq(mine, theirs)
    assert_eq(x @ x.T, a @ a.T)


def test_in_place_operators_keep_the_dtype(a, x):
    same, before = x, x + 0
    x += 1
    x *= a
    assert x is same
    assert_eq(x, (a + 1) * a)
    assert_eq(before, a)
    i = ta.arange(4, chunks=2)
    i //= 2
    assert_eq(i, np.arange(4) // 2)
    with pytest.raises(TypeError, match="same_kind"):
        i += 0.5


@few
@given(st.data(), arrays(dtypes=["float64", "int8", "bool"]))
def test_broadcasting_and_chunks_that_differ(data, pair):
    a, x = pair
    shape = tuple(data.draw(st.sampled_from([1, n])) for n in a.shape)[data.draw(st.integers(0, a.ndim)) :]
    b = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype("int16")
    y = ta.from_array(b, chunks=data.draw(chunks(shape)))
    assert_eq(x + y, a + b)
    assert_eq(y * a, b * a)


def test_shapes_that_do_not_broadcast(x):
    with pytest.raises(ValueError, match=r"\(3, 4\) and \(3,\)"):
        x + ta.ones(3)
    with pytest.raises(ValueError):
        x + np.ones(3)


def test_python_numbers_are_weak_and_numpy_scalars_are_not():
    x = ta.ones(4, dtype="float32", chunks=2)
    assert (x + 1.5).dtype == np.float32
    assert (x + np.float64(1.5)).dtype == np.float64
    assert (ta.ones(4, dtype="int8") + 1).dtype == np.int8
    with pytest.raises(OverflowError):
        ta.ones(4, dtype="int8") + 1000


# ---------------------------------------------------------------- out, where, dtype, methods


def test_out(a, x):
    out = ta.zeros((3, 4), chunks=1)
    assert np.add(x, 1, out=out) is out
    assert_eq(out, a + 1)
    wide = ta.zeros((2, 3, 4), dtype="complex128")
    np.multiply(x, 2, out=wide)
    assert_eq(wide, np.broadcast_to(a * 2 + 0j, (2, 3, 4)))
    with pytest.raises(ValueError, match="non-broadcastable"):
        np.add(x, 1, out=ta.zeros(4))
    with pytest.raises(TypeError, match="same_kind"):
        np.add(x, 1, out=ta.zeros((3, 4), dtype=int))
    with pytest.raises(UnsupportedError, match="lazy array"):
        np.add(x, 1, out=np.zeros((3, 4)))


def test_where_of_ufuncs(a, x):
    mask = a > 0
    for where in (mask, ta.from_array(mask, chunks=1)):
        out = ta.full((3, 4), 7.0)
        assert_eq(np.divide(1, x, out=out, where=where), np.divide(1, a, out=np.full((3, 4), 7.0), where=mask))
    with pytest.raises(TypeError, match="boolean"):
        np.add(x, 1, where=a)


def test_dtype_and_casting():
    x, a = ta.arange(4, chunks=3), np.arange(4)
    assert_eq(np.add(x, x, dtype="float32"), np.add(a, a, dtype="float32"))
    assert_eq(np.true_divide(x, 3, dtype="float32"), np.true_divide(a, 3, dtype="float32"))
    with pytest.raises(TypeError):
        np.add(x, 1.5, dtype="int64", casting="safe")


@pytest.mark.parametrize(
    "ufunc", [np.add, np.maximum, np.fmin, np.lcm, np.hypot, np.bitwise_and], ids=lambda u: u.__name__
)
def test_reduce_and_accumulate_over_empty_blocks(ufunc):
    a = np.arange(1, 7)
    x = ta.from_array(a, chunks=((0, 2, 0, 0, 3, 1, 0),))
    some = ta.from_array(a, chunks=2)
    if ufunc is np.hypot:
        a, x, some = a / 2, x / 2, some / 2
    for lazy, plain in [(x, a), (some[some > 2], a[a > 2]), (some[(some < 2) | (some > 2.5)], a[(a < 2) | (a > 2.5)])]:
        assert_eq(ufunc.accumulate(lazy), ufunc.accumulate(plain))
        assert_eq(ufunc.reduce(lazy), ufunc.reduce(plain))
    assert_eq(ufunc.accumulate(x[:0]), ufunc.accumulate(a[:0]))


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum, np.logical_or, np.fmin, np.logaddexp, np.hypot])
def test_reduce_and_accumulate(ufunc, a, x):
    assert_eq(ufunc.reduce(x), ufunc.reduce(a))
    assert_eq(ufunc.reduce(x, axis=1, keepdims=True), ufunc.reduce(a, axis=1, keepdims=True))
    assert_eq(ufunc.accumulate(x, axis=1), ufunc.accumulate(a, axis=1))


def test_ufunc_methods_that_need_all_elements_in_order(x):
    for call in (np.subtract.reduce, np.divide.accumulate):
        with pytest.raises(UnsupportedError, match="order"):
            call(x)
    with pytest.raises(UnsupportedError, match="reduceat"):
        np.add.reduceat(x, [0, 1])


def test_outer(a, x):
    assert_eq(np.subtract.outer(x, a[0]), np.subtract.outer(a, a[0]))


def test_the_result_may_depend_on_the_initial_value(a, x):
    assert_eq(np.add.reduce(x, axis=None, initial=3), np.add.reduce(a, axis=None, initial=3))
    assert_eq(np.maximum.reduce(x, initial=1, where=a < 0), np.maximum.reduce(a, initial=1, where=a < 0))


def test_other_libraries_ufuncs(a, x):
    special = pytest.importorskip("scipy.special")
    assert_eq(special.erf(x), special.erf(a))
    assert_eq(ta.frompyfunc(lambda v: v > 0, 1, 1)(x), (a > 0).astype(object))


def test_generalized_ufuncs(a, x):
    assert_eq(np.matmul(x, x.T), np.matmul(a, a.T))
    assert_eq(np.matmul(x, x.T, dtype="float32"), np.matmul(a, a.T, dtype="float32"))
    assert_eq(np.matmul(x, a.T, dtype=int, casting="unsafe"), np.matmul(a, a.T, dtype=int, casting="unsafe"))
    with pytest.raises(UnsupportedError, match="axes"):
        np.matmul(x, x, axes=[(0, 1), (1, 0), (0, 1)])
    assert_eq(np.vecdot(x, x), np.vecdot(a, a))
    assert_eq(np.matvec(x, a[0]), np.matvec(a, a[0]))
    assert_eq(np.vecdot(x, x, axis=0), np.vecdot(a, a, axis=0))
    out = ta.zeros((3, 3))
    assert np.matmul(x, x.T, out=out) is out


def test_foreign_operands_may_know_better(x):
    class Stranger:
        def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
            return "mine"

    class Refuses:
        __array_ufunc__ = None

    assert x + Stranger() == "mine"
    with pytest.raises(TypeError):
        x + Refuses()


# ---------------------------------------------------------------- functions


def test_elementwise_functions(a, x):
    b = np.where(a > 1, np.nan, a)
    b[0, 0] = np.inf
    y = ta.from_array(b, chunks=2)
    for function in (
        np.isposinf,
        np.isneginf,
        np.nan_to_num,
        np.isreal,
        np.iscomplex,
        np.real,
        np.imag,
        np.angle,
        np.fix,
    ):
        assert_eq(function(y), function(b))
        assert_eq(getattr(ta, function.__name__)(y), function(b))
    assert_eq(np.sinc(x), np.sinc(a))
    assert_eq(np.i0(x), np.i0(a))
    c = a + 1j * a[::-1]
    z = ta.from_array(c, chunks=2)
    for function in (np.real, np.imag, np.angle, np.isreal, np.conj):
        assert_eq(function(z), function(c))
    assert_eq(np.angle(z, deg=True), np.angle(c, deg=True))
    assert_eq(z.real, c.real)
    assert_eq(z.imag, c.imag)
    assert_eq(z.conj(), c.conj())
    assert_eq(np.nan_to_num(y, nan=5.0, posinf=9.0), np.nan_to_num(b, nan=5.0, posinf=9.0))


@pytest.mark.parametrize("decimals", [0, 1, -1])
def test_round(decimals, a, x):
    assert_eq(np.round(x * 10, decimals), np.round(a * 10, decimals))
    assert_eq((x * 10).round(decimals), (a * 10).round(decimals))
    i = np.arange(0, 100, 7)
    assert_eq(ta.round(ta.from_array(i, chunks=4), decimals), np.round(i, decimals))


def test_where(a, x):
    assert_eq(ta.where(x > 0, x, -1), np.where(a > 0, a, -1))
    assert_eq(np.where(x > 0, 1, a[0]), np.where(a > 0, 1, a[0]))
    assert_eq(ta.where(True, x, 1j), np.where(True, a, 1j))
    assert_eq(ta.where(x > 0, np.int8(1), np.int8(2)), np.where(a > 0, np.int8(1), np.int8(2)))
    with pytest.raises(ValueError, match="both"):
        ta.where(x > 0, 1)


def test_clip(a, x):
    for low, high in [(-1, 1), (None, 0.5), (0, None), (a - 1, a + 0.5), (None, None)]:
        expected = a if low is high is None else np.clip(a, low, high)
        assert_eq(ta.clip(x, low, high), expected)
        assert_eq(np.clip(x, low, high), expected)
        assert_eq(x.clip(low, high), expected)
    assert_eq(x.clip(min=0), a.clip(min=0))
    small = np.arange(5, dtype="uint8")
    assert_eq(ta.clip(ta.from_array(small), -1, 1000), np.clip(small, -1, 1000))
    out = ta.zeros_like(x)
    assert ta.clip(x, 0, 1, out=out) is out


def test_isclose_and_allclose(a, x):
    b = a + 1e-9
    b[0, 0] = np.nan
    assert_eq(ta.isclose(x, b), np.isclose(a, b))
    assert bool(np.allclose(x, a + 1e-9))
    assert not ta.allclose(x, b).compute()
    assert ta.allclose(ta.from_array(b), b, equal_nan=True).compute()


def test_missing_values():
    a = np.array([1.0, np.nan])
    assert_eq(ta.isnull(ta.from_array(a, chunks=1)), np.isnan(a))
    assert_eq(ta.notnull(ta.from_array(a)), ~np.isnan(a))
    assert_eq(
        ta.isnull(ta.from_array(np.array([1, None, "a", np.nan], dtype=object), chunks=-1)),
        np.array([0, 1, 0, 1], bool),
    )
    assert_eq(ta.isnull(ta.from_array(np.array(["2000-01-01", "NaT"], "M8[D]"))), np.array([False, True]))


def test_functions_that_write_into_an_array(a, x):
    i = np.array([1, 0, 2])
    for call in (
        lambda x, out: np.take(x, i, axis=1, out=out),
        lambda x, out: np.compress([True, True, False], x[:, :3], axis=0, out=out),
        lambda x, out: np.cumulative_sum(x[:, :3], axis=0, out=out),
        lambda x, out: np.choose(i, [x[:, :3], 7, 8.0], out=out),
        lambda x, out: np.round(x[:, :3], 1, out=out),
    ):
        expected = call(a, None)
        out = ta.zeros(expected.shape, chunks=2)
        assert call(x, out) is out
        assert_eq(out, expected)
    y = ta.from_array(np.array([1.0, np.nan]))
    assert np.nan_to_num(y, copy=False) is y
    assert_eq(y, np.array([1.0, 0.0]))


def test_where_cuts_python_integers_beyond_the_dtype():
    a = np.array([3, 7], np.uint8)
    assert_eq(ta.where(ta.from_array(a) > 5, ta.from_array(a), -1), np.where(a > 5, a, -1))


def test_select_choose_digitize(a, x):
    assert_eq(ta.select([x > 1, x > 0], [x, 1], -5), np.select([a > 1, a > 0], [a, 1], -5))
    i = np.array([0, 2, 1, 1])
    choices = [a[0], a[1] * 10, 7]
    assert_eq(ta.choose(ta.from_array(i, chunks=3), choices), np.choose(i, choices))
    assert_eq(ta.choose(ta.from_array(i + 1, chunks=3), choices, mode="wrap"), np.choose(i + 1, choices, mode="wrap"))
    with pytest.raises(TypeError, match="condition 0 must be boolean"):
        ta.select([x], [x])
    assert_eq(ta.digitize(x, [-1, 0, 1]), np.digitize(a, [-1, 0, 1]))


def test_astype(a, x):
    for dtype in ("float32", "int64", "complex64", "bool", "U"):
        assert_eq(x.astype(dtype), a.astype(dtype))
    assert x.astype(float).node is x.node
    assert_eq(ta.astype(x, np.int8, casting="unsafe"), a.astype("int8"))
    with pytest.raises(TypeError, match="casting"):
        x.astype(int, casting="safe")


def test_operations_on_unknown_sizes(a):
    x = ta.from_array(np.arange(10), chunks=4)
    y = x[x % 3 > 0]
    b = np.arange(10)[np.arange(10) % 3 > 0]
    assert_eq(np.sqrt(y) + y, np.sqrt(b) + b)
    assert_eq(ta.where(y > 4, y, 0), np.where(b > 4, b, 0))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        y + ta.ones(6)
