"""Indexing, with NumPy's rules.

What stands between the brackets is parsed by :mod:`tilework.plan.indexing`; here it becomes plan nodes, in this order:

1. slices and integers become one Slice;
2. one index array becomes a Take; several that select a grid (``numpy.ix_``) one Take each; several that select
   points become Points; a lazy mask leaves blocks of unknown sizes; lazy integer arrays need whole axes in memory;
3. all axes are put where NumPy puts them: those of index arrays in the place of the arrays if these stand next to each
   other, first of all if not (integers count as arrays here).

Axes carry labels on the way: the number of the entry that they come from, or ``("dim", d)`` for dimension ``d`` of
what the index arrays broadcast to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import nan, prod
from typing import Any, TypeAlias

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray, empty
from tilework.array.elementwise import Mapped
from tilework.array.shapes import reshape_node
from tilework.base.errors import PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.indexing import normalize_index
from tilework.plan.ops import ArrayNode, BlockFunction, Slot

Entry: TypeAlias = Any
Label: TypeAlias = Any
FULL = slice(None)


def getitem(x: Array, index: Any) -> Array:
    """``x[index]``: see the module's docstring."""
    if isinstance(index, str) or (isinstance(index, list) and index and all(isinstance(e, str) for e in index)):
        return _fields(x, index)
    axes, entries = without_flags(entries_of(index, x.shape))
    return _select(build.rearrange(x.node, axes), entries, pointwise=False)


def is_lazy(entry: object) -> bool:
    """Whether an index entry is an array of tilework."""
    return isinstance(entry, Array)


def is_array(entry: object) -> bool:
    """Whether an index entry is an array, lazy or not."""
    return isinstance(entry, np.ndarray | Array)


def entries_of(index: Any, shape: Sequence[Any]) -> list[Entry]:
    """The index in normal form; masks whose answer is known now (in memory, or without elements) become positions."""
    given: list[Any] = normalize_index(index, shape, is_lazy)
    out: list[Entry] = []
    for entry in given:
        mask = is_array(entry) and entry.dtype.kind == "b" and entry.ndim > 0
        if mask and 0 in entry.shape:
            out.extend([np.zeros(0, np.int64)] * entry.ndim)
        elif mask and not is_lazy(entry):
            out.extend(np.nonzero(entry))
        else:
            out.append(entry)
    return out


def without_flags(entries: Sequence[Entry]) -> tuple[list[int | None], list[Entry]]:
    """Single booleans (``x[True]``) as NumPy sees them: one position or none along a new axis of length one.

    Returns the axes that what is indexed must have first, None for a new one, and the entries for these.
    """
    axes, out, axis = list[int | None](), list(entries), 0
    for k, entry in enumerate(entries):
        if isinstance(entry, np.ndarray) and entry.dtype.kind == "b":
            out[k] = np.zeros(int(entry), np.int64)
            axes.append(None)
        else:
            consumed = len(per_axis([entry]))
            axes.extend(range(axis, axis + consumed))
            axis += consumed
    return axes, out


def per_axis(entries: Iterable[Entry]) -> list[tuple[int, Entry]]:
    """For each axis of what is indexed the entry that consumes it, with its number."""
    out = []
    for k, entry in enumerate(entries):
        several = is_array(entry) and entry.dtype.kind == "b"
        out.extend([(k, entry)] * (0 if entry is None else entry.ndim if several else 1))
    return out


def result_labels(entries: Sequence[Entry], ndim: int, pointwise: bool = False) -> list[Label]:
    """Labels of the result's axes: those of slices, None for new axes, and the ``ndim`` dimensions of index arrays."""
    arrays = any(map(is_array, entries))
    advanced = [k for k, e in enumerate(entries) if is_array(e) or (arrays and isinstance(e, int))]
    labels: list[Label] = [None if e is None else k for k, e in enumerate(entries) if e is None or isinstance(e, slice)]
    together = not pointwise and bool(advanced) and advanced[-1] - advanced[0] + 1 == len(advanced)
    at = advanced[0] if together else 0
    return labels[:at] + [("dim", d) for d in range(ndim)] + labels[at:]


def _select(node: ArrayNode, entries: list[Entry], pointwise: bool) -> Array:
    """The selected elements. With ``pointwise`` arrays never select a grid, and their axes come first."""
    node = build.slice_(node, [FULL if is_array(e) else e for _, e in per_axis(entries)])
    labels: list[Label] = [k for k, e in per_axis(entries) if not isinstance(e, int)]
    arrays: dict[int, Any] = {k: e for k, e in enumerate(entries) if is_array(e)}
    ndim = 0
    if any(map(is_lazy, arrays.values())):
        if len(arrays) > 1:
            node, labels, arrays = _join_lazy(node, labels, arrays)
        ((k, array),) = arrays.items()
        ndim = 1 if array.dtype.kind == "b" else array.ndim
        node, labels = _take_lazy(node, labels, k, array.node)
    elif arrays:
        common = broadcast_indices(list(arrays.values()))
        ndim = len(common)
        if pointwise and len(arrays) > 1:
            node, labels = _take_points(node, labels, arrays, common)
        elif len(arrays) == 1 or grid_dims(list(arrays.values()), ndim) is not None:
            node, labels = _take_grid(node, labels, arrays, ndim)
        else:
            node, labels = _take_points(node, labels, arrays, common)
    wanted = result_labels(entries, ndim, pointwise)
    order = [labels.index(label) if label in labels else None for label in wanted]
    return Array(build.rearrange(node, order, label="getitem"))


def broadcast_indices(arrays: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The common shape of index arrays."""
    try:
        return np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        shapes = " ".join(str(a.shape) for a in arrays)
        raise IndexError(
            f"shape mismatch: indexing arrays could not be broadcast together with shapes {shapes}"
        ) from None


def grid_dims(arrays: Sequence[np.ndarray], ndim: int) -> list[int | None] | None:
    """For each index array the one dimension (of ``ndim``) along which it varies, None where it does not.

    None instead of a list if the arrays do not select a grid: if one varies along several, or two along the same.
    """
    dims: list[int | None] = []
    for a in arrays:
        varies = [ndim - a.ndim + d for d, n in enumerate(a.shape) if n != 1]
        if len(varies) > 1 or (varies and varies[0] in dims):
            return None
        dims.append(varies[0] if varies else None)
    return dims


def _take_grid(
    node: ArrayNode, labels: list[Label], arrays: Mapping[int, np.ndarray], ndim: int
) -> tuple[ArrayNode, list[Label]]:
    """One Take per array. An array of several dimensions (it is the only one then) divides its axis."""
    dims = grid_dims(list(arrays.values()), ndim) or [None]
    for (k, array), dim in zip(arrays.items(), dims, strict=True):
        axis = labels.index(k)
        node = build.take(node, array.ravel(), axis)
        if len(arrays) > 1:
            labels = [("dim", dim) if label == k and dim is not None else label for label in labels]
        else:
            node = reshape_node(node, (*node.shape[:axis], *array.shape, *node.shape[axis + 1 :]))
            labels = [*labels[:axis], *(("dim", d) for d in range(ndim)), *labels[axis + 1 :]]
    return node, labels


def _take_points(
    node: ArrayNode, labels: list[Label], arrays: Mapping[int, np.ndarray], common: tuple[int, ...]
) -> tuple[ArrayNode, list[Label]]:
    axes = [labels.index(k) for k in arrays]
    wanted = [*(("dim", d) for d in range(len(common))), *(label for label in labels if label not in arrays)]
    rest = tuple(chunks for axis, chunks in enumerate(node.chunks) if axis not in axes)
    if 0 in common and all(chunks.known for chunks in rest):
        nothing = (*common, *(chunks.total for chunks in rest))
        return empty(nothing, node.dtype, chunks=(*common, *rest)).node, wanted
    positions = [np.broadcast_to(array, common).ravel() for array in arrays.values()]
    node = build.points(node, axes, positions)
    node = reshape_node(node, (*common, *node.shape[1:]))
    return node, wanted


def _join_lazy(
    node: ArrayNode, labels: list[Label], arrays: Mapping[int, Any]
) -> tuple[ArrayNode, list[Label], dict[int, Array]]:
    """Several index arrays, of which some are lazy, as one: into the axis that their axes become when joined."""
    if any(array.dtype.kind == "b" for array in arrays.values()):
        raise UnsupportedError(
            "a lazy mask cannot be combined with other index arrays; compute() it first, or index in two steps"
        )
    axes = [labels.index(k) for k in arrays]
    rest = [axis for axis in range(node.ndim) if axis not in axes]
    lengths = [node.shape[axis] for axis in axes]
    flat: Any = 0
    for array, n in zip(arrays.values(), lengths, strict=True):
        checked = build.elementwise(Mapped(checked_positions, (("n", n),)), [asarray(array).node], np.int64, "getitem")
        flat = flat * n + Array(checked)
    node = build.rearrange(node, [*axes, *rest])
    node = reshape_node(node, (prod(lengths), *node.shape[len(axes) :]))
    k = min(arrays)
    return node, [k, *(labels[axis] for axis in rest)], {k: flat}


def checked_positions(positions: np.ndarray, *, n: int) -> np.ndarray:
    """Positions along an axis of length ``n``, not negative."""
    if ((positions < -n) | (positions >= n)).any():
        raise IndexError(
            f"index {positions[(positions < -n) | (positions >= n)].flat[0]} is out of bounds for size {n}"
        )
    return np.where(positions < 0, positions + n, positions)


def _take_lazy(node: ArrayNode, labels: list[Label], k: int, index: ArrayNode) -> tuple[ArrayNode, list[Label]]:
    n = labels.count(k)
    axis = labels.index(k) if n else sum(label < k for label in labels)  # a mask without axes adds one
    before, after = labels[:axis], labels[axis + n :]
    if index.dtype.kind == "b":
        if n != 1:
            size = prod(index.shape)
            node = reshape_node(node, (*node.shape[:axis], size, *node.shape[axis + n :]))
            index = reshape_node(index, (size,))
        names = [*before, "masked", *after]
        function = BlockFunction(_compress, (Slot(0), Slot(1)), {"axis": axis})
        inputs = [(node, names), (index, ["masked"])]
        out = build.blockwise(function, names, inputs, node.dtype, adjust_chunks={"masked": nan}, label="getitem")
        return out, [*before, ("dim", 0), *after]
    dims = [("dim", d) for d in range(index.ndim)]
    function = BlockFunction(_take, (Slot(0), Slot(1)), {"axis": axis})
    inputs = [(node, [*before, "taken", *after]), (index, dims)]
    return build.blockwise(function, [*before, *dims, *after], inputs, node.dtype, label="take"), [
        *before,
        *dims,
        *after,
    ]


def _compress(block: np.ndarray, mask: np.ndarray, *, axis: int) -> np.ndarray:
    return block[(FULL,) * axis + (mask,)]


def _take(block: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
    return np.take(block, indices, axis)


def _fields(x: Array, names: Any) -> Array:
    """Fields of a structured array."""
    dtype = np.empty(0, x.dtype)[names].dtype
    if isinstance(names, str) and x.dtype[names].shape:
        raise UnsupportedError(f"field {names!r} holds arrays; use map_blocks(lambda block: block[{names!r}], ...)")
    return Array(build.elementwise(Mapped(_field, (("names", names),)), [x.node], dtype, "getitem"))


def _field(block: np.ndarray, *, names: Any) -> np.ndarray:
    return block[names]


# ---------------------------------------------------------------- accessors


class PointIndexer:
    """``x.vindex``: index arrays select points, whose axes come first in the result."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    def __getitem__(self, index: Any) -> Array:
        entries = entries_of(index, self._array.shape)
        if any(e is None for e in entries):
            raise IndexError(f"vindex does not support new axes (None), got {index!r}; add them to the result")
        if any(map(is_array, entries)):
            entries = [np.array(e) if isinstance(e, int) else e for e in entries]
        axes, entries = without_flags(entries)
        return _select(build.rearrange(self._array.node, axes), entries, pointwise=True)


class BlockIndexer:
    """``x.blocks``: indexing by whole blocks. An integer keeps its axis, which then has one block."""

    __slots__ = ("_array",)

    def __init__(self, array: Array) -> None:
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return self._array.numblocks

    @property
    def size(self) -> int:
        """Number of blocks."""
        return self._array.npartitions

    def ravel(self) -> list[Array]:
        """All blocks, in C order."""
        return [self[index] for index in product(*map(range, self.shape))]

    def __getitem__(self, index: Any) -> Array:
        entries = entries_of(index, self.shape)
        plain = len(entries) == self._array.ndim and not any(e is None or is_lazy(e) for e in entries)
        if not plain or sum(map(is_array, entries)) > 1:
            raise PlanError(
                f"blocks can be indexed by integers, slices and one list of integers, and newaxis is not supported; "
                f"got {index!r}"
            )
        node = self._array.node
        for axis, entry in enumerate(entries):
            node = _pick_blocks(node, axis, entry)
        return Array(node)


def _pick_blocks(node: ArrayNode, axis: int, entry: int | slice | np.ndarray) -> ArrayNode:
    have = node.chunks[axis]
    numbers = np.arange(len(have))[entry if not isinstance(entry, slice) else _python_slice(entry)].ravel()
    if len(numbers) == len(have) and (numbers == np.arange(len(have))).all():
        return node
    index: list[int | slice] = [FULL] * node.ndim
    if len(numbers) and have.known and (np.diff(numbers) == 1).all():
        index[axis] = slice(int(have.bounds[numbers[0]]), int(have.bounds[numbers[-1] + 1]), 1)
        return build.slice_(node, index)
    bounds = have.bounds if have.known else np.zeros(len(have) + 1, np.int64)  # unknown: refused by take
    positions = [np.arange(bounds[k], bounds[k + 1]) for k in numbers]
    chunks = AxisChunks([int(bounds[k + 1] - bounds[k]) for k in numbers] or (0,))
    return build.take(node, np.concatenate(positions or [np.zeros(0, np.int64)]), axis, chunks)


def _python_slice(entry: slice) -> slice:
    """A slice in normal form as Python reads it."""
    return slice(entry.start, None if entry.stop < 0 else entry.stop, entry.step)
