"""From an optimized plan to stages, producers before users.

Array groups become Program stages. A reduction is its first step (in the group of its input), further levels of a
tree here, and a last level in the group that uses the answer. A scan is a first step, a chain of offsets here, and a
last step in its user's group. What goes through scratch space is written in the group of its input, opened and closed
here, and read in its user's group. Delayed calls become Calls stages: one for all calls between which no array stands.
Futures become Held stages: one for each array of them, and one for all single values.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias

import numpy as np

from tilework.base.errors import InternalError
from tilework.optimize import weigh
from tilework.optimize.blockfuncs import OpenScratch, ReduceJoin, ScanOffset
from tilework.optimize.group import Goal, Group, Grouping, group
from tilework.optimize.maps import grid_map, previous
from tilework.optimize.program import ProgramBuilder
from tilework.optimize.scatter import part_bytes, part_chunks, parts_written, scattered
from tilework.plan.blocks import AxisChunks
from tilework.plan.graph import topological
from tilework.plan.ops import (
    ArrayNode,
    BlockFunction,
    Blockwise,
    Call,
    HeldArray,
    HeldValue,
    Node,
    Reduce,
    Scan,
    Slot,
    Store,
    Whole,
)
from tilework.plan.protocols import Handle
from tilework.plan.stages import (
    AxisMap,
    Block,
    BlockSegment,
    Calls,
    GridMap,
    Grouped,
    Held,
    Output,
    Program,
    Scatter,
    Stage,
    StageInput,
)

Unit: TypeAlias = Group | int
"""What becomes stages in one go: a group, or the number of a phase of delayed calls."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """Stages, and for each output of the plan where its blocks are."""

    stages: list[Stage]
    outputs: list[list[tuple[int, int]]]
    """Stage number and block: the one of a call or future, those of an array in C order, none for a store."""
    stores: list[int]
    """Numbers of the stages that write to sinks: they must run although nobody needs their blocks."""
    resident_bytes: int
    shared: list[Shared]
    """What is kept for several users."""
    repeated: dict[Node, int]
    """What was to be made again, and how many stages make it."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A node whose finished blocks, made by stage number ``stage``, are kept until each of its ``users`` had them."""

    node: ArrayNode
    users: int
    stage: int


def lower(
    outputs: Sequence[Node],
    again: Collection[Node] = (),
    hold_bytes: float = inf,
    scratch_directory: str | None = None,
) -> Lowered:
    """Lower an optimized plan.

    Parameters
    ----------
    outputs
        Of a plan whose rechunks have been divided (:func:`tilework.optimize.scatter.in_passes`).
    again
        Nodes that are made by every stage that needs them.
    hold_bytes
        What a rechunk or take may hold at one time. One that would hold more goes through scratch space on disk.
    scratch_directory
        Where scratch space is; None is the system's temporary directory.
    """
    nodes = topological(outputs)
    grouping = group(nodes, outputs, scattered(nodes, hold_bytes), again)
    return _Lowering(nodes, outputs, grouping, scratch_directory).run()


class _Lowering:
    """The state of one lowering; offers the ``Made`` protocol to program builders."""

    def __init__(
        self, nodes: Sequence[Node], outputs: Sequence[Node], grouping: Grouping, scratch_directory: str | None
    ) -> None:
        self.outputs = outputs
        self.scratch_directory = scratch_directory
        self.grouping = grouping
        self.others = [node for node in nodes if not isinstance(node, Call)]
        self.stages: list[Stage] = []
        self.goals: dict[Goal, tuple[int, int | None]] = {}  # goal → stage number, pick
        self.trees: dict[Node, tuple[int, int | None, tuple[int, ...]]] = {}  # Reduce → last level of partials
        self.chains: dict[Node, tuple[int, int]] = {}  # Scan → first step, offsets
        self.scratch: dict[Node, int] = {}  # what goes through scratch space → stage that opens it, then: that fills it
        self.calls: dict[Node, tuple[int, int]] = {}  # Call, HeldValue → stage number, task
        self.by_phase: dict[int, list[Call]] = {}
        for node in nodes:
            if isinstance(node, Call):
                self.by_phase.setdefault(grouping.phase[node], []).append(node)

    def run(self) -> Lowered:
        """Make every stage."""
        self._held_values([node for node in self.others if isinstance(node, HeldValue)])
        for unit in self._ordered():
            if isinstance(unit, int):
                self._calls_stage(unit)
            elif isinstance(held := unit.goals[0].node, HeldArray) and held in unit.members:
                self._held_array(held)
            else:
                self._group_stage(unit)
        stores = [self.goals[Goal("store", node)][0] for node in self.others if isinstance(node, Store)]
        sinks = {id(node.sink): node.sink for node in self.others if isinstance(node, Store)}
        resident = sum(sink.resident_bytes for sink in sinks.values())
        shared = [Shared(node, users, self.blocks_of(node)[0]) for node, users in self.grouping.shared.items()]
        values = [self._output(node) for node in self.outputs]
        return Lowered(self.stages, values, sorted(set(stores)), resident, shared, self.grouping.repeated)

    def _output(self, node: Node) -> list[tuple[int, int]]:
        if isinstance(node, Store):
            return []
        if isinstance(node, Call | HeldValue):
            return [self.calls[node]]
        stage, pick = self.blocks_of(node)
        if pick is not None:
            raise InternalError(f"{node!r} is an output, but shares its stage with other goals")
        return [(stage, block) for block in range(self.stages[stage].size)]

    # ------------------------------------------------------------ order

    def _ordered(self) -> list[Unit]:
        """Groups and phases, producers first."""
        order: dict[Unit, None] = {}
        stack: list[Unit] = [*self.grouping.groups, *reversed(self.by_phase)]  # groups were found from the outputs back
        open_: set[Unit] = set()
        while stack:
            unit = stack[-1]
            if unit in order:
                stack.pop()
                continue
            missing = [u for u in self._needs(unit) if u not in order]
            if not missing:
                order[unit] = None
                stack.pop()
            elif unit in open_:
                raise InternalError("groups need each other in a circle")
            else:
                open_.add(unit)
                stack.extend(missing)
        return list(order)

    def _needs(self, unit: Unit) -> list[Unit]:
        home = self.grouping.home
        if isinstance(unit, int):
            wholes = {i for call in self.by_phase[unit] for i in call.inputs if isinstance(i, Whole)}
            needs: list[Unit] = [home[Goal("value", whole.inputs[0])] for whole in wholes]
            return needs + [p for p in self.by_phase if p < unit][-1:]
        blocks: list[Node] = [goal.array for goal in unit.goals if goal.array not in unit.members]
        found: dict[Unit, None] = {}
        for m, axes in unit.members.items():
            first = self.grouping.first_step(m)
            if first is not None:
                found[home[first]] = None
                blocks += m.inputs[1:]
            elif isinstance(m, Blockwise):
                blocks += [
                    i
                    for i, labels in zip(m.inputs, m.axes, strict=True)
                    if i not in unit.members or unit.input_map(m, i, labels, axes) is None
                ]
            else:  # assembled from finished blocks, even if the group computes the same blocks for itself
                blocks += m.inputs
        for node in blocks:
            if not isinstance(node, HeldValue):
                found[self.grouping.phase[node] if isinstance(node, Call) else home[Goal("value", node)]] = None
        return list(found)

    # ------------------------------------------------------------ what is made (protocol Made)

    def blocks_of(self, node: Node) -> tuple[int, int | None]:
        """Stage number and pick of a node's finished blocks."""
        if isinstance(node, Call):
            raise InternalError("delayed calls have no grid of blocks")
        return self.goals[Goal("value", node)]

    def call_of(self, node: Node) -> tuple[int, int]:
        """Stage number and task of a delayed call, or of a future."""
        return self.calls[node]

    def partials_of(self, node: Reduce) -> tuple[int, int | None, tuple[int, ...]]:
        """Stage number, pick and grid of a reduction's last level of partials."""
        return self.trees[node]

    def scan_of(self, node: Scan) -> tuple[int, int]:
        """Stage numbers of a scan's first step and of its offsets."""
        return self.chains[node]

    def scratch_of(self, node: Node) -> tuple[int, Scatter] | None:
        """The stage that yields the scratch files of a node, and how it goes through them; None if it does not."""
        scatter = self.grouping.scattered.get(node)
        return None if scatter is None else (self.scratch[node], scatter)

    # ------------------------------------------------------------ stages

    def _group_stage(self, made: Group) -> None:
        for goal in made.goals:
            if goal.kind == "scatter":
                self._open_scratch(goal.node)
        builder = ProgramBuilder(made, self)
        program = builder.build()
        grid = tuple(len(c) for c in made.domain)
        out, work = builder.weights()
        operations = tuple(dict.fromkeys(m.label for m in reversed(made.members)))
        number = len(self.stages)
        self.stages.append(
            Stage(
                _label(made), grid, tuple(builder.inputs), program,
                weigh.flatten(out, grid), weigh.flatten(work, grid),
                read_bytes=builder.read_bytes(), write_bytes=builder.write_bytes(), operations=operations,
            )
        )  # fmt: skip
        for k, goal in enumerate(made.goals):
            pick, grid = k if len(made.goals) > 1 else None, goal.array.grid
            self.goals[goal] = (number, pick)
            if isinstance(goal.node, Reduce) and goal.kind == "partial":
                self._tree(goal.node, number, pick, grid)
            elif isinstance(goal.node, Scan) and goal.kind == "scan":
                self._chain(goal.node, number, pick, grid)
            elif goal.kind == "scatter":
                self._close_scratch(goal.node, number, pick)

    def _held_values(self, nodes: Sequence[HeldValue]) -> None:
        if nodes:
            self.calls |= {node: (len(self.stages), k) for k, node in enumerate(nodes)}
            labels = {node.label for node in nodes}
            self._held(labels.pop() if len(labels) == 1 else "held", [node.handle for node in nodes], (len(nodes),))

    def _held_array(self, node: HeldArray) -> None:
        self.goals[Goal("value", node)] = (len(self.stages), None)
        sizes = weigh.flatten(weigh.value_bytes(node, range(node.ndim), node.ndim), node.grid)
        self._held(node.label, node.handles, node.grid, sizes)

    def _held(self, label: str, handles: Sequence[Handle], grid: tuple[int, ...], sizes: Any = 0) -> None:
        """What is there already: its blocks weigh what they weigh, and cost nothing."""
        zero = np.zeros(1, np.int64)
        self.stages.append(Stage(label, grid, (), Held(tuple(handles)), zero + sizes, zero, operations=(label,)))

    def _tree(self, node: Reduce, producer: int, pick: int | None, grid: tuple[int, ...]) -> None:
        """Levels of joining until the last one, which the answer's own group does."""
        while any(grid[a] > every for a, every in zip(node.axes, node.split_every, strict=True)):
            maps, smaller, joined = [], list(grid), 1
            for axis, n in enumerate(grid):
                if axis in node.axes:
                    every = node.split_every[node.axes.index(axis)]
                    maps.append(AxisMap.groups(axis, n, every))
                    smaller[axis] = -(-n // every)
                    joined *= min(every, n)
                else:
                    maps.append(AxisMap.identity(axis, n))
            function = BlockFunction(ReduceJoin(node.reduction, node.axes), (Slot(0),), check=False)
            chunks = tuple(
                AxisChunks((1,) * smaller[a]) if a in node.axes else c for a, c in enumerate(node.inputs[0].chunks)
            )
            program = Program(
                chunks,
                (Grouped(0, True),),
                (BlockSegment(function, (0,), None, None, node.label),),
                (Output(1),),
            )
            out = weigh.partial_bytes(node, len(grid))
            grid = tuple(smaller)
            number = len(self.stages)
            self.stages.append(
                Stage(
                    node.label + "-join", grid, (StageInput(producer, GridMap(tuple(maps)), pick),), program,
                    weigh.flatten(out, grid), weigh.flatten(out * joined, grid), operations=(node.label,),
                )
            )  # fmt: skip
            producer, pick = number, None
        self.trees[node] = (producer, pick, grid)

    def _chain(self, node: Scan, producer: int, pick: int | None, grid: tuple[int, ...]) -> None:
        """One task a block along the axis: the total of all blocks up to it. Depends on itself, one block back."""
        if pick is not None:
            raise InternalError("a scan's first step yields two values and cannot share its stage")
        source = node.inputs[0]
        number = len(self.stages)
        here = grid_map(source.chunks, range(source.ndim))
        before = list(here.maps)
        before[node.axis] = previous(node.axis, grid[node.axis])
        offset = BlockFunction(ScanOffset(node.join), (Slot(0), Slot(1)), check=False)
        program = Program(
            source.chunks,
            (Grouped(0, False), Block(1)),
            (BlockSegment(offset, (0, 1), None, None, node.label),),
            (Output(2),),
        )  # fmt: skip
        out = weigh.flatten(weigh.total_bytes(node, source.ndim), grid)
        inputs = (StageInput(number, GridMap(tuple(before))), StageInput(producer, here, 1))
        self.stages.append(Stage(node.label + "-offset", grid, inputs, program, out, out, operations=(node.label,)))
        self.chains[node] = (producer, number)

    def _open_scratch(self, node: Node) -> None:
        """One task a part: makes its scratch file, which lives as long as somebody has it as an input."""
        scatter = self.grouping.scattered[node]
        function = BlockFunction(OpenScratch(self.scratch_directory), (), check=False)
        program = Program(part_chunks(scatter), (), (BlockSegment(function, (), None, None, node.label),), (Output(0),))
        nothing = np.zeros(1, np.int64)
        self.scratch[node] = len(self.stages)
        self.stages.append(
            Stage(
                node.label + "-scratch", scatter.parts, (), program, nothing, nothing,
                scratch_bytes=part_bytes(scatter), operations=(node.label,),
            )
        )  # fmt: skip

    def _close_scratch(self, node: Node, writers: int, pick: int | None) -> None:
        """One task a part: passes its scratch file on once everything is in it.

        So whoever reads needs this one task, not all those that wrote.
        """
        scatter = self.grouping.scattered[node]
        chunks = part_chunks(scatter)
        opened = StageInput(self.scratch[node], grid_map(chunks, range(len(chunks))))
        inputs = (opened, StageInput(writers, parts_written(scatter), pick))
        nothing = np.zeros(1, np.int64)
        self.scratch[node] = len(self.stages)
        program = Program(chunks, (Block(0), Grouped(1, False)), (), (Output(0),))
        label = node.label + "-written"
        self.stages.append(Stage(label, scatter.parts, inputs, program, nothing, nothing, operations=(node.label,)))

    def _calls_stage(self, phase: int) -> None:
        calls = self.by_phase[phase]
        number = len(self.stages)
        known = self.calls
        known |= {call: (number, k) for k, call in enumerate(calls)}
        counts = [len(call.inputs) for call in calls]
        indptr = np.zeros(len(calls) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        needed = [known[i] if i in known else self._whole(i) for call in calls for i in call.inputs]
        producers, blocks = zip(*needed, strict=True) if needed else ((), ())
        work = Calls(calls, indptr, np.array(producers, np.int32), np.array(blocks, np.int64))
        zero = np.zeros(1, np.int64)
        label = calls[0].label if len({call.label for call in calls}) == 1 else "calls"
        self.stages.append(Stage(label, (len(calls),), (), work, zero, zero, operations=(label,)))

    def _whole(self, node: Node) -> tuple[int, int]:
        stage, pick = self.blocks_of(node.inputs[0])
        if pick is not None:
            raise InternalError(f"{node!r} shares its stage with other goals")
        return stage, 0


def _label(made: Group) -> str:
    """What a stage is called: its last operation, for a reduction the reduction itself."""
    goals = reversed(made.goals)  # groups are found from the outputs back
    names = [goal.array.label if goal.kind in ("value", "store") else goal.node.label for goal in goals]
    return "+".join(dict.fromkeys(names))
