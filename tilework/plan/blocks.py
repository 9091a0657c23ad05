"""The arithmetic of chunks: pure functions of integers.

``Chunks`` is one :class:`AxisChunks` per axis. An ``AxisChunks`` is a plain tuple of sizes to the user, and carries
its bounds so that nobody sums the same million sizes twice.

The rules are those of Dask's documentation: an int is cut to the axis, ``-1`` and None are the whole axis, NaN is
unknown. Only ``"auto"`` differs where earlier chunks (or storage chunks) are given: its blocks always are whole
groups of them, or equal parts of them where one alone is over the limit, so that no storage chunk is read twice for
nothing. Functions work on whole arrays; what loops, loops over the blocks that come out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from math import ceil, isnan, nan, prod
from numbers import Integral, Real
from typing import Any, Self, TypeAlias

import numpy as np

from tilework.base.errors import ChunkError, DTypeError, UnknownChunksError
from tilework.base.sizes import parse_bytes

AUTO_BYTES = 128 * 2**20
"""Size of an ``"auto"`` block where the caller gives no limit."""


class AxisChunks(tuple[Any, ...]):
    """Sizes of the blocks along one axis: Python ints, or NaN in every place.

    An axis is known as a whole or not at all: one NaN among the sizes makes all of them NaN. As many unknown sizes
    are equal, whichever NaN they are written with.
    """

    def __new__(cls, sizes: Iterable[Any] = ()) -> Self:
        self = tuple.__new__(cls, sizes)
        total = sum(self)  # tells in C speed whether there is a NaN, or anything else but an int
        if type(total) is int:
            return self
        if isnan(total):
            return tuple.__new__(cls, (nan,) * len(self))
        return tuple.__new__(cls, map(_integer, self))

    @classmethod
    def of(cls, sizes: Iterable[Any]) -> AxisChunks:
        """Sizes as an AxisChunks, without copying one that is one already."""
        return sizes if isinstance(sizes, AxisChunks) else cls(sizes)

    @classmethod
    def from_array(cls, sizes: np.ndarray) -> AxisChunks:
        """Known sizes from an int64 array."""
        self = cls(sizes.tolist())
        self.__dict__["sizes"] = sizes
        return self

    @cached_property
    def known(self) -> bool:
        """Whether every size is known. An axis is known as a whole or not at all, so its first size tells."""
        return not (self and isinstance(self[0], float) and isnan(self[0]))

    @cached_property
    def sizes(self) -> np.ndarray:
        """The sizes as int64. Known sizes only."""
        return np.fromiter(self, np.int64, len(self))

    @cached_property
    def bounds(self) -> np.ndarray:
        """``bounds[i]:bounds[i+1]`` is block ``i``; int64, one longer than the axis has blocks. Known sizes only."""
        out = np.zeros(len(self) + 1, np.int64)
        np.cumsum(self.sizes, out=out[1:])
        return out

    @cached_property
    def total(self) -> Any:
        """Length of the axis; NaN if unknown."""
        return int(self.bounds[-1]) if self.known else nan

    @cached_property
    def largest(self) -> Any:
        """The largest block; NaN if unknown."""
        return (int(self.sizes.max()) if self else 0) if self.known else nan

    def __eq__(self, other: object) -> bool:
        if self.known or not isinstance(other, tuple):
            return tuple.__eq__(self, other)
        return len(self) == len(other) and all(n != n for n in other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    @cached_property
    def _hash(self) -> int:
        return tuple.__hash__(self) if self.known else hash(len(self))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _token(self) -> str:
        return blake2b(self.sizes.tobytes(), digest_size=16).hexdigest() if self.known else f"{len(self)} unknown"

    def __tilework_token__(self) -> str:
        return self._token

    def __reduce__(self) -> tuple[Any, ...]:
        return (AxisChunks, (tuple(self),))


Chunks: TypeAlias = tuple[AxisChunks, ...]


def _integer(size: Any) -> int:
    if isinstance(size, Integral) or (isinstance(size, float) and size.is_integer()):
        return int(size)
    raise ChunkError(f"chunk size {size!r} is not a whole number")


def _show(sizes: Sequence[Any]) -> str:
    """Sizes for an error message; a million of them would not help."""
    return str(tuple(sizes)) if len(sizes) <= 8 else f"({', '.join(map(str, sizes[:6]))}, ... {len(sizes)} blocks)"


# ---------------------------------------------------------------- from what users write to chunks


def split_sizes(total: int, size: int) -> AxisChunks:
    """Cut an axis into blocks of ``size``; the last one takes what is left. An empty axis has one empty block.

    Examples
    --------
    >>> split_sizes(10, 4)
    (4, 4, 2)
    """
    if total == 0:
        return AxisChunks((0,))
    whole, rest = divmod(total, max(1, size))
    return AxisChunks((max(1, size),) * whole + ((rest,) if rest else ()))


def normalize_chunks(
    chunks: Any, shape: Sequence[Any], dtype: Any = None, limit: int | str | None = None, previous_chunks: Any = None
) -> Chunks:
    """Turn any way of writing chunks into sizes per axis.

    Parameters
    ----------
    chunks
        One value for all axes, a sequence with one value per axis, or a dict from axis to value (axes left out are
        whole). A value is a block size, a sequence of block sizes, -1 or None for the whole axis, ``"auto"``, or a
        byte size such as ``"64MiB"``: ``"auto"`` with this limit.
    shape
        Length of each axis; NaN if unknown.
    dtype
        Needed for ``"auto"``.
    limit
        Bytes of an ``"auto"`` block at most; a byte size among ``chunks`` comes first.
    previous_chunks
        Chunks that the array has now or has in storage: a size or sizes per axis. ``"auto"`` groups or divides them.

    Returns
    -------
    Chunks

    Raises
    ------
    ChunkError
        If the chunks do not fit the shape.
    UnknownChunksError
        If an axis of unknown length would have to be divided.
    DTypeError
        If ``"auto"`` is asked for a dtype whose elements have no fixed size.

    Examples
    --------
    >>> normalize_chunks((4, -1), shape=(10, 3))
    ((4, 4, 2), (3,))
    >>> normalize_chunks("1KiB", shape=(300,), dtype="float64")
    ((128, 128, 44),)
    """
    entries, byte_limit = _byte_sizes(_entries(chunks, shape))
    fixed = [
        None if isinstance(entry, str) else _axis_chunks(entry, n, axis)
        for axis, (entry, n) in enumerate(zip(entries, shape, strict=True))
    ]
    if None not in fixed:
        return tuple(axis for axis in fixed if axis is not None)
    room = _auto_elements(fixed, shape, dtype, AUTO_BYTES if limit is None else parse_bytes(limit, "limit"), byte_limit)
    if previous_chunks is None:
        return _auto_square(fixed, shape, room)
    previous = tuple(
        _axis_chunks(have[0] if isinstance(have, tuple | list) and len(have) == 1 else have, n, axis)
        for axis, (have, n) in enumerate(zip(previous_chunks, shape, strict=True))
    )
    return _auto_regroup(fixed, previous, room)


def _entries(chunks: Any, shape: Sequence[Any]) -> list[Any]:
    """One value per axis."""
    ndim = len(shape)
    if isinstance(chunks, np.ndarray):
        chunks = chunks.tolist()
    if isinstance(chunks, Mapping):
        out: list[Any] = [-1] * ndim
        for axis, entry in chunks.items():
            out[_axis(axis, ndim)] = entry
        return out
    if isinstance(chunks, Real | str):
        return [chunks] * ndim
    if not isinstance(chunks, tuple | list):
        raise ChunkError(f"chunks={chunks!r}: give a size, sizes per axis, a dict from axis to size, -1 or 'auto'")
    if ndim == 0:
        return []
    if not chunks and all(n == 0 for n in shape):
        return [-1] * ndim
    if ndim == 1 and len(chunks) > 1 and all(isinstance(size, Real) for size in chunks):
        return [chunks]
    if len(chunks) != ndim:
        raise ChunkError(f"chunks={_show(chunks)} name {len(chunks)} axes, but the shape {tuple(shape)} has {ndim}")
    return list(chunks)


def _axis(axis: Any, ndim: int) -> int:
    if not isinstance(axis, int | np.integer) or not -ndim <= axis < ndim:
        raise ChunkError(f"chunks name axis {axis!r}, but the array has {ndim} dimensions")
    return int(axis) % ndim


def _byte_sizes(entries: list[Any]) -> tuple[list[Any], int | None]:
    """Entries with byte sizes replaced by "auto", and the size."""
    limits = {parse_bytes(entry, "chunks") for entry in entries if isinstance(entry, str) and entry != "auto"}
    if len(limits) > 1:
        raise ChunkError(f"chunks={entries} give two byte sizes; a block has one, so give it once and 'auto' elsewhere")
    return ["auto" if isinstance(entry, str) else entry for entry in entries], next(iter(limits), None)


def _axis_chunks(entry: Any, n: Any, axis: int) -> AxisChunks:
    """Chunks of one axis of length ``n`` from anything but a string."""
    if isinstance(entry, tuple | list | np.ndarray):
        sizes = AxisChunks.of(entry)
        if not sizes:
            raise ChunkError(f"chunks of axis {axis} are empty; an axis of length zero has the chunks (0,)")
        if sizes.known and min(sizes) < 0:
            raise ChunkError(f"chunks {_show(sizes)} of axis {axis} hold a negative size")
        if sizes.known and not isnan(n) and sizes.total != n:
            raise ChunkError(f"chunks {_show(sizes)} of axis {axis} add up to {sizes.total}, but its length is {n}")
        return sizes
    if entry is not None and not isinstance(entry, Real):
        raise ChunkError(f"chunks of axis {axis} are {entry!r}; give a size, a tuple of sizes, -1 or 'auto'")
    if isnan(n) or (entry is not None and isnan(entry)):
        raise UnknownChunksError(
            f"axis {axis} has unknown length and cannot be divided into chunks of {entry!r}; "
            "call compute_chunk_sizes() first"
        )
    size = n if entry is None else _integer(entry)
    if size == -1:
        size = n
    if size < 0 or (size == 0 and n > 0):
        raise ChunkError(f"chunks of axis {axis} are {entry!r}; a size is positive, or -1 for the whole axis")
    return split_sizes(int(n), size)


def _auto_elements(
    fixed: Sequence[AxisChunks | None], shape: Sequence[Any], dtype: Any, limit: int, byte_limit: int | None
) -> float:
    """How many elements a block may have along the automatic axes together."""
    if dtype is None:
        raise DTypeError("chunks='auto' needs a dtype to know how many bytes an element has")
    dtype = np.dtype(dtype)
    if dtype.hasobject or dtype.itemsize == 0:
        raise DTypeError(f"chunks='auto' cannot tell the size of elements of dtype {dtype}; give sizes instead")
    if any(map(isnan, shape)) or not all(axis is None or axis.known for axis in fixed):
        raise UnknownChunksError("chunks='auto' needs known sizes along every axis; call compute_chunk_sizes() first")
    taken = prod(max(1, axis.largest) for axis in fixed if axis is not None)
    return float((byte_limit or limit) / dtype.itemsize / taken)


def _auto_square(fixed: Sequence[AxisChunks | None], shape: Sequence[int], room: float) -> Chunks:
    """Equal sizes along all automatic axes; shorter ones stay whole and leave room to the others."""
    out = list(fixed)
    rest = sorted((axis for axis, have in enumerate(fixed) if have is None), key=lambda axis: shape[axis])
    taken = 1
    while rest:
        size = (room / taken) ** (1 / len(rest))
        if shape[rest[0]] >= size:
            break
        short = rest.pop(0)
        out[short] = AxisChunks((shape[short],))
        taken *= max(1, shape[short])
    for axis in rest:
        out[axis] = split_sizes(shape[axis], int(size))
    return tuple(axis for axis in out if axis is not None)


def _auto_regroup(fixed: Sequence[AxisChunks | None], previous: Chunks, room: float) -> Chunks:
    """Previous chunks grouped or divided by the same factor along all automatic axes.

    Axes that cannot follow the factor all the way come first (few blocks to join, or short ones to divide): what they
    leave, and what rounding leaves, goes to the others.
    """
    out = list(fixed)
    typical = {
        axis: max(1.0, float(np.median(previous[axis].sizes))) for axis, have in enumerate(fixed) if have is None
    }
    growing = room >= prod(typical.values())
    rest = sorted(typical, key=lambda axis: previous[axis].total / typical[axis] if growing else typical[axis])
    while rest:
        factor = (room / prod(typical[axis] for axis in rest)) ** (1 / len(rest))
        axis = rest.pop(0)
        regrouped = regroup(previous[axis], max(1, int(typical[axis] * factor * (1 + 1e-9))))
        out[axis] = regrouped
        room /= max(1, regrouped.largest)
    return tuple(axis for axis in out if axis is not None)


def regroup(axis: AxisChunks, target: int) -> AxisChunks:
    """Join neighbouring blocks as long as they stay within ``target``, and divide larger ones into equal parts.

    Every old bound is kept where blocks are divided, and every new bound is an old one where they are joined.

    Examples
    --------
    >>> regroup(AxisChunks((3, 3, 3, 3, 1)), 7)
    (6, 6, 1)
    >>> regroup(AxisChunks((10, 4)), 4)
    (4, 4, 2, 4)
    """
    if target >= axis.total:
        return AxisChunks((axis.total,))
    if axis.largest > target:
        return _divide(axis, target)
    sizes = axis.sizes
    if (sizes[:-1] + sizes[1:] > target).all():
        return axis
    if (sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0]:
        return split_sizes(axis.total, target // axis[0] * axis[0])
    bounds = axis.bounds.tolist()
    cuts = [0]
    while cuts[-1] < axis.total:
        cuts.append(bounds[bisect_right(bounds, cuts[-1] + target) - 1])
    return AxisChunks.from_array(np.diff(cuts))


def _divide(axis: AxisChunks, target: int) -> AxisChunks:
    """Every block over ``target`` in equal parts (but for rounding: the last part is the smallest)."""
    parts = np.maximum(1, -(-axis.sizes // target))
    part = -(-axis.sizes // parts)
    number = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    sizes = np.minimum(np.repeat(part, parts), np.repeat(axis.sizes, parts) - number * np.repeat(part, parts))
    return AxisChunks.from_array(sizes[(sizes > 0) | (np.repeat(axis.sizes, parts) == 0)])


# ---------------------------------------------------------------- chunks in operations


def unify(candidates: Sequence[AxisChunks]) -> AxisChunks:
    """Common chunks of several inputs along one axis of a blockwise operation.

    Inputs of length one broadcast. An input with one block follows the others; several inputs with several blocks
    are cut wherever one of them is. Unknown sizes fit only inputs with as many blocks of unknown size (whether the
    sizes agree shows when the blocks meet) and inputs of length one.

    Raises
    ------
    ChunkError
        If the lengths differ.
    UnknownChunksError
        If unknown sizes meet known ones, or another number of blocks.

    Examples
    --------
    >>> unify([AxisChunks((5, 2)), AxisChunks((4, 3)), AxisChunks((1,))])
    (4, 1, 2)
    """
    distinct = list(dict.fromkeys(axis for axis in candidates if axis != (1,))) or [candidates[0]]
    if len(distinct) == 1:
        return distinct[0]
    if not all(axis.known for axis in distinct):
        raise UnknownChunksError(
            f"blocks {' and '.join(map(_show, distinct))} cannot be matched because sizes are unknown; "
            "call compute_chunk_sizes() first"
        )
    totals = list(dict.fromkeys(axis.total for axis in distinct if axis.total != 1)) or [1]
    if len(totals) > 1:
        raise ChunkError(f"lengths {' and '.join(map(str, totals))} differ; they must agree, or be 1")
    (total,) = totals
    several = [axis for axis in distinct if len(axis) > 1 and axis.total == total]
    if not several:
        return next(axis for axis in distinct if axis.total == total)
    if len(several) == 1:
        return several[0]
    cuts = sorted_unique(np.concatenate([axis.bounds for axis in several]))
    return AxisChunks.from_array(np.diff(cuts)) if len(cuts) > 1 else AxisChunks((0,))


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """As np.unique, but linear for values that are a few sorted runs, and in place."""
    values.sort(kind="stable")
    return values[np.concatenate(([True], values[1:] != values[:-1]))]


def rechunk_target(
    chunks: Any, current: Chunks, dtype: Any = None, limit: int | str | None = None, balance: bool = False
) -> Chunks:
    """What ``rechunk(chunks)`` asks for, given the chunks that the array has.

    As :func:`normalize_chunks`, but axes that are left out of a dict or are None keep their chunks, and ``"auto"``
    groups or divides the present ones. With ``balance`` every axis is cut into blocks of nearly equal size: one
    fewer if its smallest block is at most half the largest, and the others grow by at most a quarter.

    Examples
    --------
    >>> rechunk_target({1: -1}, normalize_chunks((5, 4), shape=(10, 8)))
    ((5, 5), (8,))
    """
    shape = tuple(axis.total for axis in current)
    ndim = len(shape)
    if isinstance(chunks, Mapping):
        given = {_axis(axis, ndim): entry for axis, entry in chunks.items()}
        chunks = tuple(given.get(axis) for axis in range(ndim))
    entries = [have if want is None else want for want, have in zip(_entries(chunks, shape), current, strict=True)]
    for axis, (want, have) in enumerate(zip(entries, current, strict=True)):
        if not have.known and want is not have:
            one_block = len(have) == 1 and isinstance(want, Real) and want == -1
            if not one_block and not (isinstance(want, tuple | list) and AxisChunks(want) == have):
                raise UnknownChunksError(
                    f"axis {axis} has unknown chunk sizes and cannot be rechunked to {want!r}; "
                    "call compute_chunk_sizes() first"
                )
            entries[axis] = have
    target = normalize_chunks(tuple(entries), shape, dtype, limit, current)
    return tuple(map(_balanced, target)) if balance else target


def _balanced(axis: AxisChunks) -> AxisChunks:
    if not axis.known or len(axis) == 1:
        return axis
    size = ceil(axis.total / (len(axis) - 1))
    if min(axis) > axis.largest / 2 or size > 1.25 * axis.largest:
        size = ceil(axis.total / len(axis))
    return split_sizes(axis.total, size)


def slice_parts(axis: AxisChunks, index: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which blocks a normalized slice touches: block numbers in the order of the slice, and for each the place of its
    first element within the slice and how many elements it gives.
    """
    where = range(index.start, index.stop, index.step)
    lo, hi = axis.bounds[:-1], axis.bounds[1:]
    if index.step > 0:
        first, end = -((index.start - lo) // index.step), -((index.start - hi) // index.step)
    else:
        first, end = (index.start - hi) // -index.step + 1, (index.start - lo) // -index.step + 1
    first, end = np.clip(first, 0, len(where)), np.clip(end, 0, len(where))
    (touched,) = np.nonzero(end > first)
    if index.step < 0:
        touched = touched[::-1]
    return touched, first[touched], (end - first)[touched]


def slice_chunks(axis: AxisChunks, index: slice) -> AxisChunks:
    """Chunks of ``x[index]``: what the slice takes of each block; blocks that give nothing disappear.

    ``index`` is normalized as :class:`~tilework.plan.ops.Slice` wants it.

    Examples
    --------
    >>> slice_chunks(AxisChunks((4, 4, 2)), slice(8, 1, -3))
    (1, 1, 1)
    """
    if (index.start, index.stop, index.step) == (0, axis.total, 1):
        return axis
    _, _, count = slice_parts(axis, index)
    return AxisChunks.from_array(count) if len(count) else AxisChunks((0,))


def take_chunks(axis: AxisChunks, indices: np.ndarray) -> AxisChunks:
    """Chunks of ``np.take(x, indices)``: no larger than the input's largest block.

    Sorted indices keep the input's blocks apart, so that most blocks of the result need one block of the input.

    Examples
    --------
    >>> take_chunks(AxisChunks((4, 4, 4)), np.array([0, 1, 3, 5, 6, 11]))
    (3, 3)
    >>> take_chunks(AxisChunks((4, 4, 4)), np.array([11, 0, 1, 3, 5, 6]))
    (4, 2)
    """
    largest = max(1, axis.largest)
    if len(indices) == 0:
        return AxisChunks((0,))
    if (indices[1:] < indices[:-1]).any():
        return split_sizes(len(indices), largest)
    counts = np.diff(np.searchsorted(indices, axis.bounds))
    return regroup(AxisChunks.from_array(counts[counts > 0]), largest)
