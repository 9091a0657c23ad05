"""Blocks that see their neighbours: halos, boundaries, and functions of blocks with halos.

Beyond the ends of the array lies what ``boundary`` says. The first and the last block make it of their own elements,
if it is no longer than they are and not periodic. Otherwise it is joined to the array as slices of itself or as
constants, each end as part of the end's block; so the blocks of a halo are counted as those of the array, and a halo
may be wider than a block. With boundary "none" there is nothing beyond the ends: the blocks there have a smaller halo.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray, full
from tilework.array.mapping import axes_of, map_blocks
from tilework.array.rechunking import unify_chunks
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.stages import BlockPlace

Depth: TypeAlias = tuple[tuple[int, int], ...]
"""Elements before and after, for each axis."""
Boundary: TypeAlias = tuple[Any, ...]
"""For each axis "none", "periodic", "reflect", "nearest" or a constant."""

_KINDS = ("none", "periodic", "reflect", "nearest")


def map_overlap(
    func: Any,
    *args: Any,
    depth: Any = None,
    boundary: Any = None,
    trim: bool = True,
    align_arrays: bool = True,
    allow_rechunk: bool = True,
    **kwargs: Any,
) -> Array:
    """Apply a function to blocks that include some elements of their neighbours.

    Parameters
    ----------
    func
        Called with one block of each array, halo included; returns a block of the same shape.
    *args
        The arrays. They must broadcast against each other.
    depth
        Width of the halo: a number, a tuple with one value for each axis, or a dict from axis to value. A value is a
        number or a pair (before, after). A list gives one such depth for each array. Default: 0.
    boundary
        What lies beyond the ends: "none", "periodic", "reflect" (the edge repeated), "nearest", or a constant; one for
        all axes, a tuple, a dict, or a list for several arrays as for ``depth``. Default: "none".
    trim
        Cut the halo from what ``func`` returns. If not, ``func`` returns blocks without it.
    align_arrays
        Rechunk the arrays to common chunks first.
    allow_rechunk
        Without effect: a halo may reach over several blocks.
    **kwargs
        Keywords of :func:`map_blocks` and more arguments of ``func``.

    Returns
    -------
    Array

    Raises
    ------
    PlanError
        If a depth is negative or larger than what can be reflected, or an unknown kind of boundary is named.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.from_array(np.array([1, 1, 2, 3, 3, 3, 2, 1, 1]), chunks=5)
    >>> ta.map_overlap(lambda x: x - np.roll(x, 1), x, depth=1, boundary=0).compute()
    array([ 1,  0,  1,  1,  0,  0, -1, -1,  0])
    """
    if not callable(func):
        raise TypeError(f"map_overlap: the first argument must be a function, not {type(func).__name__}")
    if not args or not all(isinstance(x, Array) for x in args):
        kinds = ", ".join(type(x).__name__ for x in args)
        raise TypeError(f"map_overlap: the arguments after the function must be arrays, not ({kinds})")
    arrays = list(args)
    if align_arrays:
        pairs = [(x, tuple(range(x.ndim))[::-1]) for x in arrays]
        arrays = unify_chunks(*[thing for pair in pairs for thing in pair])[1]
    depths = [_depth(x, d) for x, d in zip(arrays, _for_each(arrays, depth), strict=True)]
    kinds_ = [_boundary(x, b) for x, b in zip(arrays, _for_each(arrays, boundary), strict=True)]
    if not any(after or before for d in depths for before, after in d):
        return map_blocks(func, *arrays, **kwargs)
    if not trim:
        kwargs.setdefault("chunks", arrays[0].chunks)
    wide = [Array(_with_halo(x.node, d, b)) for x, d, b in zip(arrays, depths, kinds_, strict=True)]
    result = map_blocks(func, *wide, **kwargs)
    if not trim:
        return result
    k = max(range(len(arrays)), key=lambda i: (arrays[i].ndim, -i))
    halo = [_halo(have, d, b) for have, d, b in zip(arrays[k].chunks, depths[k], kinds_[k], strict=True)]
    halo = _follow_axes(halo, kwargs.get("drop_axis"), kwargs.get("new_axis"), result.ndim)
    return Array(_cut(result.node, halo))


def overlap(x: Any, depth: Any, boundary: Any = None, *, allow_rechunk: bool = True) -> Array:
    """Every block with a halo of its neighbours, and beyond the array's ends of its boundary.

    Parameters
    ----------
    x
        The array.
    depth, boundary, allow_rechunk
        As for :func:`map_overlap`, for one array.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.overlap.overlap(ta.arange(6, chunks=3), depth=1, boundary={0: "reflect"}).compute()
    array([0, 0, 1, 2, 3, 2, 3, 4, 5, 5])
    """
    x = asarray(x)
    return Array(_with_halo(x.node, _depth(x, depth), _boundary(x, boundary)))


def trim_internal(x: Array, axes: Any, boundary: Any = None) -> Array:
    """Cut ``axes`` elements (as ``depth`` of :func:`map_overlap`) from both sides of every block.

    Where ``boundary`` is "none" the first and the last block have no halo there.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.overlap.trim_internal(ta.arange(6, chunks=3), {0: 1}, "none").compute()
    array([0, 1, 4, 5])
    """
    halo = []
    for have, (before, after), kind in zip(x.chunks, _depth(x, axes), _boundary(x, boundary), strict=True):
        first, last = [before] * len(have), [after] * len(have)
        if _is(kind, "none"):
            first[0] = last[-1] = 0
        halo.append((np.array(first), np.array(last)))
    return Array(_cut(x.node, halo))


def trim_overlap(x: Array, depth: Any, boundary: Any = None) -> Array:
    """Cut the halo of :func:`overlap`: another name of :func:`trim_internal`, with ``depth``."""
    return trim_internal(x, depth, boundary)


def sliding_window_view(
    x: Any,
    window_shape: int | Sequence[int],
    axis: int | Sequence[int] | None = None,
    automatic_rechunk: bool = True,
    subok: bool = False,
    writeable: bool = False,
) -> Array:
    """Windows that slide over the array, as in :func:`numpy.lib.stride_tricks.sliding_window_view`.

    Parameters
    ----------
    x
        The array.
    window_shape
        Size of the window along each of ``axis``.
    axis
        Axes along which the window slides; all by default.
    automatic_rechunk
        Without effect: a window may reach over several blocks.
    subok, writeable
        Without effect; for programs written for NumPy.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.overlap.sliding_window_view(ta.arange(5, chunks=2), 3).compute()
    array([[0, 1, 2],
           [1, 2, 3],
           [2, 3, 4]])
    """
    x = asarray(x)
    windows = tuple(window_shape) if isinstance(window_shape, Iterable) else (window_shape,)
    axes = (
        tuple(range(x.ndim))
        if axis is None
        else np.lib.array_utils.normalize_axis_tuple(axis, x.ndim, allow_duplicate=True)
    )
    if len(windows) != len(axes):
        raise PlanError(f"sliding_window_view: window_shape={windows} has {len(windows)} sizes for {len(axes)} axes")
    if any(w < 1 for w in windows):
        raise PlanError(f"sliding_window_view: window_shape={windows} must be positive")
    reach = [sum(w - 1 for w, a in zip(windows, axes, strict=True) if a == k) for k in range(x.ndim)]
    for k, n in enumerate(reach):
        if n and not x.shape[k] > n:
            raise PlanError(f"sliding_window_view: windows {windows} are longer than the array of shape {x.shape}")
    node = build.rechunk(x.node, tuple(_long_tail(have, n) for have, n in zip(x.chunks, reach, strict=True)))
    kept = tuple(
        AxisChunks((*have[:-1], have[-1] - n)) if n else have for have, n in zip(node.chunks, reach, strict=True)
    )
    labels, fresh = tuple(range(x.ndim)), tuple(range(x.ndim, x.ndim + len(axes)))
    view = partial(_windows, window_shape=windows, axis=axes)
    return Array(
        build.blockwise(
            BlockFunction(view, (Slot(0),), scratch=0.0),  # a view: blocks weigh no more than without windows
            (*labels, *fresh),
            [(build.overlap(node, tuple((0, n) for n in reach)), labels)],
            x.dtype,
            new_axes=dict(zip(fresh, windows, strict=True)),
            adjust_chunks={k: tuple(kept[k]) for k, n in enumerate(reach) if n},
            label="sliding_window_view",
        )
    )


def _windows(block: np.ndarray, *, window_shape: tuple[int, ...], axis: tuple[int, ...]) -> np.ndarray:
    if block.size:
        return np.lib.stride_tricks.sliding_window_view(block, window_shape, axis)
    shape = list(block.shape)  # NumPy has no windows of one in nothing
    for width, k in zip(window_shape, axis, strict=True):
        shape[k] = max(0, shape[k] - width + 1)
    return np.empty((*shape, *window_shape), block.dtype)


def _long_tail(axis: AxisChunks, reach: int) -> AxisChunks:
    """Chunks with enough blocks at the end joined that every block has the start of a window."""
    if not reach:
        return axis
    _need_known(axis)
    first = max(0, int(np.searchsorted(axis.bounds, axis.total - reach, side="left")) - 1)
    return AxisChunks((*axis[:first], sum(axis[first:])))


def push(array: Any, n: int | None = None, axis: int = -1) -> Array:
    """Each missing value (NaN, NaT) replaced by the last one before it that is there.

    Parameters
    ----------
    array
        The array.
    n
        Replace at most so many in a row; all by default.
    axis
        The axis to go along.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.from_array(np.array([1.0, np.nan, np.nan, 4.0]), chunks=2)
    >>> ta.push(x, 1, 0).compute()
    array([ 1.,  1., nan,  4.])
    """
    x = asarray(array)
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    if n is not None and n < x.shape[axis]:
        fill = partial(_filled, n=n, axis=axis)
        return map_overlap(fill, x, depth={axis: (n, 0)}, boundary="none", dtype=x.dtype, name="push")
    return Array(build.scan(x.node, axis, (_filled, None, _filled_from), x.dtype, "push"))


def _filled(x: np.ndarray, axis: int, n: int | None = None) -> np.ndarray:
    number = np.arange(x.shape[axis]).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
    last = np.maximum.accumulate(np.where(x == x, number, -1), axis=axis)
    filled = np.take_along_axis(x, np.maximum(last, 0), axis)
    return filled if n is None else np.where(number - last <= n, filled, x)


def _filled_from(before: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(x == x, x, before)


# ---------------------------------------------------------------- arguments


def _for_each(arrays: Sequence[Array], given: Any) -> list[Any]:
    """A list is one value for each array, anything else is for all of them."""
    if not isinstance(given, list):
        return [given] * len(arrays)
    if len(given) != len(arrays):
        raise PlanError(f"map_overlap: {given!r} gives {len(given)} values for {len(arrays)} arrays")
    return given


def _by_axis(x: Array, given: Any, default: Any) -> list[Any]:
    if isinstance(given, Mapping):
        axes = dict(zip(np.lib.array_utils.normalize_axis_tuple(tuple(given), x.ndim), given.values(), strict=True))
        return [axes.get(axis, default) for axis in range(x.ndim)]
    if isinstance(given, tuple):
        if len(given) != x.ndim:
            raise PlanError(f"overlap: {given!r} has {len(given)} values for an array of {x.ndim} dimensions")
        return list(given)
    return [default if given is None else given] * x.ndim


def _depth(x: Array, given: Any) -> Depth:
    pairs = [tuple(d) if isinstance(d, tuple | list) else (d, d) for d in _by_axis(x, given, 0)]
    for axis, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(n, int | np.integer) and n >= 0 for n in pair):
            raise PlanError(f"overlap: depth {pair} of axis {axis} must be a whole number from 0 up, or two of them")
    return tuple((int(before), int(after)) for before, after in pairs)


def _boundary(x: Array, given: Any) -> Boundary:
    kinds = tuple("none" if kind is None else kind for kind in _by_axis(x, given, "none"))
    for kind in kinds:
        if isinstance(kind, str) and kind not in _KINDS:
            raise PlanError(f"overlap: there is no boundary {kind!r}; use one of {', '.join(_KINDS)}, or a constant")
    return kinds


def _is(kind: Any, name: str) -> bool:
    return isinstance(kind, str) and kind == name


def _need_known(axis: AxisChunks) -> None:
    if not axis.known:
        raise UnknownChunksError("overlap: an axis has unknown chunk sizes; call compute_chunk_sizes() first")


# ---------------------------------------------------------------- halos


def _with_halo(node: ArrayNode, depth: Depth, boundary: Boundary) -> ArrayNode:
    wanted = [(axis, pair, kind) for axis, (pair, kind) in enumerate(zip(depth, boundary, strict=True)) if any(pair)]
    wanted = [(axis, pair, kind) for axis, pair, kind in wanted if not _is(kind, "none")]
    padded = [one for one in wanted if not _is(one[2], "periodic")]
    for axis, _, _ in wanted:
        _need_known(node.chunks[axis])
    if any(pair[0] > node.chunks[axis][0] or pair[1] > node.chunks[axis][-1] for axis, pair, _ in padded):
        padded = []  # further blocks than the first and the last see what is beyond the ends
    for one in wanted:
        if one not in padded:
            node = _extended(node, *one)
    return _padded(build.overlap(node, depth), padded)


def _padded(node: ArrayNode, padded: Sequence[tuple[int, tuple[int, int], Any]]) -> ArrayNode:
    """The first and last block along each axis, with what is beyond made of their own elements or constants."""
    if not padded:
        return node
    chunks: dict[Hashable, Any] = {}
    for axis, (before, after), _ in padded:
        sizes = list(node.chunks[axis])
        sizes[0] += before
        sizes[-1] += after
        chunks[axis] = AxisChunks(sizes)
    pad = BlockFunction(_Pad(tuple(padded), node.grid), (Slot(0),), place=True)
    labels = range(node.ndim)
    return build.blockwise(pad, labels, [(node, labels)], node.dtype, adjust_chunks=chunks, label="boundary")


@dataclass(frozen=True, slots=True)
class _Pad:
    """A block with its part of the boundary, axis by axis: ``(axis, (before, after), kind)``."""

    ends: tuple[tuple[int, tuple[int, int], Any], ...]
    grid: tuple[int, ...]

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        for axis, (before, after), kind in self.ends:
            k = block_place.index[axis]
            width = [(0, 0)] * block.ndim
            width[axis] = (before if k == 0 else 0, after if k == self.grid[axis] - 1 else 0)
            if any(width[axis]):
                if isinstance(kind, str):
                    block = np.pad(block, width, mode="symmetric" if kind == "reflect" else "edge")
                else:
                    block = np.pad(block, width, mode="constant", constant_values=kind)
        return block


def _extended(node: ArrayNode, axis: int, pair: tuple[int, int], kind: Any) -> ArrayNode:
    """The array with its boundary along one axis, as part of the first and of the last block."""
    have = node.chunks[axis]
    _need_known(have)
    n, (before, after) = have.total, pair
    if kind in ("periodic", "reflect") and isinstance(kind, str) and max(pair) > n:
        raise PlanError(f"overlap: depth {max(pair)} of axis {axis} is larger than its {n} elements, which are {kind}")

    def cut(start: int, stop: int, step: int = 1) -> ArrayNode:
        whole = [slice(0, c.total, 1) if c.known else slice(None) for c in node.chunks]
        return build.slice_(node, (*whole[:axis], slice(start, stop, step), *whole[axis + 1 :]))

    def constant(piece: ArrayNode | None, length: int) -> ArrayNode:
        sizes = (*node.chunks[:axis], AxisChunks((length,)), *node.chunks[axis + 1 :])
        if piece is not None:
            return build.rearrange(piece, range(node.ndim), {axis: sizes[axis]}, label="boundary")
        return full(tuple(c.total for c in sizes), kind, dtype=node.dtype, chunks=sizes).node

    if _is(kind, "periodic"):
        ends = (lambda: cut(n - before, n)), (lambda: cut(0, after))
    elif _is(kind, "reflect"):
        ends = (lambda: cut(before - 1, -1, -1)), (lambda: cut(n - 1, n - 1 - after, -1))
    elif _is(kind, "nearest"):
        ends = (lambda: constant(cut(0, 1), before)), (lambda: constant(cut(n - 1, n), after))
    else:
        ends = (lambda: constant(None, before)), (lambda: constant(None, after))
    parts = [*([ends[0]()] if before else []), node, *([ends[1]()] if after else [])]
    joined = build.concatenate(parts, axis)
    sizes = list(have)
    sizes[0] += before
    sizes[-1] += after
    return build.rechunk(joined, (*joined.chunks[:axis], AxisChunks(sizes), *joined.chunks[axis + 1 :]))


Halo: TypeAlias = tuple[np.ndarray, np.ndarray] | None
"""Width of the halo before and after each block along one axis; None: no halo."""


def _halo(have: AxisChunks, pair: tuple[int, int], kind: Any) -> Halo:
    if not any(pair):
        return None
    before, after = (np.full(len(have), d) for d in pair)
    if _is(kind, "none"):
        before, after = np.minimum(before, have.bounds[:-1]), np.minimum(after, have.total - have.bounds[1:])
    return before, after


def _follow_axes(halo: list[Halo], drop_axis: Any, new_axis: Any, ndim: int) -> list[Halo]:
    """Halos of what map_blocks made of the array, given the axes that it dropped and added."""
    drop = axes_of(drop_axis, len(halo), "drop_axis")
    kept = [h for axis, h in enumerate(halo) if axis not in drop]
    for axis in sorted(axes_of(range(ndim - len(kept)) if new_axis is None else new_axis, ndim, "new_axis")):
        kept.insert(axis, None)
    return kept


def _cut(node: ArrayNode, halo: Sequence[Halo]) -> ArrayNode:
    """Every block without its halo."""
    starts: list[tuple[int, ...] | None] = []
    sizes = []
    for have, pair in zip(node.chunks, halo, strict=True):
        if pair is None:
            starts.append(None)
            sizes.append(have)
            continue
        _need_known(have)
        left = have.sizes - pair[0] - pair[1]
        if (left < 0).any():
            raise PlanError(
                f"overlap: blocks of {min(have)} elements have no halo of {int(max(pair[0] + pair[1]))} to cut"
            )
        starts.append(tuple(pair[0].tolist()))
        sizes.append(AxisChunks(left.tolist()))
    if all(start is None for start in starts):
        return node
    trim = BlockFunction(_Cut(tuple(starts), tuple(sizes)), (Slot(0),), place=True, scratch=0.0)
    labels = range(node.ndim)
    return build.blockwise(
        trim, labels, [(node, labels)], node.dtype, adjust_chunks=dict(enumerate(sizes)), label="trim"
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """The part of block ``k`` that begins at ``starts[axis][k]``; None: the whole axis."""

    starts: tuple[tuple[int, ...] | None, ...]
    sizes: tuple[AxisChunks, ...]

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        index = []
        for start, size, k in zip(self.starts, self.sizes, block_place.index, strict=True):
            index.append(slice(None) if start is None else slice(start[k], start[k] + size[k]))
        return block[tuple(index)]


__all__ = ["map_overlap", "overlap", "push", "sliding_window_view", "trim_internal", "trim_overlap"]
