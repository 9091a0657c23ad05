"""The values of a program, and in which segments they are made.

Values are operands, steps (elementwise, made tile by tile), partials (reductions of tiles) and functions of whole
blocks. A value's *level* says when it is made: operands at level 0, anything else one level after its inputs, but steps
and partials at the level of the steps they use, if both run over the same index space. All steps and partials of one
level over one space are one :class:`TileSegment`.

Levels are first as early as possible, then steps and partials move up to the level of their users. So in
``x * 2 - mean``, where ``mean`` is ready at level 1, ``x * 2`` waits for it and goes through the same tiles, instead of
becoming a whole block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Elementwise, Reduce, Slot
from tilework.plan.stages import BlockSegment, Operand, Segment, TileResult, TileSegment, TileStep

Space: TypeAlias = tuple[tuple[int, AxisChunks], ...]


@dataclass(eq=False)
class Value:
    """A value of a program in the making.

    Attributes
    ----------
    node
        The node that it is the value of, or on the way to.
    axes
        The domain axis of each of its axes; None where all blocks along the axis are joined.
    made
        How: an operand, a step (Elementwise), a partial (the Reduce whose first step it is) or a function.
    inputs
        Values that it is made of, in the order of the Slots of ``made``.
    level
        See above.
    number
        Its number in the program, once it has one.
    bytes
        What it weighs, over the grid, where its node does not tell.
    """

    node: ArrayNode
    axes: tuple[int | None, ...]
    made: Operand | Elementwise | Reduce | BlockFunction
    inputs: tuple[Value, ...] = ()
    level: int = 0
    number: int = -1
    bytes: np.ndarray | None = None

    @property
    def is_step(self) -> bool:
        return isinstance(self.made, Elementwise)

    @property
    def in_tiles(self) -> bool:
        return isinstance(self.made, Elementwise | Reduce)

    @property
    def chunks(self) -> tuple[AxisChunks, ...]:
        """Sizes along its axes (of what is reduced, for a partial)."""
        return self.made.inputs[0].chunks if isinstance(self.made, Reduce) else self.node.chunks

    @property
    def space(self) -> Space:
        """The index space of a step or partial: its domain axes, ascending, with the sizes along them."""
        along = [(a, c) for a, c in zip(self.axes, self.chunks, strict=True) if a is not None]
        return tuple(sorted(along, key=lambda pair: pair[0]))


@dataclass(frozen=True, slots=True)
class Made:
    """A segment, the values that it is made of, and those that it yields, in order."""

    segment: Segment
    inputs: list[Value]
    yields: list[Value]


def lay_out(values: Sequence[Value], kept: Sequence[Value]) -> list[Made]:
    """Put values into segments, in the order in which they run, and number them.

    Parameters
    ----------
    values
        All values, inputs before users; operands have their numbers.
    kept
        Those that the program's outputs are.
    """
    _set_levels(values)
    together: dict[tuple[int, Space], list[Value]] = {}
    segments: list[tuple[int, list[Value]]] = []
    for value in values:
        if value.in_tiles:
            mine = together.setdefault((value.level, value.space), [])
            if not mine:
                segments.append((value.level, mine))
            mine.append(value)
        elif isinstance(value.made, BlockFunction):
            segments.append((value.level, [value]))
    whole = set(kept)
    for value in values:
        whole.update(i for i in value.inputs if i.is_step and not _share_tiles(value, i))
    number = sum(value.number >= 0 for value in values)
    made: list[Made] = []
    for _, mine in sorted(segments, key=lambda pair: pair[0]):
        made.append(_tile_segment(mine, whole) if mine[0].in_tiles else _block_segment(mine[0]))
        for value in made[-1].yields:
            value.number = number
            number += 1
    return made


def _share_tiles(user: Value, have: Value) -> bool:
    """Whether two values are in one segment."""
    return have.is_step and user.in_tiles and have.level == user.level and have.space == user.space


def _set_levels(values: Sequence[Value]) -> None:
    top: dict[Space, int] = {}  # the last level of each space
    for value in values:
        for have in value.inputs:
            fused = have.is_step and value.in_tiles and have.space == value.space
            value.level = max(value.level, have.level if fused else have.level + 1)
        if value.in_tiles:
            top[value.space] = max(value.level, top.get(value.space, 0))
    latest: dict[Value, int] = {}  # the last level at which the users still get the value in time
    for value in reversed(values):
        if value.in_tiles:
            value.level = max(value.level, latest.get(value, top[value.space]))
        for have in value.inputs:
            if have.is_step:
                fused = value.in_tiles and have.space == value.space
                latest[have] = min(value.level - (not fused), latest.get(have, value.level))


def _block_segment(value: Value) -> Made:
    function, node, expected = value.made, value.node, None
    assert isinstance(function, BlockFunction)
    if function.check:
        grids = [axis if len(c) > 1 else None for axis, c in zip(value.axes, node.chunks, strict=True)]
        expected = tuple(zip(node.chunks, grids, strict=True))
    numbers = tuple(have.number for have in value.inputs)
    segment = BlockSegment(function, numbers, node.dtype if function.check else None, expected, node.label)
    return Made(segment, list(value.inputs), [value])


def _tile_segment(values: Sequence[Value], whole: set[Value]) -> Made:
    """One segment of steps and partials, inputs before users. ``whole`` are the steps wanted as blocks."""
    space = values[0].space
    along = [axis for axis, _ in space]
    inside = set(values)
    inputs: dict[tuple[int, tuple[int, ...]], Value] = {}

    def key(have: Value) -> tuple[int, tuple[int, ...]]:
        return have.number, tuple(axis if axis is not None and axis in along else -1 for axis in have.axes)

    for value in values:
        inputs |= {key(have): have for have in value.inputs if have not in inside}
    place = {k: number for number, k in enumerate(inputs)}
    local: dict[Value, int] = {}
    steps: list[TileStep] = []
    results: list[TileResult] = []
    yields: list[Value] = []
    for value in values:
        numbers = [local[have] if have in local else place[key(have)] for have in value.inputs]
        if isinstance(value.made, Elementwise):
            local[value] = numbers[0]
            if value.made.fn is not None:  # the identity is its input under another map
                args = tuple(Slot(numbers[a.index]) if isinstance(a, Slot) else a for a in value.made.args)
                local[value] = len(inputs) + len(steps)
                steps.append(TileStep(value.made.fn, args, value.node.dtype, value.node.label))
            if value not in whole:
                continue
            results.append(TileResult(local[value], _placed(value)))
        elif isinstance(value.made, Reduce):
            results.append(TileResult(numbers[0], _placed(value), value.made.reduction, value.made.axes))
        yields.append(value)
    segment = TileSegment(
        tuple(inputs), tuple(steps), tuple(results), tuple(along), tuple(chunks for _, chunks in space)
    )
    return Made(segment, list(inputs.values()), yields)


def _placed(value: Value) -> tuple[int, ...]:
    """The domain axes of a step or partial, in the order of its own axes: they all have one."""
    return tuple(axis for axis in value.axes if axis is not None)
