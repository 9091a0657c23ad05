"""What a plan must look like at each level, checkable: the grammar that passes and lowering may rely on.

Two levels of nodes, and the stages:

- ``"program"``: what the builders of :mod:`tilework.plan.build` make. Fields of every node agree with each other and
  with its inputs: kinds, axes, chunks, dtypes, Slots.
- ``"optimized"``: as before; besides, equal work is one node, and no slice is left above something that it could have
  been pushed through without doing anything twice.
- :func:`verify_stages`: producers come before users, maps fit the grids, values are numbered in order.

Tests run these between passes. A violation is a bug of ours: :class:`InternalError`, which names the node or stage.
A rule about a kind of node is one ``yield`` in the function for that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Literal

import numpy as np

from tilework.base.errors import InternalError
from tilework.plan import blocks
from tilework.plan.blocks import AxisChunks
from tilework.plan.graph import consumers, topological
from tilework.plan.ops import (
    ArrayNode,
    Blockwise,
    Call,
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
    Slice,
    Slot,
    Source,
    Store,
    Take,
    Whole,
)
from tilework.plan.stages import (
    Assembled,
    Block,
    BlockSegment,
    Calls,
    ExplicitMap,
    Gathered,
    GridMap,
    Grouped,
    Held,
    Leaf,
    LinearMap,
    Program,
    Stage,
    TileSegment,
)

Level = Literal["program", "optimized"]
Problems = Iterator[str]


def verify(outputs: Sequence[Node], level: Level) -> None:
    """Check every node of a plan.

    Raises
    ------
    InternalError
        For the first node that breaks a rule of the level.
    """
    nodes = topological(outputs)
    for node in nodes:
        check = _KINDS.get(type(node))
        if check is None:
            raise InternalError(f"{node!r} is of no kind that a plan may hold")
        _complain(repr(node), _common(node))
        _complain(repr(node), check(node))
    if level == "optimized":
        users = consumers(nodes)
        seen: dict[str, Node] = {}
        for node in nodes:
            if seen.setdefault(node.token, node) is not node:
                raise InternalError(f"{node!r} and {seen[node.token]!r} are equal work, but two nodes")
            if isinstance(node, Slice):
                _complain(repr(node), _pushed(node, users[node.inputs[0]]))


def _complain(who: str, problems: Problems) -> None:
    for problem in problems:
        raise InternalError(f"{who}: {problem}")


# ---------------------------------------------------------------- nodes


def _common(node: Node) -> Problems:
    if not (isinstance(node.token, str) and node.token and isinstance(node.label, str) and node.label):
        yield f"token {node.token!r} and label {node.label!r} must be texts"
    if not isinstance(node.inputs, tuple):
        yield f"inputs are a {type(node.inputs).__name__}, not a tuple"
    if not isinstance(node, ArrayNode):
        return
    if not isinstance(node.dtype, np.dtype):
        yield f"dtype is {node.dtype!r}"
    if not (isinstance(node.chunks, tuple) and all(isinstance(axis, AxisChunks) for axis in node.chunks)):
        yield f"chunks {node.chunks!r} are no tuple of AxisChunks"
    for axis in node.chunks:
        if not axis or (axis.known and min(axis) < 0):
            yield f"chunks {axis} along an axis"
    takes_arrays = not isinstance(node, FromValue)
    if any(isinstance(i, ArrayNode) is not takes_arrays for i in node.inputs):
        yield f"inputs {node.inputs} are of the wrong kind"


def _same_dtype(node: ArrayNode) -> Problems:
    for i in node.inputs:
        if isinstance(i, ArrayNode) and i.dtype != node.dtype:
            yield f"dtype {node.dtype} of an operation that keeps the dtype {i.dtype}"


def _is_region(entry: slice, n: int) -> bool:
    count = len(range(entry.start, entry.stop, entry.step))
    return entry.step > 0 and (entry.start >= 0 and entry.start + (count - 1) * entry.step < n if count else True)


def _source(node: Source) -> Problems:
    shape = node.source.shape
    if node.inputs or len(node.region) != len(shape) or node.dtype != node.source.dtype:
        yield f"inputs {node.inputs}, region {node.region} and dtype {node.dtype} for an array of shape {shape}"
    if not all(_is_region(entry, n) for entry, n in zip(node.region, shape, strict=True)):
        yield f"region {node.region} is not within the shape {shape}"
    counts = [len(range(entry.start, entry.stop, entry.step)) for entry in node.region]
    if any(counts[axis] != 1 for axis in node.drop):
        yield f"drops the axes {node.drop} of a region of shape {counts}"
    if (kept := tuple(n for axis, n in enumerate(counts) if axis not in node.drop)) != node.shape:
        yield f"shape {node.shape} for a region of shape {kept}"


def slots_in(template: Any) -> Iterator[int]:
    """Numbers of the Slots in an argument template."""
    if isinstance(template, Slot):
        yield template.index
    elif type(template) in (list, tuple):
        for item in template:
            yield from slots_in(item)
    elif type(template) is dict:
        for key, item in template.items():
            yield from slots_in(key)
            yield from slots_in(item)


def _blockwise(node: Blockwise) -> Problems:
    if len(node.axes) != len(node.inputs):
        yield f"{len(node.axes)} tuples of labels for {len(node.inputs)} inputs"
    contracted: dict[int, int] = {}
    for i, labels in zip(node.inputs, node.axes, strict=True):
        repeated = node.elementwise and len(set(labels)) != len(labels)  # functions may take diagonals
        if len(labels) != i.ndim or repeated or min(labels, default=0) < 0:
            yield f"labels {labels} for {i!r} of {i.ndim} dimensions"
        for label, have in zip(labels, i.chunks, strict=True):
            if label >= node.ndim:
                if len(have) > 1 and contracted.setdefault(label, len(have)) != len(have):
                    yield f"contracts {len(have)} and {contracted[label]} blocks along label {label}"
                if node.elementwise and have != (1,):
                    yield f"drops an axis with chunks {have} of {i!r}"
            elif len(have) not in (1, len(node.chunks[label])):
                yield f"{len(have)} blocks of {i!r} meet {len(node.chunks[label])} along axis {label}"
            elif node.elementwise and have != (1,) and have != node.chunks[label]:
                yield f"chunks {have} of {i!r} meet {node.chunks[label]} along axis {label}"
    used = set(slots_in((node.op.args, getattr(node.op, "kwargs", None))))
    if not used <= set(range(len(node.inputs))):
        yield f"Slots {used} for {len(node.inputs)} inputs"
    if isinstance(node.op, Elementwise):
        if used != set(range(len(node.inputs))) or any(isinstance(arg, Node) for arg in node.op.args):
            yield f"elementwise arguments {node.op.args} for {len(node.inputs)} inputs"
        if node.op.fn is None and (node.op.args != (Slot(0),) or node.inputs[0].dtype != node.dtype):
            yield "an identity that is none"


def _reduce(node: Reduce) -> Problems:
    (x,) = node.inputs
    if list(node.axes) != sorted(set(node.axes)) or not set(node.axes) <= set(range(x.ndim)):
        yield f"reduces the axes {node.axes} of {x.ndim} dimensions"
    if len(node.split_every) != len(node.axes) or any(n < 2 for n in node.split_every):
        yield f"split_every={node.split_every} for the axes {node.axes}"
    kept = [c for axis, c in enumerate(x.chunks) if axis not in node.axes]
    mine = [c for axis, c in enumerate(node.chunks) if not node.keepdims or axis not in node.axes]
    if node.ndim != (x.ndim if node.keepdims else len(kept)) or kept != mine:
        yield f"chunks {node.chunks} after reducing the axes {node.axes} of {x.chunks}"
    if node.keepdims and any(len(node.chunks[axis]) != 1 for axis in node.axes):
        yield f"several blocks along the axes {node.axes} that are reduced"


def _scan(node: Scan) -> Problems:
    if not 0 <= node.axis < node.ndim or node.chunks != node.inputs[0].chunks:
        yield f"chunks {node.chunks} after a scan along axis {node.axis} of {node.inputs[0].chunks}"


def _slice(node: Slice) -> Problems:
    (x,) = node.inputs
    yield from _same_dtype(node)
    if len(node.index) != x.ndim:
        yield f"{len(node.index)} entries for {x.ndim} dimensions"
    expected = []
    for entry, have in zip(node.index, x.chunks, strict=True):
        if isinstance(entry, slice) and (entry == slice(None) or have.known):
            if have.known and not _is_slice(entry, have.total):
                yield f"index {node.index} is not in normal form for the shape {x.shape}"
            expected.append(blocks.slice_chunks(have, entry) if have.known else have)
        elif isinstance(entry, slice) or not have.known or not 0 <= entry < have.total:
            yield f"index {node.index} for the shape {x.shape}"
    if tuple(expected) != node.chunks:
        yield f"chunks {node.chunks}, but the slice has {tuple(expected)}"


def _is_slice(entry: slice, n: int) -> bool:
    if None in (entry.start, entry.stop, entry.step):
        return False
    where = range(entry.start, entry.stop, entry.step)
    return not where or (0 <= where[0] < n and 0 <= where[-1] < n)


def _take(node: Take) -> Problems:
    (x,) = node.inputs
    yield from _same_dtype(node)
    where = node.indices
    if not 0 <= node.axis < x.ndim or where.ndim != 1 or where.dtype.kind not in "iu":
        yield f"takes {where.dtype} indices of shape {where.shape} along axis {node.axis}"
    elif len(where) and not (where.min() >= 0 and where.max() < x.shape[node.axis]):
        yield f"takes {where.min()} to {where.max()} of an axis of length {x.shape[node.axis]}"
    if node.chunks[node.axis].total != len(where) or _others(node, node.axis) != _others(x, node.axis):
        yield f"chunks {node.chunks} after taking {len(where)} of {x.chunks} along axis {node.axis}"


def _others(node: ArrayNode, axis: int) -> list[AxisChunks]:
    return [c for k, c in enumerate(node.chunks) if k != axis]


def _points(node: Points) -> Problems:
    (x,) = node.inputs
    yield from _same_dtype(node)
    if len(node.axes) != len(node.positions) or len({p.shape for p in node.positions}) != 1:
        yield f"{len(node.positions)} position arrays for the axes {node.axes}"
    for axis, where in zip(node.axes, node.positions, strict=True):
        if len(where) and not (where.min() >= 0 and where.max() < x.shape[axis]):
            yield f"points {where.min()} to {where.max()} of an axis of length {x.shape[axis]}"
    rest = tuple(c for axis, c in enumerate(x.chunks) if axis not in node.axes)
    if node.chunks[0].total != len(node.positions[0]) or node.chunks[1:] != rest:
        yield f"chunks {node.chunks} for {len(node.positions[0])} points of {x.chunks}"


def _rechunk(node: Rechunk) -> Problems:
    (x,) = node.inputs
    yield from _same_dtype(node)
    same = [a == b or (a.known and b.known and a.total == b.total) for a, b in zip(x.chunks, node.chunks, strict=False)]
    if x.ndim != node.ndim or not all(same):
        yield f"rechunks {x.chunks} to {node.chunks}"


def _concatenate(node: Concatenate) -> Problems:
    yield from _same_dtype(node)
    for i in node.inputs:
        if i.ndim != node.ndim or _others(i, node.axis) != _others(node, node.axis):
            yield f"{i!r} has chunks {i.chunks}, the result {node.chunks}, joined along axis {node.axis}"
    if AxisChunks(size for i in node.inputs for size in i.chunks[node.axis]) != node.chunks[node.axis]:
        yield f"chunks {node.chunks[node.axis]} along the axis that is joined"


def _overlap(node: Overlap) -> Problems:
    (x,) = node.inputs
    yield from _same_dtype(node)
    if len(node.depth) != x.ndim or any(min(depth) < 0 for depth in node.depth):
        yield f"depth {node.depth} for {x.ndim} dimensions"
    for have, mine, (before, after) in zip(x.chunks, node.chunks, node.depth, strict=True):
        if before or after:
            lo, hi = np.maximum(have.bounds[:-1] - before, 0), np.minimum(have.bounds[1:] + after, have.total)
            if mine != AxisChunks((hi - lo).tolist()):
                yield f"chunks {mine}, where {have} get a halo of {before} and {after}"
        elif mine != have:
            yield f"chunks {mine}, where {have} get no halo"


def _merge(node: Merge) -> Problems:
    runs, ranked = node.inputs
    if node.ndim != 1 or node.chunks != runs.chunks or node.dtype != runs.dtype or len(ranked.chunks[0]) != 1:
        yield f"{node.chunks} {node.dtype} merged from {runs.chunks} {runs.dtype}, ranks {ranked.chunks}"


def _reshape(node: Reshape) -> Problems:
    (x,) = node.inputs
    yield from _same_dtype(node)
    if prod(x.grid) != prod(node.grid) or not np.array_equal(_block_sizes(x), _block_sizes(node)):
        yield f"chunks {node.chunks} are no reshaped blocks of {x.chunks}"


def _block_sizes(node: ArrayNode) -> np.ndarray:
    sizes = np.ones(1, np.int64)
    for axis in node.chunks:
        sizes = np.multiply.outer(sizes, axis.sizes).ravel()
    return sizes


def _held_array(node: HeldArray) -> Problems:
    if node.inputs or len(node.handles) != prod(node.grid):
        yield f"{len(node.handles)} futures, and inputs {node.inputs}, for a grid of {node.grid}"


def _held_value(node: HeldValue) -> Problems:
    if node.inputs:
        yield f"inputs {node.inputs} of a future"


def _from_value(node: FromValue) -> Problems:
    if len(node.inputs) != 1 or not isinstance(node.inputs[0], Call | HeldValue) or set(node.grid) - {1}:
        yield f"{len(node.inputs)} values for a grid of {node.grid} blocks"


def _call(node: Call) -> Problems:
    if not all(isinstance(i, Call | HeldValue | Whole) for i in node.inputs):
        yield "inputs of a call are calls, futures and whole arrays"
    if any(not 0 <= k < len(node.inputs) for k in slots_in((node.args, node.kwargs))):
        yield f"Slots beyond its {len(node.inputs)} inputs"
    if node.flat and node.inputs and (node.kwargs or any(list(slots_in(a)) for a in node.args if type(a) is not Slot)):
        yield "is called flat, but has Slots deeper down"


def _whole(node: Whole) -> Problems:
    if len(node.inputs) != 1 or set(node.inputs[0].grid) - {1}:
        yield f"takes {node.inputs!r} as one ndarray, which has several blocks"


def _store(node: Store) -> Problems:
    if len(node.inputs) != 1 or len(node.offset) != node.inputs[0].ndim:
        yield f"offset {node.offset} for {node.inputs!r}"


_KINDS: dict[type[Node], Callable[[Any], Problems]] = {
    Source: _source,
    Blockwise: _blockwise,
    Reduce: _reduce,
    Scan: _scan,
    Slice: _slice,
    Take: _take,
    Points: _points,
    Rechunk: _rechunk,
    Concatenate: _concatenate,
    Overlap: _overlap,
    Merge: _merge,
    Reshape: _reshape,
    HeldArray: _held_array,
    HeldValue: _held_value,
    FromValue: _from_value,
    Call: _call,
    Whole: _whole,
    Store: _store,
}


def _pushed(node: Slice, users: Sequence[Node]) -> Problems:
    """Whether a slice is as far down as it can be without doing work twice."""
    (below,) = node.inputs
    reverses = any(isinstance(entry, slice) and entry.step and entry.step < 0 for entry in node.index)
    through = isinstance(below, Slice | Rechunk) or (isinstance(below, Blockwise) and below.elementwise)
    if len(users) == 1 and (through or (isinstance(below, Source) and not reverses)):
        yield f"the slice could be pushed through {below!r}, which nobody else uses"


# ---------------------------------------------------------------- stages


def verify_stages(stages: Sequence[Stage]) -> None:
    """Check stages, and how they fit together.

    Raises
    ------
    InternalError
        For the first stage that breaks a rule.
    """
    for number, stage in enumerate(stages):
        who = f"stage {number} ({stage.label})"
        _complain(who, _weights(stage))
        if isinstance(stage.work, Calls):
            _complain(who, _calls(stage.work, number, stages))
        elif isinstance(stage.work, Held):
            if stage.inputs or len(stage.work.handles) != stage.size:
                _complain(who, iter([f"{len(stage.work.handles)} futures for {stage.size} tasks"]))
        else:
            _complain(who, _inputs(stage, number, stages))
            _complain(who, _program(stage, stage.work))


def _weights(stage: Stage) -> Problems:
    for weight in (stage.out_bytes, stage.work_bytes):
        if weight.dtype != np.int64 or len(weight) not in (1, stage.size) or (weight < 0).any():
            yield f"weights {weight} for {stage.size} tasks"
    if min(stage.read_bytes, stage.write_bytes) < 0:
        yield f"reads {stage.read_bytes} and writes {stage.write_bytes} bytes"


def _calls(work: Calls, number: int, stages: Sequence[Stage]) -> Problems:
    task = np.repeat(np.arange(len(work.calls)), np.diff(work.indptr))
    if np.diff(work.indptr).tolist() != [len(call.inputs) for call in work.calls]:
        yield "as many inputs of tasks as of their calls"
    if not len(work.blocks) == len(work.stages) == len(task) == work.indptr[-1]:
        yield f"{len(work.stages)} stages and {len(work.blocks)} blocks for {len(task)} inputs"
    for producer in np.unique(work.stages).tolist():
        mine = work.stages == producer
        limit = task[mine] if producer >= number else stages[producer].size
        if producer > number or (work.blocks[mine] >= limit).any() or (work.blocks[mine] < 0).any():
            yield f"needs blocks of stage {producer} that are not made before"


def _inputs(stage: Stage, number: int, stages: Sequence[Stage]) -> Problems:
    for k, i in enumerate(stage.inputs):
        if not 0 <= i.producer <= number:
            yield f"input {k} is made by stage {i.producer}, later"
            continue
        producer = stages[i.producer]
        outputs = len(producer.work.outputs) if isinstance(producer.work, Program) else 1
        if (i.pick is None and outputs > 1) or (i.pick is not None and outputs > 1 and not 0 <= i.pick < outputs):
            yield f"input {k} picks {i.pick} of {outputs} outputs of stage {i.producer}"
        if isinstance(i.blocks, GridMap):
            for problem in _grid_map(i.blocks, stage.grid, producer.grid):
                yield f"input {k} from stage {i.producer}: {problem}"
        elif isinstance(i.blocks, ExplicitMap):
            if not _csr(i.blocks.indptr, i.blocks.blocks, stage.size, producer.size):
                yield f"input {k}: {i.blocks} for {stage.size} tasks and {producer.size} blocks"
        elif isinstance(i.blocks, LinearMap) and stage.size != producer.size:
            yield f"input {k}: {stage.size} tasks, one for each of {producer.size} blocks"


def _csr(indptr: np.ndarray, found: np.ndarray, rows: int, limit: int) -> bool:
    within = not len(found) or (found.min() >= 0 and found.max() < limit)
    return bool(
        len(indptr) == rows + 1
        and indptr[0] == 0
        and indptr[-1] == len(found)
        and (np.diff(indptr) >= 0).all()
        and within
    )


def _grid_map(dependence: GridMap, grid: tuple[int, ...], producer: tuple[int, ...]) -> Problems:
    if len(dependence.maps) > len(producer) or set(producer[len(dependence.maps) :]) - {1}:
        yield f"{len(dependence.maps)} maps for a grid of {producer}"
    for m, n in zip(dependence.maps, producer, strict=False):
        if m.axis is not None and not 0 <= m.axis < len(grid):
            yield f"a map along axis {m.axis} of {len(grid)}"
        elif not _csr(m.indptr, m.blocks, 1 if m.axis is None else grid[m.axis], n):
            yield f"{m} for {n} blocks"


def _program(stage: Stage, program: Program) -> Problems:
    if tuple(map(len, program.domain)) != stage.grid:
        yield f"a domain of {tuple(map(len, program.domain))} blocks for a grid of {stage.grid}"
    used: set[int] = set()
    for operand in program.operands:
        if isinstance(operand, Leaf):
            yield from _leaf(operand, stage.grid)
            continue
        mine = operand.inputs if isinstance(operand, Assembled) else (operand.input,)
        used.update(mine)
        if any(not 0 <= i < len(stage.inputs) for i in mine):
            yield f"{operand} refers to inputs that do not exist"
        elif isinstance(operand, Assembled):
            yield from _assembled(operand, stage)
        elif isinstance(operand, Block | Gathered) and not _one_block(stage, operand.input):
            yield f"input {operand.input} is taken as a single block, but is none"
        elif isinstance(operand, Grouped) and isinstance(stage.inputs[operand.input].blocks, LinearMap):
            yield f"input {operand.input} is taken as several blocks, but is one"
    used.update(output.scratch for output in program.outputs if output.scatter is not None)
    if used != set(range(len(stage.inputs))):
        yield f"inputs {sorted(used)} are used, {len(stage.inputs)} are asked for"
    values = len(program.operands)
    for segment in program.segments:
        if isinstance(segment, TileSegment):
            yield from _tiles(segment, values, stage.grid)
            values += len(segment.results)
        else:
            yield from _function(segment, values, stage.grid)
            values += 1
    for output in program.outputs:
        if not 0 <= output.value < values:
            yield f"output {output.value} of {values} values"
        if output.sink is not None and not len(output.offset) == len(output.chunks) == len(output.axes):
            yield f"offset {output.offset}, chunks {output.chunks} and axes {output.axes} of what is written"
        if output.scatter is None:
            yield from _along(output.chunks, output.axes, stage.grid)
        elif len(output.axes) != len(output.scatter.axes) or not _one_block(stage, output.scratch):
            yield f"pieces along {output.axes} go to input {output.scratch}"


def _along(chunks: Sequence[AxisChunks], axes: Sequence[int | None], grid: tuple[int, ...]) -> Problems:
    for have, axis in zip(chunks, axes, strict=True):
        if len(have) != (1 if axis is None else grid[axis]):
            yield f"{len(have)} blocks along axis {axis} of the grid {grid}"


def _leaf(leaf: Leaf, grid: tuple[int, ...]) -> Problems:
    if not len(leaf.region) == len(leaf.chunks) == len(leaf.axes) == len(leaf.source.shape):
        yield f"{leaf} of a source of shape {leaf.source.shape}"
    counts = [len(range(r.start, r.stop, r.step)) for r in leaf.region]
    if counts != [axis.total for axis in leaf.chunks] or any(leaf.chunks[axis] != (1,) for axis in leaf.drop):
        yield f"chunks {leaf.chunks} of a region of shape {counts}, without the axes {leaf.drop}"
    yield from _along(leaf.chunks, leaf.axes, grid)


def _assembled(operand: Assembled, stage: Stage) -> Problems:
    if len(operand.inputs) != len(operand.pieces):
        yield f"tables of pieces for {len(operand.pieces)} of {len(operand.inputs)} inputs"
    for i, tables in zip(operand.inputs, operand.pieces, strict=True):
        dependence = stage.inputs[i].blocks
        if not isinstance(dependence, GridMap) or len(dependence.maps) != len(tables):
            yield f"{len(tables)} tables of pieces for input {i}"
            continue
        for m, table in zip(dependence.maps, tables, strict=True):
            if m.axis != table.axis or m.indptr is not table.indptr or m.blocks is not table.blocks:
                yield f"the pieces of input {i} are not the blocks it is asked for"
            if len(table.sizes) != len(table.indptr) - 1:
                yield f"{len(table.sizes)} sizes for {len(table.indptr) - 1} blocks"


def _one_block(stage: Stage, number: int) -> bool:
    dependence = stage.inputs[number].blocks
    if isinstance(dependence, GridMap):
        return all(bool((np.diff(m.indptr) == 1).all()) for m in dependence.maps)
    return isinstance(dependence, LinearMap) or bool((np.diff(dependence.indptr) == 1).all())


def _tiles(segment: TileSegment, values: int, grid: tuple[int, ...]) -> Problems:
    if list(segment.axes) != sorted(set(segment.axes)) or not set(segment.axes) <= set(range(len(grid))):
        yield f"tiles along the axes {segment.axes} of the grid {grid}"
    for axis, chunks in zip(segment.axes, segment.chunks, strict=True):
        if len(chunks) not in (1, grid[axis]):
            yield f"tiles with chunks {chunks} along axis {axis} of the grid {grid}"
    for value, axes in segment.inputs:
        if not 0 <= value < values or not set(axes) <= {*segment.axes, -1}:
            yield f"tiles of value {value} along {axes}"
    known = len(segment.inputs)
    for step in segment.steps:
        if any(not 0 <= k < known for k in slots_in(step.args)):
            yield f"step {step.label!r} takes {step.args} of {known} values"
        known += 1
    for result in segment.results:
        if not 0 <= result.value < known or sorted(result.axes) != list(segment.axes):
            yield f"result {result} of {known} values along {segment.axes}"
        if (result.reduction is None and result.reduce_axes) or not set(result.reduce_axes) <= set(
            range(len(result.axes))
        ):
            yield f"result {result} reduces the axes {result.reduce_axes}"


def _function(segment: BlockSegment, values: int, grid: tuple[int, ...]) -> Problems:
    if any(not 0 <= value < values for value in segment.inputs):
        yield f"function {segment.label!r} takes values {segment.inputs} of {values}"
    if any(k >= len(segment.inputs) for k in slots_in((segment.function.args, segment.function.kwargs))):
        yield f"function {segment.label!r} has Slots beyond its {len(segment.inputs)} inputs"
    if segment.expected is not None:
        yield from _along([chunks for chunks, _ in segment.expected], [axis for _, axis in segment.expected], grid)
