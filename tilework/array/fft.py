"""Fourier transforms: ``dask.array.fft`` and the ``fft`` extension of the array API in one namespace.

Signatures, normalization and dtypes are NumPy's (float32 gives complex64). A transform needs all elements along its
axis, so that axis becomes one block, and the other axes are cut further where blocks would grow too large. (Dask
refuses an axis in several blocks.) Transforms along several axes go axis by axis, as NumPy does it: only one axis at a
time is whole, so the array need not fit into memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from tilework.array import dispatch
from tilework.array.core import Array
from tilework.array.creation import arange, asarray
from tilework.array.manipulation import roll
from tilework.array.order import in_one_block
from tilework.array.rechunking import rechunk
from tilework.array.ufuncs import where
from tilework.base.errors import PlanError
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot

Transform: TypeAlias = Callable[..., Array]

_LENGTHS: dict[str, Callable[[int | None, int], int]] = {
    "fft": lambda n, m: m if n is None else n,
    "ifft": lambda n, m: m if n is None else n,
    "rfft": lambda n, m: (m if n is None else n) // 2 + 1,
    "irfft": lambda n, m: 2 * (m - 1) if n is None else n,
    "hfft": lambda n, m: 2 * (m - 1) if n is None else n,
    "ihfft": lambda n, m: (m if n is None else n) // 2 + 1,
}
"""Length of the transformed axis, for a length ``n`` that is asked for and the length ``m`` that the axis has."""


# ---------------------------------------------------------------- transforms


def fft_wrap(
    fft_func: Callable[..., Any], kind: str | None = None, dtype: Any = None, allow_fftpack: bool = False
) -> Transform:
    """A transform of lazy arrays from a function of NumPy arrays, such as those of :mod:`scipy.fft`.

    Parameters
    ----------
    fft_func
        A function with the signature of its namesake in :mod:`numpy.fft`. It is called for blocks in which all
        transformed axes are whole.
    kind
        Name of the function of :mod:`numpy.fft` that it resembles. Default: its own name.
    dtype
        Type of the result. Otherwise a small array is transformed to see.
    allow_fftpack
        Do not warn of functions of :mod:`scipy.fftpack`, which do not have NumPy's signatures.

    Returns
    -------
    callable
        ``f(a, n=None, axis=-1, norm=None)``, or ``f(a, s=None, axes=None, norm=None)`` for several axes.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> transform = ta.fft.fft_wrap(np.fft.rfft)
    >>> transform(ta.ones(8, chunks=2)).compute().real
    array([8., 0., 0., 0., 0.])
    """
    if not allow_fftpack and getattr(fft_func, "__module__", "").startswith("scipy.fftpack"):
        warnings.warn(
            f"{fft_func.__name__} of scipy.fftpack does not match NumPy's API and is considered legacy; use scipy.fft, "
            "or pass allow_fftpack=True",
            FutureWarning,
            stacklevel=2,
        )
    kind = kind or fft_func.__name__
    single = kind.rstrip("2n")
    if single not in _LENGTHS:
        raise PlanError(f"fft_wrap: there is no kind of transform {kind!r}; kinds are named as in numpy.fft")

    def one(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
        return _along(fft_func, single, a, n, axis, norm, dtype)

    def several(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Array:
        a = asarray(a)
        return _together(fft_func, single, a, _sizes_and_axes(kind, a, s, axes), norm, dtype)

    wrapped: Transform = one if kind == single else several
    wrapped.__name__ = wrapped.__qualname__ = fft_func.__name__
    return wrapped


def _along(
    function: Callable[..., Any], kind: str, a: Any, n: int | None, axis: int, norm: str | None, dtype: Any = None
) -> Array:
    """A transform along one axis."""
    a = asarray(a)
    axis = normalize_axis_index(axis, a.ndim)
    _check(kind, n, a.shape[axis], norm)
    length = _LENGTHS[kind](n, a.shape[axis])
    options = {"axis": axis} | ({} if n is None else {"n": n}) | ({} if norm is None else {"norm": norm})
    return _blocks(function, a, (axis,), [length], options, dtype)


def _together(
    function: Callable[..., Any],
    kind: str,
    a: Array,
    pairs: Sequence[tuple[int | None, int]],
    norm: str | None,
    dtype: Any,
) -> Array:
    """A transform along several axes in one call. The last axis is the one with another length, as in NumPy."""
    for n, axis in pairs:
        _check(kind, n, a.shape[axis], norm)
    *first, (last, last_axis) = pairs
    lengths = [a.shape[axis] if n is None else n for n, axis in first] + [_LENGTHS[kind](last, a.shape[last_axis])]
    axes = tuple(axis for _, axis in pairs)
    options: dict[str, Any] = {"axes": axes} | ({} if norm is None else {"norm": norm})
    if any(n is not None for n, _ in pairs):
        unsaid = lengths[-1] if kind == "irfft" else a.shape[last_axis]
        options["s"] = (*lengths[:-1], unsaid if last is None else last)
    return _blocks(function, a, axes, lengths, options, dtype)


def _blocks(
    function: Callable[..., Any], a: Array, axes: tuple[int, ...], lengths: Sequence[int], options: dict[str, Any],
    dtype: Any,
) -> Array:  # fmt: skip
    if dtype is None:
        dtype = function(np.ones([2 if k in axes else 1 for k in range(a.ndim)], a.dtype), **options).dtype
    labels = tuple(range(a.ndim))
    node = in_one_block(a.node, axes, function.__name__)
    call = BlockFunction(function, (Slot(0),), options)
    adjust: dict[Hashable, int] = dict(zip(axes, lengths, strict=True))
    return Array(build.blockwise(call, labels, [(node, labels)], dtype, adjust_chunks=adjust, label=function.__name__))


def _check(kind: str, n: int | None, length: Any, norm: str | None) -> None:
    if norm not in (None, "backward", "ortho", "forward"):
        raise PlanError(f"{kind}: norm={norm!r} must be 'backward', 'ortho' or 'forward'")
    if _LENGTHS[kind](n, length) < 1 or (n is not None and n < 1):
        raise PlanError(
            f"{kind}: {length if n is None else n} points along the axis cannot be transformed; give n >= 1"
        )


def _sizes_and_axes(name: str, a: Array, s: Any, axes: Any) -> list[tuple[int | None, int]]:
    """Wanted lengths (None: not said, which halves or doubles a last axis) and the axes that they belong to."""
    if axes is None:
        if name.endswith("2"):
            axes = (-2, -1)
        elif s is None:
            axes = range(a.ndim)
        else:
            message = "`axes` should not be `None` if `s` is not `None` (Deprecated in NumPy 2.0)"
            warnings.warn(message, DeprecationWarning, stacklevel=4)
            axes = range(-len(s), 0)
    axes = normalize_axis_tuple(tuple(axes), a.ndim, "axes")
    if not axes or (s is not None and len(s) != len(axes)):
        raise PlanError(f"{name}: s={s} and axes={axes} must have the same length, at least one")
    if s is None:
        return [(None, axis) for axis in axes]
    return [(a.shape[axis] if n == -1 else n, axis) for n, axis in zip(s, axes, strict=True)]


def fft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
    """Fourier transform along one axis. See :func:`numpy.fft.fft`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.fft.fft(ta.ones(4, chunks=2)).compute().real
    array([4., 0., 0., 0.])
    """
    return _along(np.fft.fft, "fft", a, n, axis, norm)


def ifft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
    """Inverse Fourier transform along one axis. See :func:`numpy.fft.ifft`."""
    return _along(np.fft.ifft, "ifft", a, n, axis, norm)


def rfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
    """Fourier transform of real numbers along one axis. See :func:`numpy.fft.rfft`."""
    return _along(np.fft.rfft, "rfft", a, n, axis, norm)


def irfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
    """Inverse of :func:`rfft`; ``n`` says whether the length was even or odd. See :func:`numpy.fft.irfft`."""
    return _along(np.fft.irfft, "irfft", a, n, axis, norm)


def hfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
    """Fourier transform of a signal with a real spectrum. See :func:`numpy.fft.hfft`."""
    return _along(np.fft.hfft, "hfft", a, n, axis, norm)


def ihfft(a: Any, n: int | None = None, axis: int = -1, norm: str | None = None) -> Array:
    """Inverse of :func:`hfft`. See :func:`numpy.fft.ihfft`."""
    return _along(np.fft.ihfft, "ihfft", a, n, axis, norm)


def fftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Array:
    """Fourier transform along several axes, one after another. See :func:`numpy.fft.fftn`."""
    return _complex("fftn", fft, a, s, axes, norm)


def ifftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Array:
    """Inverse Fourier transform along several axes, one after another. See :func:`numpy.fft.ifftn`."""
    return _complex("ifftn", ifft, a, s, axes, norm)


def rfftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Array:
    """Fourier transform of real numbers along several axes, one after another. See :func:`numpy.fft.rfftn`."""
    return _real("rfftn", a, s, axes, norm)


def irfftn(a: Any, s: Any = None, axes: Any = None, norm: str | None = None) -> Array:
    """Inverse of :func:`rfftn`. See :func:`numpy.fft.irfftn`."""
    return _inverse_real("irfftn", a, s, axes, norm)


def fft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Array:
    """Fourier transform along two axes. See :func:`numpy.fft.fft2`."""
    return _complex("fft2", fft, a, s, axes, norm)


def ifft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Array:
    """Inverse Fourier transform along two axes. See :func:`numpy.fft.ifft2`."""
    return _complex("ifft2", ifft, a, s, axes, norm)


def rfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Array:
    """Fourier transform of real numbers along two axes. See :func:`numpy.fft.rfft2`."""
    return _real("rfft2", a, s, axes, norm)


def irfft2(a: Any, s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> Array:
    """Inverse of :func:`rfft2`. See :func:`numpy.fft.irfft2`."""
    return _inverse_real("irfft2", a, s, axes, norm)


Step: TypeAlias = tuple[Transform, int | None, int]
"""A transform, the length that is asked for, and the axis."""


def _complex(name: str, transform: Transform, a: Any, s: Any, axes: Any, norm: str | None) -> Array:
    a = asarray(a)
    pairs = _sizes_and_axes(name, a, s, axes)
    return _one_by_one(a, [(transform, n, axis) for n, axis in pairs[::-1]], norm)


def _real(name: str, a: Any, s: Any, axes: Any, norm: str | None) -> Array:
    a = asarray(a)
    *pairs, last = _sizes_and_axes(name, a, s, axes)
    return _one_by_one(a, [(rfft, *last), *((fft, n, axis) for n, axis in pairs[::-1])], norm)


def _inverse_real(name: str, a: Any, s: Any, axes: Any, norm: str | None) -> Array:
    a = asarray(a)
    *pairs, last = _sizes_and_axes(name, a, s, axes)
    return _one_by_one(a, [*((ifft, n, axis) for n, axis in pairs), (irfft, *last)], norm)


def _one_by_one(a: Array, steps: Sequence[Step], norm: str | None) -> Array:
    """One axis after another; an axis that was in several blocks is so again when the next one becomes whole."""
    chunks = a.chunks
    for k, (transform, n, axis) in enumerate(steps, 1):
        a = transform(a, n, axis, norm)
        if k < len(steps) and len(chunks[axis]) > 1:
            a = rechunk(a, {axis: chunks[axis].largest})
    return a


# ---------------------------------------------------------------- frequencies


def fftfreq(n: int, d: float = 1.0, chunks: Any = "auto", *, dtype: Any = None, device: Any = None) -> Array:
    """Frequencies that :func:`fft` gives, for ``n`` samples at distances of ``d``.

    Parameters
    ----------
    n
        Number of samples.
    d
        Distance between them.
    chunks
        As for :func:`tilework.array.arange`.
    dtype
        Type of the result: float64 by default.
    device
        ``"cpu"``, or nothing.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.fft.fftfreq(4, d=0.5).compute()
    array([ 0. ,  0.5, -1. , -0.5])
    """
    n = _samples(n)
    k = arange(n, chunks=chunks, dtype=int, device=device)
    return _scaled(where(k < (n + 1) // 2, k, k - n), n, d, dtype)


def rfftfreq(n: int, d: float = 1.0, chunks: Any = "auto", *, dtype: Any = None, device: Any = None) -> Array:
    """Frequencies that :func:`rfft` gives. Parameters are those of :func:`fftfreq`."""
    n = _samples(n)
    return _scaled(arange(n // 2 + 1, chunks=chunks, dtype=int, device=device), n, d, dtype)


def _samples(n: Any) -> int:
    if not isinstance(n, int | np.integer) or n < 1:
        raise PlanError(f"the number of samples must be a positive integer, not {n!r}")
    return int(n)


def _scaled(k: Array, n: int, d: float, dtype: Any) -> Array:
    frequencies: Array = k * (1.0 / (n * d))
    return frequencies if dtype is None else frequencies.astype(dtype)


def fftshift(x: Any, axes: Any = None) -> Array:
    """The zero frequency moved to the middle. Chunks stay. See :func:`numpy.fft.fftshift`."""
    return _shifted(x, axes, 1)


def ifftshift(x: Any, axes: Any = None) -> Array:
    """Inverse of :func:`fftshift`. Chunks stay. See :func:`numpy.fft.ifftshift`."""
    return _shifted(x, axes, -1)


def _shifted(x: Any, axes: Any, sign: int) -> Array:
    x = asarray(x)
    axes = tuple(range(x.ndim)) if axes is None else normalize_axis_tuple(axes, x.ndim)
    shifts = tuple(x.shape[axis] // 2 if sign > 0 else -(x.shape[axis] // 2) for axis in axes)
    return Array(build.rechunk(roll(x, shifts, axes).node, x.chunks))


__all__ = [
    "fft", "fft2", "fft_wrap", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifft2", "ifftn", "ifftshift", "ihfft",
    "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip

dispatch.register(globals(), __all__, np.fft)
