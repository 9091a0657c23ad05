"""Reshape as arithmetic of chunks: which chunks the input needs so that its blocks are the result's blocks, reshaped.

A C-order reshape keeps the flat order of elements. A block of the input can become a block of the result without its
neighbours exactly if it is one *run* of the flat order along every group of axes that is joined or divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from tilework.base.errors import PlanError, UnknownChunksError, UnsupportedError
from tilework.plan.blocks import AxisChunks, Chunks, regroup, sorted_unique


def reshape_route(in_shape: Sequence[int], out_shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Shapes to reshape to, one after another, the last being ``out_shape``.

    Axes that are joined or divided take one step. Several axes that become several others, as (4, 6) becomes (8, 3),
    go through their flat form: its blocks may be cut anywhere, while runs that are blocks in both shapes at once may
    not exist between single elements and the whole.
    """
    flat: list[int] = []
    direct = True
    for ins, outs in _groups(in_shape, out_shape):
        several = len(ins) > 1 and len(outs) > 1
        direct = direct and not several
        flat.extend([prod(in_shape[i] for i in ins)] if several else [out_shape[j] for j in outs])
    return (tuple(out_shape),) if direct else (tuple(flat), tuple(out_shape))


def reshape_plan(in_shape: Sequence[int], in_chunks: Chunks, out_shape: Sequence[int]) -> tuple[Chunks, Chunks]:
    """Chunks that the input of a C-order reshape needs, and those of the result.

    Block ``i`` of the result (in C order of the grid) is block ``i`` of the input, reshaped: each must be one run of
    the flat order along every group of axes that is joined or divided. Blocks stay near the input's size: along a
    group no larger than twice its largest block, unless several axes become several others, which then are one block
    (:func:`reshape_route` avoids that).

    Raises
    ------
    PlanError
        If the sizes differ.
    UnknownChunksError
        If a size is unknown.

    Examples
    --------
    >>> reshape_plan((4, 6), (AxisChunks((2, 2)), AxisChunks((3, 3))), (-1,))
    (((1, 1, 1, 1), (6,)), ((6, 6, 6, 6),))
    """
    if not all(axis.known for axis in in_chunks):
        raise UnknownChunksError("reshape needs known chunk sizes; call compute_chunk_sizes() first")
    out_shape = resolve_shape(in_shape, out_shape)
    needed = [AxisChunks((n,)) for n in in_shape]
    out = [AxisChunks((n,)) for n in out_shape]
    for ins, outs in _groups(in_shape, out_shape):
        limit = prod(max(1, in_chunks[i].largest) for i in ins)
        if len(ins) == len(outs) == 1:
            needed[ins[0]] = out[outs[0]] = in_chunks[ins[0]]
        elif len(outs) == 1:
            runs = _runs([in_chunks[i] for i in ins], limit)
            for i, axis in zip(ins, runs, strict=True):
                needed[i] = axis
            out[outs[0]] = _flat(runs)
        elif len(ins) == 1:
            runs = _divided_runs(in_chunks[ins[0]], [out_shape[j] for j in outs], limit)
            for j, axis in zip(outs, runs, strict=True):
                out[j] = axis
            needed[ins[0]] = _flat(runs)
    return tuple(needed), tuple(out)


def joined_chunks(in_chunks: Chunks, out_shape: Sequence[int]) -> Chunks:
    """Chunks of a result of fewer axes whose blocks are those of the input, reshaped one by one.

    Examples
    --------
    >>> joined_chunks((AxisChunks((2, 1)), AxisChunks((3, 1))), (12,))
    ((6, 2, 3, 1),)
    """
    out = [AxisChunks((n,)) for n in out_shape]
    for ins, outs in _groups([axis.total for axis in in_chunks], out_shape):
        if len(outs) > 1:
            raise UnsupportedError(f"blocks cannot be divided into axes of {out_shape}; reshape() divides axes")
        out[outs[0]] = _flat([in_chunks[i] for i in ins])
    return tuple(out)


def same_sizes(one: Chunks, other: Chunks) -> bool:
    """Whether block by block, in C order of the grids, both have as many elements."""
    return _flat(one) == _flat(other)


def resolve_shape(in_shape: Sequence[int], out_shape: Sequence[int]) -> tuple[int, ...]:
    """``out_shape`` with its -1 replaced. Raises PlanError if the sizes cannot agree."""
    known = prod(n for n in out_shape if n != -1)
    size = prod(in_shape)
    unknown = [axis for axis, n in enumerate(out_shape) if n == -1]
    if len(unknown) > 1 or any(n < -1 for n in out_shape):
        raise PlanError(f"cannot reshape into {tuple(out_shape)}: lengths are positive, and one of them at most is -1")
    if (unknown and (known == 0 or size % known)) or (not unknown and known != size):
        raise PlanError(f"cannot reshape an array of shape {tuple(in_shape)} into {tuple(out_shape)}: sizes differ")
    return tuple(size // known if n == -1 else int(n) for n in out_shape)


def _groups(in_shape: Sequence[int], out_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest groups of input and output axes with equal products. Axes of length one belong to none; an empty array
    has no groups.
    """
    if 0 in in_shape:
        return []
    ins = [i for i, n in enumerate(in_shape) if n != 1]
    outs = [j for j, n in enumerate(out_shape) if n != 1]
    groups = []
    while ins:
        group_in, group_out = [ins.pop(0)], [outs.pop(0)]
        left, right = in_shape[group_in[0]], out_shape[group_out[0]]
        while left != right:
            if left < right:
                group_in.append(ins.pop(0))
                left *= in_shape[group_in[-1]]
            else:
                group_out.append(outs.pop(0))
                right *= out_shape[group_out[-1]]
        groups.append((group_in, group_out))
    return groups


def _runs(axes: Sequence[AxisChunks], limit: int) -> list[AxisChunks]:
    """Chunks whose blocks are runs of the flat order, at most ``limit`` long: single elements along the first axes,
    whole ones along the last, and the present blocks, joined or divided, along the one between.
    """
    rows = [prod(after.total for after in axes[k + 1 :]) for k in range(len(axes))]
    k = next(k for k, row in enumerate(rows) if row <= limit)
    between = axes[k] if axes[k].largest * rows[k] == limit else regroup(axes[k], limit // rows[k])
    ones = [AxisChunks((1,) * before.total) for before in axes[:k]]
    return [*ones, between, *(AxisChunks((after.total,)) for after in axes[k + 1 :])]


def _divided_runs(axis: AxisChunks, lengths: Sequence[int], limit: int) -> list[AxisChunks]:
    """As :func:`_runs`, for a flat axis that is divided: where its blocks hold whole rows they keep their bounds,
    moved down to the start of a row.
    """
    rows = prod(lengths[1:])
    if rows > limit:
        return _runs([AxisChunks((n,)) for n in lengths], limit)
    cuts = sorted_unique(np.append(axis.bounds[:-1] // rows, lengths[0]))
    return [AxisChunks.from_array(np.diff(cuts)), *(AxisChunks((n,)) for n in lengths[1:])]


def _flat(axes: Sequence[AxisChunks]) -> AxisChunks:
    """Sizes of the blocks of a grid in C order."""
    sizes = np.ones(1, np.int64)
    for axis in axes:
        sizes = np.multiply.outer(sizes, axis.sizes).ravel()
    return AxisChunks.from_array(sizes)
