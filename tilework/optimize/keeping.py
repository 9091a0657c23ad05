"""What is kept for several users, and what each of them makes again.

By default everything that several stages need is kept: it is made once. Depth-first order sees to it that often only
a part is held at a time (to subtract the mean over time, the blocks of one column of the map). If a plan made so would
hold more than the budget, what is *repeatable* is made again instead, since reading it or computing it once more costs
less than sending it to disk and fetching it back:

- a source: it is read, or drawn, again;
- elementwise operations on what is repeatable, or much smaller than their result;
- blocks put together (taken, broadcast, joined) from what is much smaller than their result.

Anything else (functions of whole blocks, products, results of reductions) is kept, whatever it takes.

The choice is made by trial: the plan is lowered, its peak predicted, and of what is held at that moment as much is made
again as it takes to fit; until the plan fits, or nothing repeatable is held at its peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from tilework.optimize.lower import Shared
from tilework.optimize.weigh import array_bytes
from tilework.plan.ops import ArrayNode, Blockwise, Concatenate, Node, Overlap, Rechunk, Slice, Source, Take

SMALL = 0.25
"""Up to this share of the budget is kept without a trial."""


@dataclass(frozen=True, slots=True)
class IfKept:
    """What keeping a node, that is made again, would have taken: bytes of it at a time, and the whole plan's peak."""

    held: int
    peak: int


def repeatable(nodes: Iterable[Node]) -> set[Node]:
    """The nodes (given inputs before users) that cost less to make again than to keep on disk."""
    found: set[Node] = set()
    for node in nodes:
        if isinstance(node, Source):
            found.add(node)
        elif isinstance(node, Blockwise) and node.elementwise:
            if found.issuperset(_large_inputs(node)):
                found.add(node)
        elif isinstance(node, Slice | Take | Rechunk | Concatenate | Overlap) and not _large_inputs(node):
            found.add(node)
    return found


def _large_inputs(node: ArrayNode) -> list[ArrayNode]:
    """Inputs that are not much smaller than the node itself."""
    limit = array_bytes(node) / 2
    return [i for i in node.inputs if isinstance(i, ArrayNode) and array_bytes(i) > limit]


def worth_a_trial(shared: Sequence[Shared], budget: float) -> bool:
    """Whether so much is kept that it matters."""
    return sum(array_bytes(one.node) for one in shared) > SMALL * budget


def to_make_again(shared: Sequence[Shared], held: np.ndarray, over: float) -> list[Shared]:
    """Which to make again instead of keeping them, if a plan that keeps them takes ``over`` bytes more than there are.

    Parameters
    ----------
    shared
        What is kept and repeatable.
    held
        What the blocks of each stage weigh that are held at the peak.
    over
        What is to be saved there.
    """
    enough = [one for one in shared if held[one.stage] >= over]
    if enough:
        return [min(enough, key=lambda one: array_bytes(one.node) * (one.users - 1))]
    chosen: list[Shared] = []
    for one in sorted(shared, key=lambda one: -held[one.stage]):
        if over > 0 and held[one.stage]:
            chosen.append(one)
            over -= held[one.stage]
    return chosen


def with_inputs(node: Node, cheap: Set[Node]) -> set[Node]:
    """A repeatable node with what has to be made again as well if it is: its large inputs, and theirs."""
    found: set[Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in found and isinstance(current, ArrayNode):
            found.add(current)
            stack += [i for i in _large_inputs(current) if i in cheap]
    return found
