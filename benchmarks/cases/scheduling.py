"""The scheduler core alone: what an event costs it, with workers and time that are only imagined.

The graph is ``((x + 1) * 2 - x.mean(axis=0)).sum()`` over a square of chunks. Tasks take about a second (by chance,
with a seed), and so go one by one: each is two events, "give me work" and "it is done". Measured is the whole
simulation, so what simulating costs is in it.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.case import Case, Work


def simulated(side: int, workers: int) -> Callable[[], Work]:
    def setup() -> Work:
        import random

        import tilework.array as ta
        from tilework import session
        from tilework.base import config
        from tilework.engine.local.state import Scheduler
        from tilework.engine.simulate import Simulation

        x = ta.ones((side * 10, side * 10), chunks=(10, 10))
        y = ((x + 1) * 2 - x.mean(axis=0)).sum()
        graph = session.prepare([session._as_result(y.node)[0]], config.get()).graph
        chance = random.Random(0)
        seconds = [chance.expovariate(1) for _ in range(graph.n_tasks)]
        scheduler = Scheduler(10**13, 2 * workers)
        scheduler.add(graph)
        simulation = Simulation(scheduler, workers, seconds.__getitem__, credits=2)
        return lambda: simulation.run().tasks

    return setup


def case(name: str, side: int, tasks: int) -> Case:
    peers = {"tilework": simulated(side, 1000), **{f"the same, {n} workers": simulated(side, n) for n in (100, 10)}}
    return Case(
        name, f"The scheduler core, simulated: 1,000 workers, {tasks:,} tasks", peers,
        "at most 10 µs an event (20 µs a task), however many tasks and workers", per=tasks, warm=False, rounds=2,
    )  # fmt: skip


CASES = [case("schedule-10k", 68, 9_975), case("schedule-100k", 216, 99_681), case("schedule-1m", 684, 999_081)]
