"""The scheduler core of a cluster: whatever comes, dies, is cancelled, forgotten or tried again, in any order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tilework.engine.local.check import Watched
from tilework.engine.local.states import (
    FAILED,
    RELEASED,
    RUNNING,
    STATES,
    STOP,
    WAIT,
    Run,
    Spill,
)

WORKERS = range(4)
LIMIT = 100
sizes = st.sampled_from([0, 1, 5, 20, 40])
seconds = st.sampled_from([1e-6, 1e-4, 1.0])
some_workers = st.sets(st.sampled_from(WORKERS), min_size=1, max_size=2)
numbers = st.integers(0, 10**6)


class Stories(RuleBasedStateMachine):
    """An engine that does everything an engine may, and knows what it has in memory and on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.s = Watched(LIMIT, len(WORKERS))
        self.stages = [self.s.new_stage() for _ in range(2)]
        self.busy: dict[int, Run | Spill] = {}
        self.loaded: set[int] = set()  # workers whose loads are done
        self.memory: dict[int, int] = {}
        self.disk: dict[int, int] = {}
        self.told: set[int] = set()  # tasks that failed, as their owners know
        self.pins: list[int] = []
        self.graphs: list[range] = []

    # ------------------------------------------------------------ what comes

    def pick(self, number: int, tasks: list[int]) -> list[int]:
        """A few of them, told by a number."""
        return [tasks[(number + k) % len(tasks)] for k in range(number % 4)] if tasks else []

    def alive(self) -> list[int]:
        return [task for task, state in enumerate(self.s.states) if state != RELEASED]

    @rule(
        n=st.integers(1, 4), needs=st.lists(numbers, max_size=4), stage=st.integers(0, 1), priority=st.integers(-1, 2)
    )
    def add_calls(self, n: int, needs: list[int], stage: int, priority: int) -> None:
        inputs = [self.pick(number, self.alive()) for number in needs] + [[]] * n
        base = self.s.add_calls(n, inputs[:n] if needs else None, self.stages[stage], priority)
        self.note_failed(base)

    @rule(data=st.data(), priority=st.sampled_from([0, 0, 1]))
    def add_graph(self, data: Any, priority: int) -> None:
        dag = data.draw(STRATEGIES["dags"](6))
        n = len(dag.deps)
        out, work = (data.draw(st.lists(sizes, min_size=n, max_size=n)) for _ in range(2))
        graph = STRATEGIES["graph_of"](dag.deps, outputs=dag.outputs, rank=dag.rank, out=out, work=work)
        sources = [task for task in range(n) if not dag.deps[task]]
        blocks = self.pick(data.draw(numbers), self.alive())
        held = dict(zip(sources, blocks, strict=False))
        base = self.s.add(graph, held, priority, [data.draw(st.booleans())])
        self.graphs.append(range(base, base + n))
        self.note_failed(base)

    def note_failed(self, base: int) -> None:
        """Who adds tasks looks at those that failed as they came."""
        self.told.update(task for task in range(base, len(self.s.states)) if self.s.states[task] == FAILED)

    @rule(weights=st.lists(sizes, min_size=1, max_size=3))
    def adopt(self, weights: list[int]) -> None:
        base = self.s.adopt(weights)
        self.memory.update(enumerate(weights, base))

    # ------------------------------------------------------------ what people want

    @rule(number=numbers)
    def hold(self, number: int) -> None:
        self.s.hold(self.pick(number, self.alive()))

    @rule(number=numbers)
    def release(self, number: int) -> None:
        pins = Counter(self.pins)
        free = sorted((+self.s.holds - pins).elements())
        self.s.release(set(self.pick(number, free)))

    @rule(number=numbers)
    def pin(self, number: int) -> None:
        tasks = self.pick(number, self.alive())
        self.s.pin(tasks)
        self.pins += tasks

    @precondition(lambda self: self.pins)
    @rule(number=numbers)
    def unpin(self, number: int) -> None:
        self.s.unpin([self.pins.pop(number % len(self.pins))])

    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        self.told.update(self.s.cancel(self.pick(number, list(range(len(self.s.states))))))

    @rule(number=numbers)
    def retry(self, number: int) -> None:
        again = self.s.retry(self.pick(number, sorted(self.told | {0} if self.s.states else self.told)))
        assert self.told.issuperset(again)
        self.told.difference_update(again)

    @rule(number=numbers, workers=st.none() | some_workers)
    def bind(self, number: int, workers: set[int] | None) -> None:
        self.s.bind(self.pick(number, self.unfinished()), workers)

    @rule(number=numbers, alone=st.booleans())
    def alone(self, number: int, alone: bool) -> None:
        self.s.alone(self.pick(number, self.unfinished()), alone)

    def unfinished(self) -> list[int]:
        return [task for task, state in enumerate(self.s.states) if state <= RUNNING]

    @rule(limit=st.sampled_from([10, 40, LIMIT, LIMIT]))
    def change_limit(self, limit: int) -> None:
        self.s.limit = limit

    # ------------------------------------------------------------ what workers do

    @rule(worker=st.sampled_from(WORKERS), patient=st.booleans())
    def ask(self, worker: int, patient: bool) -> None:
        if worker in self.busy:
            return
        step = self.s.next(worker, patient)
        if isinstance(step, Spill):
            assert not patient or not self.s.running
            assert not self.pinned().intersection(step.blocks)
            self.busy[worker] = step
        elif isinstance(step, Run):
            assert len(step.tasks) == len(set(step.tasks)) > 0
            for task in step.tasks:
                workers, alone = self.s.queue.terms.get(task, (None, False))
                assert workers is None or worker in workers
                assert step.alone == alone
            assert not step.alone or len(step.tasks) == 1
            if self.s.held + self.s.reserved > self.s.limit:
                assert self.s.running == {worker: step}, "over the budget beside others"
                assert len(step.tasks) == 1
            self.busy[worker] = step
        else:
            assert step is WAIT or not self.s.unfinished

    def pinned(self) -> set[int]:
        return set(self.pins)

    @precondition(lambda self: self.busy)
    @rule(number=numbers, size=sizes, cost=seconds, fails=st.integers(-2, 3), retries=st.integers(0, 1))
    def report(self, number: int, size: int, cost: float, fails: int, retries: int) -> None:
        worker = sorted(self.busy)[number % len(self.busy)]
        step = self.busy[worker]
        if isinstance(step, Spill):
            self.written(worker, step, number)
        elif step.loads and fails <= 0:
            for block in step.loads:
                self.memory[block] = self.disk.pop(block)
            self.s.loaded(worker)
        else:
            self.done(worker, step, size, cost, fails, retries)

    def written(self, worker: int, step: Spill, number: int) -> None:
        """The first of the blocks; some cannot be written, and some must not."""
        block = step.blocks.pop(0)
        if block in self.pinned():
            self.s.kept(worker, [block], for_good=False)
        elif number % 5 == 0:
            self.s.kept(worker, [block])
        else:
            self.disk[block] = self.memory.pop(block)
            self.s.spilled(worker, [block])
        if not step.blocks:
            del self.busy[worker]

    def done(self, worker: int, run: Run, size: int, cost: float, fails: int, retries: int) -> None:
        del self.busy[worker]
        tasks = run.tasks[: fails if fails >= 0 and run.tasks else len(run.tasks)]
        failing = run.tasks[len(tasks)] if len(tasks) < len(run.tasks) else None
        if run.loads:
            tasks = []
            failing = run.tasks[0] if run.tasks else None
        made: set[int] = set()
        for task in tasks:
            assert all(block in self.memory or block in made for block in self.s.inputs(task)), "an input is missing"
            made.add(task)
        weights = [size] * len(tasks)
        if failing is None:
            self.s.finished(worker, weights, cost)
        else:
            attempt, errored = self.s.failed(worker, weights, cost, retries)
            assert (attempt is None) == (self.s.states[failing] in (FAILED, RELEASED))
            self.told.update(errored)
        for task in made:
            if self.s.states[task] not in (FAILED, RELEASED):  # FAILED: was cancelled while it ran
                self.memory[task] = size

    @precondition(lambda self: any(isinstance(step, Run) for step in self.busy.values()))
    @rule(number=numbers)
    def give_back(self, number: int) -> None:
        runs = [worker for worker in sorted(self.busy) if isinstance(self.busy[worker], Run)]
        worker = runs[number % len(runs)]
        run = self.busy[worker]
        assert isinstance(run, Run)
        self.s.returned(worker, number % (len(run.tasks) + 1))

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: int) -> None:
        step = self.busy.pop(worker, None)
        tasks = list(step.tasks) if isinstance(step, Run) else []
        assert self.s.died(worker) == tasks
        assert not any(self.s.states[task] == RUNNING for task in tasks)

    @precondition(lambda self: not self.busy and len(self.s.states) > 10)
    @rule(together=st.booleans())
    def renumber(self, together: bool) -> None:
        self.drop()
        live = [g for g in self.graphs if any(self.s.states[t] <= RUNNING or self.s.states[t] == FAILED for t in g)]
        states = list(self.s.states)
        new = self.s.renumber(live if together else ())
        assert {states[old] for old in set(range(len(states))) - new.keys()} <= {RELEASED}
        assert all(self.s.states[new[old]] == states[old] for old in new)
        if together:
            self.graphs = [range(new[g.start], new[g.start] + len(g)) for g in live]
            assert all(new[old] - new[g.start] == old - g.start for g in live for old in g)
        else:
            self.graphs = []
        self.memory = {new[task]: size for task, size in self.memory.items()}
        self.disk = {new[task]: size for task, size in self.disk.items()}
        self.told = {new[task] for task in self.told if task in new}
        self.pins = [new[task] for task in self.pins]

    # ------------------------------------------------------------ what always holds

    def drop(self) -> None:
        for task in self.s.take_freed():
            self.memory.pop(task, None)
            self.disk.pop(task, None)
            self.told.discard(task)

    @invariant()
    def books_are_right(self) -> None:
        self.s.validate()
        self.drop()
        assert self.s.held == sum(self.memory.values())
        assert self.s.on_disk == sum(self.disk.values())
        failed = {task for task, state in enumerate(self.s.states) if state == FAILED}
        assert failed <= self.told, "a task failed, and nobody was told"
        assert {task for task in self.told if self.s.states[task] not in (FAILED, RELEASED)} == self.s.cancelled

    def teardown(self) -> None:
        """In the end everything that can run has run, and nothing remains of what is released."""
        self.s.limit = LIMIT
        while True:
            for worker in WORKERS:
                self.ask(worker, worker % 2 == 0)
            self.books_are_right()
            if not self.busy:
                break
            self.report(0, 1, 1e-4, -1, 0)
            self.books_are_right()
        assert [self.s.next(worker) for worker in WORKERS] == [STOP] * len(WORKERS)
        wanted = {task for task, count in self.s.holds.items() if count}
        left = {STATES[self.s.states[task]] for task in wanted}
        assert left <= {"held", "spilled", "failed"}
        self.s.unpin(self.pins)
        self.s.release((+self.s.holds).elements())
        self.books_are_right()
        assert not self.memory
        assert not self.disk
        assert self.s.held == self.s.on_disk == self.s.reserved == self.s.unfinished == 0
        assert set(self.s.states) <= {RELEASED}
        assert not self.s.later
        assert not self.s.queue.terms
        assert not self.s.pins


STRATEGIES: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def strategies(dags: Any, graph_of: Any) -> None:
    STRATEGIES.update(dags=dags, graph_of=graph_of)


@pytest.mark.usefixtures("strategies")
class TestStories(Stories.TestCase):
    settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
