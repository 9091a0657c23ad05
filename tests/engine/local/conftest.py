"""Small task graphs made by hand, for the scheduler and the engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from tilework.engine.taskgraph import TaskGraph
from tilework.plan.ops import Call, Slot
from tilework.plan.stages import Calls, Stage


def call(fn: Callable[..., Any], *args: Any, label: str = "f", inputs: int | None = None, **kwargs: Any) -> Call:
    """A delayed call. ``args`` are Slots and values; ``inputs`` defaults to the number of Slots among them."""
    n = sum(isinstance(arg, Slot) for arg in args) if inputs is None else inputs
    flat = not kwargs and not any(isinstance(arg, list | tuple | dict) for arg in args)
    return Call(fn, args, kwargs, (None,) * n, label, label, flat)  # type: ignore[arg-type]


def graph_of(
    deps: Sequence[Sequence[int]],
    calls: Sequence[Call] | None = None,
    outputs: Sequence[int] = (),
    out: Sequence[int] | None = None,
    work: Sequence[int] | None = None,
    rank: Sequence[int] | None = None,
    resident: int = 0,
) -> TaskGraph:
    """One stage of calls: task ``t`` needs ``deps[t]``, all smaller than ``t``."""
    n = len(deps)
    calls = calls or [call(lambda *inputs: None) for _ in deps]
    indptr = np.cumsum([0, *map(len, deps)]).astype(np.int64)
    flat = np.array([block for blocks in deps for block in blocks], np.int32)
    zeros = np.zeros(n, np.int64)
    out_bytes = zeros if out is None else np.array(out, np.int64)
    work_bytes = zeros if work is None else np.array(work, np.int64)
    stage = Stage(
        "calls", (n,), (), Calls(list(calls), indptr, np.zeros_like(flat), flat.astype(np.int64)), out_bytes, work_bytes
    )
    return TaskGraph(
        [stage],
        np.array([0, n]),
        indptr,
        flat,
        out_bytes,
        work_bytes,
        np.arange(n, dtype=np.int32) if rank is None else np.array(rank, np.int32),
        np.array(outputs, np.int32),
        resident,
    )


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
