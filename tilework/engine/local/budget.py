"""The memory contract before anything runs: refuse what can never fit, predict what a run will take.

Both are array arithmetic over the whole graph, since graphs have millions of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilework.base.errors import MemoryBudgetError
from tilework.base.sizes import format_bytes
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.stages import Calls, Held

WINDOW = 64  # ranks among which tasks that run at the same time are found; more for many workers
NEAR = 4  # ranks back to the inputs that were made for one task only


def task_bytes(graph: TaskGraph) -> np.ndarray:
    """What must be in memory at once to run each task: its inputs, its block, its scratch and ``resident_bytes``."""
    n = graph.n_tasks
    users = np.repeat(np.arange(n), np.diff(graph.indptr))
    edges = users * n + graph.deps
    edges.sort(kind="stable")  # quick, for they are nearly sorted
    edges = edges[np.diff(edges, prepend=-1) > 0]  # a block that a task needs twice weighs once
    inputs = np.bincount(edges // n, graph.out_bytes[edges % n], n)  # float64: exact below 2**53
    need: np.ndarray = inputs.astype(np.int64) + graph.out_bytes + graph.work_bytes + graph.resident_bytes
    return need


def refuse(graph: TaskGraph, budget: int, together: bool = True) -> None:
    """Raise MemoryBudgetError if some task alone, or the results ``together``, can never fit ``budget``."""
    if int(graph.out_bytes.sum()) + int(graph.work_bytes.max(initial=0)) + graph.resident_bytes <= budget:
        return  # all blocks at once fit, so any of them do
    kept = np.zeros(graph.n_tasks, bool)  # an output may be asked for twice
    kept[graph.outputs] = True
    results = int(graph.out_bytes[kept].sum()) + graph.resident_bytes
    if together and results > budget:  # always if there is no task at all
        raise MemoryBudgetError(
            f"the results need {format_bytes(results)} of memory together, and the budget is {format_bytes(budget)}: "
            "store them (to_zarr, store) instead of computing them into memory, or raise memory=..."
        )
    need = task_bytes(graph)
    worst = int(need.argmax())
    if need[worst] > budget:
        raise MemoryBudgetError(
            f"{describe(graph, worst)} needs {format_bytes(need[worst])} of memory at once (its inputs, its result of "
            f"{format_bytes(graph.out_bytes[worst])} and {format_bytes(graph.work_bytes[worst])} to work in), and the "
            f"budget is {format_bytes(budget)}: use smaller chunks (rechunk, chunks=...) or raise memory=..."
        )


def describe(graph: TaskGraph, task: int) -> str:
    """A task as users know it: ``operation 'mean', block (0, 3)``."""
    _, stage, i = graph.locate(task)
    if isinstance(stage.work, Calls):
        return f"operation {stage.work.calls[i].label!r}"
    if isinstance(stage.work, Held):
        return f"future {stage.work.handles[i].key!r}"
    return f"operation {stage.label!r}, block {graph.index(task)}"


def predict_peak(graph: TaskGraph, workers: int) -> int:
    """Bytes held and reserved at the worst moment: see :func:`worst_moment`."""
    return worst_moment(graph, workers).bytes


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a run, as predicted."""

    bytes: int
    held: np.ndarray
    """What the blocks of each stage weigh that are held then."""


def worst_moment(graph: TaskGraph, workers: int) -> Moment:
    """What is held and reserved at the worst moment, if tasks run by rank and ``workers`` of them at a time.

    When the task of rank ``r`` starts, a block is held if its task comes earlier and its last user does not (results
    are held to the end): a running sum of what ranks before ``r`` have made, minus what they have freed. On top comes
    what the task itself needs. For one worker that is all, and exact: ``max(held[r] + out[r] + work[r])``.

    Every further worker is busy with a task nearby: not always a neighbour, since those that are not ready are passed
    over, but one of the next :data:`WINDOW` ranks or so. The heaviest of these count, each with its inputs as far as
    they were made just before and for it alone (:data:`NEAR` ranks), since these are not in ``held[r]``.

    The budget is no part of it: a run that would exceed the budget waits or spills instead.
    """
    n = graph.n_tasks
    if not n:
        return Moment(graph.resident_bytes, np.zeros(len(graph.stages), np.int64))
    rank, last, order = graph.rank.astype(np.int64), _last_needed(graph), graph.order
    out = graph.out_bytes[order]
    freed = np.zeros(n + 1, np.int64)
    np.add.at(freed, last, graph.out_bytes)
    held = np.cumsum(out) - out - (np.cumsum(freed[:n]) - freed[:n])
    need = out + graph.work_bytes[order]
    total = held + need
    if workers > 1:
        private = np.flatnonzero((last > rank) & (last <= rank + NEAR) & (last < n))
        footprint = need.copy()
        np.add.at(footprint, last[private], graph.out_bytes[private])
        total += _others(footprint, workers)
    worst = int(total.argmax())
    weights = np.where((rank < worst) & (last >= worst), graph.out_bytes, 0)
    return Moment(int(total[worst]) + graph.resident_bytes, np.diff(np.append(0, np.cumsum(weights))[graph.offsets]))


def most_held(graph: TaskGraph, stage: int) -> int:
    """The most bytes of one stage's blocks that are held at the same time, if tasks run by rank."""
    a, b = int(graph.offsets[stage]), int(graph.offsets[stage + 1])
    if a == b:
        return 0
    moments = np.concatenate([graph.rank[a:b], _last_needed(graph)[a:b] + 1])  # a block is there for its last user
    change = np.concatenate([graph.out_bytes[a:b], -graph.out_bytes[a:b]])
    return int(np.cumsum(change[np.argsort(moments, kind="stable")]).max())


def _last_needed(graph: TaskGraph) -> np.ndarray:
    """For each task the rank after which its block is dropped; that of no task for results."""
    rank = graph.rank.astype(np.int64)
    last = rank.copy()
    np.maximum.at(last, graph.deps, np.repeat(rank, np.diff(graph.indptr)))
    last[graph.outputs] = graph.n_tasks
    return last


def _others(footprint: np.ndarray, workers: int) -> np.ndarray:
    """For each rank: the heaviest ``workers - 1`` other tasks in its window and the next, together."""
    n, width = len(footprint), max(WINDOW, 8 * workers)
    rows = np.zeros((-(-n // width) + 1, width), np.int64)
    rows.ravel()[:n] = footprint
    windows = np.concatenate([rows[:-1], rows[1:]], axis=1)
    heaviest = np.partition(windows, -workers, axis=1)[:, -workers:]
    all_, least = heaviest.sum(axis=1, keepdims=True), heaviest.min(axis=1, keepdims=True)
    others: np.ndarray = all_ - np.maximum(rows[:-1], least)  # a rank that is one of the heaviest is no other to itself
    return others.ravel()[:n]
