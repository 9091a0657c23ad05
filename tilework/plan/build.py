"""The one place that makes array nodes: checks the arguments, infers shape, chunks and dtype, gives the token.

Everything above (``tilework.array``, the xarray integration) says what it wants in terms of these functions. They
take and return nodes, normalize nothing twice, and run no user code. Operations that change nothing return their
input: a full slice, a rechunk to the same chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tilework.base.errors import ChunkError, PlanError, UnknownChunksError
from tilework.base.tokens import tokenize
from tilework.plan import blocks, reshaping, sorting
from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.ops import (
    ArrayNode,
    BlockFunction,
    Blockwise,
    Concatenate,
    Elementwise,
    FromValue,
    HeldArray,
    HeldValue,
    Merge,
    Node,
    Overlap,
    Points,
    Rechunk,
    Reduce,
    Reshape,
    Scan,
    ScanFunctions,
    Slice,
    Slot,
    Source,
    Store,
    Take,
    Whole,
)
from tilework.plan.protocols import Handle, Region, Sink
from tilework.plan.protocols import Source as SourceProtocol
from tilework.plan.reading import reading_blocks
from tilework.plan.reductions import Reduction

ONE = AxisChunks((1,))


def source(src: SourceProtocol, chunks: Chunks, label: str = "array") -> Source:
    """All of ``src`` in blocks of ``chunks`` (normalized)."""
    shape = tuple(axis.total for axis in chunks)
    if shape != src.shape:
        raise ChunkError(f"chunks {tuple(map(tuple, chunks))} add up to {shape}, but the array has shape {src.shape}")
    return source_region(src, tuple(slice(0, n, 1) for n in src.shape), (), chunks, label)


def source_region(src: SourceProtocol, region: Region, drop: tuple[int, ...], chunks: Chunks, label: str) -> Source:
    """A region of ``src`` without the axes ``drop`` (of length one). Equal reads have equal tokens."""
    return Source(src, region, drop, chunks, f"{label}-" + tokenize(src.token, region, drop, chunks), label)


def stored(
    src: SourceProtocol, chunks: Chunks, label: str = "array", region: Region | None = None, drop: tuple[int, ...] = ()
) -> ArrayNode:
    """A region of ``src`` (default: all) in blocks of ``chunks``, read in whole units of storage: each of them once."""
    if region is None:
        return read_whole(source(src, chunks, label), chunks)
    return read_whole(source_region(src, region, drop, chunks, label), chunks)


def read_whole(x: Source, chunks: Chunks) -> ArrayNode:
    """What ``x`` reads in blocks of ``chunks``, read in whole units of storage."""
    unit = None if x.source.free else x.source.storage_chunks
    if unit is not None:
        kept = [axis for axis in range(len(x.region)) if axis not in x.drop]
        read = reading_blocks(chunks, [x.region[a] for a in kept], [unit[a] for a in kept])
    else:
        read = chunks
    return rechunk(source_region(x.source, x.region, x.drop, read, x.label), chunks)


# ---------------------------------------------------------------- blockwise


def elementwise(fn: Callable[..., Any], args: Sequence[Any], dtype: Any = None, label: str | None = None) -> Blockwise:
    """``fn(*args)`` with NumPy's broadcasting. ``args`` are nodes and scalars; at least one is a node.

    Without ``dtype`` it is found by calling ``fn`` once on empty arrays, which also raises what NumPy would raise for
    operands that it cannot combine. A scalar keeps NumPy's rules: a Python number is weak, a NumPy scalar is not.
    """
    nodes = [arg for arg in args if isinstance(arg, ArrayNode)]
    label = label or str(getattr(fn, "__name__", "elementwise"))
    if dtype is None:
        dtype = _dtype_of(fn, args, 0)
        if dtype.hasobject and not any(node.dtype.hasobject for node in nodes):
            dtype = _dtype_of(fn, args, 1)  # a scalar made it so: without elements nobody asks whether it can be done
    ndim = max(node.ndim for node in nodes)
    axes = [tuple(range(ndim - node.ndim, ndim)) for node in nodes]
    chunks, aligned = _align(nodes, axes, ndim, label)
    distinct = list(dict.fromkeys(aligned))
    slots = iter([Slot(distinct.index(node)) for node in aligned])
    template = tuple(next(slots) if isinstance(arg, ArrayNode) else arg for arg in args)
    axes_of = tuple(tuple(range(ndim - node.ndim, ndim)) for node in distinct)
    return by_element(Elementwise(fn, template), distinct, axes_of, chunks, np.dtype(dtype), label)


def _dtype_of(fn: Callable[..., Any], args: Sequence[Any], size: int) -> np.dtype[Any]:
    return np.asarray(fn(*(np.ones(size, arg.dtype) if isinstance(arg, ArrayNode) else arg for arg in args))).dtype


def by_element(
    op: Elementwise,
    inputs: Sequence[ArrayNode],
    axes: Sequence[tuple[int, ...]],
    chunks: Chunks,
    dtype: np.dtype[Any],
    label: str,
) -> Blockwise:
    """An elementwise operation on inputs that fit together already; the fields are those of :class:`ops.Blockwise`."""
    axes = tuple(axes)
    token = f"{label}-" + tokenize(op.fn, op.args, axes, chunks, dtype, [node.token for node in inputs])
    return Blockwise(op, tuple(inputs), axes, chunks, dtype, token, label)


def rearrange(
    x: ArrayNode, axes: Sequence[int | None], new: Mapping[int, AxisChunks] | None = None, label: str = "transpose"
) -> ArrayNode:
    """Axes permuted, added, dropped or broadcast, without touching a value.

    Parameters
    ----------
    axes
        For each output axis the input axis it is, or None for a new one. Input axes that are not named are dropped:
        they must have length one.
    new
        Chunks of output axes that are new, or that stretch an input axis of length one.
    """
    new = new or {}
    if tuple(axes) == tuple(range(x.ndim)) and not new:
        return x
    ndim = len(axes)
    place = {j: k for k, j in enumerate(axes)}
    single = [x.shape[j] == 1 and (j not in place or place[j] in new) for j in range(x.ndim)]
    joined = (ONE if one else have for one, have in zip(single, x.chunks, strict=True))  # no empty blocks beside it
    x = rechunk(x, tuple(joined))
    labels, extra = [], ndim
    for j in range(x.ndim):
        if j in place:
            labels.append(place[j])
        elif x.shape[j] == 1:
            labels.append(extra)
            extra += 1
        else:
            raise PlanError(f"{label}: axis {j} of length {x.shape[j]} cannot be dropped; only length one can")
    chunks = tuple(new[k] if k in new else (ONE if j is None else x.chunks[j]) for k, j in enumerate(axes))
    return by_element(Elementwise(None, (Slot(0),)), (x,), (tuple(labels),), chunks, x.dtype, label)


def blockwise(
    function: BlockFunction,
    out: Sequence[Hashable],
    inputs: Sequence[tuple[ArrayNode, Sequence[Hashable]]],
    dtype: Any,
    *,
    new_axes: Mapping[Hashable, Any] | None = None,
    adjust_chunks: Mapping[Hashable, Any] | None = None,
    align: bool = True,
    label: str = "blockwise",
) -> Blockwise:
    """A function of whole blocks in index notation, with the rules of ``dask.array.blockwise``.

    Labels that stand in inputs but not in ``out`` are contracted. ``new_axes`` gives lengths or chunks of labels that
    stand in no input; ``adjust_chunks`` says how the sizes along a label change (an int, a sequence of sizes, or a
    function of each size).
    """
    numbers: dict[Hashable, int] = {name: k for k, name in enumerate(out)}
    for _, labels in inputs:
        for name in labels:
            numbers.setdefault(name, len(numbers))
    ndim = len(out)
    axes = [tuple(numbers[name] for name in labels) for _, labels in inputs]
    nodes = [node for node, _ in inputs]
    for node, labels in zip(nodes, axes, strict=True):
        if node.ndim != len(labels):
            raise PlanError(f"{label}: an input of {node.ndim} dimensions was given {len(labels)} index labels")
    fresh = {numbers[name]: _new_axis(size) for name, size in (new_axes or {}).items() if name in numbers}
    if align:
        chunks_all, nodes = _align(nodes, axes, len(numbers), label, fresh)
    else:
        chunks_all = _unaligned(nodes, axes, len(numbers), label, fresh)
    chunks = [chunks_all[k] for k in range(ndim)]
    for name, how in (adjust_chunks or {}).items():
        if name in numbers and numbers[name] < ndim:
            chunks[numbers[name]] = _adjusted(chunks[numbers[name]], how, label)
    token = f"{label}-" + tokenize(
        function.fn, function.args, function.kwargs, function.place, axes, chunks, dtype, [node.token for node in nodes]
    )
    return Blockwise(function, tuple(nodes), tuple(axes), tuple(chunks), np.dtype(dtype), token, label)


def _new_axis(size: Any) -> AxisChunks:
    return AxisChunks((size,)) if isinstance(size, int | np.integer) else AxisChunks.of(size)


def _adjusted(axis: AxisChunks, how: Any, label: str) -> AxisChunks:
    if callable(how):
        return AxisChunks(how(size) for size in axis)
    if isinstance(how, tuple | list):
        if len(how) != len(axis):
            raise ChunkError(f"{label}: adjust_chunks gives {len(how)} sizes for an axis of {len(axis)} blocks")
        return AxisChunks(how)
    return AxisChunks((how,) * len(axis))


def _align(
    nodes: Sequence[ArrayNode],
    axes: Sequence[tuple[int, ...]],
    ndim: int,
    label: str,
    fresh: Mapping[int, AxisChunks] | None = None,
) -> tuple[Chunks, list[ArrayNode]]:
    """Common chunks per axis label, and the inputs rechunked to them."""
    along: list[list[AxisChunks]] = [[] for _ in range(ndim)]
    for node, labels in zip(nodes, axes, strict=True):
        for axis, k in zip(node.chunks, labels, strict=True):
            along[k].append(axis)
    common = []
    for k, candidates in enumerate(along):
        if fresh and k in fresh:
            common.append(fresh[k])
            continue
        if not candidates:
            raise PlanError(f"{label}: an output axis stands in no input; give its length in new_axes")
        try:
            common.append(blocks.unify(candidates))
        except ChunkError as error:
            shapes = " and ".join(str(node.shape) for node in nodes)
            raise type(error)(f"{label}: operands of shapes {shapes} do not fit together: {error}") from None
    aligned = []
    for node, labels in zip(nodes, axes, strict=True):
        wanted = tuple(
            ONE if have.total == 1 and common[k].total != 1 else common[k]
            for have, k in zip(node.chunks, labels, strict=True)
        )
        aligned.append(rechunk(node, wanted))
    return tuple(common), aligned


def _unaligned(
    nodes: Sequence[ArrayNode],
    axes: Sequence[tuple[int, ...]],
    ndim: int,
    label: str,
    fresh: Mapping[int, AxisChunks],
) -> Chunks:
    """Chunks per label when sizes may differ as long as the numbers of blocks agree."""
    found: dict[int, AxisChunks] = dict(fresh)
    for node, labels in zip(nodes, axes, strict=True):
        for axis, k in zip(node.chunks, labels, strict=True):
            if k in found and len(found[k]) != len(axis) and 1 not in (len(found[k]), len(axis)):
                raise ChunkError(
                    f"{label}: {len(found[k])} and {len(axis)} blocks along one index; rechunk one of them"
                )
            if k not in found or len(axis) > len(found[k]):
                found[k] = axis
    return tuple(found[k] for k in range(ndim))


# ---------------------------------------------------------------- reductions and scans


def normalize_axis(axis: Any, ndim: int) -> tuple[int, ...]:
    """``axis`` of a reduction as a sorted tuple. Raises numpy.exceptions.AxisError, and ValueError for repeats."""
    if axis is None or (ndim == 0 and isinstance(axis, int) and axis in (0, -1)):  # NumPy lets that slip through
        return tuple(range(ndim))
    if getattr(axis, "ndim", 0):
        raise TypeError(f"an axis is an integer or a tuple of integers, not an array: {axis!r}")
    return tuple(sorted(np.lib.array_utils.normalize_axis_tuple(axis, ndim)))


def reduce(
    x: ArrayNode,
    reduction: Reduction,
    axis: Any,
    dtype: Any,
    *,
    keepdims: bool = False,
    split_every: int | Mapping[int, int] | None = None,
    out_sizes: Mapping[int, float] | None = None,
) -> Reduce:
    """A tree reduction. ``split_every`` blocks are joined per level (default 16, spread over the axes).

    ``out_sizes`` are the lengths of reduced axes in the result if they are not one (a user's own reduction).
    """
    axes = normalize_axis(axis, x.ndim)
    if isinstance(split_every, Mapping):
        every = tuple(int(split_every.get(a, 2)) for a in axes)
    else:
        total = 16 if split_every is None else int(split_every)
        every = (max(min(2, total), round(total ** (1 / max(1, len(axes))))),) * len(axes)
    if any(n < 2 for n in every):
        raise PlanError(f"{reduction.name}: split_every={split_every!r} must be at least 2")
    sizes = out_sizes or {}
    kept = [AxisChunks((sizes.get(a, 1),)) if a in axes else c for a, c in enumerate(x.chunks)]
    chunks = tuple(c for a, c in enumerate(kept) if keepdims or a not in axes)
    token = f"{reduction.name}-" + tokenize(
        reduction.partial, reduction.combine, reduction.finalize, axes, keepdims, every, dtype, chunks, x.token
    )
    return Reduce(reduction, x, axes, keepdims, every, chunks, np.dtype(dtype), token)


def scan(
    x: ArrayNode, axis: int, functions: ScanFunctions, dtype: Any,
    label: str,
) -> Scan:  # fmt: skip
    """A cumulative operation along one axis; ``functions`` are ``(local, total, join)`` (see :class:`ops.Scan`)."""
    (axis,) = normalize_axis(axis, x.ndim)
    token = f"{label}-" + tokenize(functions, axis, dtype, x.token)
    return Scan(x, axis, functions, x.chunks, np.dtype(dtype), token, label)


# ---------------------------------------------------------------- indexing


def slice_(x: ArrayNode, index: Sequence[int | slice]) -> ArrayNode:
    """Basic indexing by a normalized index: one int or slice per axis, as :class:`ops.Slice` wants it.

    Along an axis of unknown chunk sizes only ``slice(None)`` is possible. A slice of a slice is one slice.
    """
    chunks: list[AxisChunks] = []
    normal: list[int | slice] = []
    changed = False
    for axis, (entry, have) in enumerate(zip(index, x.chunks, strict=True)):
        if isinstance(entry, slice) and (
            entry == slice(None) or (have.known and (entry.start, entry.stop, entry.step) == (0, have.total, 1))
        ):
            normal.append(slice(0, have.total, 1) if have.known else slice(None))
            chunks.append(have)
            continue
        if not have.known:
            raise UnknownChunksError(
                f"axis {axis} has unknown chunk sizes and cannot be sliced; call compute_chunk_sizes() first"
            )
        changed = True
        normal.append(entry)
        if isinstance(entry, slice):
            chunks.append(blocks.slice_chunks(have, entry))
    if not changed:
        return x
    empty = [k for k, have in enumerate(x.chunks) if have.total and normal[k] == slice(0, 0, 1)]
    if empty and not all(have.known for have in x.chunks):
        return _nothing(x, normal, empty)
    if isinstance(x, Slice):
        outer = iter(normal)
        joined = [
            compose(next(outer), inner, n) if isinstance(inner, slice) else inner
            for inner, n in zip(x.index, x.inputs[0].shape, strict=True)
        ]
        return rechunk(slice_(x.inputs[0], joined), tuple(chunks))  # reversing twice may bring back empty blocks
    return Slice(x, tuple(normal), tuple(chunks), "getitem-" + tokenize(normal, x.token))


def _nothing(x: ArrayNode, index: Sequence[int | slice], empty: Sequence[int]) -> ArrayNode:
    """A slice that is empty along some axes while others are of unknown length, which only a block can tell."""
    some = slice_(x, [slice(0, 1, 1) if k in empty else entry for k, entry in enumerate(index)])
    kept = [k for k, entry in enumerate(index) if isinstance(entry, slice)]
    labels = range(some.ndim)
    axes = [kept.index(k) for k in empty]
    function = BlockFunction(_without_elements, (Slot(0),), {"axes": axes}, scratch=0.0)
    sizes: dict[Hashable, Any] = dict.fromkeys(axes, 0)
    return blockwise(function, labels, [(some, labels)], x.dtype, adjust_chunks=sizes, label="getitem")


def _without_elements(block: np.ndarray, *, axes: Sequence[int]) -> np.ndarray:
    return block[tuple(slice(0, 0) if k in axes else slice(None) for k in range(block.ndim))]


def compose(outer: int | slice, inner: slice, length: int) -> int | slice:
    """The entry that equals ``inner`` followed by ``outer``; ``length`` is the axis's length before both."""
    if outer == slice(None):
        return inner
    positions = range(length)[inner if inner.stop >= 0 or inner.step > 0 else slice(inner.start, None, inner.step)]
    if isinstance(outer, int):
        return positions[outer]
    picked = positions[outer if outer.stop >= 0 or outer.step > 0 else slice(outer.start, None, outer.step)]
    return slice(picked.start, picked.stop, picked.step)


def take(x: ArrayNode, indices: np.ndarray, axis: int, chunks: AxisChunks | None = None) -> ArrayNode:
    """``np.take(x, indices, axis)`` with non-negative, checked, 1-d ``indices``."""
    if not x.chunks[axis].known:
        raise UnknownChunksError(
            f"axis {axis} has unknown chunk sizes and cannot be indexed; call compute_chunk_sizes() first"
        )
    if not len(indices) and not all(have.known for have in x.chunks):
        return slice_(x, [slice(0, 0, 1) if k == axis else slice(None) for k in range(x.ndim)])
    out = chunks or blocks.take_chunks(x.chunks[axis], indices)
    all_chunks = (*x.chunks[:axis], out, *x.chunks[axis + 1 :])
    token = "take-" + tokenize(
        indices.shape, indices.tobytes() if indices.nbytes < 1 << 20 else indices, axis, out, x.token
    )
    return Take(x, indices, axis, all_chunks, token)


def points(x: ArrayNode, axes: Sequence[int], positions: Sequence[np.ndarray]) -> Points:
    """Pointwise indexing; ``positions`` are checked, non-negative and 1-d of one length."""
    n = len(positions[0])
    unknown = [axis for axis, have in enumerate(x.chunks) if not have.known and (axis in axes or not n)]
    if unknown:
        raise UnknownChunksError(f"axis {unknown[0]} has unknown chunk sizes; call compute_chunk_sizes() first")
    size = max(1, prod(x.chunks[a].largest for a in axes))  # as many points as a block has places for them
    rest = tuple(c for a, c in enumerate(x.chunks) if a not in axes)
    chunks = (blocks.split_sizes(n, size), *rest)
    token = "vindex-" + tokenize(tuple(axes), [p.tobytes() for p in positions], x.token)
    return Points(x, tuple(positions), tuple(axes), chunks, token)


# ---------------------------------------------------------------- structure


def rechunk(x: ArrayNode, chunks: Chunks) -> ArrayNode:
    """The same array in ``chunks`` (normalized). Unknown sizes can only be kept as they are."""
    if all(have is want or have == want for have, want in zip(x.chunks, chunks, strict=True)):
        return x
    for axis, (have, want) in enumerate(zip(x.chunks, chunks, strict=True)):
        if have is want or have == want:
            continue
        if not (have.known and want.known):
            raise UnknownChunksError(
                f"axis {axis} has unknown chunk sizes and cannot be rechunked; call compute_chunk_sizes() first"
            )
        if have.total != want.total:
            raise ChunkError(f"rechunk: chunks of axis {axis} add up to {want.total}, the axis has length {have.total}")
    if isinstance(x, Rechunk):
        return rechunk(x.inputs[0], chunks)
    return Rechunk(x, chunks, "rechunk-" + tokenize(chunks, x.token))


def one_block(x: ArrayNode) -> ArrayNode:
    """``x`` as a single block, of unknown size where sizes are unknown."""
    whole = tuple(AxisChunks((axis.total,)) for axis in x.chunks)
    if all(axis.known for axis in x.chunks):
        return rechunk(x, whole)
    labels = [f"in{axis}" for axis in range(x.ndim)]
    out = [f"out{axis}" for axis in range(x.ndim)]
    function = BlockFunction(np.asarray, (Slot(0),))
    return blockwise(function, out, [(x, labels)], x.dtype, new_axes=dict(zip(out, whole, strict=True)), label="whole")


def concatenate(arrays: Sequence[ArrayNode], axis: int) -> ArrayNode:
    """Arrays of one dtype joined along ``axis``; the others' chunks are made equal. Empty ones are left out."""
    first = arrays[0]
    for node in arrays[1:]:
        if node.ndim != first.ndim or any(
            a.total != b.total
            for k, (a, b) in enumerate(zip(node.chunks, first.chunks, strict=True))
            if k != axis and a.known and b.known
        ):
            shapes = ", ".join(str(node.shape) for node in arrays[:5])
            raise PlanError(f"concatenate: shapes {shapes} differ outside axis {axis}; they must agree there")
    arrays = [node for node in arrays if node.shape[axis]]
    if len(arrays) < 2:
        return arrays[0] if arrays else first
    labels = [tuple(k if k != axis else first.ndim + i for k in range(first.ndim)) for i in range(len(arrays))]
    fresh = {axis: ONE} | {first.ndim + i: node.chunks[axis] for i, node in enumerate(arrays)}
    _, aligned = _align(arrays, labels, first.ndim + len(arrays), "concatenate", fresh)
    joined = AxisChunks(size for node in aligned for size in node.chunks[axis])
    chunks = tuple(joined if k == axis else c for k, c in enumerate(aligned[0].chunks))
    return Concatenate(tuple(aligned), axis, chunks, "concatenate-" + tokenize(axis, [node.token for node in aligned]))


def overlap(x: ArrayNode, depth: Sequence[tuple[int, int]]) -> ArrayNode:
    """Every block with ``(before, after)`` elements of its neighbours along each axis, none beyond the ends.

    A depth may reach over several blocks; it cannot exceed the axis.
    """
    chunks = []
    for axis, ((before, after), have) in enumerate(zip(depth, x.chunks, strict=True)):
        if not (before or after):
            chunks.append(have)
            continue
        if not have.known:
            raise UnknownChunksError(f"overlap: axis {axis} has unknown chunk sizes; call compute_chunk_sizes() first")
        if min(before, after) < 0:
            raise PlanError(f"overlap: depth {(before, after)} along axis {axis} is negative")
        lo = np.maximum(have.bounds[:-1] - before, 0)
        hi = np.minimum(have.bounds[1:] + after, have.total)
        chunks.append(AxisChunks((hi - lo).tolist()))
    if all(d == (0, 0) for d in depth):
        return x
    return Overlap(x, tuple(depth), tuple(chunks), "overlap-" + tokenize(depth, x.token))


def reshape(x: ArrayNode, shape: Sequence[int]) -> ArrayNode:
    """C-order reshape: rechunked so that every block of the result is one block of the input."""
    if not all(axis.known for axis in x.chunks):
        raise UnknownChunksError("reshape needs known chunk sizes; call compute_chunk_sizes() first")
    if tuple(shape) == x.shape:
        return x
    if prod(shape) != prod(x.shape):
        raise PlanError(f"cannot reshape an array of shape {x.shape} into {tuple(shape)}: sizes differ")
    for step in reshaping.reshape_route(x.shape, shape):
        before, after = reshaping.reshape_plan(x.shape, x.chunks, step)
        x = rechunk(x, before)
        x = Reshape(x, after, "reshape-" + tokenize(step, x.token))
    return x


def merge_runs(runs: ArrayNode, key: str | None = None) -> Merge:
    """The sorted blocks of a one-dimensional array as one sorted array. ``key``: the field that they are sorted by."""
    (chunks,) = runs.chunks
    spacing = sorting.spacing_for(chunks.sizes)
    taken = BlockFunction(_samples, (Slot(0),), {"key": key, "spacing": spacing})
    dtype = runs.dtype if key is None else runs.dtype[key]
    counts = AxisChunks(-(-n // spacing) for n in chunks)
    samples = blockwise(taken, (0,), [(runs, (0,))], dtype, adjust_chunks={0: counts}, label="samples")
    ranking = BlockFunction(sorting.ranking, (Slot(0), chunks.sizes, spacing))
    ranked = blockwise(ranking, (0,), [(one_block(samples), (0,))], np.dtype(np.int32), label="ranking")
    return Merge(runs, ranked, spacing, key, "merge-" + tokenize(runs.token, key))


def _samples(run: np.ndarray, key: str | None, spacing: int) -> np.ndarray:
    return (run if key is None else run[key])[::spacing]


def reshape_blocks(x: ArrayNode, chunks: Chunks) -> Reshape:
    """Every block reshaped by itself, to those of a grid of ``chunks``, in C order of the grids."""
    if not reshaping.same_sizes(x.chunks, chunks):
        raise ChunkError(f"reshape_blockwise: chunk sizes do not match: {_sizes(x.chunks)} and {_sizes(chunks)}")
    return Reshape(x, chunks, "reshape-" + tokenize(chunks, x.token))


def _sizes(chunks: Chunks) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(axis) for axis in chunks)


def from_value(value: Node, shape: Sequence[int], dtype: Any, label: str = "from-value") -> FromValue:
    """A one-block array from the value of a delayed call, or of a future."""
    chunks = tuple(AxisChunks((n,)) for n in shape)
    return FromValue(value, chunks, np.dtype(dtype), "value-" + tokenize(value.token, shape, np.dtype(dtype)), label)


def held_array(handles: Sequence[Handle], chunks: Chunks, dtype: Any, label: str = "held") -> HeldArray:
    """An array whose blocks are futures, in C order of the grid."""
    if len(handles) != prod(map(len, chunks)):
        raise ChunkError(f"{label}: {len(handles)} futures for a grid of {tuple(map(len, chunks))} blocks")
    token = f"{label}-" + tokenize("held", [handle.key for handle in handles], chunks, np.dtype(dtype))
    return HeldArray(tuple(handles), chunks, np.dtype(dtype), token, label)


def held_value(handle: Handle, label: str = "held") -> HeldValue:
    """The value of a future."""
    return HeldValue(handle, "held-" + handle.key, label)


def whole(x: ArrayNode) -> Whole:
    """``x`` as one ndarray, for an argument of a delayed call."""
    return Whole(one_block(x))


def store(x: ArrayNode, sink: Sink, offset: Sequence[int] | None = None, label: str = "store") -> Store:
    """``x`` written to ``sink``; ``offset`` is where its first element lands."""
    where = tuple(offset) if offset is not None else (0,) * x.ndim
    return Store(x, sink, where, "store-" + tokenize(x.token, sink.token, where), label)
