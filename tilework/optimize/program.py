"""From a group to a Program: operands, then tile and block segments in the order of their levels, then outputs.

A value's *level* says when it can be made: operands are level 0, a function of whole blocks comes one level after its
inputs, an elementwise step shares the level (and the segment) of elementwise inputs over the same index space and comes
one level after all others. All elementwise members of one level over one index space are one TileSegment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from tilework.base.errors import InternalError
from tilework.optimize import weigh
from tilework.optimize.blockfuncs import AtOwnPlace, ReduceEnd, ReshapeBlock, ScanEnd, ScanStart, ViewBlock, identity
from tilework.optimize.group import AxesMap, Goal, Group
from tilework.optimize.maps import all_known, assembly, grid_map, known, previous
from tilework.plan.blocks import AxisChunks
from tilework.plan.graph import topological
from tilework.plan.ops import (
    ArrayNode,
    BlockFunction,
    Blockwise,
    Concatenate,
    Elementwise,
    FromValue,
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
    BlockSegment,
    Dependence,
    ExplicitMap,
    GridMap,
    Grouped,
    Leaf,
    LinearMap,
    Operand,
    Output,
    Program,
    Segment,
    StageInput,
    TileResult,
    TileSegment,
    TileStep,
)


class Made(Protocol):
    """Where finished blocks are: what lowering has made so far."""

    def blocks_of(self, node: Node) -> tuple[int, int | None]:
        """Stage number and pick of a node's finished blocks."""
        ...

    def call_of(self, node: Node) -> tuple[int, int]:
        """Stage number and task of a delayed call."""
        ...

    def partials_of(self, node: Reduce) -> tuple[int, int | None, tuple[int, ...]]:
        """Stage number, pick and grid of a reduction's last level of partials."""
        ...

    def scan_of(self, node: Scan) -> tuple[int, int]:
        """Stage numbers of a scan's (local scan, total) pairs and of its offsets."""
        ...


Key = tuple[ArrayNode, AxesMap]


@dataclass(eq=False)
class _Value:
    """A value of the program. ``number`` is known for operands at once, for others when segments are laid out."""

    node: ArrayNode
    axes: AxesMap
    level: int
    number: int = -1

    @property
    def space(self) -> tuple[tuple[int, AxisChunks], ...]:
        """The index space of an elementwise value: its domain axes, ascending, with the sizes along them."""
        along = [(a, c) for a, c in zip(self.axes, self.node.chunks, strict=True) if a is not None]
        return tuple(sorted(along, key=lambda pair: pair[0]))


class ProgramBuilder:
    """Builds the Program of one group and collects the stage inputs that it needs."""

    def __init__(self, group: Group, made: Made) -> None:
        self.group = group
        self.made = made
        self.ndim = len(group.domain)
        self.inputs: list[StageInput] = []
        self.operands: list[Operand] = []
        self.values: dict[Key, _Value] = {}
        self.pending: list[tuple[int, Callable[[], None]]] = []  # block segments: (level, lay out)
        self.tiled: dict[Key, Blockwise] = {}  # elementwise members, inputs before users
        self.functions: list[tuple[_Value, BlockFunction, Sequence[_Value]]] = []
        self.leaves: list[tuple[Source, AxesMap]] = []
        self.assembled: list[np.ndarray] = []  # bytes of blocks that are put together for one task
        self.results: dict[Any, int] = {}  # tile results and block results → value number
        self.segments: list[Segment] = []
        self.tile_plans: dict[Any, _TilePlan] = {}

    def build(self) -> Program:
        """The whole program."""
        arrays = [goal.array for goal in self.group.goals]
        for node in topological(arrays):
            if isinstance(node, ArrayNode) and node in self.group.members:
                self._member(node, self.group.members[node])
        for goal in self.group.goals:
            self._value(goal.array, goal.axes)
        needs = [self._goal_needs(goal) for goal in self.group.goals]
        self._layout()
        outputs = tuple(out for need in needs for out in need())
        return Program(self.group.domain, tuple(self.operands), tuple(self.segments), outputs)

    # ------------------------------------------------------------ operands

    def input(self, producer: int, dependence: Dependence, pick: int | None = None) -> int:
        """Number of a stage input; equal ones are shared."""
        self.inputs.append(StageInput(producer, dependence, pick))
        return len(self.inputs) - 1

    def operand(self, node: ArrayNode, axes: AxesMap, operand: Operand) -> _Value:
        """A new operand as the value of ``node``."""
        self.operands.append(operand)
        value = _Value(node, axes, 0, len(self.operands) - 1)
        self.values[node, axes] = value
        return value

    def _value(self, node: ArrayNode, axes: AxesMap) -> _Value:
        """The value of a member, or the finished block of a node outside the group."""
        have = self.values.get((node, axes))
        if have is not None:
            return have
        if node in self.group.members:
            if isinstance(node, Source):
                return self._leaf(node, axes)
            raise InternalError(f"{node!r} is wanted along {axes}, but its group has it along another map")
        producer, pick = self.made.blocks_of(node)
        number = self.input(producer, grid_map(node, axes), pick)
        return self.operand(node, axes, Block(number))

    def _leaf(self, node: Source, axes: AxesMap) -> _Value:
        chunks: list[AxisChunks] = []
        grid_axes: list[int | None] = []
        mine = iter(zip(node.chunks, axes, strict=True))
        for axis in range(len(node.region)):
            if axis in node.drop:
                chunks.append(AxisChunks((1,)))
                grid_axes.append(None)
            else:
                have, along = next(mine)
                chunks.append(have)
                grid_axes.append(along if len(have) > 1 else None)
        self.leaves.append((node, axes))
        return self.operand(node, axes, Leaf(node.source, node.region, tuple(chunks), tuple(grid_axes), node.drop))

    # ------------------------------------------------------------ members

    def _member(self, node: ArrayNode, axes: AxesMap) -> None:
        """Register how a member's value is made."""
        if isinstance(node, Blockwise) and isinstance(node.op, Elementwise):
            self._elementwise(node, axes)
        elif isinstance(node, Blockwise):
            self._block_function(node, axes)
        elif isinstance(node, Source):
            self._leaf(node, axes)
        elif isinstance(node, Slice | Take | Rechunk | Concatenate | Overlap):
            self._assembled(node, axes)
        elif isinstance(node, Reduce):
            self._reduce_end(node, axes)
        elif isinstance(node, Scan):
            self._scan_end(node, axes)
        elif isinstance(node, FromValue):
            producer, task = self.made.call_of(node.inputs[0])
            only = ExplicitMap(np.array([0, 1]), np.array([task]))
            block = self.unnamed(node, Block(self.input(producer, only)))
            self._function(node, axes, BlockFunction(identity, (Slot(0),), scratch=0), [block])
        elif isinstance(node, Reshape):
            producer, pick = self.made.blocks_of(node.inputs[0])
            block = self.unnamed(node, Block(self.input(producer, LinearMap(), pick)))
            self._function(node, axes, BlockFunction(ReshapeBlock(node.chunks), (Slot(0),), place=True), [block])
        elif isinstance(node, Points):
            self._points(node, axes)
        else:
            raise InternalError(f"no way to lower {node!r}")

    def unnamed(self, node: ArrayNode, operand: Operand) -> _Value:
        """An operand on the way to the value of ``node``."""
        self.operands.append(operand)
        return _Value(node, (), 0, len(self.operands) - 1)

    def _input_values(self, node: Blockwise, axes: AxesMap) -> list[_Value]:
        values = []
        for i, labels in zip(node.inputs, node.axes, strict=True):
            along = self.group.input_map(node, i, labels, axes)
            if along is not None:
                values.append(self._value(i, along))
            else:
                values.append(self._contracted(node, i, labels, axes))
        return values

    def _contracted(self, node: Blockwise, i: ArrayNode, labels: Sequence[int], axes: AxesMap) -> _Value:
        """An input of which several blocks go into one call."""
        producer, pick = self.made.blocks_of(i)
        along = tuple(axes[label] if label < node.ndim else None for label in labels)
        concatenate = isinstance(node.op, BlockFunction) and node.op.concatenate
        number = self.input(producer, grid_map(i, along), pick)
        self.operands.append(Grouped(number, concatenate))
        self.assembled.append(weigh.value_bytes(i, along, self.ndim))
        return _Value(i, along, 0, len(self.operands) - 1)

    def _elementwise(self, node: Blockwise, axes: AxesMap) -> None:
        inputs = self._input_values(node, axes)
        assert isinstance(node.op, Elementwise)
        if node.op.fn is None and not self._is_tiled(inputs[0]):  # a view of a block costs nothing
            stretch = tuple((c, a if len(c) > 1 else None) for c, a in zip(node.chunks, axes, strict=True))
            view = BlockFunction(ViewBlock(node.axes[0], stretch), (Slot(0),), place=True, scratch=0)
            return self._function(node, axes, view, inputs)
        value = _Value(node, axes, 0)
        for have in inputs:
            same = self._is_tiled(have) and have.space == value.space
            value.level = max(value.level, have.level if same else have.level + 1)
        self.values[node, axes] = value
        self.tiled[node, axes] = node
        return None

    def _is_tiled(self, value: _Value) -> bool:
        return value.number < 0 and (value.node, value.axes) in self.tiled

    def _block_function(self, node: Blockwise, axes: AxesMap) -> None:
        assert isinstance(node.op, BlockFunction)
        function = node.op
        if function.place:
            function = copy(function)
            function.fn = AtOwnPlace(node.op.fn, node.chunks, axes)
        self._function(node, axes, function, self._input_values(node, axes))

    def _function(self, node: ArrayNode, axes: AxesMap, function: BlockFunction, inputs: Sequence[_Value]) -> None:
        """A function of whole values as the value of ``node``."""
        value = _Value(node, axes, 1 + max((v.level for v in inputs), default=0))
        self.values[node, axes] = value
        self.functions.append((value, function, inputs))
        for have in inputs:
            self._want_block(have)
        self.pending.append(
            (value.level, lambda: self._block_segment(value, function, tuple(self._number(v) for v in inputs)))
        )

    def _block_segment(self, value: _Value, function: BlockFunction, numbers: tuple[int, ...]) -> None:
        node = value.node
        expected = None
        if function.check:
            grids = [a if len(c) > 1 else None for a, c in zip(value.axes, node.chunks, strict=True)]
            expected = tuple(zip(node.chunks, grids, strict=True))
        self.segments.append(
            BlockSegment(function, numbers, node.dtype if function.check else None, expected, node.label)
        )
        value.number = self._next_value()

    def _assembled(self, node: ArrayNode, axes: AxesMap) -> None:
        drop: tuple[int, ...] = ()
        if isinstance(node, Slice):
            drop = tuple(axis for axis, e in enumerate(node.index) if not isinstance(e, slice))
        tables = assembly(node, tuple(a if n > 1 else None for a, n in zip(axes, node.grid, strict=True)))
        numbers = []
        for i, table in zip(node.inputs, tables, strict=True):
            producer, pick = self.made.blocks_of(i)
            maps = tuple(AxisMap(p.axis, p.indptr, p.blocks) for p in table)
            numbers.append(self.input(producer, GridMap(maps), pick))
        self.assembled.append(weigh.value_bytes(node, axes, self.ndim))
        self.operand(node, axes, Assembled(tuple(numbers), tables, node.dtype, drop))

    def _reduce_end(self, node: Reduce, axes: AxesMap) -> None:
        """The last join of a tree reduction, and what makes the answer of it."""
        producer, pick, grid = self.made.partials_of(node)
        kept = iter(axes)
        along = [next(kept) if node.keepdims or axis not in node.axes else None for axis in range(len(grid))]
        maps = tuple(
            AxisMap.all(n) if axis in node.axes or n == 1 else AxisMap.identity(known(along[axis]), n)
            for axis, n in enumerate(grid)
        )
        joined = self.unnamed(node, Grouped(self.input(producer, GridMap(maps), pick), True))
        blocks = prod(grid[axis] for axis in node.axes)
        size = node.reduction.partial_itemsize * blocks
        self.assembled.append(weigh.spread(size, node.chunks, axes, self.ndim))
        combine = blocks > 1
        end = ReduceEnd(node.reduction, node.axes, node.keepdims, node.dtype, combine)
        self._function(node, axes, BlockFunction(end, (Slot(0),)), [joined])

    def _scan_end(self, node: Scan, axes: AxesMap) -> None:
        first, offsets = self.made.scan_of(node)
        along = grid_map(node, axes)
        local = self.unnamed(node, Block(self.input(first, along, 0)))
        before = list(along.maps)
        n = node.grid[node.axis]
        before[node.axis] = previous(known(axes[node.axis]), n)
        offset = self.unnamed(node, Grouped(self.input(offsets, GridMap(tuple(before))), False))
        self._function(node, axes, BlockFunction(ScanEnd(node.join), (Slot(0), Slot(1))), [local, offset])

    def _points(self, node: Points, axes: AxesMap) -> None:
        producer, pick = self.made.blocks_of(node.inputs[0])
        gather, dependence = gather_points(node)
        blocks = self.unnamed(node, Grouped(self.input(producer, dependence, pick), False))
        self._function(node, axes, BlockFunction(gather, (Slot(0),), place=True), [blocks])

    # ------------------------------------------------------------ goals

    def _goal_needs(self, goal: Goal) -> Callable[[], list[Output]]:
        """Ask for the results that a goal needs; the returned function gives its outputs once all is laid out."""
        value = self._value(goal.array, goal.axes)
        if goal.kind == "partial" and isinstance(goal.node, Reduce):
            reduction, axes = goal.node.reduction, goal.node.axes
            if reduction.accumulator is not None and not reduction.place:
                key = self._want_partial(value, goal.node)
                return lambda: [Output(self.results[key])]
            function = BlockFunction(reduction.partial, (Slot(0),), {"axis": axes}, place=reduction.place, check=False)
            return self._want_call(value, goal, function)
        if goal.kind == "scan" and isinstance(goal.node, Scan):
            start = ScanStart(goal.node.local, goal.node.total, goal.node.axis)
            return self._want_call(value, goal, BlockFunction(start, (Slot(0),), check=False))
        self._want_block(value)
        if isinstance(goal.node, Store):
            store = goal.node
            chunks, axes = value.node.chunks, tuple(a if len(c) > 1 else None for a, c in enumerate(value.node.chunks))
            return lambda: [Output(self._number(value), store.sink, store.offset, chunks, axes)]
        return lambda: [Output(self._number(value))]

    def _want_call(self, value: _Value, goal: Goal, function: BlockFunction) -> Callable[[], list[Output]]:
        self._want_block(value)
        end = _Value(goal.array, value.axes, value.level + 1)

        def lay_out() -> None:
            self.segments.append(BlockSegment(function, (self._number(value),), None, None, goal.node.label))
            end.number = self._next_value()

        self.pending.append((value.level + 1, lay_out))
        return lambda: [Output(end.number)]

    # ------------------------------------------------------------ weights

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """What each task leaves behind and what it needs on top, over the grid. Call after :meth:`build`."""
        ndim = self.ndim
        out: np.ndarray = np.zeros(1)
        work: np.ndarray = sum(self.assembled, np.zeros(1))
        yielded = set()
        for goal in self.group.goals:
            key = (goal.array, goal.axes)
            if isinstance(goal.node, Reduce) and goal.kind == "partial":
                out = out + weigh.partial_bytes(goal.node, ndim)
            elif isinstance(goal.node, Scan) and goal.kind == "scan":
                out = out + weigh.scan_bytes(goal.node, ndim)
            elif isinstance(goal.node, Store):
                if goal.node.sink.resident_bytes:
                    yielded.add(key)
            else:
                out = out + weigh.value_bytes(goal.array, goal.axes, ndim)
                yielded.add(key)
        for node, axes in self.leaves:
            if not node.source.free:
                work = work + weigh.value_bytes(node, axes, ndim)
        for plan in self.tile_plans.values():
            for node, axes in plan.wanted:
                if (node, axes) not in yielded:
                    work = work + weigh.value_bytes(node, axes, ndim)
            for value in plan.members[:1]:
                largest = weigh.value_bytes(value.node, value.axes, ndim)
                work = work + np.minimum(weigh.TILE_SCRATCH, (1 + len(plan.members)) * largest)
        for value, function, inputs in self.functions:
            if function.scratch:
                touched = [
                    weigh.value_bytes(v.node, v.axes, ndim) for v in (*inputs, value) if len(v.axes) == v.node.ndim
                ]
                work = work + weigh.function_bytes(function, touched)
                if (value.node, value.axes) not in yielded:
                    work = work + touched[-1]
        return out, work

    def read_bytes(self) -> int:
        """What all tasks together read from storage."""
        total = 0.0
        for node, axes in self.leaves:
            if not node.source.free:
                weight = weigh.value_bytes(node, axes, self.ndim)
                grid = [len(c) for c in self.group.domain]
                total += (
                    float(np.broadcast_to(weight, grid).sum())
                    if weight.size < 2
                    else float(weight.sum()) * prod(n for n, k in zip(grid, weight.shape, strict=True) if k == 1)
                )
        return int(total)

    def write_bytes(self) -> int:
        """What all tasks together write to storage."""
        stores = [goal.node for goal in self.group.goals if isinstance(goal.node, Store)]
        return int(sum(weigh.array_bytes(s.inputs[0]) for s in stores if not s.sink.resident_bytes))

    # ------------------------------------------------------------ layout

    def _next_value(self) -> int:
        """Number of the value that the segment just appended yields first."""
        done = sum(len(s.results) if isinstance(s, TileSegment) else 1 for s in self.segments[:-1])
        return len(self.operands) + done

    def _number(self, value: _Value) -> int:
        if value.number >= 0:
            return value.number
        return self.results[value.node, value.axes]

    def _plan_of(self, level: int, space: tuple[tuple[int, AxisChunks], ...]) -> _TilePlan:
        return self.tile_plans.setdefault((level, space), _TilePlan(level, space))

    def _want_block(self, value: _Value) -> None:
        """Have the whole block of an elementwise value made."""
        if self._is_tiled(value):
            self._plan_of(value.level, value.space).wanted[value.node, value.axes] = None

    def _want_partial(self, value: _Value, node: Reduce) -> Any:
        """Have a value reduced tile by tile; what is no elementwise value gets a segment of its own."""
        key = ("partial", node)
        level = value.level if self._is_tiled(value) else value.level + 1
        self._plan_of(level, value.space).partials[key] = (value, node)
        return key

    def _layout(self) -> None:
        for key, node in self.tiled.items():
            value = self.values[key]
            plan = self._plan_of(value.level, value.space)
            plan.members.append(value)
            for have in self._input_values(node, value.axes):
                if (have.level, have.space) != (value.level, value.space):
                    self._want_block(have)
        work: list[tuple[int, Callable[[], None]]] = list(self.pending)
        for plan in list(self.tile_plans.values()):
            work.append((plan.level, lambda plan=plan: self._tile_segment(plan)))  # type: ignore[misc]
        for _, lay_out in sorted(work, key=lambda pair: pair[0]):
            lay_out()

    def _tile_segment(self, plan: _TilePlan) -> None:
        inputs: dict[tuple[int, tuple[int, ...]], int] = {}
        local: dict[Key, int] = {}
        steps: list[TileStep] = []
        along = [a for a, _ in plan.space]

        def local_of(value: _Value) -> int:
            """The segment's own number of a value: a step, or a value made before. Inputs are numbered -1, -2, ..."""
            key = (value.node, value.axes)
            if key in local:
                return local[key]
            outer = (self._number(value), tuple(a if a in along else -1 for a in value.axes))
            return inputs.setdefault(outer, -1 - len(inputs))

        for value in plan.members:
            node = value.node
            assert isinstance(node, Blockwise) and isinstance(node.op, Elementwise)
            numbers = [local_of(v) for v in self._input_values(node, value.axes)]
            if node.op.fn is None:
                local[node, value.axes] = numbers[0]
                continue
            args = tuple(Slot(numbers[a.index]) if isinstance(a, Slot) else a for a in node.op.args)
            steps.append(TileStep(node.op.fn, args, node.dtype, node.label))
            local[node, value.axes] = len(steps) - 1
        results: list[TileResult] = []
        names: list[Any] = []
        for key in plan.wanted:
            results.append(TileResult(local[key], all_known(key[1])))
            names.append(key)
        for name, (value, reduce) in plan.partials.items():
            results.append(TileResult(local_of(value), all_known(value.axes), reduce.reduction, reduce.axes))
            names.append(name)

        n = len(inputs)

        def final(number: int) -> int:
            return number + n if number >= 0 else -1 - number

        done = tuple(
            TileStep(s.fn, tuple(Slot(final(a.index)) if isinstance(a, Slot) else a for a in s.args), s.dtype, s.label)
            for s in steps
        )
        self.segments.append(
            TileSegment(
                tuple(inputs),
                done,
                tuple(TileResult(final(r.value), r.axes, r.reduction, r.reduce_axes) for r in results),
                tuple(a for a, _ in plan.space),
                tuple(c for _, c in plan.space),
            )
        )
        first = self._next_value()
        for k, name in enumerate(names):
            self.results[name] = first + k


class _TilePlan:
    """A TileSegment in the making."""

    def __init__(self, level: int, space: tuple[tuple[int, AxisChunks], ...]) -> None:
        self.level = level
        self.space = space
        self.members: list[_Value] = []  # inputs before users
        self.wanted: dict[Key, None] = {}  # members whose whole block others need
        self.partials: dict[Any, tuple[_Value, Reduce]] = {}
