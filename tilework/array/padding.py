"""Borders around arrays: :func:`pad`, one axis after the other, each side a small array that is joined on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from tilework.array import reductions
from tilework.array.applying import apply_along_axis
from tilework.array.core import Array, in_memory, known_length
from tilework.array.creation import asarray, axis_index, full
from tilework.array.indexing import getitem
from tilework.array.manipulation import concatenate
from tilework.array.shapes import broadcast_to
from tilework.array.ufuncs import astype, round
from tilework.base.errors import PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.blocks import split_sizes


def pad(array: Any, pad_width: Any, mode: Any = "constant", **kwargs: Any) -> Array:
    """The array with a border around it. See :func:`numpy.pad`.

    Parameters
    ----------
    array
        The array.
    pad_width
        How wide: a number, a pair (before, after), a pair per axis, or a dict from axis to these.
    mode
        ``"constant"`` (with ``constant_values``), ``"edge"``, ``"linear_ramp"`` (with ``end_values``), ``"maximum"``,
        ``"minimum"``, ``"mean"`` (with ``stat_length``), ``"reflect"``, ``"symmetric"``, ``"wrap"``, ``"empty"``; or a
        function that fills the borders of a whole vector in place, as NumPy describes it.
    **kwargs
        The options of the mode: one value, a pair or a pair per axis.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.pad(ta.arange(3), 2, mode="reflect").compute()
    array([2, 1, 0, 1, 2, 1, 0])
    """
    x = asarray(array)
    widths = _pairs(pad_width, x.ndim, "pad_width")
    if any(w < 0 for pair in widths for w in pair):
        raise PlanError(f"pad: pad_width={pad_width} must not be negative")
    if callable(mode):
        return _filled_in(mode, pad(x, widths), widths, kwargs)
    border = _border(mode, kwargs, x.ndim)
    for axis, pair in enumerate(widths):
        if not any(pair):
            continue
        if known_length(x, axis, "pad") == 0 and mode not in ("constant", "empty"):
            raise PlanError(f"pad: axis {axis} is empty and cannot be extended by mode={mode!r}; use mode='constant'")
        before, after = (astype(border(x, axis, width, side), x.dtype) for side, width in enumerate(pair))
        x = concatenate([before, x, after], axis)
    return x


def _filled_in(function: Callable[..., Any], x: Array, widths: Sequence[tuple[int, int]], kwargs: Any) -> Array:
    """Borders filled by a function of vectors, axis after axis."""
    for axis, pair in enumerate(widths):
        x = apply_along_axis(
            _filled_vector, axis, x, function, pair, axis, kwargs, dtype=x.dtype, shape=(x.shape[axis],)
        )
    return x


def _filled_vector(vector: np.ndarray, function: Callable[..., Any], pair: Any, axis: int, kwargs: Any) -> np.ndarray:
    out = np.array(vector)
    function(out, pair, axis, kwargs)
    return out


def _pairs(value: Any, ndim: int, what: str) -> list[tuple[Any, Any]]:
    """A pair (before, after) for each axis."""
    if isinstance(value, Mapping):
        given = {int(k) % max(1, ndim): v for k, v in value.items()}
        return [_pairs(given.get(k, 0), 1, what)[0] for k in range(ndim)]
    try:
        pairs = np.broadcast_to(np.asarray(in_memory(value, f"pad: {what}")), (ndim, 2)).tolist()
    except ValueError:
        raise PlanError(f"pad: {what}={value} must be a number, a pair, or a pair for each of {ndim} axes") from None
    if what == "pad_width" and not all(isinstance(w, int) for pair in pairs for w in pair):
        raise TypeError(f"pad: pad_width={value} must be of integral type")
    return [tuple(pair) for pair in pairs]


_OPTIONS: dict[str, tuple[str, Any]] = {
    "constant": ("constant_values", 0), "linear_ramp": ("end_values", 0), "maximum": ("stat_length", None),
    "minimum": ("stat_length", None), "mean": ("stat_length", None), "reflect": ("reflect_type", "even"),
    "symmetric": ("reflect_type", "even"), "median": ("stat_length", None), "edge": ("", None), "wrap": ("", None),
    "empty": ("", None),
}  # fmt: skip


def _border(mode: Any, kwargs: dict[str, Any], ndim: int) -> Callable[[Array, int, int, int], Array]:
    """``border(x, axis, width, side)``: what to join on before (side 0) or after (side 1) an axis."""
    if mode not in _OPTIONS:
        raise PlanError(f"pad: mode={mode!r} is none of {', '.join(_OPTIONS)}")
    option, default = _OPTIONS.get(mode, ("", None))
    unknown = [key for key in kwargs if key != option]
    if unknown:
        raise PlanError(f"pad: mode={mode!r} does not take {unknown[0]}=")
    value = kwargs.get(option, default)
    if mode in ("constant", "empty"):
        return partial(_constant, _pairs(value or 0, ndim, "constant_values"))
    if mode == "linear_ramp":
        return partial(_linear_ramp, _pairs(value, ndim, "end_values"))
    if mode in ("maximum", "minimum", "mean"):
        return partial(_statistic, mode, _pairs(value, ndim, "stat_length"))
    if mode in ("edge", "wrap", "reflect", "symmetric") and value in ("even", None):
        return partial(_mirrored, mode)
    raise UnsupportedError(
        f"pad: mode={mode!r}{f' with {option}={value!r}' if value else ''} is not supported; concatenate the borders "
        "that you need"
    )


def _like_border(x: Array, axis: int, width: int) -> tuple[Any, Any]:
    """Shape and chunks of a border."""
    shape = (*x.shape[:axis], width, *x.shape[axis + 1 :])
    return shape, (*x.chunks[:axis], split_sizes(width, max(1, x.chunks[axis].largest)), *x.chunks[axis + 1 :])


def _constant(values: list[tuple[Any, Any]], x: Array, axis: int, width: int, side: int) -> Array:
    shape, chunks = _like_border(x, axis, width)
    return full(shape, values[axis][side], x.dtype, chunks=chunks)


def _edge(x: Array, axis: int, side: int, length: int = 1) -> Array:
    n = x.shape[axis]
    part = slice(0, length) if side == 0 else slice(n - length, n)
    return getitem(x, (slice(None),) * axis + (part,))


def _linear_ramp(values: list[tuple[Any, Any]], x: Array, axis: int, width: int, side: int) -> Array:
    _, chunks = _like_border(x, axis, width)
    steps = Array(build.rearrange(axis_index(chunks[axis]), [0 if k == axis else None for k in range(x.ndim)]))
    end, edge = values[axis][side], _edge(x, axis, side)
    steps = steps if side == 0 else width - 1 - steps
    ramp = end + (edge - end) * (steps / max(1, width))
    return np.floor(ramp) if x.dtype.kind in "iu" else ramp


def _statistic(name: str, lengths: list[tuple[Any, Any]], x: Array, axis: int, width: int, side: int) -> Array:
    length = lengths[axis][side]
    length = x.shape[axis] if length is None else min(int(length), x.shape[axis])
    if length < 1:
        raise PlanError(f"pad: stat_length={length} must be at least 1 along axis {axis}")
    function: Any = {"maximum": reductions.max, "minimum": reductions.min, "mean": reductions.mean}[name]
    value = function(_edge(x, axis, side, length), axis=axis, keepdims=True)
    value = round(value) if x.dtype.kind in "iu" and name == "mean" else value
    shape, chunks = _like_border(x, axis, width)
    return broadcast_to(value, shape, chunks)


def _mirrored(mode: str, x: Array, axis: int, width: int, side: int) -> Array:
    """Borders made of the array's own elements."""
    n = x.shape[axis]
    places = np.arange(-width, 0) if side == 0 else np.arange(n, n + width)
    if mode == "edge":
        places = np.clip(places, 0, n - 1)
    elif mode == "wrap":
        places = places % n
    else:
        skip = int(mode == "reflect")  # the edge itself is not repeated
        places = places % max(1, 2 * (n - skip))
        places = np.where(places < n, places, 2 * n - 1 - skip - places)
    return getitem(x, (slice(None),) * axis + (places,))
