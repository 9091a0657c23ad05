"""How reductions are computed: over a tile, over partials of tiles, to the answer. :mod:`reducers` names them.

A *kernel* has three parts: ``tile`` reduces one tile, ``combine`` joins partials, ``finalize`` makes the answer of the
last one. Partials are tuples of arrays with kept dims.

Numbers
-------
Sums are pairwise inside a tile, as NumPy's, and tiles and blocks are summed pairwise again, so that the error grows
with the logarithm of the size; along leading axes, where NumPy adds row after row, it grows slower than NumPy's.
float16 is summed in float32. Variances keep count, mean and sum of squared deviations per tile (two passes over a tile
in the cache) and join them by the rule of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979), generalized to many parts; they never subtract large sums.

Speed
-----
Masked copies and ``where=`` cost 5 ns an element if NaNs come at random, since the processor cannot guess the next
one; clearing the bits of NaNs costs 0.5 ns wherever they are. Masks are counted in 8-bit sums. NumPy's pairwise sum
takes 0.35 ns an element, a dot product with ones 0.1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from math import prod as product
from typing import Any, ClassVar

import numpy as np

from tilework.plan.stages import BlockPlace

Axes = tuple[int, ...]
Parts = tuple[np.ndarray, ...]
Shared = dict[Any, Any]
COUNT = np.dtype(np.int64)


# ---------------------------------------------------------------- from tiles to the partial of a block


class Scratch:
    """Memory of a tile's size, used again for every tile of a block."""

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A C-contiguous array; the same memory for the same name."""
        n = product(shape)
        have = self._memory.get(name)
        if have is None or have.size < n or have.dtype != dtype:
            have = self._memory[name] = np.empty(n, dtype)
        return have[:n].reshape(shape)


class Kernel:
    """What the kernels share. ``spans`` says which parts have the result's shape; others have length one all over."""

    __slots__ = ()
    spans: ClassVar[tuple[bool, ...]] = (True,)

    def tile(self, x: np.ndarray, axis: Axes, scratch: Scratch, owned: bool, shared: Shared) -> Parts:
        """The partial of one tile, which may be overwritten if ``owned``."""
        raise NotImplementedError

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        """One partial of several."""
        raise NotImplementedError

    def partial(self, block: np.ndarray, axis: Axes) -> Parts:
        """The partial of a block, taken in slabs that fit a cache."""
        kept = {a: n for a, n in enumerate(block.shape) if a not in axis}
        # Along an axis that is reduced the partials of slabs must be joined, which is dear if they are large.
        along = next(iter(kept)) if 0 in axis and product(kept.values()) > _SLAB // 16 else 0
        rows = block.shape[along] if block.ndim else 0
        slab = max(1, _SLAB * rows // block.size) if block.size else rows
        if slab >= rows:
            return self.tile(block, axis, Scratch(), False, {})
        accumulator = TreeAccumulator(self, block.shape, axis, block.dtype)
        before = (slice(None),) * along
        where = [slice(0, kept.get(a, 1)) for a in range(block.ndim)]
        for start in range(0, rows, slab):
            rest = slice(start, min(start + slab, rows))
            if along in kept:
                where[along] = rest
            accumulator.update(block[(*before, rest)], tuple(where), False, {})
        return accumulator.result()


_SLAB = 1 << 17  # elements


class TreeAccumulator:
    """Joins the partials of tiles: many at a time, so that neither rounding errors nor calls add up."""

    def __init__(self, kernel: Kernel, shape: tuple[int, ...], axis: Axes, dtype: np.dtype[Any]) -> None:
        self._kernel = kernel
        self._axis = axis
        self._lengths = [(a, shape[a]) for a in axis]
        self._kept = tuple(1 if a in axis else n for a, n in enumerate(shape))
        self._scratch = Scratch()
        self._whole: Parts | None = None
        self._pending: dict[tuple[int, ...], tuple[tuple[slice, ...], list[Parts]]] = {}
        self._cells = 0  # in all pending partials
        self._limit = _PENDING_CELLS

    def update(self, tile: np.ndarray, where: tuple[slice, ...], owned: bool, shared: Shared) -> None:
        """Take one tile."""
        parts = self._kernel.tile(tile, self._axis, self._scratch, owned, shared)
        for a, n in self._lengths:
            if tile.shape[a] < n:
                break
        else:
            self._store(where, parts)
            return
        self._pending.setdefault(tuple([s.start for s in where]), (where, []))[1].append(parts)
        self._cells += parts[0].size
        if self._cells > self._limit:
            for region in list(self._pending):
                self._join(region)
            self._limit = max(_PENDING_CELLS, 2 * self._cells)

    def result(self) -> Parts:
        """The partial of the tiles so far."""
        for region, (where, _) in self._pending.items():
            self._store(where, self._join(region))
        assert self._whole is not None
        return self._whole

    def _join(self, region: tuple[int, ...]) -> Parts:
        parts = self._pending[region][1]
        if len(parts) > 1:
            self._cells -= sum(p[0].size for p in parts[1:])
            columns = zip(*parts, strict=True)
            joined = tuple(np.concatenate(column, self._axis[0]) for column in columns)
            parts[:] = [self._kernel.combine(joined, self._axis)]
        return parts[0]

    def _store(self, where: tuple[slice, ...], parts: Parts) -> None:
        if self._whole is None:
            if parts[0].shape == self._kept:
                self._whole = parts
                return
            spans = zip(parts, self._kernel.spans, strict=True)
            self._whole = tuple(np.empty(self._kept, p.dtype) if s else p for p, s in spans)
        for whole, part, span in zip(self._whole, parts, self._kernel.spans, strict=True):
            if span:
                whole[where] = part


_PENDING_CELLS = 1 << 18  # partials that wait to be joined may have this many elements, or twice those that are done


def _reduce(ufunc: np.ufunc, x: np.ndarray, axis: Axes, dtype: np.dtype[Any] | None = None) -> np.ndarray:
    if dtype is not None and dtype.kind not in "biufcO":
        dtype = None  # NumPy takes no units or lengths here
    return np.asarray(ufunc.reduce(x, axis=axis, dtype=dtype, keepdims=True))


def _total(x: np.ndarray, axis: Axes, dtype: np.dtype[Any], shared: Shared) -> np.ndarray:
    """The sum, which several reductions of one tile want."""
    key = "total", axis, dtype
    if key not in shared:
        shared[key] = _sum(x, axis, dtype)
    total: np.ndarray = shared[key]
    return total


def _sum(x: np.ndarray, axis: Axes, dtype: np.dtype[Any]) -> np.ndarray:
    """The sum, with kept dims. Along trailing axes it is a dot product with ones: a fourth to a half of the time."""
    last = range(x.ndim - len(axis), x.ndim)
    if x.dtype == dtype and dtype.char in "fd" and axis == tuple(last) and x.flags.c_contiguous:
        n = product(x.shape[a] for a in axis)
        if n >= _DOT:
            kept = [1 if a in axis else size for a, size in enumerate(x.shape)]
            return _dot_rows(x.reshape(-1, n), _UNITS[dtype.char]).reshape(kept)
    return _reduce(np.add, x, axis, dtype)


@lru_cache(maxsize=1024, typed=True)
def _ones(ndim: int, value: Any, dtype: Any = None) -> np.ndarray:
    """A value that is the same for the whole result. Not to be written to."""
    return np.full((1,) * ndim, value, dtype)


# ---------------------------------------------------------------- NaNs and masks


def skips(dtype: np.dtype[Any]) -> bool:
    """Whether the nan-functions have anything to skip."""
    return dtype.kind in "fc" or dtype.hasobject


def _isnan(x: np.ndarray, scratch: Scratch, name: str) -> np.ndarray:
    mask = scratch.empty(name, x.shape, bool)
    if x.dtype.hasobject:
        np.not_equal(x, x, out=mask, dtype=object, casting="unsafe")
    else:
        np.isnan(x, out=mask)
    return mask


def _without_nan(x: np.ndarray, fill: int, scratch: Scratch, owned: bool, nan: np.ndarray | None = None) -> np.ndarray:
    """``x`` with ``fill`` for NaN; ``nan`` says where, if that is known already."""
    nan = _isnan(x, scratch, "keep") if nan is None else nan
    if fill == 0 and x.dtype.kind == "f" and x.dtype.itemsize <= 8:
        # Bits are kept or cleared: a third to two thirds of the time of any way that goes through numbers.
        keep = scratch.empty("keep", x.shape, bool).view(np.int8)
        np.subtract(nan.view(np.int8), 1, out=keep)  # False becomes -1: all bits set, and still so when widened
        bits = f"i{x.dtype.itemsize}"
        filled = x if owned else scratch.empty("filled", x.shape, x.dtype)
        np.bitwise_and(x.view(bits), keep, out=filled.view(bits))
        return filled
    filled = x if owned else x.copy()
    np.copyto(filled, fill, where=nan)
    return filled


def _count(mask: np.ndarray, axis: Axes) -> np.ndarray:
    """How often a boolean array is True along ``axis``, with kept dims."""
    ndim, kept = mask.ndim, [1 if a in axis else n for a, n in enumerate(mask.shape)]
    if len(axis) == ndim:
        return _ones(ndim, np.count_nonzero(mask), COUNT)
    n = product(mask.shape[a] for a in axis)
    if axis == tuple(range(len(axis))) and n < 256:
        return np.add.reduce(mask.view(np.uint8), axis=axis, dtype=np.uint8, keepdims=True).astype(COUNT)
    if axis == tuple(range(ndim - len(axis), ndim)) and n >= 1024 and mask.flags.c_contiguous:
        rows = mask.reshape(-1, n)
        return np.fromiter(map(np.count_nonzero, rows), COUNT, len(rows)).reshape(kept)
    return _reduce(np.add, mask, axis, COUNT)


def _missing(x: np.ndarray, axis: Axes, scratch: Scratch, shared: Shared) -> np.ndarray:
    """The number of NaNs. Where they are is ``shared`` as well."""
    key = "missing", axis
    if "nan" not in shared:
        shared["nan"] = _isnan(x, scratch, "nan")
    if key not in shared:
        shared[key] = _count(shared["nan"], axis)
    missing: np.ndarray = shared[key]
    return missing


# ---------------------------------------------------------------- kernels


@dataclass(frozen=True)
class Fold(Kernel):
    """A ufunc with an identity: sum, prod, any, all. ``fill`` replaces NaN."""

    ufunc: np.ufunc
    dtype: np.dtype[Any] | None  # of the partial; None: as the ufunc has it
    out: np.dtype[Any]
    fill: int | None = None

    def tile(self, x: np.ndarray, axis: Axes, scratch: Scratch, owned: bool, shared: Shared) -> Parts:
        if x.dtype == bool and self.ufunc is np.add and self.out.kind == "i":
            return (_count(x, axis).astype(self.out, copy=False),)
        if x.dtype == np.float16 and self.dtype is not None:
            x, owned = x.astype(self.dtype), True
        if self.fill is not None and self.out.kind in "iu":  # where no NaN would be seen in the result
            return (self._reduced(_without_nan(x, self.fill, scratch, owned, shared.get("nan")), axis),)
        if self.ufunc is np.add and self.dtype is not None:
            result = _total(x, axis, self.dtype, shared)
        else:
            result = self._reduced(x, axis)
        # Without a NaN in the result there was none in the tile; most tiles of most data have none.
        if self.fill is not None and not (result == result).all():
            x = _without_nan(x, self.fill, scratch, owned, shared.get("nan"))
            result = self._reduced(x, axis)
        return (result,)

    def _reduced(self, x: np.ndarray, axis: Axes) -> np.ndarray:
        if self.ufunc is np.add and self.dtype is not None:
            return _sum(x, axis, self.dtype)
        return _reduce(self.ufunc, x, axis, self.dtype)

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        return (_reduce(self.ufunc, parts[0], axis, self.dtype),)

    def finalize(self, parts: Parts) -> np.ndarray:
        return parts[0].astype(self.out, copy=False)


@dataclass(frozen=True)
class CountNonzero(Kernel):
    """Number of elements that are not zero."""

    def tile(self, x: np.ndarray, axis: Axes, scratch: Scratch, owned: bool, shared: Shared) -> Parts:
        if len(axis) == x.ndim:
            return (_ones(x.ndim, np.count_nonzero(x), COUNT),)
        return (_count(x.astype(bool, copy=False), axis),)

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        return (_reduce(np.add, parts[0], axis),)

    def finalize(self, parts: Parts) -> np.ndarray:
        return parts[0].astype(np.intp, copy=False)


@dataclass(frozen=True)
class Extreme(Kernel):
    """Minimum or maximum: value, and whether there was none at all."""

    ufunc: np.ufunc
    quiet: bool = False  # no warning of slices without values
    spans: ClassVar[tuple[bool, ...]] = (True, False)

    def tile(self, x: np.ndarray, axis: Axes, scratch: Scratch, owned: bool, shared: Shared) -> Parts:
        return self.combine((x, _none_to_take(x, axis)), axis)

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        value, nothing = parts
        extreme = _reduce(self.ufunc, value, axis) if value.size else _first(value, axis)
        return extreme, _all(nothing, axis)

    def finalize(self, parts: Parts) -> np.ndarray:
        value, nothing = parts
        if nothing.any():
            raise ValueError(f"zero-size array to reduction operation {self.ufunc.__name__} which has no identity")
        if not self.quiet and self.ufunc in (np.fmin, np.fmax) and value.dtype.kind in "fc" and np.isnan(value).any():
            warnings.warn("All-NaN slice encountered", RuntimeWarning, stacklevel=2)
        return value


def _none_to_take(x: np.ndarray, axis: Axes) -> np.ndarray:
    """Whether there is nothing along the reduced axes. NumPy minds that even where there is no answer to give."""
    return _ones(x.ndim, any(x.shape[a] == 0 for a in axis))


def _first(x: np.ndarray, axis: Axes) -> np.ndarray:
    """The partial of what has no elements: reduced axes keep their length if it is zero."""
    return x[tuple(slice(0, 1) if a in axis else slice(None) for a in range(x.ndim))]


def _all(flags: np.ndarray, axis: Axes) -> np.ndarray:
    return _reduce(np.logical_and, flags, axis)


@dataclass(frozen=True)
class Mean(Kernel):
    """Total and number of elements; with ``skipna`` of those that are not NaN, else one number for all."""

    dtype: np.dtype[Any]  # of the total
    out: np.dtype[Any]
    skipna: bool = False
    quiet: bool = False  # no warning of slices without values

    @property
    def spans(self) -> tuple[bool, ...]:  # type: ignore[override]
        return (True, self.skipna)

    def tile(self, x: np.ndarray, axis: Axes, scratch: Scratch, owned: bool, shared: Shared) -> Parts:
        n = product(x.shape[a] for a in axis)
        if not self.skipna:
            return _total(x, axis, self.dtype, shared), _ones(x.ndim, n, COUNT)
        missing = _missing(x, axis, scratch, shared)
        if missing.any():
            x = _without_nan(x, 0, scratch, owned, shared["nan"])
        return _sum(x, axis, self.dtype), n - missing

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        return _reduce(np.add, parts[0], axis, self.dtype), _reduce(np.add, parts[1], axis)

    def finalize(self, parts: Parts) -> np.ndarray:
        total, n = parts
        if not self.quiet and (n == 0).any() and total.size:
            warnings.warn("Mean of empty slice", RuntimeWarning, stacklevel=2)
        if not self.skipna:
            mean = np.true_divide(total, int(n.flat[0]) if n.size == 1 else n)
        elif total.dtype.hasobject:
            mean = np.true_divide(total, n)
        else:
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.true_divide(total, n, dtype=total.dtype, casting="unsafe")
        return np.asarray(mean).astype(self.out, copy=False)


@dataclass(frozen=True)
class Moments(Kernel):
    """Mean, sum of squared deviations from it, and number of elements (one for all without ``skipna``)."""

    dtype: np.dtype[Any]  # of the mean
    out: np.dtype[Any]
    ddof: float
    root: bool
    skipna: bool = False
    quiet: bool = False  # no warning of slices without values

    @property
    def spans(self) -> tuple[bool, ...]:  # type: ignore[override]
        return (True, True, self.skipna)

    def tile(self, x: np.ndarray, axis: Axes, scratch: Scratch, owned: bool, shared: Shared) -> Parts:
        n = product(x.shape[a] for a in axis)
        if x.dtype == np.float16:
            x, owned = x.astype(self.dtype), True
        if not self.skipna:
            mean = np.asarray(_total(x, axis, self.dtype, shared) / max(n, 1))
            deviation = self._deviation(x, mean, scratch, owned)
            return mean, _sum_of_squares(deviation, axis), _ones(x.ndim, n, COUNT)
        missing = _missing(x, axis, scratch, shared)
        has_nan = bool(missing.any())
        filled = _without_nan(x, 0, scratch, False, shared["nan"]) if has_nan else x
        count = n - missing
        mean = _over(_reduce(np.add, filled, axis, self.dtype), count)
        deviation = self._deviation(x, mean, scratch, owned)
        if not has_nan:
            return mean, _sum_of_squares(deviation, axis), count
        deviation = _without_nan(deviation, 0, scratch, True)
        # Where there are infinities, not all NaNs among the deviations were missing values.
        return mean, _sum_of_squares(deviation, axis) + (mean - mean).real, count

    def _deviation(self, x: np.ndarray, mean: np.ndarray, scratch: Scratch, owned: bool) -> np.ndarray:
        dtype = np.result_type(x, mean)
        out = x if owned and x.dtype == dtype else scratch.empty("deviation", x.shape, dtype)
        np.subtract(x, mean, out=out)
        return out

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        mean, squares, n = parts
        total = _reduce(np.add, n, axis)
        joined = _reduce(np.add, mean * _over(n.astype(squares.dtype), total), axis)
        shift = _squared(mean - joined)
        shift *= n.astype(squares.dtype)
        shift += squares
        return joined, _reduce(np.add, shift, axis), total

    def finalize(self, parts: Parts) -> np.ndarray:
        _, squares, n = parts
        freedom = np.maximum(n - self.ddof, 0)
        none = freedom == 0
        if not self.quiet and none.any() and squares.size:
            warnings.warn("Degrees of freedom <= 0 for slice", RuntimeWarning, stacklevel=2)
        with np.errstate(invalid="ignore", divide="ignore") if self.skipna else nullcontext():
            result = np.asarray(np.true_divide(squares, freedom.astype(squares.dtype)))
        if self.skipna and none.any():
            result[none] = np.nan
        return (np.sqrt(result) if self.root else result).astype(self.out, copy=False)


def _over(total: np.ndarray, n: np.ndarray) -> np.ndarray:
    """``total / n`` in the dtype of the total; 0 where n is 0, so that it does no harm when it is joined."""
    return np.asarray(np.true_divide(total, np.maximum(n, 1).astype(total.real.dtype)))


def _squared(x: np.ndarray) -> np.ndarray:
    """The squared absolute value, written over ``x`` if it is real."""
    if x.dtype.kind == "c":
        return np.asarray(x.real**2 + x.imag**2)
    np.multiply(x, x, out=x)
    return x


def _sum_of_squares(x: np.ndarray, axis: Axes) -> np.ndarray:
    """Sum of squares along ``axis`` with kept dims; may overwrite ``x``."""
    kept = [1 if a in axis else n for a, n in enumerate(x.shape)]
    fast = x.dtype.char in "fd" and x.flags.c_contiguous and x.size
    if fast and axis == tuple(range(x.ndim - len(axis), x.ndim)):
        return _dot_rows(x.reshape(product(kept), -1)).reshape(kept)
    if fast and axis == tuple(range(len(axis))):
        rows = x.reshape(-1, product(kept))
        return np.asarray(np.einsum("ij,ij->j", rows, rows)).reshape(kept)
    return _reduce(np.add, _squared(x), axis)


def _dot_rows(x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """The dot product of each row of ``x`` with itself, or with ``y``, in parts that are summed pairwise.

    Short parts keep the error small, and BLAS from starting threads of its own.
    """
    rows, n = x.shape
    step, item = x.strides[0], x.itemsize
    parts = np.ndarray((rows, n // _DOT, _DOT), x.dtype, x, 0, (step, _DOT * item, item))
    rest = x[:, n - n % _DOT :]
    whole = np.vecdot(parts, parts if y is None else y)
    return np.asarray(np.add.reduce(whole, axis=1) + np.vecdot(rest, rest if y is None else y[: n % _DOT]))


_DOT = 512
_UNITS = {char: np.ones(_DOT, char) for char in "fd"}


@dataclass(frozen=True)
class Arg:
    """Where the minimum or maximum is: value, place and whether there was none at all.

    The place is along the axis, or in C order of the whole array if all axes are reduced. Of equal values the first
    counts. Without ``skipna`` a NaN is more extreme than everything.
    """

    find: Callable[..., Any]
    ufunc: np.ufunc
    skipna: bool = False

    def partial(self, block: np.ndarray, axis: Axes, block_place: BlockPlace) -> Parts:
        nothing = _none_to_take(block, axis)
        if block.size == 0:
            value = _first(block, axis)
            return value, np.empty(value.shape, np.int64), nothing
        if len(axis) == block.ndim:
            flat = int(self._find(block, None))
            inside = np.unravel_index(flat, block.shape)
            there = [block_place.offset(a) + int(k) for a, k in enumerate(inside)]
            shape = tuple(chunks.total for chunks in block_place.domain)
            whole = np.ravel_multi_index(there, shape) if shape else 0
            return block[tuple(slice(k, k + 1) for k in inside)], _ones(block.ndim, whole, np.int64), nothing
        (along,) = axis
        place = np.expand_dims(self._along(block, along), along)
        return np.take_along_axis(block, place, along), place + block_place.offset(along), nothing

    def _find(self, x: np.ndarray, axis: int | None) -> Any:
        """``find``; with ``skipna`` NaN is replaced by what is least extreme."""
        if self.skipna and skips(x.dtype):
            x = np.where(x != x, np.inf if self.ufunc is np.fmin else -np.inf, x)
        return self.find(x, axis=axis)

    def _along(self, block: np.ndarray, axis: int) -> np.ndarray:
        """``find`` along an axis in slabs: NumPy copies all of what is not contiguous along it."""
        x = np.moveaxis(block, axis, -1)
        slab = max(1, (1 << 17) * len(x) // max(1, x.size))
        if slab >= len(x):
            return np.asarray(self._find(x, -1))
        out = np.empty(x.shape[:-1], np.int64)
        for start in range(0, len(x), slab):
            out[start : start + slab] = self._find(x[start : start + slab], -1)
        return out

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        value, place, nothing = parts
        if value.size == 0:
            return _first(value, axis), _first(place, axis), _all(nothing, axis)
        best = _reduce(self.ufunc, value, axis)
        is_best = (value == best) | ((value != value) & (best != best))
        place = np.where(is_best, place, np.iinfo(np.int64).max)
        return best, _reduce(np.minimum, place, axis), _all(nothing, axis)

    def finalize(self, parts: Parts) -> np.ndarray:
        value, place, nothing = parts
        if nothing.any():
            raise ValueError(f"attempt to get {self.find.__name__} of an empty sequence")
        if self.skipna and value.size and (value != value).any():
            raise ValueError("All-NaN slice encountered")
        return place.astype(np.intp, copy=False)
