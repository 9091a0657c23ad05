"""The scheduler core under a virtual clock: whole stories with failures, retries, cancels and spills."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.base.errors import InternalError
from tilework.engine.local import state, states
from tilework.engine.local.budget import refuse, task_bytes
from tilework.engine.local.check import Watched
from tilework.engine.local.states import STATES, STOP, TRANSITIONS, WAIT, Run, Spill


def started(graph: Any, budget: int = 10**9, workers: int = 2) -> Watched:
    s = Watched(budget - graph.resident_bytes, workers)
    assert s.add(graph) == 0
    return s


def validate(s: Watched) -> None:
    s.validate()


# ---------------------------------------------------------------- simulated workers


class World:
    """Workers on a virtual clock. Checks after every event what must hold at every moment."""

    def __init__(self, graph: Any, budget: int, workers: int, data: Any, **story: Any) -> None:
        self.graph, self.data = graph, data
        self.scheduler = started(graph, budget, workers)
        self.failures: dict[int, int] = dict(story.get("failures", {}))  # how often each task raises
        self.retries: int = story.get("retries", 0)
        self.unspillable: set[int] = set(story.get("unspillable", ()))
        self.actual: list[int] = story.get("actual") or graph.out_bytes.tolist()
        self.seconds: list[float] = story.get("seconds") or [1.0] * graph.n_tasks
        self.cancel_at: float | None = story.get("cancel_at")
        self.steals: bool = story.get("steals", False)
        self.memory = dict[int, int]()  # what the workers really hold
        self.disk = dict[int, int]()
        self.order: list[int] = []  # tasks that succeeded, as they were started
        self.raised: list[int] = []
        self.now = 0.0
        self.cancelled = False
        # What will be reported: time, a number to break ties, the worker, and what it is busy with.
        self._agenda: list[tuple[float, int, int, Run | Spill]] = []
        self._idle = list(range(workers))
        self._entries = 0

    def run(self) -> None:
        while True:
            self._hand_out()
            if not self._agenda:
                break
            self._maybe_steal()
            self.now, _, worker, step = heappop(self._agenda)
            if self.cancel_at is not None and self.now >= self.cancel_at and not self.cancelled:
                self.cancelled = True
                self.scheduler.stop()
                validate(self.scheduler)
            if isinstance(step, Spill):
                self._spilled(worker, step.blocks)
            elif step.loads:
                self._loaded(worker, step)
            else:
                self._report(worker, step)
        assert [self.scheduler.next(worker) for worker in self._idle] == [STOP] * len(self._idle)

    def _hand_out(self) -> None:
        waiting = []
        while self._idle:
            worker = self._idle.pop(0)
            step = self.scheduler.next(worker)
            validate(self.scheduler)
            if isinstance(step, Run):
                assert not self.scheduler.stopped
                self._admitted(step)
                self._start(worker, step, 0.1 if step.loads else sum(self.seconds[task] for task in step.tasks))
            elif isinstance(step, Spill):
                self._start(worker, step, 0.1)
            else:
                assert step is STOP or self._agenda, "everybody waits for nobody"
                waiting.append(worker)
        self._idle = waiting

    def _start(self, worker: int, step: Run | Spill, duration: float) -> None:
        self._entries += 1
        heappush(self._agenda, (self.now + duration, self._entries, worker, step))

    def _admitted(self, run: Run) -> None:
        """Never above the budget, unless one task alone forces it: nothing else runs, nothing can be spilled."""
        s = self.scheduler
        if s.held + s.reserved <= s.limit:
            return
        (task,) = run.tasks
        assert list(s.running.values()) == [run]
        inputs = self.graph.deps[self.graph.indptr[task] : self.graph.indptr[task + 1]].tolist()
        assert all(b in inputs or b in s.unwritable or not size for b, size in self.memory.items())

    def _loaded(self, worker: int, run: Run) -> None:
        for block in run.loads:
            self.memory[block] = self.disk.pop(block)
        self.scheduler.loaded(worker)
        validate(self.scheduler)
        self._start(worker, run, sum(self.seconds[task] for task in run.tasks))

    def _spilled(self, worker: int, blocks: list[int]) -> None:
        """The first block comes alone, the others together."""
        for part in (blocks[:1], blocks[1:]):
            written = [block for block in part if block not in self.unspillable]
            for block in written:
                self.disk[block] = self.memory.pop(block)
            if written:
                self.scheduler.spilled(worker, written)
                validate(self.scheduler)
            if len(written) < len(part):
                self.scheduler.kept(worker, [block for block in part if block in self.unspillable])
                validate(self.scheduler)
        self._idle.append(worker)

    def _maybe_steal(self) -> None:
        if self.steals and self.data.draw(st.booleans(), label="steal"):
            _, _, worker, run = self._agenda[0]
            if isinstance(run, Spill):
                return
            n = self.data.draw(st.integers(0, len(run.tasks) - 1), label="steal how many")
            self.scheduler.returned(worker, n)
            validate(self.scheduler)
            self._hand_out()

    def _report(self, worker: int, run: Run) -> None:
        sizes = []
        for task in run.tasks:
            for block in self.graph.deps[self.graph.indptr[task] : self.graph.indptr[task + 1]].tolist():
                assert block in self.memory, f"task {task} runs without its input {block}"
            if self.failures.get(task, 0):
                self.failures[task] -= 1
                self.raised.append(task)
                if self.scheduler.attempts.get(task, 0) >= self.retries:
                    self.scheduler.stop()
                self.scheduler.failed(worker, sizes, 0.0, self.retries)
                break
            self.memory[task] = self.actual[task]
            self.order.append(task)
            sizes.append(self.actual[task])
        else:
            self.scheduler.finished(worker, sizes, sum(self.seconds[task] for task in run.tasks))
        for block in self.scheduler.take_freed():
            self.memory.pop(block, None)
        assert self.scheduler.held == sum(self.memory.values())
        assert self.scheduler.on_disk == sum(self.disk.values())
        validate(self.scheduler)
        self._idle.append(worker)


sizes = st.one_of(st.just(0), st.integers(0, 40))
durations = st.sampled_from([0.0, 1e-6, 1e-4, 1e-3, 1.0])


@given(data=st.data())
@settings(max_examples=200)
def test_stories(data: Any, dags: Any, graph_of: Any) -> None:
    dag = data.draw(dags(), label="dag")
    n = len(dag.deps)

    def one_each(strategy: st.SearchStrategy[Any], label: str) -> list[Any]:
        return data.draw(st.lists(strategy, min_size=n, max_size=n), label=label)

    predicted = one_each(sizes, "out")
    graph = graph_of(
        dag.deps, outputs=dag.outputs, rank=dag.rank, out=predicted, work=one_each(sizes, "work"),
        resident=data.draw(st.integers(0, 10), label="resident"),
    )  # fmt: skip
    tight = int(task_bytes(graph).max())
    results = sum(predicted[t] for t in set(dag.outputs)) + graph.resident_bytes
    budget = max(tight, results) + data.draw(st.sampled_from([0, 0, 10, 40, 10_000]), label="extra budget")
    refuse(graph, budget)
    world = World(
        graph, budget, data.draw(st.integers(1, 4), label="workers"), data,
        failures=dict(enumerate(one_each(st.sampled_from([0, 0, 0, 0, 1, 2]), "failures"))),
        retries=data.draw(st.integers(0, 2), label="retries"),
        unspillable=data.draw(st.sets(st.integers(0, n - 1), max_size=2), label="unspillable"),
        actual=one_each(sizes, "actual") if data.draw(st.booleans(), label="surprising sizes") else None,
        seconds=one_each(durations, "seconds"),
        cancel_at=data.draw(st.sampled_from([None, None, 0.5, 2.5]), label="cancel at"),
        steals=data.draw(st.booleans(), label="steals"),
    )  # fmt: skip
    to_raise = dict(world.failures)
    world.scheduler._extra = data.draw(st.sampled_from([0, 20, 10_000]), label="bytes that a batch may take")
    world.run()

    s = world.scheduler
    assert len(set(world.order)) == len(world.order), "a task ran twice"
    assert not s.running
    assert s.spilling is None
    if s.stopped:
        assert world.cancelled or any(count > world.retries for count in to_raise.values())
        assert all(
            s.states[t] in (states.FAILED, states.WAITING, states.READY) for t in range(n) if t not in world.order
        )
    else:
        assert sorted(world.order) == list(range(n))
        assert sorted(world.raised) == sorted(t for t in range(n) for _ in range(to_raise[t]))
        kept = set(dag.outputs)
        assert {t for t in range(n) if s.states[t] == states.RELEASED} == set(range(n)) - kept
        assert world.memory.keys() | world.disk.keys() == kept
        assert s.unfinished == s.reserved == 0


@given(data=st.data())
@settings(max_examples=100)
def test_one_worker_with_memory_enough_keeps_to_the_order(data: Any, dags: Any, graph_of: Any) -> None:
    dag = data.draw(dags(20), label="dag")
    graph = graph_of(dag.deps, outputs=dag.outputs, rank=dag.rank)
    seconds = data.draw(st.lists(durations, min_size=len(dag.deps), max_size=len(dag.deps)))
    world = World(graph, 10**9, 1, data, seconds=seconds, steals=True)
    world.run()
    assert world.order == graph.order.tolist()


# ---------------------------------------------------------------- single rules


def finish_next(s: Watched, worker: int = 0, seconds: float = 1.0) -> list[int]:
    """Let one worker run its next batch, with the sizes predicted."""
    run = s.next(worker)
    assert isinstance(run, Run)
    tasks = list(run.tasks)
    if run.loads:
        s.loaded(worker)
    s.finished(worker, [s.sizes[task] for task in tasks], seconds)
    validate(s)
    return tasks


def books(s: Watched) -> tuple[Any, ...]:
    """Everything that an event could change."""
    batches = {worker: (list(run.tasks), list(run.loads), run.reserved) for worker, run in s.running.items()}
    numbers = s.unfinished, s.held, s.reserved, s.on_disk, s.spilled_total, s.stopped
    return bytes(s.states), list(s.remaining), list(s.uses), list(s.sizes), batches, numbers, sorted(s.queue.passed)


@pytest.mark.parametrize("event", TRANSITIONS)
@pytest.mark.parametrize("before", range(len(STATES)), ids=STATES)
def test_the_table_rules(event: str, before: int, graph_of: Any) -> None:
    s = started(graph_of([[], []]))
    s.states[1] = before
    legal = next(iter(TRANSITIONS[event]))
    s.states[0] = legal
    if before in TRANSITIONS[event]:
        s.move(event, [0, 1])
        assert s.states[1] == TRANSITIONS[event][before]
    else:
        with pytest.raises(InternalError, match=f"task 1 is {STATES[before]}: no transition for '{event}'"):
            s.move(event, [0, 1])
        assert list(s.states) == [legal, before], "an illegal event changed something"


def test_what_a_worker_does_not_have_it_cannot_report(graph_of: Any) -> None:
    s = started(graph_of([[], [], [0, 1]], outputs=[2]))
    run = s.next(0)
    assert isinstance(run, Run)
    before = books(s)
    for wrong in (
        lambda: s.next(0),
        lambda: s.finished(1, [0], 1.0),
        lambda: s.finished(0, [0, 0], 1.0),
        lambda: s.finished(0, [], 1.0),
        lambda: s.failed(0, [0], 1.0, 0),
        lambda: s.failed(1, [], 1.0, 0),
        lambda: s.returned(0, 2),
        lambda: s.returned(1, 0),
        lambda: s.loaded(1),
        lambda: s.spilled(0, [0]),
        lambda: s.kept(0, [0]),
    ):
        with pytest.raises(InternalError):
            wrong()
        assert books(s) == before
    validate(s)


def test_validate_notices_wrong_books(graph_of: Any) -> None:
    def broken(change: Any) -> None:
        s = started(graph_of([[], [0], [0]], outputs=[1], out=[5, 5, 5]))
        finish_next(s)
        s.next(0)
        change(s)
        with pytest.raises(InternalError, match="invariant"):
            validate(s)

    broken(lambda s: s.states.__setitem__(2, states.RELEASED))
    broken(lambda s: s.remaining.__setitem__(2, 1))
    broken(lambda s: s.uses.__setitem__(0, 0))
    broken(lambda s: s.running.clear())
    broken(lambda s: s.running[0].tasks.append(2))
    broken(lambda s: setattr(s, "held", 4))
    broken(lambda s: setattr(s, "reserved", 0))
    broken(lambda s: setattr(s, "on_disk", 1))
    broken(lambda s: setattr(s, "unfinished", 3))
    broken(lambda s: setattr(s.queue, "cursor", 3))


def test_a_cyclic_graph_is_a_bug_not_a_hang(graph_of: Any) -> None:
    s = started(graph_of([[1], [0]]))
    with pytest.raises(InternalError, match="cyclic"):
        s.next(0)


def test_batches_start_at_one_and_grow_to_a_millisecond(graph_of: Any) -> None:
    s = started(graph_of([[]] * 5000), workers=1)
    assert len(finish_next(s, seconds=state.BATCH_SECONDS / 512)) == 1
    assert len(finish_next(s, seconds=state.BATCH_SECONDS)) == pytest.approx(512, abs=1)
    assert len(finish_next(s, seconds=1.0)) == pytest.approx(512, abs=1)
    assert len(finish_next(s)) == 1, "tasks that turn out to be slow go one by one"


def test_idle_workers_get_their_share(graph_of: Any) -> None:
    s = started(graph_of([[]] * 101), workers=4)
    finish_next(s, seconds=state.BATCH_SECONDS / 16)
    sizes = []
    for worker in range(4):
        run = s.next(worker)
        assert isinstance(run, Run)
        sizes.append(len(run.tasks))
    assert sizes == pytest.approx([4, 16 / 3, 8, 16], abs=1)


def test_a_worker_takes_whole_subtrees_in_one_batch(graph_of: Any) -> None:
    # ((0 1) (3 4)) ((7 8) (10 11)) and their sums, numbered depth first
    s = started(
        graph_of(
            [[], [], [0, 1], [], [], [3, 4], [2, 5], [], [], [7, 8], [], [], [10, 11], [9, 12], [6, 13], *[[]] * 5]
        )
    )
    assert finish_next(s, seconds=0.99e-4) == [0]
    first, second = s.next(0), s.next(1)
    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert first.tasks == [1, 2, 3, 4, 5]
    assert second.tasks == [7, 8, 9, 10, 11, 12, 13, 15, 16, 17], "6 waits for the other worker"
    validate(s)
    s.finished(0, [0] * 5, 1e-3)
    third = s.next(0)
    assert isinstance(third, Run)
    assert third.tasks == [6, 18, 19], "what was passed over comes first; 14 waits for the other worker"
    validate(s)


def test_what_a_slow_worker_has_not_started_goes_to_others(graph_of: Any) -> None:
    s = started(graph_of([[]] * 10, out=[1] * 10), workers=1)
    finish_next(s, seconds=1e-4)
    run = s.next(0)
    assert isinstance(run, Run)
    assert run.tasks == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert s.next(1) is WAIT
    s.returned(0, 7)
    validate(s)
    other = s.next(1)
    assert isinstance(other, Run)
    assert other.tasks == [3, 4, 5, 6, 7, 8, 9]
    assert run.tasks == [1, 2]
    validate(s)


def test_a_task_waits_until_it_fits_and_small_ones_that_free_memory_go_before(graph_of: Any) -> None:
    # 0 and 1 are held; 2 is large; 3 grows memory, 4 frees it
    s = started(graph_of([[], [], [0], [], [1]], out=[10, 10, 70, 5, 2], outputs=[2, 3]), budget=100, workers=3)
    finish_next(s)
    finish_next(s)
    large = s.next(0)
    assert isinstance(large, Run)
    assert large.tasks == [2]
    s2 = s.next(1)
    assert isinstance(s2, Run)
    assert s2.tasks == [3], "fits beside the large one"
    s.returned(1, 1)
    s.finished(1, [], 0.0)
    s.move("give_back", [])  # nothing
    validate(s)
    s.limit = 92  # now 3 does not fit any more, and 4 does
    freeing = s.next(1)
    assert isinstance(freeing, Run)
    assert freeing.tasks == [4]
    assert s.next(2) is WAIT
    validate(s)


def test_small_tasks_do_not_starve_a_large_one(graph_of: Any) -> None:
    # 1 needs the whole budget; 2.. would always fit beside 0, and keep 1 out for ever
    s = started(graph_of([[]] * 6, out=[10, 90, 5, 5, 5, 5]), budget=95)
    small = s.next(0)
    assert isinstance(small, Run)
    assert small.tasks == [0]
    assert s.next(1) is WAIT
    s.finished(0, [10], 1.0)
    large = s.next(1)
    assert isinstance(large, Run)
    assert large.tasks == [1]


def test_the_farthest_next_use_is_spilled_first_and_loaded_again(graph_of: Any) -> None:
    # blocks 0, 1, 2 are used by 6, 5, 4; 3 needs room for two of them
    deps = [[], [], [], [], [2, 3], [1, 4], [0, 5]]
    s = started(graph_of(deps, out=[30, 30, 30, 50, 1, 1, 1], outputs=[6]), budget=111, workers=1)
    for _ in range(3):
        finish_next(s)
    step = s.next(0)
    assert isinstance(step, Spill)
    assert step.blocks == [0], "21 bytes are free, 50 are needed"
    s.spilled(0, step.blocks)
    validate(s)
    assert s.on_disk == 30
    for task in (3, 4, 5):
        assert finish_next(s) == [task]
    last = s.next(0)
    assert isinstance(last, Run)
    assert (last.tasks, last.loads) == ([6], [0])
    assert last.reserved == 31, "an input that is loaded weighs, too"
    validate(s)
    s.loaded(0)
    validate(s)
    s.finished(0, [1], 1.0)
    assert s.states[0] == states.RELEASED
    assert s.on_disk == 0


def test_a_block_on_its_way_back_is_waited_for(graph_of: Any) -> None:
    deps = [[], [], [0], [0], [1]]
    s = started(graph_of(deps, out=[30, 60, 1, 1, 1], outputs=[2, 3, 4], rank=[0, 1, 3, 4, 2]), budget=70)
    finish_next(s)
    step = s.next(0)
    assert isinstance(step, Spill)
    s.spilled(0, step.blocks)
    finish_next(s)
    finish_next(s)
    first = s.next(0)
    assert isinstance(first, Run)
    assert (first.tasks, first.loads) == ([2], [0])
    assert s.next(1) is WAIT, "3 needs the block that worker 0 is loading"
    s.loaded(0)
    second = s.next(1)
    assert isinstance(second, Run)
    assert (second.tasks, second.loads) == ([3], [])
    validate(s)


def test_no_batch_has_a_task_behind_its_first_that_needs_the_disk(graph_of: Any) -> None:
    deps = [[], [], [0], [], [0], [], [0]]
    s = started(graph_of(deps, out=[30, 60, 0, 0, 0, 0, 0], outputs=range(1, 7)), budget=70)
    finish_next(s)
    step = s.next(0)
    assert isinstance(step, Spill)
    s.spilled(0, step.blocks)
    finish_next(s)
    s.seconds = [1e-6]  # now for batches
    step = s.next(0)
    assert isinstance(step, Spill)
    s.spilled(0, step.blocks)
    first, second = s.next(0), s.next(1)
    assert isinstance(first, Run)
    assert isinstance(second, Run)
    assert (first.tasks, first.loads) == ([2, 3], [0]), "4 must not rely on the block that 2 is loading"
    assert second.tasks == [5]
    validate(s)


def test_a_load_that_fails_leaves_the_block_on_disk(graph_of: Any) -> None:
    s = started(graph_of([[], [], [0]], out=[30, 60, 1], outputs=[1, 2], rank=[0, 1, 2]), budget=100, workers=1)
    finish_next(s)
    s.limit = 65
    step = s.next(0)
    assert isinstance(step, Spill)
    s.spilled(0, step.blocks)
    s.limit = 100
    finish_next(s)
    run = s.next(0)
    assert isinstance(run, Run)
    assert run.loads == [0]
    assert s.failed(0, [], 0.0, 1) == (1, [])
    validate(s)
    assert s.states[0] == states.SPILLED
    again = s.next(0)
    assert isinstance(again, Run)
    assert again.loads == [0]


def test_unfinished_business_when_a_task_fails(graph_of: Any) -> None:
    s = started(graph_of([[], [], [], [0]], outputs=[0, 1, 2, 3]), workers=1)
    finish_next(s, seconds=1e-5)
    run = s.next(0)
    assert isinstance(run, Run)
    assert run.tasks == [1, 2, 3]
    assert s.failed(0, [7], 1.0, 0) == (None, [2])
    validate(s)
    assert [STATES[x] for x in s.states] == ["held", "held", "failed", "ready"]
    assert s.held == 7
    assert finish_next(s) == [3], "a failure stops only what needs the task"
    assert s.next(0) is STOP


def test_retries_are_counted_per_task(graph_of: Any) -> None:
    s = started(graph_of([[], []], outputs=[0, 1]), workers=1)
    for attempt in (1, 2):
        s.next(0)
        assert s.failed(0, [], 1.0, 2) == (attempt, [])
        validate(s)
    finish_next(s)
    s.next(0)
    assert s.failed(0, [], 1.0, 2)[0] == 1
    validate(s)
