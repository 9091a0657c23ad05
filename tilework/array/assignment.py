"""Assignment: ``x[index] = value`` without changing a node.

What selects a grid (slices, integers, one index array or ``numpy.ix_``) and what is a mask becomes
``where(selected, value laid out like x, x)``: elementwise, so it fuses and slices move through it. ``selected`` is an
outer product of one condition per axis, each computed where it is used. Index arrays that select points become a
function of whole blocks that puts in those points that lie inside the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, prod
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray, axis_index, full, operand
from tilework.array.elementwise import Mapped, cast, pick
from tilework.array.indexing import (
    broadcast_indices,
    checked_positions,
    entries_of,
    grid_dims,
    is_array,
    is_lazy,
    per_axis,
    result_labels,
    without_flags,
)
from tilework.array.shapes import broadcast_to, reshape_node
from tilework.base.errors import PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.indexing import normalize_index
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.stages import BlockPlace

FULL = slice(None)


def setitem(x: Array, index: Any, value: Any) -> None:
    """``x[index] = value``: rebinds ``x.node``."""
    value = _value(value, x)
    if _set_through_mask(x, index, value):
        return
    axes, entries = without_flags(entries_of(index, x.shape))
    node = build.rearrange(x.node, axes)
    arrays = {k: e for k, e in enumerate(entries) if is_array(e)}
    lazy = any(map(is_lazy, entries))
    common = _lazy_shape(entries) if lazy else broadcast_indices(list(arrays.values()))
    labels = result_labels(entries, len(common))
    selected = _selected_shape(node, entries, labels, common)
    value = _fit(value, selected)
    if 0 in selected:
        return
    if lazy:
        _check_lazy(list(arrays.values()), value, labels)
    dims = [0] if lazy else grid_dims(list(arrays.values()), len(common))
    if dims is None:
        node = _put_points(node, entries, labels, common, value)
    else:
        node = _put_grid(node, entries, labels, dict(zip(arrays, dims, strict=True)), value)
    x.node = build.rearrange(node, [axes.index(axis) for axis in range(x.ndim)])


def _lazy_shape(entries: Sequence[Any]) -> tuple[Any, ...]:
    """What a lazy index array adds to the shape of the result: one axis, of unknown length for a mask."""
    array = next(e for e in entries if is_lazy(e))
    return (nan,) if array.dtype.kind == "b" else array.shape


def _check_lazy(arrays: Sequence[Any], value: Any, labels: Sequence[Any]) -> None:
    """What a lazy index selects can be told element by element, but not in which order: all get the same."""
    varies = isinstance(value, ArrayNode) and value.shape[labels.index(("dim", 0))] != 1
    if len(arrays) > 1 or arrays[0].ndim != 1 or varies:
        raise UnsupportedError(
            "assignment through a lazy index array is possible for a mask, or for one array of positions, and a value "
            "that does not vary with what it selects; use where(mask, value, x)"
        )


def _value(value: Any, x: Array) -> ArrayNode | np.generic:
    """The value in the dtype of ``x``: a node, or a scalar."""
    value = operand(value, (x,))
    if isinstance(value, ArrayNode):
        return cast(value, x.dtype)
    cell = np.empty(1, x.dtype)
    cell[0] = value  # raises what NumPy raises for values that do not fit
    return cell[0]


def _choose(mask: ArrayNode, value: Any, node: ArrayNode) -> ArrayNode:
    return build.elementwise(pick, [mask, value, node], node.dtype, "setitem")


def _set_through_mask(x: Array, index: Any, value: Any) -> bool:
    """Assign if the index is one mask and the value does not vary with what it selects; else return False."""
    entries: list[Any] = normalize_index(index, x.shape, is_lazy)
    masks = [k for k, e in enumerate(entries) if is_array(e) and e.dtype.kind == "b"]
    others = [(e, n) for (k, e), n in zip(per_axis(entries), x.shape, strict=True) if k not in masks]
    if len(masks) != 1 or len(entries) != 1 + len(others) or not all(_is_full(e, n) for e, n in others):
        return False
    mask = asarray(entries[masks[0]]).node
    after = len(others) - masks[0]
    if 0 in mask.shape or (isinstance(value, ArrayNode) and value.ndim > after):
        return False
    mask = build.rearrange(mask, [*([None] * masks[0]), *range(mask.ndim), *([None] * after)])
    x.node = _choose(mask, _fit(value, x.shape[x.ndim - after :]), x.node)
    return True


def _is_full(entry: Any, n: Any) -> bool:
    """Whether an entry is the whole axis."""
    return isinstance(entry, slice) and entry in (FULL, slice(0, n, 1))


def _selected_shape(x: ArrayNode, entries: Sequence[Any], labels: Sequence[Any], common: tuple[int, ...]) -> list[Any]:
    """Shape of ``x[index]``."""
    sizes: dict[Any, Any] = {None: 1} | {("dim", d): n for d, n in enumerate(common)}
    for (k, entry), n in zip(per_axis(entries), x.shape, strict=True):
        if isinstance(entry, slice):
            sizes[k] = n if entry == FULL else len(range(entry.start, entry.stop, entry.step))
    return [sizes[label] for label in labels]


def _fit(value: Any, selected: Sequence[Any]) -> Any:
    """The value with exactly the axes of what is selected; lengths are equal or one."""
    if not isinstance(value, ArrayNode):
        return value
    extra = max(0, value.ndim - len(selected))
    fits = value.shape[:extra] == (1,) * extra and all(
        n in (1, want) or n != n or want != want for n, want in zip(value.shape[::-1], selected[::-1], strict=False)
    )
    if not fits:
        raise PlanError(
            f"could not broadcast input array from shape {value.shape} into shape {tuple(selected)}; "
            "assign an array that broadcasts to what the index selects"
        )
    missing = len(selected) - value.ndim + extra
    return build.rearrange(value, [*([None] * missing), *range(extra, value.ndim)])


# ---------------------------------------------------------------- grids


def _put_grid(
    node: ArrayNode, entries: Sequence[Any], labels: Sequence[Any], dims: dict[int, int | None], value: Any
) -> ArrayNode:
    """Assign to an outer product of selections, one per axis."""
    axes = per_axis(entries)
    if isinstance(value, ArrayNode):
        order: list[int | None] = []
        for k, entry in axes:
            label = k if not is_array(entry) else ("dim", dims[k])
            order.append(labels.index(label) if label in labels else None)
        value = build.rearrange(value, order)
    mask = None
    for axis, (_, entry) in enumerate(axes):
        chunks = node.chunks[axis]
        if _is_full(entry, chunks.total):
            continue
        if isinstance(value, ArrayNode) and value.shape[axis] != 1:
            value = _spread(value, axis, entry, chunks)
        condition = _is_selected(entry, chunks)
        condition = build.rearrange(condition, [0 if a == axis else None for a in range(node.ndim)])
        mask = condition if mask is None else build.elementwise(np.logical_and, [mask, condition])
    if mask is None:
        mask = full((), True).node
    return _choose(mask, value, node)


def _is_selected(entry: Any, chunks: AxisChunks) -> ArrayNode:
    """Which elements of an axis an entry selects."""
    if is_lazy(entry):
        return entry.node if entry.dtype.kind == "b" else _is_among(entry.node, chunks)
    if isinstance(entry, int):
        return build.elementwise(np.equal, [axis_index(chunks), entry])
    if isinstance(entry, slice):
        where = range(entry.start, entry.stop, entry.step)
        low, high = (where[0], where[-1]) if where else (0, -1)
        between = Mapped(
            _in_steps, (("low", min(low, high)), ("high", max(low, high) if where else -1), ("step", abs(entry.step)))
        )
        return build.elementwise(between, [axis_index(chunks)], bool, "selected")
    selected = np.zeros(chunks.total, bool)
    selected[entry.ravel()] = True
    return asarray(selected, chunks=(chunks,)).node


def _is_among(positions: ArrayNode, chunks: AxisChunks) -> ArrayNode:
    """Which elements of an axis lazy positions name. Each block needs all of them."""
    function = BlockFunction(_among, (Slot(0), Slot(1)), {"n": chunks.total})
    inputs: list[Any] = [(axis_index(chunks), ("axis",)), (positions, ("positions",))]
    return build.blockwise(function, ("axis",), inputs, bool, label="selected")


def _among(i: np.ndarray, positions: np.ndarray, *, n: int) -> np.ndarray:
    return np.isin(i, checked_positions(positions, n=n))


def _in_steps(i: np.ndarray, *, low: int, high: int, step: int) -> np.ndarray:
    inside = (i >= low) & (i <= high)
    return inside if step == 1 else inside & ((i - low) % step == 0)


def _spread(value: ArrayNode, axis: int, entry: Any, chunks: AxisChunks) -> ArrayNode:
    """The value with each element at its place along an axis of ``chunks``; what lies between does not matter."""
    if isinstance(entry, slice) and entry.step == 1:
        parts = [
            full((*value.shape[:axis], n, *value.shape[axis + 1 :]), 0, value.dtype,
                 chunks=(*value.chunks[:axis], -1, *value.chunks[axis + 1 :])).node
            for n in (entry.start, chunks.total - entry.stop)
        ]  # fmt: skip
        laid = build.concatenate([parts[0], value, parts[1]], axis)
        return build.rechunk(laid, (*laid.chunks[:axis], chunks, *laid.chunks[axis + 1 :]))
    where = np.arange(entry.start, entry.stop, entry.step) if isinstance(entry, slice) else entry.ravel()
    source = np.zeros(chunks.total, np.int64)
    source[where] = np.arange(len(where))  # of repeated places the last one counts, as in NumPy
    return build.take(value, source, axis, chunks)


# ---------------------------------------------------------------- points


def _put_points(
    node: ArrayNode, entries: Sequence[Any], labels: Sequence[Any], common: tuple[int, ...], value: Any
) -> ArrayNode:
    """Assign to points: index arrays (and integers, as arrays) that vary together."""
    axes = per_axis(entries)
    part: list[int | slice] = [e if isinstance(e, slice) else FULL for _, e in axes]
    inner = build.slice_(node, part)
    indexed = {axis: e for axis, (_, e) in enumerate(axes) if not isinstance(e, slice)}
    rest = [axis for axis in range(node.ndim) if axis not in indexed]
    positions = tuple(np.broadcast_to(e, common).ravel() for e in indexed.values())
    inputs: list[Any] = [(inner, range(node.ndim))]
    if isinstance(value, ArrayNode):
        wanted = [("dim", d) for d in range(len(common))] + [axes[axis][0] for axis in rest]
        value = build.rearrange(value, [labels.index(label) for label in wanted])
        if value.shape[: len(common)] != (1,) * len(common):
            value = broadcast_to(Array(value), (*common, *value.shape[len(common) :])).node
        value = reshape_node(value, (prod(value.shape[: len(common)]), *value.shape[len(common) :]))
        inputs.append((value, ("points", *rest)))
        value = Slot(1)
    put = BlockFunction(_PutPoints(tuple(indexed), positions), (Slot(0), value), place=True)
    out = build.blockwise(put, range(node.ndim), inputs, node.dtype, label="setitem")
    if inner is node:
        return out
    whole = [slice(0, n, 1) if e == FULL else e for e, n in zip(part, node.shape, strict=True)]
    return _put_grid(node, whole, range(node.ndim), {}, out)


@dataclass(frozen=True)
class _PutPoints:
    """Puts values at those points that lie inside the block."""

    axes: tuple[int, ...]
    positions: tuple[np.ndarray, ...]

    def __call__(self, block: np.ndarray, value: Any, block_place: BlockPlace) -> np.ndarray:
        local = [p - block_place.offset(axis) for p, axis in zip(self.positions, self.axes, strict=True)]
        inside = np.logical_and.reduce(
            [(p >= 0) & (p < block.shape[axis]) for p, axis in zip(local, self.axes, strict=True)]
        )
        if not inside.any():
            return block
        out = np.array(block)
        if np.ndim(value) and value.shape[0] != 1:
            value = value[inside]
        np.moveaxis(out, self.axes, range(len(self.axes)))[tuple(p[inside] for p in local)] = value
        return out
