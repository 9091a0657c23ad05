"""One block of a Program: operands, segments, outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.kernels.assemble import assemble, join, nest
from tilework.engine.kernels.context import Context
from tilework.engine.kernels.scatter import gather_block, scatter_block
from tilework.engine.kernels.tiles import Streamed, run_tiles, space
from tilework.engine.kernels.whole import checked, run_function
from tilework.plan.blocks import AxisChunks
from tilework.plan.protocols import Region
from tilework.plan.stages import (
    Assembled,
    Block,
    BlockPlace,
    BlockSegment,
    ExplicitMap,
    Gathered,
    GridMap,
    Grouped,
    Leaf,
    Output,
    Program,
    Stage,
    StageInput,
    TileSegment,
)

Blocks = Sequence[Sequence[Any]]


def run_stage(stage: Stage, index: tuple[int, ...], blocks: Blocks, context: Context) -> Any:
    """Make the block at grid ``index`` of a stage whose work is a Program.

    Parameters
    ----------
    blocks
        For each of ``stage.inputs`` the blocks that this task needs of it, in order; where the input has a ``pick``,
        what it picks.

    Returns
    -------
    value
        The block: an ndarray, or the partial of a reduction. A tuple of them if the program has several outputs. None
        for an output that was written to its sink.

    Raises
    ------
    BlockResultError
        If a function or a source gives another shape or dtype than announced.
    Cancelled
        If the run was cancelled meanwhile.
    """
    program = stage.work
    if not isinstance(program, Program):
        raise InternalError(f"stage {stage.label!r} holds delayed calls, which the engine runs itself")
    uses = _uses(program, context)
    values: list[Any] = [
        _operand(stage, program, number, index, blocks, context, number in uses.streamable)
        for number in range(len(program.operands))
    ]
    for segment, done in zip(program.segments, uses.done_after, strict=True):
        if isinstance(segment, TileSegment):
            targets = _targets(program, segment, len(values), index)
            values += run_tiles(segment, index, [values[v] for v, _ in segment.inputs], targets, context)
        else:
            place = BlockPlace(index, stage.grid, program.domain)
            try:
                values.append(run_function(segment, place, [values[v] for v in segment.inputs]))
            except Exception as error:
                if segment.label != stage.label:  # which the engine names, with the block
                    error.add_note(f"raised by the function of operation {segment.label!r}")
                raise
        for value in done:
            values[value] = None
    results = tuple(_deliver(program, output, values[output.value], index, blocks) for output in program.outputs)
    return results[0] if len(results) == 1 else results


# ---------------------------------------------------------------- what follows from the program alone


class _Uses:
    """Who uses which value of a program.

    Attributes
    ----------
    streamable
        Leaves that one tile segment reads, along its own axes in order, and nobody else: they may be generated tile
        by tile.
    done_after
        For each segment the values that nobody needs any more after it.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        n = len(program.operands)
        counts = [0] * (n + sum(len(s.results) if isinstance(s, TileSegment) else 1 for s in program.segments))
        last: dict[int, int] = {}
        alone: set[int] = set()
        for k, segment in enumerate(program.segments):
            for value in self._reads(segment):
                counts[value] += 1
                last[value] = k
            if isinstance(segment, TileSegment):
                alone |= self._read_in_order(segment)
        kept = {output.value for output in program.outputs}
        self.done_after: list[list[int]] = [[] for _ in program.segments]
        for value, k in last.items():
            if value not in kept:
                self.done_after[k].append(value)
        self.streamable = {
            value
            for value in alone
            if value < n and counts[value] == 1 and value not in kept and isinstance(program.operands[value], Leaf)
        }

    @staticmethod
    def _reads(segment: TileSegment | BlockSegment) -> Sequence[int]:
        return [v for v, _ in segment.inputs] if isinstance(segment, TileSegment) else segment.inputs

    @staticmethod
    def _read_in_order(segment: TileSegment) -> set[int]:
        whole = {r.value for r in segment.results if r.reduction is None or r.reduction.accumulator is None}
        return {v for i, (v, axes) in enumerate(segment.inputs) if axes == segment.axes and i not in whole}


def _uses(program: Program, context: Context) -> _Uses:
    found: _Uses | None = context.plans.get(id(program))
    if found is None:
        found = context.plans[id(program)] = _Uses(program)  # holds the program, so that its id stays its own
    return found


# ---------------------------------------------------------------- operands


def _operand(
    stage: Stage, program: Program, number: int, index: tuple[int, ...], blocks: Blocks, context: Context, stream: bool
) -> Any:
    operand = program.operands[number]
    if isinstance(operand, Leaf):
        return _leaf(operand, program, number, index, stream)
    if isinstance(operand, Block):
        (block,) = blocks[operand.input]
        return block
    if isinstance(operand, Grouped):
        counts = _counts(stage.inputs[operand.input], index, len(blocks[operand.input]))
        return (join if operand.concatenate else nest)(blocks[operand.input], counts)
    if isinstance(operand, Gathered):
        (scratch,) = blocks[operand.input]
        return gather_block(
            operand.scatter, [0 if a is None else index[a] for a in operand.axes], scratch, context.pool
        )
    assert isinstance(operand, Assembled)
    return assemble(operand, index, blocks, context.pool)


def _counts(input_: StageInput, index: tuple[int, ...], n: int) -> tuple[int, ...]:
    """How many blocks of an input there are along each axis of its grid; a plain list where they form no grid."""
    if isinstance(input_.blocks, GridMap):
        return input_.blocks.counts(index)
    return (n,) if isinstance(input_.blocks, ExplicitMap) else ()


def _leaf(leaf: Leaf, program: Program, number: int, index: tuple[int, ...], stream: bool) -> np.ndarray | Streamed:
    block_of = [0 if axis is None else index[axis] for axis in leaf.axes]
    shape = tuple(chunks[k] for chunks, k in zip(leaf.chunks, block_of, strict=True))
    final = tuple(n for axis, n in enumerate(shape) if axis not in leaf.drop)
    source, dtype = leaf.source, leaf.source.dtype
    if 0 in shape:
        return np.empty(final, dtype)
    region = leaf.region_of(block_of)
    if stream and final == _space_of(program, number, index):
        fill = source.stream(region)
        if fill is not None:
            return Streamed(final, dtype, fill)
    block = source.read(region)
    if isinstance(block, np.generic):
        block = np.asarray(block)
    if type(block) is not np.ndarray or block.dtype != dtype or block.shape != shape:
        block = checked(block, shape, dtype, f"source {type(source).__name__}, region {_show(region)}: its read")
    return block.reshape(final) if leaf.drop else block


def _space_of(program: Program, number: int, index: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape of the index space of the one tile segment that reads operand ``number``; None if it is not known yet."""
    for segment in program.segments:
        if isinstance(segment, TileSegment) and any(v == number for v, _ in segment.inputs):
            return space(segment, index, ()) if all(chunks.known for chunks in segment.chunks) else None
    return None


def _show(region: Region) -> str:
    return "[" + ", ".join(f"{s.start}:{s.stop}" + (f":{s.step}" if s.step != 1 else "") for s in region) + "]"


# ---------------------------------------------------------------- outputs


def _targets(program: Program, segment: TileSegment, first: int, index: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Memory of sinks in which results of a segment can be computed in place, by number of result."""
    targets = {}
    for output in program.outputs:
        number = output.value - first
        if output.sink is None or not 0 <= number < len(segment.results):
            continue
        result, n = segment.results[number], len(segment.inputs)
        if result.reduction is not None or result.value < n:
            continue
        region = _region(output, index)
        if region is None or any(s.start == s.stop for s in region):
            continue
        buffer = output.sink.buffer(region)
        if buffer is not None and buffer.dtype == segment.steps[result.value - n].dtype:
            targets[number] = buffer
    return targets


def _deliver(program: Program, output: Output, value: Any, index: tuple[int, ...], blocks: Blocks) -> Any:
    if output.scatter is not None:
        (scratch,) = blocks[output.scratch]
        scatter_block(output.scatter, [0 if a is None else index[a] for a in output.axes], value, scratch)
        return None
    if output.sink is None:
        direct = output.value < len(program.operands) and isinstance(program.operands[output.value], Leaf)
        return value if direct else _compact(value)
    region = _region(output, index)
    if region is None or value.size:
        output.sink.write(tuple(0 if a is None else index[a] for a in output.axes), region, value)
    return None


def _compact(value: Any) -> Any:
    """A copy of a view that would keep much more memory than it shows; the budget counts what it shows."""
    if not isinstance(value, np.ndarray):
        return value
    owner: Any = value
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return value.copy() if owner.nbytes > 2 * value.nbytes else value


def _region(output: Output, index: tuple[int, ...]) -> Region | None:
    """Where an output lies in its sink; None if a size is unknown."""
    if not all(chunks.known for chunks in output.chunks):
        return None
    return tuple(
        _extent(chunks, 0 if axis is None else index[axis], offset)
        for chunks, axis, offset in zip(output.chunks, output.axes, output.offset, strict=True)
    )


def _extent(chunks: AxisChunks, k: int, offset: int) -> slice:
    return slice(offset + int(chunks.bounds[k]), offset + int(chunks.bounds[k + 1]), 1)
