"""Rules as data, and the walk that applies those that move an operation towards the leaves.

Nodes are visited from the outputs to the leaves, so that all users of a node are known when it is visited, also those
that moved there in this very walk. Then each user that has a rule moves past it or stays for good. So every operation
moves as far as it can in one walk, whose length is that of the plan and of what is made on the way, and the decision
whether a move does work twice sees everybody who needs that work. Nodes are told apart by token: what two users make
of the same node is one node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tilework.plan.graph import topological
from tilework.plan.ops import ArrayNode, Node


@dataclass(frozen=True, slots=True)
class Rule:
    """``user`` over ``below`` (node kinds) becomes ``rewrite(user_node, below_node)``, or stays if that gives None."""

    name: str
    user: type[ArrayNode]
    below: type[ArrayNode]
    rewrite: Callable[[Any, Any], ArrayNode | None]


Worthwhile = Callable[[Any, Any, Collection[Node]], bool]
"""Whether ``user`` should move past ``below``, given all users of ``below`` (itself where it is an output)."""


def move_down(outputs: Sequence[Node], rules: Iterable[Rule], worthwhile: Worthwhile) -> tuple[Node, ...]:
    """Apply the rules wherever they are worthwhile.

    Parameters
    ----------
    outputs
        Of a plan in which equal tokens are one node.
    """
    by_kinds: dict[tuple[type[Node], type[Node]], Rule] = {(rule.user, rule.below): rule for rule in rules}
    movers = {user for user, _ in by_kinds}
    nodes = topological(outputs)
    if not any(type(node) in movers for node in nodes):
        return tuple(outputs)
    walk = _Walk(outputs, nodes, by_kinds, worthwhile)
    for node in reversed(nodes):
        walk.visit(node)
    return walk.result()


class _Walk:
    def __init__(
        self,
        outputs: Sequence[Node],
        nodes: Sequence[Node],
        rules: dict[tuple[type[Node], type[Node]], Rule],
        worthwhile: Worthwhile,
    ) -> None:
        self.outputs, self.rules, self.worthwhile = outputs, rules, worthwhile
        self.users: dict[str, dict[str, Node]] = {node.token: {node.token: node} for node in outputs}
        self.moved: dict[str, Node] = {}  # token of what moved → what it became
        self.known = {node.token for node in nodes}

    def visit(self, node: Node) -> None:
        """Move users of ``node`` past it. Afterwards it uses its inputs, unless nobody is left who needs it."""
        users = self.users.get(node.token, {})
        for user in list(users.values()):
            self._move(user, node)
        if any(token not in self.moved for token in users):
            for i in node.inputs:
                self.users.setdefault(i.token, {})[node.token] = node

    def _move(self, user: Node, below: Node) -> None:
        rule = self.rules.get((type(user), type(below)))
        if rule is None or user is below or not self.worthwhile(user, below, self.users[below.token].values()):
            return
        new = rule.rewrite(user, below)
        if new is None:
            return
        self.moved[user.token] = new
        above = self.users.get(user.token, {})
        self._enter(new, {t: new if t == user.token else u for t, u in above.items()})
        for waiting in list(above.values()):  # what could not move past ``user`` may move past what it became
            if waiting.token not in self.moved and (type(waiting), type(new)) in self.rules:
                self._move(waiting.replace_inputs((new,)), new)

    def _enter(self, new: Node, users: dict[str, Node]) -> None:
        """Note who uses a new node, and what the new nodes under it use."""
        self.users.setdefault(new.token, {}).update(users)
        stack = [new]
        while stack:
            node = stack.pop()
            if node.token not in self.known:
                self.known.add(node.token)
                for i in node.inputs:
                    self.users.setdefault(i.token, {})[node.token] = node
                    stack.append(i)

    def result(self) -> tuple[Node, ...]:
        """The outputs, rebuilt with everything in its new place."""
        done: dict[str, Node] = {}
        stack = [self._now(node) for node in self.outputs][::-1]
        while stack:
            node = stack[-1]
            inputs = [self._now(i) for i in node.inputs]
            missing = [i for i in inputs if i.token not in done]
            if missing and node.token not in done:
                stack += reversed(missing)
                continue
            if node.token not in done:
                current = tuple([done[i.token] for i in inputs])
                done[node.token] = node if current == node.inputs else node.replace_inputs(current)
            stack.pop()
        return tuple([done[self._now(node).token] for node in self.outputs])

    def _now(self, node: Node) -> Node:
        while (new := self.moved.get(node.token)) is not None:
            node = new
        return node
