"""From a group to a Program: what each member is made of, then segments (:mod:`layout`), then outputs and weights."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from math import prod
from typing import Protocol

import numpy as np

from tilework.base.errors import InternalError
from tilework.optimize import weigh
from tilework.optimize.blockfuncs import (
    AtOwnPlace,
    MergeRuns,
    ReduceEnd,
    ReshapeBlock,
    ScanEnd,
    ScanStart,
    ViewBlock,
    identity,
)
from tilework.optimize.group import AxesMap, Goal, Group
from tilework.optimize.layout import Made, Value, lay_out
from tilework.optimize.maps import assembly, grid_map, previous
from tilework.optimize.scatter import part_of_read, part_of_written
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import (
    ArrayNode,
    BlockFunction,
    Blockwise,
    Concatenate,
    Elementwise,
    FromValue,
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
)
from tilework.plan.points import gather_points
from tilework.plan.stages import (
    Assembled,
    AxisMap,
    Block,
    Dependence,
    ExplicitMap,
    Gathered,
    GridMap,
    Grouped,
    Leaf,
    LinearMap,
    Operand,
    Output,
    Program,
    Scatter,
    StageInput,
)


class Finished(Protocol):
    """Where finished blocks are: what lowering has made so far."""

    def blocks_of(self, node: Node) -> tuple[int, int | None]:
        """Stage number and pick of a node's finished blocks."""
        ...

    def call_of(self, node: Node) -> tuple[int, int]:
        """Stage number and task of a delayed call, or of a future."""
        ...

    def partials_of(self, node: Reduce) -> tuple[int, int | None, tuple[int, ...]]:
        """Stage number, pick and grid of a reduction's last level of partials."""
        ...

    def scan_of(self, node: Scan) -> tuple[int, int]:
        """Stage numbers of a scan's (local scan, total) pairs and of its offsets."""
        ...

    def scratch_of(self, node: Node) -> tuple[int, Scatter] | None:
        """The stage that yields the scratch files of a node, and how it goes through them; None if it does not."""
        ...


class ProgramBuilder:
    """Builds the Program of one group and collects the stage inputs that it needs."""

    def __init__(self, group: Group, finished: Finished) -> None:
        self.group = group
        self.finished = finished
        self.inputs: list[StageInput] = []
        self.operands: list[Operand] = []
        self.values: list[Value] = []  # inputs before users
        self.named: dict[tuple[ArrayNode, AxesMap], Value] = {}
        self.kept: list[Value] = []  # by goal: what the group makes for it
        self.made: list[Made] = []
        self.outputs: tuple[Output, ...] = ()

    def build(self) -> Program:
        """The whole program."""
        for node, axes in reversed(self.group.members.items()):
            self.named[node, axes] = self._member(node, axes)
        self.kept = [self._goal(goal) for goal in self.group.goals]
        self.made = lay_out(self.values, self.kept)
        self.outputs = tuple(map(self._output, self.group.goals, self.kept))
        inner = len(self.group.domain) - self.group.goals[0].array.ndim
        segments = tuple(made.segment for made in self.made)
        return Program(self.group.domain, tuple(self.operands), segments, self.outputs, inner)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """What each task leaves behind and what it needs on top, over the grid. Call after :meth:`build`."""
        goals, ndim = self.group.goals, len(self.group.domain)
        on_top = weigh.needed_on_top(self.values, self.made, goals, self.kept, ndim)
        read = [operand.scatter for operand in self.operands if isinstance(operand, Gathered)]
        written = [output.scatter for output in self.outputs if output.scatter is not None]
        chunk = max([weigh.chunk_at_once(leaf) for leaf in self.operands if isinstance(leaf, Leaf)], default=0)
        return weigh.left_behind(goals, ndim), on_top + weigh.pieces_at_once(read, written) + chunk

    def read_bytes(self) -> int:
        """What all tasks together read from storage."""
        grid = tuple(map(len, self.group.domain))
        return sum(weigh.read_bytes(operand, grid) for operand in self.operands if isinstance(operand, Leaf))

    def write_bytes(self) -> int:
        """What all tasks together write to storage."""
        stores = [goal.node for goal in self.group.goals if isinstance(goal.node, Store)]
        return int(sum(weigh.array_bytes(s.inputs[0]) for s in stores if not s.sink.resident_bytes))

    # ------------------------------------------------------------ values

    def _operand(self, node: ArrayNode, axes: tuple[int | None, ...], operand: Operand) -> Value:
        value = Value(node, axes, operand, number=len(self.operands))
        self.operands.append(operand)
        self.values.append(value)
        return value

    def _computed(
        self, node: ArrayNode, axes: AxesMap, made: Elementwise | Reduce | BlockFunction, inputs: Sequence[Value]
    ) -> Value:
        value = Value(node, axes, made, tuple(inputs))
        self.values.append(value)
        return value

    def _blocks(self, producer: int, dependence: Dependence, pick: int | None = None) -> int:
        """Number of a new stage input."""
        self.inputs.append(StageInput(producer, dependence, pick))
        return len(self.inputs) - 1

    def _value(self, node: ArrayNode, axes: AxesMap) -> Value:
        """The value of a member, or the finished block of a node outside the group."""
        found = self.named.get((node, axes))
        if found is None:
            if node in self.group.members:
                if not isinstance(node, Source):  # which may be read along several maps
                    raise InternalError(f"{node!r} is wanted along {axes}, but its group has it along another map")
                found = self._leaf(node, axes)
            else:
                producer, pick = self.finished.blocks_of(node)
                found = self._operand(node, axes, Block(self._blocks(producer, grid_map(node.chunks, axes), pick)))
            self.named[node, axes] = found
        return found

    # ------------------------------------------------------------ members

    def _member(self, node: ArrayNode, axes: AxesMap) -> Value:
        """How a member's value is made."""
        if isinstance(node, Source):
            return self._leaf(node, axes)
        if isinstance(node, Blockwise):
            return self._blockwise(node, axes)
        if isinstance(node, Slice | Take | Rechunk | Concatenate | Overlap):
            return self._assembled(node, axes)
        if isinstance(node, Reduce):
            return self._reduce_end(node, axes)
        if isinstance(node, Scan):
            return self._scan_end(node, axes)
        if isinstance(node, FromValue):
            producer, task = self.finished.call_of(node.inputs[0])
            only = Block(self._blocks(producer, ExplicitMap(np.array([0, 1]), np.array([task]))))
            checked = BlockFunction(identity, (Slot(0),), scratch=0)
            return self._computed(node, axes, checked, [self._operand(node, axes, only)])
        if isinstance(node, Merge):
            return self._merged(node, axes)
        producer, pick = self.finished.blocks_of(node.inputs[0])
        if isinstance(node, Reshape):
            block = self._operand(node, axes, Block(self._blocks(producer, LinearMap(), pick)))
            reshape = BlockFunction(ReshapeBlock(node.chunks), (Slot(0),), place=True, scratch=0)
            return self._computed(node, axes, reshape, [block])
        if isinstance(node, Points):
            gather, dependence = gather_points(node)
            blocks = self._operand(node, axes, Grouped(self._blocks(producer, dependence, pick), False))
            blocks.bytes = np.zeros(1)  # only the points are touched
            return self._computed(node, axes, BlockFunction(gather, (Slot(0),), place=True), [blocks])
        raise InternalError(f"no way to lower {node!r}")

    def _merged(self, node: Merge, axes: AxesMap) -> Value:
        """Sorted runs, all in one scratch file, and the ranks of some of their elements."""
        through = self.finished.scratch_of(node)
        if through is None:
            raise InternalError(f"{node!r} does not go through scratch space")
        file = self._operand(node, axes, Block(self._blocks(through[0], GridMap((AxisMap.all(1),)))))
        file.bytes = np.zeros(1)
        producer, pick = self.finished.blocks_of(node.inputs[1])
        ranked = self._operand(node.inputs[1], (None,), Block(self._blocks(producer, GridMap((AxisMap.all(1),)), pick)))
        merge = AtOwnPlace(MergeRuns(node.chunks[0], node.dtype, node.key, node.spacing), node.chunks, axes)
        function = BlockFunction(merge, (Slot(0), Slot(1)), place=True, scratch=3.0)
        return self._computed(node, axes, function, [file, ranked])

    def _leaf(self, node: Source, axes: AxesMap) -> Value:
        chunks: list[AxisChunks] = []
        grid_axes: list[int | None] = []
        mine = iter(zip(node.chunks, axes, strict=True))
        for axis in range(len(node.region)):
            have, along = (AxisChunks((1,)), None) if axis in node.drop else next(mine)
            chunks.append(have)
            grid_axes.append(along if len(have) > 1 else None)
        return self._operand(node, axes, Leaf(node.source, node.region, tuple(chunks), tuple(grid_axes), node.drop))

    def _blockwise(self, node: Blockwise, axes: AxesMap) -> Value:
        inputs = [self._input(node, i, labels, axes) for i, labels in zip(node.inputs, node.axes, strict=True)]
        if isinstance(node.op, Elementwise):
            same_tiles = inputs[0].is_step and inputs[0].space == Value(node, axes, node.op).space
            if node.op.fn is not None or same_tiles:
                return self._computed(node, axes, node.op, inputs)
            stretch = tuple((c, a if len(c) > 1 else None) for c, a in zip(node.chunks, axes, strict=True))
            view = BlockFunction(ViewBlock(node.axes[0], stretch), (Slot(0),), place=True, scratch=0)
            return self._computed(node, axes, view, inputs)
        function = node.op
        if function.place:
            function = copy(function)
            function.fn = AtOwnPlace(node.op.fn, node.chunks, axes)
        return self._computed(node, axes, function, inputs)

    def _input(self, node: Blockwise, i: ArrayNode, labels: Sequence[int], axes: AxesMap) -> Value:
        along = self.group.input_map(node, i, labels, axes)
        if along is not None:
            return self._value(i, along)
        producer, pick = self.finished.blocks_of(i)
        joined = tuple(axes[label] if label < node.ndim else None for label in labels)
        concatenate = isinstance(node.op, BlockFunction) and node.op.concatenate
        return self._operand(i, joined, Grouped(self._blocks(producer, grid_map(i.chunks, joined), pick), concatenate))

    def _assembled(self, node: ArrayNode, axes: AxesMap) -> Value:
        along = tuple(a if n > 1 else None for a, n in zip(axes, node.grid, strict=True))
        through = self.finished.scratch_of(node)
        if through is not None:
            producer, scatter = through
            number = self._blocks(producer, part_of_read(scatter, along))
            return self._operand(node, axes, Gathered(number, scatter, along))
        drop: tuple[int, ...] = ()
        if isinstance(node, Slice):
            drop = tuple(axis for axis, e in enumerate(node.index) if not isinstance(e, slice))
        tables = assembly(node, along)
        numbers = []
        for i, table in zip(node.inputs, tables, strict=True):
            producer, pick = self.finished.blocks_of(i)
            maps = tuple(AxisMap(p.axis, p.indptr, p.blocks) for p in table)
            numbers.append(self._blocks(producer, GridMap(maps), pick))
        return self._operand(node, axes, Assembled(tuple(numbers), tables, node.dtype, drop))

    def _reduce_end(self, node: Reduce, axes: AxesMap) -> Value:
        """The last join of a tree reduction, and what makes the answer of it."""
        producer, pick, grid = self.finished.partials_of(node)
        mine = iter(axes)
        along = [next(mine) if node.keepdims or axis not in node.axes else None for axis in range(len(grid))]
        maps = tuple(
            AxisMap.identity(a, n) if a is not None and axis not in node.axes and n > 1 else AxisMap.all(n)
            for axis, (a, n) in enumerate(zip(along, grid, strict=True))
        )
        joined = self._operand(node, axes, Grouped(self._blocks(producer, GridMap(maps), pick), True))
        several = prod(grid[axis] for axis in node.axes)
        kept = [AxisChunks((1,)) if node.keepdims and k in node.axes else c for k, c in enumerate(node.chunks)]
        size = float(node.reduction.partial_itemsize * several)
        joined.bytes = weigh.spread(size, kept, axes, len(self.group.domain))
        end = BlockFunction(ReduceEnd(node.reduction, node.axes, node.keepdims, node.dtype, several > 1), (Slot(0),))
        return self._computed(node, axes, end, [joined])

    def _scan_end(self, node: Scan, axes: AxesMap) -> Value:
        first, offsets = self.finished.scan_of(node)
        here = grid_map(node.chunks, axes)
        local = self._operand(node, axes, Block(self._blocks(first, here, 0)))
        before = list(here.maps)
        before[node.axis] = previous(axes[node.axis], node.grid[node.axis])
        offset = self._operand(node, axes, Grouped(self._blocks(offsets, GridMap(tuple(before))), False))
        offset.bytes = np.zeros(1)  # next to nothing
        end = BlockFunction(ScanEnd(node.join), (Slot(0), Slot(1)), scratch=0)
        return self._computed(node, axes, end, [local, offset])

    # ------------------------------------------------------------ goals

    def _goal(self, goal: Goal) -> Value:
        """The value that the group makes for a goal."""
        value = self._value(goal.array, goal.axes)
        if isinstance(goal.node, Reduce) and goal.kind == "partial":
            reduction, axes = goal.node.reduction, goal.node.axes
            if reduction.accumulator is not None and not reduction.place:
                return self._computed(goal.node, goal.axes, goal.node, [value])
            partial = BlockFunction(reduction.partial, (Slot(0),), {"axis": axes}, place=reduction.place, check=False)
            if reduction.place:
                partial.fn = AtOwnPlace(reduction.partial, goal.array.chunks, goal.axes)
            made = self._computed(goal.node, goal.axes, partial, [value])
            made.bytes = weigh.partial_bytes(goal.node, len(self.group.domain))
            return made
        if isinstance(goal.node, Scan) and goal.kind == "scan":
            start = ScanStart(goal.node.local, goal.node.total, goal.node.axis)
            return self._computed(goal.node, goal.axes, BlockFunction(start, (Slot(0),), check=False), [value])
        return value

    def _output(self, goal: Goal, value: Value) -> Output:
        chunks = goal.array.chunks
        axes = tuple(axis if len(c) > 1 else None for axis, c in enumerate(chunks))
        if isinstance(goal.node, Store):
            return Output(value.number, goal.node.sink, goal.node.offset, chunks, axes)
        if goal.kind != "scatter":
            return Output(value.number)
        through = self.finished.scratch_of(goal.node)
        if through is None:
            raise InternalError(f"{goal.node!r} does not go through scratch space")
        producer, scatter = through
        number = self._blocks(producer, part_of_written(scatter, goal.axes))
        return Output(value.number, axes=axes, scatter=scatter, scratch=number)
