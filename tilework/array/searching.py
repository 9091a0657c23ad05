"""Sorted, found, counted: operations whose answer may lie anywhere along an axis.

Sorting needs whole axes in a block, but for arrays of one axis, which are sorted in runs that are merged. What finds an
unknown number of things has one block of unknown size for each block of the input.
"""

from __future__ import annotations

from functools import partial
from math import nan
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tilework.array.core import Array, known_length
from tilework.array.creation import asarray, axis_index
from tilework.array.elementwise import Mapped, cast
from tilework.array.indexing import getitem
from tilework.array.manipulation import concatenate, flip
from tilework.array.order import in_one_block, in_run_sizes, in_runs, sorted_runs
from tilework.array.shapes import ravel, reshape_node
from tilework.base.errors import PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot
from tilework.plan.stages import BlockPlace

# ---------------------------------------------------------------- sorting


def _on_whole_axis(function: Any, a: Array, axis: int, dtype: Any, label: str) -> Array:
    """``function(block, axis=axis)`` with the axis in one block."""
    node = in_one_block(a.node, (axis,), label)
    labels = range(a.ndim)
    call = BlockFunction(function, (Slot(0),), {"axis": axis})
    return Array(build.blockwise(call, labels, [(node, labels)], dtype or a.dtype, label=label))


def _lane(a: Any, axis: int | None) -> tuple[Array, int]:
    """The array, flat if ``axis`` is None, and the axis."""
    a = asarray(a)
    if axis is None:
        return ravel(a), 0
    return a, normalize_axis_index(axis, a.ndim)


def _argsort_run(block: np.ndarray, *, block_place: BlockPlace, fields: np.dtype[Any]) -> np.ndarray:
    order = np.argsort(block, kind="stable")
    run = np.empty(len(block), fields)
    run["value"], run["position"] = block[order], order + block_place.offset(0)
    return run


def _refuse_fields(order: Any) -> None:
    if order is not None:
        raise UnsupportedError(f"sort: order={order!r} is not supported; sort by the field x[name]")


def _order_of(stable: bool | None, kind: str | None) -> str | None:
    return "stable" if stable or kind == "stable" else kind


def sort(
    a: Any, axis: int | None = -1, kind: str | None = None, order: Any = None, *, stable: bool | None = None,
    descending: bool = False,
) -> Array:  # fmt: skip
    """Elements in order along an axis. See :func:`numpy.sort`.

    The axis becomes one block, and the others are divided further if blocks would be too large. A one-dimensional array
    of any size is sorted block by block, and merged through scratch space on disk.
    """
    _refuse_fields(order)
    a, axis = _lane(a, axis)
    if in_runs(a):
        merged = Array(sorted_runs(a))
        return flip(merged) if descending else merged
    function = partial(_sort, kind=_order_of(stable, kind), descending=descending)
    return _on_whole_axis(function, a, axis, None, "sort")


def argsort(
    a: Any, axis: int | None = -1, kind: str | None = None, order: Any = None, *, stable: bool | None = None,
    descending: bool = False,
) -> Array:  # fmt: skip
    """Positions that put the elements in order along an axis, as :func:`sort` does it. See :func:`numpy.argsort`."""
    _refuse_fields(order)
    a, axis = _lane(a, axis)
    if in_runs(a):
        if descending:  # backwards twice, so that equal elements keep their order
            return flip(a.shape[0] - 1 - argsort(flip(a)))
        fields = np.dtype([("value", a.dtype), ("position", np.intp)])
        run = BlockFunction(_argsort_run, (Slot(0),), {"fields": fields}, place=True)
        runs = build.blockwise(run, (0,), [(in_run_sizes(a), (0,))], fields, label="argsort")
        positions = BlockFunction(itemgetter("position"), (Slot(0),), scratch=0)
        merged = build.merge_runs(runs, "value")
        return Array(build.blockwise(positions, (0,), [(merged, (0,))], np.intp, label="argsort"))
    if kind is None and stable is not False:
        stable = True  # as the array API wants it; NumPy leaves the order of equal elements open
    function = partial(_argsort, kind=_order_of(stable, kind), descending=descending)
    return _on_whole_axis(function, a, axis, np.intp, "argsort")


def _sort(block: np.ndarray, axis: int, *, kind: Any, descending: bool) -> np.ndarray:
    out = np.sort(block, axis=axis, kind=kind)
    return np.flip(out, axis) if descending else out


def _argsort(block: np.ndarray, axis: int, *, kind: Any, descending: bool) -> np.ndarray:
    if not descending:
        return np.argsort(block, axis=axis, kind=kind)
    n = block.shape[axis] - 1  # backwards twice, so that equal elements keep their order
    return np.flip(n - np.argsort(np.flip(block, axis), axis=axis, kind="stable"), axis)


def searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Array:
    """Where elements belong in the sorted ``a``, which must fit into memory. See :func:`numpy.searchsorted`."""
    a, v = asarray(a), asarray(v)
    if a.ndim != 1:
        raise PlanError(f"searchsorted: the sorted array must be one-dimensional, not of shape {a.shape}")
    if side not in ("left", "right"):
        raise PlanError(f"searchsorted: side={side!r} must be 'left' or 'right'")
    if sorter is not None:
        a = getitem(a, sorter)
    labels = tuple(range(v.ndim))
    call = BlockFunction(np.searchsorted, (Slot(0), Slot(1)), {"side": side})
    inputs: list[Any] = [(a.node, ("sorted",)), (v.node, labels)]
    return Array(build.blockwise(call, labels, inputs, np.intp, label="searchsorted"))


# ---------------------------------------------------------------- finding


def nonzero(a: Any) -> tuple[Array, ...]:
    """Positions of elements that are not zero, one array per axis. How many is unknown. See :func:`numpy.nonzero`."""
    a = asarray(a)
    if a.ndim == 0:
        raise PlanError("nonzero: an array without axes has no positions; use atleast_1d(x)")
    flat = flatnonzero(a)
    return tuple(
        Array(
            build.elementwise(Mapped(_unravelled, (("shape", a.shape), ("axis", k))), [flat.node], np.intp, "nonzero")
        )
        for k in range(a.ndim)
    )


def flatnonzero(a: Any) -> Array:
    """Positions, in C order, of elements that are not zero. How many is unknown."""
    flat = ravel(a)
    known_length(flat, 0, "flatnonzero")
    return getitem(Array(axis_index(flat.chunks[0])), Array(cast(flat.node, bool)))


def _unravelled(flat: np.ndarray, *, shape: tuple[int, ...], axis: int) -> np.ndarray:
    return np.unravel_index(flat, shape)[axis]


def argwhere(a: Any) -> Array:
    """Positions of elements that are not zero, one row for each. See :func:`numpy.argwhere`."""
    flat, shape = flatnonzero(a), asarray(a).shape
    call = BlockFunction(_rows, (Slot(0),), {"shape": shape})
    new_axes: dict[Any, Any] = {"axis": len(shape)}
    return Array(
        build.blockwise(call, ("i", "axis"), [(flat.node, ("i",))], np.intp, new_axes=new_axes, label="argwhere")
    )


def _rows(flat: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(flat, shape), axis=1)


def isin(
    element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: str | None = None
) -> Array:
    """Whether each element is among others, which must fit into memory. See :func:`numpy.isin`."""
    element, test = asarray(element), ravel(test_elements)
    labels = tuple(range(element.ndim))
    options = {"assume_unique": assume_unique, "invert": invert, "kind": kind}
    call = BlockFunction(np.isin, (Slot(0), Slot(1)), options)
    inputs: list[Any] = [(element.node, labels), (test.node, ("test",))]
    return Array(build.blockwise(call, labels, inputs, bool, label="isin"))


def take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Array:
    """Elements at positions along an axis, which becomes one block. See :func:`numpy.take_along_axis`."""
    arr, indices = asarray(arr), asarray(indices)
    if indices.dtype.kind not in "iu":
        raise IndexError(f"take_along_axis: indices must be integers, not {indices.dtype}")
    if axis is None:
        arr, axis = ravel(arr), 0
    if arr.ndim != indices.ndim:
        raise PlanError(f"take_along_axis: indices of {indices.ndim} axes for an array of {arr.ndim}; give as many")
    axis = normalize_axis_index(axis, arr.ndim)
    labels: list[Any] = list(range(arr.ndim))
    picked: list[Any] = [*labels[:axis], "whole", *labels[axis + 1 :]]
    call = BlockFunction(np.take_along_axis, (Slot(0), Slot(1)), {"axis": axis})
    return Array(
        build.blockwise(call, labels, [(arr.node, picked), (indices.node, labels)], arr.dtype, label="take_along_axis")
    )


# ---------------------------------------------------------------- distinct elements


def unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False,
    *, equal_nan: bool = True,
) -> Any:  # fmt: skip
    """Distinct elements in order; how many is unknown. See :func:`numpy.unique`.

    Distinct elements of blocks are joined. With any of ``return_...`` the whole array has to fit into memory.
    """
    flat = ravel(ar)
    wanted = [k for k, given in enumerate((True, return_index, return_inverse, return_counts)) if given]
    if wanted == [0]:
        call = BlockFunction(partial(_unique, number=0, equal_nan=equal_nan), (Slot(0),))
        parts = build.blockwise(call, "i", [(flat.node, "i")], flat.dtype, adjust_chunks={"i": nan}, label="unique")
        return _whole_unique(Array(parts), 0, equal_nan, flat.dtype)
    found = tuple(_whole_unique(flat, k, equal_nan, np.intp if k else flat.dtype) for k in wanted)
    shape = asarray(ar).shape
    return tuple(Array(reshape_node(x.node, shape)) if k == 2 else x for k, x in zip(wanted, found, strict=True))


def union1d(ar1: Any, ar2: Any) -> Array:
    """Distinct elements of two arrays together, in order; how many is unknown. See :func:`numpy.union1d`."""
    return unique(concatenate([ravel(ar1), ravel(ar2)]))


def _whole_unique(flat: Array, number: int, equal_nan: bool, dtype: Any) -> Array:
    call = BlockFunction(partial(_unique, number=number, equal_nan=equal_nan), (Slot(0),))
    size = flat.shape[0] if number == 2 else nan
    node = build.blockwise(call, "u", [(flat.node, "i")], dtype, new_axes={"u": (size,)}, label="unique")
    return Array(node)


def _unique(block: np.ndarray, *, number: int, equal_nan: bool) -> np.ndarray:
    if number == 0:
        return np.unique(block, equal_nan=equal_nan)
    return np.unique(block, True, True, True, equal_nan=equal_nan)[number]


class UniqueAll(NamedTuple):
    """What :func:`unique_all` returns."""

    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    """What :func:`unique_counts` returns."""

    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    """What :func:`unique_inverse` returns."""

    values: Array
    inverse_indices: Array


def unique_all(x: Any, /) -> UniqueAll:
    """Distinct elements with first positions, inverse and counts. See :func:`numpy.unique_all`."""
    return UniqueAll(*unique(x, True, True, True, equal_nan=False))


def unique_counts(x: Any, /) -> UniqueCounts:
    """Distinct elements and how often each occurs. See :func:`numpy.unique_counts`."""
    return UniqueCounts(*unique(x, return_counts=True, equal_nan=False))


def unique_inverse(x: Any, /) -> UniqueInverse:
    """Distinct elements, and for each element which it is. See :func:`numpy.unique_inverse`."""
    return UniqueInverse(*unique(x, return_inverse=True, equal_nan=False))


def unique_values(x: Any, /) -> Array:
    """Distinct elements. See :func:`numpy.unique_values`."""
    return unique(x, equal_nan=False)
