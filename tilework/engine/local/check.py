"""What must be true of a :class:`~tilework.engine.local.state.Scheduler` between any two events.

The tests call :func:`validate` after every event. It recomputes every count from the states alone, so it is slow, and
a run never calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tilework.base.errors import InternalError
from tilework.engine.local.growing import GraphArrays
from tilework.engine.local.state import Scheduler
from tilework.engine.local.states import (
    APART,
    FAILED,
    HELD,
    LOADING,
    READY,
    RELEASED,
    RUNNING,
    SPILLED,
    SPILLING,
    STATES,
    WAITING,
)

FINISHED = (HELD, SPILLING, SPILLED, LOADING, RELEASED)
WANTING = (WAITING, READY, APART, RUNNING, FAILED)  # what needs its inputs, or may again


def validate(scheduler: Scheduler, holds: Mapping[int, int]) -> None:
    """Raise InternalError, naming the task or the number, if an invariant does not hold.

    ``holds`` says how often each task is wanted from outside, which the scheduler's own counts cannot tell.
    """
    _counts(scheduler, holds)
    _queues(scheduler)
    _batches(scheduler)
    _bytes(scheduler)


class Watched(Scheduler):
    """A scheduler that keeps a second account of ``holds``, to be checked with."""

    holds: Counter[int]

    def __init__(self, *args: int, **kwargs: float) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.holds = Counter()

    def validate(self) -> None:
        validate(self, +self.holds)

    def add(
        self,
        graph: GraphArrays,
        held: Mapping[int, int] | None = None,
        priority: int = 0,
        learns: Sequence[bool] | None = None,
    ) -> int:
        base = super().add(graph, held, priority, learns)
        self.holds.update((held or {}).get(task, base + task) for task in graph.outputs.tolist())
        return base

    def add_calls(self, n: int, inputs: Sequence[Sequence[int]] | None, stage: int, priority: int = 0) -> int:
        base = super().add_calls(n, inputs, stage, priority)
        self.holds.update(range(base, base + n))
        return base

    def adopt(self, sizes: Sequence[int]) -> int:
        base = super().adopt(sizes)
        self.holds.update(range(base, base + len(sizes)))
        return base

    def hold(self, tasks: Iterable[int]) -> None:
        tasks = list(tasks)
        super().hold(tasks)
        self.holds.update(tasks)

    def release(self, tasks: Iterable[int]) -> None:
        tasks = list(tasks)
        super().release(tasks)
        self.holds.subtract(tasks)

    def renumber(self, together: Iterable[range] = ()) -> dict[int, int]:
        mapping = super().renumber(together)
        self.holds = Counter({mapping[task]: n for task, n in self.holds.items() if n})
        return mapping


def _require(truth: bool, message: str) -> None:
    if not truth:
        raise InternalError(f"scheduler invariant broken: {message}")


def _counts(s: Scheduler, holds: Mapping[int, int]) -> None:
    uses = Counter(holds)
    for task, state in enumerate(s.states):
        if state not in WANTING:
            continue
        inputs = s.inputs(task)
        missing = sum(s.states[block] not in FINISHED for block in inputs)
        _require(s.remaining[task] == missing, f"task {task} remaining {s.remaining[task]}, not {missing}")
        if state in (WAITING, READY, APART):
            _require((state != WAITING) == (missing == 0), f"task {task} is {STATES[state]} with {missing} missing")
            _require((state == APART) <= (task in s.queue.terms), f"task {task} is apart without terms")
            _require((state == READY) <= (task not in s.queue.terms), f"task {task} is ready in spite of its terms")
        uses.update(inputs)
        _require(all(s.states[b] != RELEASED for b in inputs), f"task {task} has lost an input")
        if not s.stopped and state != FAILED and task not in s.cancelled:
            lost = [b for b in inputs if s.states[b] == FAILED or b in s.cancelled]
            _require(not lost, f"task {task} is {STATES[state]}, though {lost} will not run")
        for block in set(inputs):
            _require(inputs.count(block) == s.users_of(block).count(task), f"{block} does not know its user {task}")
    for task, state in enumerate(s.states):
        _require(s.uses[task] == uses[task], f"block {task} has {s.uses[task]} uses left, not {uses[task]}")
        if state in (HELD, SPILLED, RELEASED) or (state == FAILED and not s.stopped):
            _require((state == RELEASED) == (uses[task] == 0), f"{STATES[state]} block {task}, {uses[task]} uses left")
        _require((state == RUNNING) or task not in s.cancelled, f"task {task} is {STATES[state]} and to be cancelled")
    left = sum(state <= RUNNING for state in s.states)
    _require(s.unfinished == left, f"unfinished {s.unfinished}, not {left}")


def _queues(s: Scheduler) -> None:
    queue = s.queue
    for place, task in enumerate(queue.order[: queue.n].tolist()):
        _require(queue.ranks[task] == place, f"task {task} has rank {queue.ranks[task]} at {place}")
    for task in _in_state(s, READY):
        rank = queue.ranks[task]
        _require(queue.task(rank) == task, f"rank {rank} of task {task} leads to {queue.task(rank)}")
        found = queue.cursor <= rank < queue.n or rank in queue.passed
        _require(found, f"task {task} of rank {rank} is ready behind the cursor {queue.cursor}, and not in the heap")
    for task in _in_state(s, APART):
        _require(queue.ranks[task] in queue.apart[queue.terms[task]], f"task {task} is apart and in no heap")
    for heap in (queue.passed, *queue.apart.values()):
        _require(all(heap[(i - 1) // 2] <= heap[i] for i in range(1, len(heap))), "a heap is not one")
        stands = [rank for rank in heap if s.states[queue.task(rank)] in (READY, APART)]
        _require(len(stands) == len(set(stands)), f"ranks {stands} are in one heap twice")


def _batches(s: Scheduler) -> None:
    running: list[int] = []
    loading: list[int] = []
    for worker, run in s.running.items():
        before: set[int] = set()
        for task in run.tasks:
            for block in s.inputs(task):
                ok = s.states[block] == HELD or block in before or block in run.loads
                _require(ok, f"worker {worker} has task {task} while its input {block} is {STATES[s.states[block]]}")
            before.add(task)
        running += run.tasks
        loading += run.loads
    _require(sorted(running) == _in_state(s, RUNNING), f"running are {_in_state(s, RUNNING)}, in batches {running}")
    _require(sorted(loading) == _in_state(s, LOADING), f"loading are {_in_state(s, LOADING)}, in batches {loading}")
    spilling = sorted(s.spilling[1]) if s.spilling else []
    _require(spilling == _in_state(s, SPILLING), f"spilling are {_in_state(s, SPILLING)}, asked for {spilling}")
    _require(s.spilling is None or bool(spilling), "somebody spills nothing")


def _bytes(s: Scheduler) -> None:
    def weigh(*states: int) -> int:
        return sum(s.sizes[task] for task, state in enumerate(s.states) if state in states)

    _require(s.held == weigh(HELD, SPILLING), f"held {s.held}, not {weigh(HELD, SPILLING)}")
    _require(s.on_disk == weigh(SPILLED, LOADING), f"on disk {s.on_disk}, not {weigh(SPILLED, LOADING)}")
    reserved = sum(run.reserved for run in s.running.values())
    _require(s.reserved == reserved, f"reserved {s.reserved}, not {reserved}")
    for worker, run in s.running.items():
        need = sum(s.sizes[task] for task in run.tasks) + sum(s.sizes[block] for block in run.loads)
        need += max((s.work[task] for task in run.tasks), default=0)
        _require(run.reserved >= need, f"worker {worker} has reserved {run.reserved} for {need}")
    _require(s.peak >= s.held + s.reserved, f"peak {s.peak} below {s.held + s.reserved}")
    for block in s.pins:
        _require(s.states[block] != RELEASED, f"block {block} is released while somebody looks at it")


def _in_state(s: Scheduler, wanted: int) -> list[int]:
    return [task for task, state in enumerate(s.states) if state == wanted]
