"""Fourier transforms against NumPy's, whatever the chunks."""

import warnings

import numpy as np
import pytest
import scipy.fft
import scipy.fftpack
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.base import config
from tilework.base.errors import PlanError
from tilework.testing import assert_eq

ONE = ["fft", "ifft", "rfft", "irfft", "hfft", "ihfft"]
SEVERAL = ["fftn", "ifftn", "rfftn", "irfftn", "fft2", "ifft2", "rfft2", "irfft2"]
REAL_INPUT = {"rfft", "ihfft", "rfftn", "rfft2"}


def values(shape, dtype="f8"):
    rng = np.random.default_rng(5)
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else 9 * real).astype(dtype)


def check(name, x, a, **options):
    result = getattr(ta.fft, name)(x, **options)
    expected = getattr(np.fft, name)(a, **options)
    assert_eq(result, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "c8", "c16", "i4", "?"])
def test_dtypes(name, dtype):
    a = values((6, 8), dtype)
    if not (name in REAL_INPUT and a.dtype.kind == "c"):
        check(name, ta.from_array(a, chunks=4), a)


@pytest.mark.parametrize("name", ONE)
@settings(deadline=None, max_examples=15)
@given(st.data())
def test_along_one_axis(name, data):
    shape = data.draw(st.tuples(*[st.integers(2, 7)] * data.draw(st.integers(1, 3))))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    options = {
        "axis": data.draw(st.integers(-len(shape), len(shape) - 1)),
        "n": data.draw(st.none() | st.integers(1, 9)),
        "norm": data.draw(st.sampled_from([None, "backward", "ortho", "forward"])),
    }
    a = values(shape)
    check(name, ta.from_array(a, chunks=chunks), a, **options)


@pytest.mark.parametrize("name", SEVERAL)
@settings(deadline=None, max_examples=15)
@given(st.data())
def test_along_several_axes(name, data):
    shape = data.draw(st.tuples(*[st.integers(2, 5)] * data.draw(st.integers(2, 3))))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    count = 2 if name.endswith("2") else data.draw(st.integers(1, len(shape)))
    axes = tuple(data.draw(st.permutations(range(-len(shape), 0)))[:count])
    s = data.draw(st.none() | st.tuples(*[st.integers(1, 6)] * count))
    a = values(shape)
    check(name, ta.from_array(a, chunks=chunks), a, axes=axes, s=s, norm=data.draw(st.sampled_from([None, "ortho"])))


@pytest.mark.parametrize("name", SEVERAL)
def test_all_axes_are_the_default(name):
    a = values((4, 5, 6))
    x = ta.from_array(a, chunks=2)
    check(name, x, a)
    check(name, x, a, s=(3, -1), axes=(0, 1))
    if name.endswith("n"):
        with pytest.warns(DeprecationWarning, match="`axes` should not be `None`"):
            result = getattr(ta.fft, name)(x, s=(3, 4))
        with pytest.warns(DeprecationWarning, match="`axes` should not be `None`"):
            assert_eq(result, getattr(np.fft, name)(a, s=(3, 4)))


def test_only_one_axis_at_a_time_is_whole():
    """All of the array is transformed, but the axes are in blocks again when others become whole."""
    x = ta.ones((20, 64, 64), chunks=(5, 16, 8))
    result = ta.fft.fftn(x)
    assert result.chunks == ((20,), (16,) * 4, (8,) * 8)
    assert tw.explain(result).n_tasks < 1000
    expected = np.zeros(x.shape, complex)
    expected[0, 0, 0] = x.size
    assert_eq(result, expected)
    assert ta.fft.irfft2(x, axes=(1, 2)).chunks == ((5,) * 4, (16,) * 4, (126,))
    with config.set(chunk_size="16kB"):
        first, second, whole = ta.fft.fft(x).chunksize
        assert first * second * 8 * 64 <= 16_000
        assert whole == 64


def test_nothing_runs_when_it_is_built():
    x = ta.map_blocks(lambda block: 1 / 0, ta.ones((4, 4), chunks=2), dtype=float)
    result = ta.fft.fftshift(ta.fft.irfftn(ta.fft.rfftn(x)))
    with pytest.raises(ZeroDivisionError):
        result.compute()


def test_numpy_finds_the_functions():
    a = values((4, 6))
    x = ta.from_array(a, chunks=2)
    for name in ONE + SEVERAL + ["fftshift", "ifftshift"]:
        result = getattr(np.fft, name)(x)
        assert isinstance(result, ta.Array)
        assert_eq(result, getattr(np.fft, name)(a))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ta.fft.fft(x, 0),
        lambda x: ta.fft.fft(x, axis=2),
        lambda x: ta.fft.fft(x, norm="other"),
        lambda x: ta.fft.irfft(x[:, :1]),
        lambda x: ta.fft.fftn(x, axes=(0, 0)),
        lambda x: ta.fft.fftn(x, s=(2, 3), axes=(0,)),
        lambda x: ta.fft.fftn(x, axes=()),
        lambda x: ta.fft.fft2(x[0]),
        lambda x: ta.fft.fftfreq(0),
        lambda x: ta.fft.rfftfreq(2.5),
        lambda x: ta.fft.fft_wrap(np.ones),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError):
        call(ta.ones((4, 4), chunks=2))


def test_dtypes_that_cannot_be_transformed():
    with pytest.raises(TypeError):
        ta.fft.rfft(ta.ones(4, dtype=complex))


# ---------------------------------------------------------------- wrapped functions


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_wrapped_functions_of_one_axis(name, dtype):
    a, transform = values((6, 8), dtype), getattr(scipy.fft, name)
    x, wrapped = ta.from_array(a, chunks=3), ta.fft.fft_wrap(transform)
    assert_eq(wrapped(x), transform(a), rtol=1e-4, atol=1e-4)
    assert_eq(wrapped(x, n=5, axis=0, norm="ortho"), transform(a, n=5, axis=0, norm="ortho"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SEVERAL)
def test_wrapped_functions_of_several_axes(name):
    a, transform = values((6, 8, 3)), getattr(scipy.fft, name)
    x, wrapped = ta.from_array(a, chunks=3), ta.fft.fft_wrap(transform)
    assert_eq(wrapped(x), transform(a))
    assert_eq(wrapped(x, axes=(1, 0)), transform(a, axes=(1, 0)))
    assert_eq(wrapped(x, s=(4, 5), axes=(0, 2)), transform(a, s=(4, 5), axes=(0, 2)))


def test_wrapped_functions_may_say_kind_and_dtype():
    def doubled(block, axis):
        return 2 * np.fft.fft(block, axis=axis)

    x = ta.arange(8, chunks=4)
    assert_eq(ta.fft.fft_wrap(doubled, kind="fft", dtype=complex)(x), 2 * np.fft.fft(np.arange(8)))


def test_fftpack_is_warned_of():
    with pytest.warns(FutureWarning, match="legacy"):
        ta.fft.fft_wrap(scipy.fftpack.fft)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform = ta.fft.fft_wrap(scipy.fftpack.fft, allow_fftpack=True)
    assert_eq(transform(ta.arange(6.0, chunks=4)), np.fft.fft(np.arange(6.0)))


# ---------------------------------------------------------------- frequencies


@pytest.mark.parametrize("n", [1, 2, 7, 8])
@pytest.mark.parametrize("d", [1.0, 0.25])
@pytest.mark.parametrize("name", ["fftfreq", "rfftfreq"])
def test_frequencies(n, d, name):
    lazy = getattr(ta.fft, name)(n, d, chunks=2)
    assert lazy.chunks[0][0] <= 2
    assert_eq(lazy, getattr(np.fft, name)(n, d))
    assert getattr(ta.fft, name)(n, d=d, dtype=np.float32, device="cpu").dtype == np.float32


@pytest.mark.parametrize("axes", [None, 0, (1, 2), -1])
@pytest.mark.parametrize("name", ["fftshift", "ifftshift"])
def test_shifts_keep_chunks(name, axes):
    a = values((5, 6, 7))
    x = ta.from_array(a, chunks=(2, 3, 7))
    shifted = getattr(ta.fft, name)(x, axes)
    assert shifted.chunks == x.chunks
    assert_eq(shifted, getattr(np.fft, name)(a, axes))


def test_bad_shift():
    with pytest.raises(PlanError):
        ta.fft.fftfreq(-1)
    with pytest.raises(ValueError):
        ta.fft.fftshift(ta.ones(4), 3)
