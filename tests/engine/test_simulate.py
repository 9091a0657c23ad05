"""The core with many workers, on a virtual clock."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tilework.base.errors import InternalError
from tilework.engine.local.check import Watched
from tilework.engine.local.state import Scheduler
from tilework.engine.simulate import Outcome, Simulation
from tilework.engine.taskgraph import TaskGraph


def graph_of(deps: list[list[int]], out: int = 0, outputs: list[int] | None = None) -> TaskGraph:
    """Tasks that need earlier ones, in the order of their numbers."""
    n = len(deps)
    indptr = np.cumsum([0, *map(len, deps)])
    flat = np.array([block for blocks in deps for block in blocks], np.int32)
    rank, sizes = np.arange(n, dtype=np.int32), np.full(n, out, np.int64)
    return TaskGraph(
        [], np.array([0, n]), indptr, flat, sizes, np.zeros(n, np.int64), rank, np.array(outputs or [], np.int32)
    )


def pairs(n: int) -> list[list[int]]:
    """``n`` leaves joined two by two."""
    deps: list[list[int]] = [[] for _ in range(n)]
    level = list(range(n))
    while len(level) > 1:
        joined = list(range(len(deps), len(deps) + len(level) // 2))
        deps += [list(pair) for pair in zip(level[::2], level[1::2], strict=False)]
        level = joined + level[2 * len(joined) :]
    return deps


def simulate(graph: TaskGraph, workers: int, budget: int = 10**9, **how: Any) -> tuple[Outcome, Scheduler]:
    s = Scheduler(budget, workers * how.get("credits", 1))
    s.add(graph)
    return Simulation(s, workers, **{"seconds": lambda task: 1.0, "latency": 0.0, **how}).run(), s


def test_workers_share_the_work() -> None:
    outcome, s = simulate(graph_of([[]] * 1000), 10)
    assert outcome == Outcome(seconds=100.0, busy=1.0, tasks=1000, events=2000)
    assert s.unfinished == 0


def test_a_chain_gains_nothing_by_workers() -> None:
    outcome, _ = simulate(graph_of([[], *([k] for k in range(99))]), 10)
    assert outcome.seconds == 100.0
    assert outcome.busy == pytest.approx(0.1)


def test_short_tasks_go_in_batches() -> None:
    outcome, _ = simulate(graph_of([[]] * 100_000), 4, seconds=lambda task: 1e-6)
    assert outcome.tasks == 100_000
    assert outcome.events < 2_000


def test_what_waits_at_the_worker_hides_the_way_there_and_back() -> None:
    graph = graph_of([[]] * 1000)
    slow, _ = simulate(graph, 10, latency=0.1)
    quick, _ = simulate(graph, 10, latency=0.1, credits=2)
    assert slow.seconds == pytest.approx(100 * 1.2)
    assert quick.seconds == pytest.approx(100 + 0.2)


def test_the_same_numbers_are_the_same_run() -> None:
    def once() -> Outcome:
        chance = random.Random(3)
        deaths = [(chance.uniform(0, 50), chance.randrange(8)) for _ in range(20)]
        return simulate(graph_of(pairs(300)), 8, seconds=lambda task: (task * 37 % 11) / 4, deaths=deaths)[0]

    assert once() == once()


def test_what_the_dead_had_is_done_by_others() -> None:
    chance = random.Random(5)
    deaths = [(chance.uniform(0, 60), chance.randrange(8)) for _ in range(100)]
    graph = graph_of(pairs(256), outputs=[510])
    outcome, s = simulate(graph, 8, seconds=lambda task: 1.5, credits=2, deaths=deaths)
    assert outcome.tasks == graph.n_tasks, "what was finished is not done again"
    assert outcome.seconds > graph.n_tasks / 8 * 1.5
    assert s.held == s.sizes[510]


def test_little_memory_takes_longer_and_ends() -> None:
    deps = [[] for _ in range(64)] + [[k, 63 - k] for k in range(64)]
    roomy, _ = simulate(graph_of(deps, out=10), 4, budget=10_000, disk=100.0)
    tight, s = simulate(graph_of(deps, out=10), 4, budget=200, disk=100.0)
    assert s.spilled_total > 0
    assert s.peak <= 200
    assert tight.tasks == roomy.tasks == 128
    assert tight.seconds > roomy.seconds


def test_the_higher_priority_goes_first() -> None:
    s = Scheduler(10**9, 1)
    started: list[int] = []

    def seconds(task: int) -> float:
        started.append(task)
        return 1.0

    stage = s.new_stage()
    later, usual, first = (s.add_calls(2, None, stage, priority) for priority in (-1, 0, 1))
    Simulation(s, 1, seconds).run()
    assert list(dict.fromkeys(started)) == [first, first + 1, usual, usual + 1, later, later + 1]


def test_the_books_are_right_all_the_way() -> None:
    s = Watched(300, 6)
    s.add(graph_of(pairs(40), out=10, outputs=[78]))
    stage = s.new_stage()
    calls = s.add_calls(30, [[78 - k] for k in range(30)], stage)
    s.bind(range(calls, calls + 10), [1, 2])
    s.alone(range(calls + 5, calls + 15))

    def seconds(task: int) -> float:
        s.validate()
        return task % 3 / 2

    outcome = Simulation(s, 3, seconds, sizes=lambda task: task % 20, credits=2, deaths=[(2.0, 1), (5.0, 2)]).run()
    s.validate()
    assert outcome.tasks == 79 + 30


def test_workers_that_can_never_do_what_is_left_are_told() -> None:
    s = Scheduler(10**9, 2)
    base = s.add_calls(1, None, s.new_stage())
    s.bind([base], [7])
    with pytest.raises(InternalError, match="1 tasks are left, and all workers wait"):
        Simulation(s, 2, lambda task: 1.0).run()
