"""Which nodes run together: the plan is cut into groups, each of which becomes one stage.

Theory
------
Nodes are visited from the outputs to the leaves. Each visited node has *uses*: by which groups its users want it, and
along which axes of those groups (a *map*: for each axis of the node the group's domain axis).

- A node that one group wants, along one map, without repeating its blocks, joins that group: the chain is fused.
- A node that several groups want along the same map joins them all into one group, if no group needs another's
  result: the input is read once and every result is made in one pass (sum, mean and std of one array).
- A source that costs nothing to read joins every group that wants it. So does what is to be made again
  (:mod:`tilework.optimize.keeping` chooses it): each of them reads and computes it for itself.
- What is there before the plan runs (:class:`~tilework.plan.ops.HeldArray`) is nobody's to make: a group of its own.
- Any other node becomes the goal of a group of its own: its blocks are made once and kept until all users had them.

A group ends in *goals*: a value that others need, the first step of a reduction or a scan, a store, pieces for scratch
space. What needs blocks in another arrangement (slices, rechunks, concatenations, halos) joins its user's group as an
assembly of blocks that other groups make, or gathered from scratch space (:mod:`tilework.optimize.scatter`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tilework.plan.blocks import Chunks
from tilework.plan.ops import (
    ArrayNode,
    Blockwise,
    Call,
    FromValue,
    HeldArray,
    Node,
    Points,
    Reduce,
    Reshape,
    Scan,
    Source,
    Store,
    Whole,
)
from tilework.plan.stages import Scatter

AxesMap: TypeAlias = tuple[int, ...]
GoalKind: TypeAlias = Literal["value", "partial", "scan", "scatter", "store"]


@dataclass(frozen=True)
class Goal:
    """What a group makes. ``node`` is the array for "value", else who asked for it: a Reduce, a Scan, a Store, or what
    goes through scratch space.
    """

    kind: GoalKind
    node: Node

    @property
    def array(self) -> ArrayNode:
        """The array node whose blocks the goal is made from."""
        return self.node if self.kind == "value" else self.node.inputs[0]  # type: ignore[return-value]

    @property
    def axes(self) -> AxesMap:
        """The map of the array in its group: the domain begins with its axes."""
        return tuple(range(self.array.ndim))


@dataclass(eq=False)
class Group:
    """Nodes that become one stage. ``members`` maps each node that is computed inside to its map.

    The first axes of ``domain`` are those of the goals' arrays. Behind them come axes with a single block that a member
    contracts or drops: what is computed inside needs a place for them as well.
    """

    goals: list[Goal]
    domain: Chunks
    members: dict[ArrayNode, AxesMap] = field(default_factory=dict)
    contracted: dict[tuple[Node, int], int] = field(default_factory=dict)  # Blockwise and label → domain axis

    def input_map(self, node: Blockwise, i: ArrayNode, labels: Sequence[int], axes: AxesMap) -> AxesMap | None:
        """The map of input ``i`` of a member with map ``axes``; None if several blocks of it go into one call."""
        if any(label >= node.ndim and n > 1 for label, n in zip(labels, i.grid, strict=True)):
            return None
        along: list[int] = []
        for label, chunks in zip(labels, i.chunks, strict=True):
            if label < node.ndim:
                along.append(axes[label])
            else:
                if (node, label) not in self.contracted:
                    self.contracted[node, label] = len(self.domain)
                    self.domain = (*self.domain, chunks)
                along.append(self.contracted[node, label])
        return tuple(along)


class Grouping:
    """The groups of a plan, made by :func:`group`."""

    def __init__(self, phase: dict[Node, int], scattered: Mapping[Node, Scatter]) -> None:
        self.phase = phase  # as :func:`phases` gives it
        self.scattered = scattered  # what goes through scratch space, and how
        self.visited: set[Node] = set()  # nodes that have their groups; all others are nearer to the leaves
        self.home: dict[Goal, Group] = {}  # every goal → the one group that makes it
        self.shared: dict[ArrayNode, int] = {}  # nodes whose finished blocks are kept for several users → how many
        self.repeated: dict[Node, int] = {}  # nodes that were to be made again → how many groups make them

    @property
    def groups(self) -> list[Group]:
        """Every group, once."""
        return list(dict.fromkeys(self.home.values()))

    def first_step(self, node: Node) -> Goal | None:
        """The goal that a node begins with, if it is made in two steps: over its input's blocks, then over its own."""
        if isinstance(node, Reduce):
            return Goal("partial", node)
        if isinstance(node, Scan):
            return Goal("scan", node)
        return Goal("scatter", node) if node in self.scattered else None

    def add(self, goal: Goal) -> Group:
        """A new group for ``goal``, over the blocks of its array."""
        made = Group([goal], goal.array.chunks)
        self.home[goal] = made
        return made

    def maker(self, node: Node) -> Group | None:
        """The group that makes the blocks, or the first step, of ``node``, if one does."""
        for kind in ("value", "partial", "scan", "scatter"):
            if (found := self.home.get(Goal(kind, node))) is not None:
                return found
        return None

    def join(self, first: Group, others: Sequence[Group]) -> None:
        """Make one group of several that have the same domain."""
        for other in others:
            first.goals += other.goals
            first.members |= other.members
            first.contracted |= other.contracted
            self.home |= dict.fromkeys(other.goals, first)


Use: TypeAlias = tuple[Group | None, AxesMap]
"""Who wants a node, along which map. Without a group: its finished blocks are wanted, in another arrangement."""


def group(
    nodes: Sequence[Node], outputs: Sequence[Node], scattered: Mapping[Node, Scatter], again: Collection[Node] = ()
) -> Grouping:
    """Cut a plan into groups.

    Parameters
    ----------
    nodes
        Every node of the plan, inputs before users.
    outputs
        Those whose values are wanted.
    scattered
        What goes through scratch space, and how. It is read back as often as it is needed.
    again
        Nodes that every group which needs them makes for itself, as far as no block is made twice by one group.
    """
    grouping = Grouping(phases(nodes), scattered)
    again = {*again, *scattered}
    others = [node for node in nodes if not isinstance(node, Call)]
    if not others:
        return grouping
    uses: dict[Node, list[Use]] = {node: [] for node in nodes}
    wanted = set(outputs)
    for node in reversed(others):  # a call takes arrays as Whole, so that calls themselves want no blocks
        if isinstance(node, Store):
            made = grouping.add(Goal("store", node))
            uses[node.inputs[0]].append((made, made.goals[0].axes))
        elif isinstance(node, Whole):
            uses[node.inputs[0]].append((None, ()))
        elif isinstance(node, ArrayNode):
            if node in wanted:
                uses[node].append((None, ()))
            for target, axes in _place(node, uses, grouping, again):
                target.members[node] = axes
                _want_inputs(node, target, axes, uses, grouping)
            _first_step(node, uses, grouping)
        grouping.visited.add(node)
    groups = grouping.groups
    grouping.repeated = {node: sum(node in g.members for g in groups) for node in again}
    return grouping


def _place(
    node: ArrayNode, uses: dict[Node, list[Use]], grouping: Grouping, again: Collection[Node]
) -> list[tuple[Group, AxesMap]]:
    """The groups that compute ``node`` inside, with its map in each."""
    want = _alive(uses[node], grouping)
    inside = [(g, axes) for g, axes in want if g is not None]
    external = len(inside) < len(want)
    once = all(_once(node, use) for use in inside)
    repeated = isinstance(node, Source) and node.source.free
    if inside and not isinstance(node, Points | Reshape | HeldArray):
        groups = [g for g, _ in inside]
        if not external and once and len(inside) == 1:
            return inside
        if not external and once and len({axes for _, axes in inside}) == 1 and _can_join(groups, grouping):
            grouping.join(groups[0], groups[1:])
            return [inside[0]]
        several_maps = len(set(groups)) < len(groups)  # only a source is read along several maps in one group
        repeated |= once and node in again and (isinstance(node, Source) or not several_maps)
        if repeated and not external:
            return _joined(inside, grouping) if once else inside
    made = grouping.add(Goal("value", node))
    users = len(inside) + sum(target is None for target, _ in uses[node])
    if users > 1 and not repeated and not isinstance(node, HeldArray):
        grouping.shared[node] = users
    return [(made, made.goals[0].axes), *(inside if repeated else [])]


def _joined(inside: Sequence[tuple[Group, AxesMap]], grouping: Grouping) -> list[tuple[Group, AxesMap]]:
    """The same uses, with groups joined as far as they can be: what is read again is read as few times as may be."""
    joined: dict[tuple[Group, AxesMap], None] = {}
    for target, axes in inside:
        current = grouping.home[target.goals[0]]
        for first, along in joined:
            if along == axes and first is not current and _can_join([first, current], grouping):
                grouping.join(first, [current])
                current = first
                break
        joined[current, axes] = None
    return [(grouping.home[target.goals[0]], axes) for target, axes in joined]


def _alive(uses: Sequence[Use], grouping: Grouping) -> list[Use]:
    """Uses without repeats, each by the group that its group has become since."""
    found: dict[Use, None] = {}
    for target, axes in uses:
        if target is None:
            found[None, ()] = None
        else:
            found[grouping.home[target.goals[0]], axes] = None
    return list(found)


def _once(node: ArrayNode, use: tuple[Group, AxesMap]) -> bool:
    """Whether each block of ``node`` is wanted by one task only."""
    target, axes = use
    covered = {axis for axis, n in zip(axes, node.grid, strict=True) if n > 1}
    return all(len(c) == 1 or axis in covered for axis, c in enumerate(target.domain))


def _can_join(groups: Sequence[Group], grouping: Grouping) -> bool:
    """Whether the groups have the same domain, keep little, and none needs a result of another."""
    first = groups[0]
    if any(g.domain != first.domain for g in groups[1:]):
        return False
    if len({grouping.phase[goal.node] for g in groups for goal in g.goals}) > 1:
        return False  # calls between the phases would need the one and be needed by the other
    if any(goal.kind in ("value", "scan") for g in groups for goal in g.goals):
        return False  # whole blocks would be held for each other's users
    together = {goal.node for g in groups for goal in g.goals}
    members: set[Node] = {m for g in groups for m in g.members}
    if not together.isdisjoint(members):
        return False  # a reduction begins in one group, and its answer is used inside another
    # Walk up from what the goals need: meeting one of them again is a circle. What a joined group makes, it makes all
    # at once, so its goals count as one. The goals have been visited, and behind what has not are only more such nodes.
    frontier = [i for n in (*together, *members) for i in n.inputs if i not in members]
    seen: set[Node] = set()
    while frontier:
        current = frontier.pop()
        if current in together:
            return False
        if current not in seen and current in grouping.visited:
            seen.add(current)
            frontier.extend(current.inputs)
            owner = grouping.maker(current)
            if owner is not None:
                frontier.extend(i for goal in owner.goals for i in goal.node.inputs)
    return True


def _want_inputs(
    node: ArrayNode, target: Group, axes: AxesMap, uses: dict[Node, list[Use]], grouping: Grouping
) -> None:
    """Pass the group's wish on to the inputs of a node that it computes inside."""
    if grouping.first_step(node) is not None:  # the group of its first step wants the first input
        for i in node.inputs[1:]:
            uses[i].append((None, ()))
        return
    if not isinstance(node, Blockwise):
        for i in node.inputs:
            uses[i].append((None, ()))
        return
    for i, labels in zip(node.inputs, node.axes, strict=True):
        along = target.input_map(node, i, labels, axes)
        uses[i].append((None, ()) if along is None else (target, along))


def _first_step(node: ArrayNode, uses: dict[Node, list[Use]], grouping: Grouping) -> None:
    """What is made in two steps begins in a group over its input's blocks."""
    goal = grouping.first_step(node)
    if goal is not None:
        uses[node.inputs[0]].append((grouping.add(goal), goal.axes))


def phases(nodes: Sequence[Node]) -> dict[Node, int]:
    """How often each node's history changes from delayed calls to arrays: what orders Calls stages among the others."""
    if not any(isinstance(node, FromValue) for node in nodes):
        return dict.fromkeys(nodes, 0)
    phase: dict[Node, int] = {}
    for node in nodes:
        inputs = node.inputs
        phase[node] = max([phase[i] for i in inputs]) + isinstance(node, FromValue) if inputs else 0
    return phase
