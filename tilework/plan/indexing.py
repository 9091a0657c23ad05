"""What stands between the brackets: NumPy's indexing rules, checked and made plain without touching any data.

:func:`normalize_index` turns anything NumPy takes as an index into a list of entries, each of which consumes a known
number of axes. What to do with them (slices, takes, points) is for the caller.

======================  ==============  ================================================================
entry                   axes consumed   meaning
======================  ==============  ================================================================
``int``                 1               one position, not negative, inside the axis; the axis is dropped
``slice``               1               in the normal form of :class:`tilework.plan.ops.Slice`
``None``                0               a new axis of length one
integer ``ndarray``     1               int64 positions of any shape, not negative, inside the axis
boolean ``ndarray``     its ``ndim``    a mask of two or more dimensions (one-dimensional ones become positions), or of
                                        none: ``x[True]``
a lazy array            1, or its       whatever the caller's ``is_lazy`` says yes to: checked for shape and kind only
                        ``ndim``
======================  ==============  ================================================================

Errors are those of NumPy (IndexError, with the axis and its size), but along an axis of unknown length: there only a
full slice or a lazy array is possible, and anything else is an UnknownChunksError.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import isnan
from typing import Any, TypeAlias

import numpy as np

from tilework.base.errors import UnknownChunksError

Entry: TypeAlias = int | slice | np.ndarray | Any | None


def normalize_index(index: Any, shape: Sequence[Any], is_lazy: Callable[[Any], bool] = lambda _: False) -> list[Entry]:
    """Parse a NumPy index against a shape.

    Parameters
    ----------
    index
        What stands between the brackets.
    shape
        Length of each axis; NaN if unknown.
    is_lazy
        Tells which objects are lazy arrays. They need ``shape`` and ``dtype`` and are passed on as they are.

    Returns
    -------
    list
        Entries that consume every axis once, in order; see the table above.

    Raises
    ------
    IndexError
        As NumPy does.
    UnknownChunksError
        If an axis of unknown length is indexed by anything but a full slice or a lazy array.

    Examples
    --------
    >>> normalize_index((..., -1, slice(None, None, -2)), (4, 5, 6))
    [slice(0, 4, 1), 4, slice(5, -1, -2)]
    >>> normalize_index(([True, False, True], None), (3, 2))
    [array([0, 2]), None, slice(0, 2, 1)]
    """
    given = [_canonical(entry, is_lazy) for entry in (index if isinstance(index, tuple) else (index,))]
    missing = len(shape) - sum(_consumes(entry) for entry in given)
    if missing < 0:
        raise IndexError(
            f"too many indices for array: array is {len(shape)}-dimensional, but {len(shape) - missing} were indexed"
        )
    dots = [i for i, entry in enumerate(given) if entry is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = dots[0] if dots else len(given)
    given[at : at + 1] = [slice(None)] * missing

    out, axis = [], 0
    for entry in given:
        consumed = _consumes(entry)
        out.append(_checked(entry, shape[axis : axis + consumed], axis, is_lazy))
        axis += consumed
    return out


def _canonical(entry: Any, is_lazy: Callable[[Any], bool]) -> Any:
    """The entry as an int, slice, None, Ellipsis, ndarray or lazy array."""
    if entry is None or entry is Ellipsis or isinstance(entry, slice):
        return entry
    if is_lazy(entry):
        return _indexable(entry)
    if not isinstance(entry, bool | np.bool_ | np.ndarray | str):
        try:
            return operator.index(entry)
        except TypeError:
            pass
    if isinstance(entry, list | tuple) and len(entry) == 0:
        return np.zeros(0, np.int64)
    if isinstance(entry, str) or not (np.iterable(entry) or isinstance(entry, bool | np.generic | np.ndarray)):
        raise IndexError(_KINDS + f"; got {entry!r}")
    array = _indexable(np.asarray(entry))
    return array if array.ndim or array.dtype.kind == "b" else int(array)


_KINDS = (
    "only integers, slices (`:`), ellipsis (`...`), None and integer or boolean arrays are valid indices for an array"
)


def _indexable(array: Any) -> Any:
    if array.dtype.kind not in "biu":
        raise IndexError(_KINDS + f"; got an array of dtype {array.dtype}")
    return array


def _consumes(entry: Any) -> int:
    """How many axes the entry stands for."""
    if entry is None or entry is Ellipsis:
        return 0
    if isinstance(entry, int | slice) or entry.dtype.kind != "b":
        return 1
    return len(entry.shape)


def _checked(entry: Any, sizes: Sequence[Any], axis: int, is_lazy: Callable[[Any], bool]) -> Entry:
    """The entry made plain, given the lengths of the axes that it consumes (from ``axis`` on)."""
    if entry is None:
        return None
    if not isinstance(entry, int | slice) and is_lazy(entry):
        if entry.dtype.kind == "b":
            _check_mask(entry.shape, sizes, axis)
        return entry
    unknown = [axis + i for i, n in enumerate(sizes) if isnan(n)]
    if unknown:
        if isinstance(entry, slice) and entry.start in (None, 0) and entry.stop is None and entry.step in (None, 1):
            return slice(None)
        raise UnknownChunksError(
            f"axis {unknown[0]} has unknown length and cannot be indexed by {_show(entry)}; "
            "call compute_chunk_sizes() first"
        )
    if isinstance(entry, slice):
        return normalize_slice(entry, sizes[0])
    if isinstance(entry, int):
        if not -sizes[0] <= entry < sizes[0]:
            raise IndexError(f"index {entry} is out of bounds for axis {axis} with size {sizes[0]}")
        return entry % sizes[0]
    if entry.dtype.kind == "b":
        _check_mask(entry.shape, sizes, axis)
        return np.flatnonzero(entry) if entry.ndim == 1 else entry
    return _positions(entry, sizes[0], axis)


def normalize_slice(index: slice, n: int) -> slice:
    """The slice in normal form for an axis of length ``n``; all empty slices become ``slice(0, 0, 1)``.

    Examples
    --------
    >>> normalize_slice(slice(-3, None), 10), normalize_slice(slice(None, None, -1), 10)
    (slice(7, 10, 1), slice(9, -1, -1))
    """
    start, stop, step = index.indices(n)
    return slice(start, stop, step) if range(start, stop, step) else slice(0, 0, 1)


def _positions(entry: np.ndarray, n: int, axis: int) -> np.ndarray:
    outside = (entry >= n) | (entry < -n) if entry.dtype.kind == "i" else entry >= n
    if outside.any():
        raise IndexError(f"index {entry[outside][0]} is out of bounds for axis {axis} with size {n}")
    positions = entry.astype(np.int64)
    positions[positions < 0] += n
    return positions


def _check_mask(shape: Sequence[Any], sizes: Sequence[Any], axis: int) -> None:
    for i, (have, want) in enumerate(zip(shape, sizes, strict=True)):
        if have not in (want, 0) and not (isnan(have) or isnan(want)):  # NumPy takes masks of no elements for any axis
            raise IndexError(
                f"boolean index did not match indexed array along axis {axis + i}; size of axis is {want} "
                f"but size of corresponding boolean axis is {have}"
            )


def _show(entry: Any) -> str:
    return f"an array of shape {entry.shape}" if isinstance(entry, np.ndarray) else repr(entry)
