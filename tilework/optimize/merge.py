"""Equal work is done once: nodes with equal tokens become one node."""

from __future__ import annotations

from collections.abc import Sequence

from tilework.plan.graph import rewrite, topological
from tilework.plan.ops import Node


def merge_equal(outputs: Sequence[Node]) -> tuple[Node, ...]:
    """Keep the first node of each token. Nodes nobody needs any more are gone with that."""
    nodes = topological(outputs)
    if len({node.token for node in nodes}) == len(nodes):
        return tuple(outputs)
    first: dict[str, Node] = {}
    return rewrite(outputs, lambda node: first.setdefault(node.token, node))
