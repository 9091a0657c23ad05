"""The ordered passes that turn a plan into a better plan, and that into stages.

Each pass takes the outputs of a plan and returns outputs that mean the same. ``PASSES`` is the whole order: to add a
pass, write it in a module of its own and put its line here. Tests run :func:`tilework.plan.spec.verify` after each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilework.optimize.merge import merge_equal
from tilework.optimize.pushdown import push_down
from tilework.plan.ops import Node

Pass = Callable[[Sequence[Node]], tuple[Node, ...]]

PASSES: tuple[tuple[str, Pass], ...] = (
    ("merge-equal", merge_equal),
    ("push-down", push_down),  # merges what it makes
)


def optimize(outputs: Sequence[Node], after: Callable[[str, Sequence[Node]], None] | None = None) -> tuple[Node, ...]:
    """Run every pass; ``after(name, outputs)`` is called between them."""
    current = tuple(outputs)
    for name, step in PASSES:
        current = step(current)
        if after is not None:
            after(name, current)
    return current
