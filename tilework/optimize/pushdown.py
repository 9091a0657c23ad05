"""Slices and rechunks move down to the reads, so that less is read and nothing is read in the wrong pieces.

A slice over a node that others use as well stays where it is: pushing it would read or compute the shared part twice.
Two exceptions: sources that cost nothing to read, and nodes all of whose users are slices that together select no
more than the node holds (then every push saves work). Of what lies in storage whole units count, as they are decoded:
a hundred days of one stored chunk are a hundred slices of one read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from tilework.optimize.pattern import Rule, move_down
from tilework.plan import build
from tilework.plan.ops import (
    ArrayNode,
    Blockwise,
    Concatenate,
    Elementwise,
    Node,
    Rechunk,
    Reduce,
    Scan,
    Slice,
    Source,
)


def _into_source(user: Slice, below: Source) -> ArrayNode | None:
    """Read only what is selected. Reads go forward; a reversed axis stays a slice above the read."""
    if any(isinstance(e, slice) and e.step < 0 for e in user.index):
        return None
    kept = [axis for axis in range(len(below.region)) if axis not in below.drop]
    region, drop = list(below.region), set(below.drop)
    for axis, entry in zip(kept, user.index, strict=True):
        have = below.region[axis]
        new = build.compose(entry, have, below.source.shape[axis])
        if isinstance(new, int):
            new = slice(new, new + 1, 1)
            drop.add(axis)
        region[axis] = new
    return build.source_region(below.source, tuple(region), tuple(sorted(drop)), user.chunks, below.label)


def _through_elementwise(user: Slice, below: Blockwise) -> ArrayNode | None:
    """Slice every operand instead. Covers transposes and broadcasts, which are elementwise identities."""
    if not isinstance(below.op, Elementwise):
        return None
    kept = {axis: k for k, axis in enumerate(a for a, e in enumerate(user.index) if isinstance(e, slice))}
    extra = len(kept)
    inputs, axes = [], []
    for node, labels in zip(below.inputs, below.axes, strict=True):
        index: list[int | slice] = []
        new_labels = []
        for axis, label in enumerate(labels):
            stretched = label >= below.ndim or (node.shape[axis] == 1 and below.shape[label] != 1)
            entry = slice(0, 1, 1) if label >= below.ndim else user.index[label]
            if isinstance(entry, int):
                index.append(0 if stretched else entry)
            else:
                index.append(slice(0, 1, 1) if stretched else entry)
                new_labels.append(kept[label] if label < below.ndim else extra + label - below.ndim)
        inputs.append(build.slice_(node, index))
        axes.append(tuple(new_labels))
    return build.by_element(below.op, inputs, axes, user.chunks, below.dtype, below.label)


def _through_concatenate(user: Slice, below: Concatenate) -> ArrayNode | None:
    """Slice the parts that are selected, and drop the others."""
    entry, start = user.index[below.axis], 0
    parts: list[ArrayNode] = []
    for node in below.inputs:
        stop = start + node.shape[below.axis]
        if isinstance(entry, int):
            if start <= entry < stop:
                index = (*user.index[: below.axis], entry - start, *user.index[below.axis + 1 :])
                return build.slice_(node, index)
        elif entry.step < 0:
            return None
        else:
            first = max(entry.start, start + (entry.start - start) % entry.step)
            last = min(entry.stop, stop)
            if first < last:
                piece = slice(first - start, last - start, entry.step)
                parts.append(build.slice_(node, (*user.index[: below.axis], piece, *user.index[below.axis + 1 :])))
        start = stop
    if not parts:
        return None
    axis = sum(isinstance(e, slice) for e in user.index[: below.axis])
    return build.rechunk(build.concatenate(parts, axis), user.chunks)


def _through_reduce(user: Slice, below: Reduce) -> ArrayNode | None:
    """Slice the axes that are kept, before reducing. A selection along a reduced axis of length one stays."""
    entries = iter(user.index)
    index: list[int | slice] = []
    rest: list[int | slice] = []
    for axis, have in enumerate(below.inputs[0].chunks):
        if axis not in below.axes:
            entry = next(entries)
            # an int would drop the axis and renumber the reduced ones: keep it as one element, drop it afterwards
            index.append(slice(entry, entry + 1, 1) if isinstance(entry, int) else entry)
            rest.append(0 if isinstance(entry, int) else slice(None))
        else:
            index.append(slice(0, have.total, 1) if have.known else slice(None))
            if below.keepdims:
                rest.append(next(entries))
    inner = build.slice_(below.inputs[0], index)
    if inner is below.inputs[0]:
        return None
    new = build.reduce(
        inner,
        below.reduction,
        below.axes,
        below.dtype,
        keepdims=below.keepdims,
        split_every=dict(zip(below.axes, below.split_every, strict=True)),
        out_sizes={a: below.shape[a] for a in below.axes} if below.keepdims else None,
    )
    if any(e != slice(None) and (n != 1 or e == slice(0, 0, 1)) for e, n in zip(rest, new.shape, strict=True)):
        return build.slice_(new, rest)
    return build.rearrange(new, [axis for axis, e in enumerate(rest) if isinstance(e, slice)])


def _through_scan(user: Slice, below: Scan) -> ArrayNode | None:
    """Slice the axes that are not scanned."""
    entry = user.index[below.axis]
    if entry != slice(0, below.shape[below.axis], 1) or any(isinstance(e, int) for e in user.index):
        return None
    inner = build.slice_(below.inputs[0], user.index)
    functions = (below.local, below.total, below.join)
    return build.scan(inner, below.axis, functions, below.dtype, below.label)


def _through_rechunk(user: Slice, below: Rechunk) -> ArrayNode | None:
    return build.rechunk(build.slice_(below.inputs[0], user.index), user.chunks)


def _rechunk_source(user: Rechunk, below: Source) -> ArrayNode | None:
    """Read in the wanted blocks at once, or in the blocks nearest to them in which no stored chunk is read twice."""
    new = build.read_whole(below, user.chunks)
    return None if isinstance(new, Rechunk) and new.inputs[0].chunks == below.chunks else new


def _rechunk_rechunk(user: Rechunk, below: Rechunk) -> ArrayNode | None:
    return build.rechunk(below.inputs[0], user.chunks)


KEPT = 128 << 20
"""Bytes of storage that several slices need are read once, and kept for them, if they are no more than this."""

RULES: tuple[Rule, ...] = (
    Rule("slice into source", Slice, Source, _into_source),
    Rule("slice through elementwise", Slice, Blockwise, _through_elementwise),
    Rule("slice through concatenate", Slice, Concatenate, _through_concatenate),
    Rule("slice through reduce", Slice, Reduce, _through_reduce),
    Rule("slice through scan", Slice, Scan, _through_scan),
    Rule("slice through rechunk", Slice, Rechunk, _through_rechunk),
    Rule("rechunk into source", Rechunk, Source, _rechunk_source),
    Rule("rechunk of rechunk", Rechunk, Rechunk, _rechunk_rechunk),
)


def push_down(outputs: Sequence[Node]) -> tuple[Node, ...]:
    """Apply :data:`RULES` as far down as they go. Equal tokens must be one node."""
    return move_down(outputs, RULES, _Worth())


class _Worth:
    """Whether moving ``user`` past ``below`` duplicates no work."""

    def __init__(self) -> None:
        self._apart: dict[tuple[str, int], bool] = {}  # by read, and number of its users, which only grows

    def __call__(self, user: ArrayNode, below: ArrayNode, users: Collection[Node]) -> bool:
        if len(users) <= 1:
            return True
        if isinstance(below, Source) and below.source.free:
            return True
        slices = [other for other in users if isinstance(other, Slice) and other is not below]
        if len(slices) < len(users):
            return False
        key = below.token, len(users)
        if key not in self._apart:
            if isinstance(below, Source) and below.source.storage_chunks is not None:
                self._apart[key] = _read_apart(slices, below, below.source.storage_chunks)
            else:
                self._apart[key] = bool(sum(prod(other.shape) for other in slices) <= prod(below.shape))
        return self._apart[key]


def _read_apart(slices: Sequence[Slice], below: Source, unit: Sequence[int]) -> bool:
    """Whether slices of a read may become reads of their own: then what two of them touch is read for each of them.

    They may not if that is little, and is kept in memory instead, or if all is read twice or more on average.
    """
    kept = [axis for axis in range(len(below.region)) if axis not in below.drop]
    have, unit = [below.region[axis] for axis in kept], [unit[axis] for axis in kept]
    touched = np.zeros([max(0, (s.stop - 1) // n - s.start // n + 1) for s, n in zip(have, unit, strict=True)], bool)
    reads = 0
    for user in slices:
        box = tuple(map(_touched, user.index, have, unit))
        touched[box] = True
        reads += prod(s.stop - s.start for s in box)
    once = int(np.count_nonzero(touched))
    again = (reads - once) * prod(unit) * below.dtype.itemsize
    return reads < 2 * once and (again == 0 or again > KEPT)


def _touched(entry: int | slice, have: slice, unit: int) -> slice:
    """The units, from the first that ``have`` touches, that an entry of a slice of it touches."""
    chosen = range(have.start, have.stop, have.step)[entry]
    if not isinstance(chosen, int) and not chosen:
        return slice(0, 0)
    first, last = (chosen, chosen) if isinstance(chosen, int) else sorted((chosen[0], chosen[-1]))
    return slice(first // unit - have.start // unit, last // unit - have.start // unit + 1)
