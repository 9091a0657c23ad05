"""Small task graphs made by hand, for the scheduler and the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st

from tilework.engine.taskgraph import TaskGraph
from tilework.plan.ops import Call, Slot
from tilework.testing.engines import call, graph_of


@dataclass
class Dag:
    """Inputs of each task, a topological rank that is not their numbering, and the tasks whose blocks are kept."""

    deps: list[list[int]]
    rank: list[int]
    outputs: list[int]


@st.composite
def dags(draw: st.DrawFn, largest: int = 14) -> Dag:
    n = draw(st.integers(1, largest))
    deps = [draw(st.lists(st.integers(0, t - 1), max_size=4)) if t else [] for t in range(n)]
    wish = draw(st.permutations(range(n)))
    rank: dict[int, int] = {}
    while len(rank) < n:
        ready = [t for t in range(n) if t not in rank and all(d in rank for d in deps[t])]
        rank[min(ready, key=wish.__getitem__)] = len(rank)
    outputs = draw(st.lists(st.integers(0, n - 1), max_size=4))
    return Dag(deps, [rank[t] for t in range(n)], outputs)


@pytest.fixture(scope="session", name="call")
def call_fixture() -> Callable[..., Call]:
    return call


@pytest.fixture(scope="session", name="graph_of")
def graph_of_fixture() -> Callable[..., TaskGraph]:
    return graph_of


@pytest.fixture(scope="session", name="dags")
def dags_fixture() -> Callable[..., st.SearchStrategy[Dag]]:
    return dags


def slots(n: int) -> list[Slot]:
    return [Slot(i) for i in range(n)]
