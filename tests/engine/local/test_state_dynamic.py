"""The scheduler core of a cluster: whatever comes, dies, is cancelled, forgotten or tried again, in any order."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tilework.base.errors import InternalError
from tilework.engine.local.check import Watched
from tilework.engine.local.states import (
    FAILED,
    HELD,
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
    settings = settings(max_examples=100, stateful_step_count=60, deadline=None)


# ---------------------------------------------------------------- single rules


def given(s: Watched, worker: int, patient: bool = True) -> Run:
    run = s.next(worker, patient)
    assert isinstance(run, Run)
    s.validate()
    return run


def done(s: Watched, worker: int, *weights: int) -> None:
    s.finished(worker, weights, 1.0)
    s.validate()


def scheduler(limit: int = LIMIT, workers: int = 2) -> tuple[Watched, int]:
    s = Watched(limit, workers)
    return s, s.new_stage()


def test_what_a_call_weighs_is_learned_from_the_first() -> None:
    s, stage = scheduler()
    s.add_calls(4, None, stage)
    assert given(s, 0).reserved == 0
    done(s, 0, 40)
    assert given(s, 0).reserved == 40
    done(s, 0, 0)
    assert given(s, 0).reserved == 20, "down by halves"
    done(s, 0, 60)
    s.limit = 200
    assert given(s, 0).reserved == 60, "up at once"


def test_an_impatient_worker_spills_while_others_run_and_never_what_they_read() -> None:
    s, stage = scheduler()
    read = s.adopt([50, 40])
    other = read + 1
    long = s.add_calls(1, [[read]], stage)
    assert given(s, 0).tasks == [long]
    s.expected[stage] = 30
    s.add_calls(1, None, stage)
    assert s.next(1) is WAIT
    step = s.next(1, patient=False)
    assert isinstance(step, Spill)
    assert step.blocks == [other]
    user = s.add_calls(1, [[other]], stage, priority=9)
    s.validate()
    assert s.next(2, patient=False) is WAIT, f"{user} reads what is on its way out"
    s.spilled(1, [other])
    s.validate()
    assert s.next(1, patient=False) is WAIT, "70 bytes are needed, and what could go has gone"
    done(s, 0, 0)
    s.release([read])
    run = given(s, 1)
    assert (run.tasks, run.loads, run.reserved) == ([user], [other], 70)


def test_the_dead_leave_everything_as_it_was() -> None:
    s, stage = scheduler(limit=60)
    block = s.adopt([50])
    s.add_calls(1, None, stage)
    s.expected[stage] = 20
    assert isinstance(s.next(0), Spill)
    assert s.died(0) == []
    s.validate()
    assert s.states[block] == HELD
    step = s.next(1)
    assert isinstance(step, Spill), "it could be written, as far as anybody knows"
    s.spilled(1, step.blocks)
    user = s.add_calls(1, [[block]], stage, priority=1)
    assert given(s, 1).loads == [block]
    assert s.died(1) == [user]
    s.validate()
    assert [STATES[s.states[task]] for task in (block, user)] == ["spilled", "ready"]
    assert s.reserved == 0


def test_a_suspect_runs_alone_and_a_bound_task_where_it_must() -> None:
    s, stage = scheduler()
    s.seconds[stage] = 1e-6
    base = s.add_calls(6, None, stage)
    s.alone([base])
    s.bind([base + 1, base + 2], [1])
    runs = [given(s, worker) for worker in (0, 1, 2)]
    assert [(run.tasks, run.alone) for run in runs] == [
        ([base], True),
        ([base + 1, base + 2], False),
        ([base + 3, base + 4, base + 5], False),
    ]
    assert s.died(1) == [base + 1, base + 2]
    assert s.next(3) is WAIT
    s.bind([base + 1, base + 2], None)
    assert given(s, 3).tasks == [base + 1, base + 2]


def test_what_is_cancelled_while_it_runs_is_not_kept() -> None:
    s, stage = scheduler()
    base = s.add_calls(1, None, stage)
    user = s.add_calls(1, [[base]], stage)
    given(s, 0)
    assert sorted(s.cancel([base])) == [base, user]
    s.validate()
    done(s, 0, 30)
    assert (s.states[base], s.states[user], s.held) == (FAILED, FAILED, 0)
    assert s.next(0) is STOP
    assert sorted(s.retry([user])) == [base, user]
    s.validate()
    assert given(s, 0).tasks == [base]


def test_a_failure_fails_what_needs_it_and_nothing_else() -> None:
    s, stage = scheduler()
    source = s.add_calls(1, None, stage)
    middle = s.add_calls(1, [[source]], stage)
    last = s.add_calls(1, [[middle]], stage)
    other = s.add_calls(1, None, stage)
    assert given(s, 0).tasks == [source]
    done(s, 0, 10)
    assert given(s, 0).tasks == [middle]
    attempt, errored = s.failed(0, [], 1.0, 0)
    assert (attempt, sorted(errored)) == (None, [middle, last])
    s.validate()
    late = s.add_calls(1, [[last]], stage)
    assert s.states[late] == FAILED, "it came too late"
    assert given(s, 0).tasks == [other]
    s.release([source, middle])
    s.validate()
    assert s.take_freed() == [], "somebody may yet try again"
    s.release([last, late])
    s.validate()
    assert sorted(s.take_freed()) == [source, middle, last, late]
    assert s.held == 0


def test_what_nobody_wants_any_more_does_not_run() -> None:
    s, stage = scheduler()
    first = s.add_calls(1, None, stage)
    second = s.add_calls(1, [[first]], stage)
    s.release([first])
    assert s.take_freed() == []
    s.release([second])
    s.validate()
    assert sorted(s.take_freed()) == [first, second]
    assert s.next(0) is STOP
    with pytest.raises(InternalError, match="was released, and is needed again"):
        s.add_calls(1, [[first]], stage)
    with pytest.raises(InternalError, match="was released, and is needed again"):
        s.hold([second])
    s.validate()


def test_a_graph_over_blocks_that_exist(graph_of: Any) -> None:
    s, _ = scheduler()
    block = s.adopt([10])
    base = s.add(graph_of([[], [], [0, 1]], outputs=[2, 0], out=[10, 5, 7]), held={0: block})
    s.validate()
    assert [STATES[state] for state in s.states[base:]] == ["released", "ready", "waiting"]
    assert given(s, 0).tasks == [base + 1]
    done(s, 0, 5)
    assert given(s, 0).tasks == [base + 2]
    done(s, 0, 7)
    s.release([block])
    assert s.take_freed() == [base + 1], "the graph's output still is the block"
    s.release([block, base + 2])
    assert sorted(s.take_freed()) == [block, base + 2]


def test_a_block_that_is_looked_at_stays_in_memory() -> None:
    s, _ = scheduler(limit=50)
    base = s.adopt([40, 40])
    s.pin([base])
    s.release([base])
    step = s.next(0, patient=False)
    assert isinstance(step, Spill)
    assert step.blocks == [base + 1]
    s.pin([base + 1])
    with pytest.raises(InternalError, match="must be kept"):
        s.spilled(0, step.blocks)
    s.kept(0, step.blocks, for_good=False)
    s.validate()
    assert s.next(0, patient=False) is WAIT, "nothing can go"
    s.unpin([base])
    assert s.take_freed() == [base]


def test_at_the_end_long_ways_are_begun_first() -> None:
    s, stage = scheduler()
    s.workers = 2
    s.seconds[stage] = 0.1
    single = s.add_calls(2, None, stage)
    chain = s.add_calls(1, None, stage)
    middle = s.add_calls(1, [[chain]], stage)
    s.add_calls(1, [[middle]], stage)
    assert given(s, 0).tasks == [chain]
    assert given(s, 1).tasks == [single]
    assert s.died(0) == [chain]
    s.validate()
    s.seconds[stage] = 1e-9
    assert given(s, 0).tasks[:2] == [single + 1, chain], "short ones go as they came"


def test_numbers_of_the_dead_are_used_again() -> None:
    s, stage = scheduler()
    s.add_calls(1000, None, stage)
    kept = s.adopt([1])
    user = s.add_calls(1, [[kept]], stage, priority=-3)
    s.release(range(1000))
    with pytest.raises(InternalError, match="not taken: 1000"):
        s.renumber()
    s.take_freed()
    assert s.renumber() == {kept: 0, user: 1}
    s.validate()
    assert s.add_calls(1, None, stage) == 2
    assert given(s, 0).tasks == [2]
    assert given(s, 1).tasks == [1]
    with pytest.raises(InternalError, match="running"):
        s.renumber()
