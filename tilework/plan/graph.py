"""Walks over plans. All are iterative: a chain of a hundred thousand delayed calls is an ordinary plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tilework.plan.ops import Node


def topological(outputs: Iterable[Node]) -> list[Node]:
    """Every node that ``outputs`` need, inputs before users, in depth-first order."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack = list(outputs)[::-1]
    while stack:
        node = stack[-1]
        if node in seen:
            stack.pop()
            continue
        missing = [i for i in node.inputs if i not in seen] if node.inputs else None
        if missing:
            stack.extend(reversed(missing))
        else:
            seen.add(node)
            order.append(node)
            stack.pop()
    return order


def consumers(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """For each node of a plan the nodes that use it, each once, in the order of ``nodes``."""
    users: dict[Node, list[Node]] = {}
    for node in nodes:
        users.setdefault(node, [])
        for i in dict.fromkeys(node.inputs):
            users.setdefault(i, []).append(node)
    return users


def rewrite(outputs: Sequence[Node], change: Callable[[Node], Node]) -> tuple[Node, ...]:
    """Rebuild a plan from its leaves: each node, its inputs already replaced, becomes ``change(node)``.

    Nodes of which nothing changes stay the very same objects.
    """
    new: dict[Node, Node] = {}
    for node in topological(outputs):
        current = node
        if node.inputs:
            inputs = tuple([new[i] for i in node.inputs])
            if inputs != node.inputs:
                current = node.replace_inputs(inputs)
        new[node] = change(current)
    return tuple(new[node] for node in outputs)
