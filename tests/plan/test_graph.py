"""Walks over plans: order, consumers, rewriting; and that depth does not matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tilework.plan.graph import consumers, rewrite, topological
from tilework.plan.ops import Call, Node, Slot


def call(name: str, *inputs: Node) -> Call:
    return Call(print, tuple(map(Slot, range(len(inputs)))), {}, inputs, name, name, True)


@st.composite
def dags(draw: st.DrawFn) -> list[Node]:
    nodes: list[Node] = []
    for k in range(draw(st.integers(1, 12))):
        inputs = draw(st.lists(st.sampled_from(nodes), max_size=3)) if nodes else []
        nodes.append(call(f"n{k}", *inputs))
    return nodes


@given(dags())
def test_topological_has_every_node_once_inputs_first(nodes: list[Node]) -> None:
    outputs = nodes[-2:]
    order = topological(outputs)
    place = {node: k for k, node in enumerate(order)}
    assert len(place) == len(order)
    assert all(place[i] < place[node] for node in order for i in node.inputs)
    needed, stack = set(outputs), list(outputs)
    while stack:
        for i in stack.pop().inputs:
            if i not in needed:
                needed.add(i)
                stack.append(i)
    assert set(order) == needed


def test_topological_goes_down_before_it_goes_across() -> None:
    left, right = call("left", call("a")), call("right", call("b"))
    assert [node.label for node in topological([call("top", left, right)])] == ["a", "left", "b", "right", "top"]


@given(dags())
def test_consumers_have_each_user_once(nodes: list[Node]) -> None:
    users = consumers(nodes)
    assert list(users) == list(dict.fromkeys([*users]))
    for node in nodes:
        assert users[node] == [other for other in nodes if node in other.inputs]


def test_rewrite_keeps_what_does_not_change() -> None:
    a, b = call("a"), call("b")
    top = call("top", call("left", a), call("right", b))
    assert rewrite([top, a], lambda node: node) == (top, a)
    (changed,) = rewrite([top], lambda node: call("c") if node is b else node)
    assert changed is not top
    assert changed.inputs[0] is top.inputs[0]
    assert [node.label for node in topological([changed])] == ["a", "left", "c", "right", "top"]
    assert top.inputs[1].inputs == (b,)  # what was before is as it was


def test_rewrite_shows_nodes_with_their_new_inputs() -> None:
    seen = []
    rewrite([call("b", call("a"))], lambda node: (seen.append((node.label, [i.label for i in node.inputs])), node)[1])
    assert seen == [("a", []), ("b", ["a"])]


def test_a_chain_may_be_deeper_than_the_stack() -> None:
    node: Node = call("n")
    for _ in range(50_000):
        node = call("n", node)
    assert len(topological([node])) == 50_001
    assert rewrite([node], lambda n: n) == (node,)
