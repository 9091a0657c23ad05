"""What must be true of a :class:`~tilework.engine.local.state.Scheduler` between any two events.

The tests call :func:`validate` after every event. It recomputes every count from the states alone, so it is slow, and
a run never calls it.
"""

from __future__ import annotations

from collections import Counter

from tilework.base.errors import InternalError
from tilework.engine.local.state import (
    HELD,
    LOADING,
    READY,
    RELEASED,
    RUNNING,
    SPILLED,
    SPILLING,
    STATES,
    WAITING,
    Scheduler,
)

FINISHED = (HELD, SPILLING, SPILLED, LOADING, RELEASED)


def validate(scheduler: Scheduler) -> None:
    """Raise InternalError, naming the task or the number, if an invariant does not hold."""
    _counts(scheduler)
    _queues(scheduler)
    _batches(scheduler)
    _bytes(scheduler)


def _require(truth: bool, message: str) -> None:
    if not truth:
        raise InternalError(f"scheduler invariant broken: {message}")


def _counts(s: Scheduler) -> None:
    graph = s.graph
    indptr, deps = graph.indptr.tolist(), graph.deps.tolist()
    uses = Counter(graph.outputs.tolist())
    for task, state in enumerate(s.states):
        inputs = deps[indptr[task] : indptr[task + 1]]
        missing = sum(s.states[block] not in FINISHED for block in inputs)
        _require(s.remaining[task] == missing, f"task {task} remaining {s.remaining[task]}, not {missing}")
        if state in (WAITING, READY):
            _require((state == READY) == (missing == 0), f"task {task} is {STATES[state]} with {missing} missing")
        if state not in FINISHED:
            uses.update(inputs)
            _require(all(s.states[b] != RELEASED for b in inputs), f"task {task} has lost an input")
        if state in FINISHED:
            _require(missing == 0, f"task {task} finished before its inputs")
    for task, state in enumerate(s.states):
        _require(s.uses[task] == uses[task], f"block {task} has {s.uses[task]} uses left, not {uses[task]}")
        if state in FINISHED:
            _require((state == RELEASED) == (uses[task] == 0), f"{STATES[state]} block {task}, {uses[task]} uses left")
    left = sum(state not in FINISHED for state in s.states)
    _require(s.unfinished == left, f"unfinished {s.unfinished}, not {left}")


def _queues(s: Scheduler) -> None:
    order = s.graph.order.tolist()
    passed = sorted(s._passed)
    expected = [rank for rank in range(min(s._cursor, len(order))) if s.states[order[rank]] == READY]
    _require(passed == expected, f"ready tasks behind the cursor {s._cursor}: {expected}, in the heap: {passed}")


def _batches(s: Scheduler) -> None:
    indptr, deps = s.graph.indptr.tolist(), s.graph.deps.tolist()
    running: list[int] = []
    loading: list[int] = []
    for worker, run in s.running.items():
        before: set[int] = set()
        for task in run.tasks:
            for block in deps[indptr[task] : indptr[task + 1]]:
                ok = s.states[block] == HELD or block in before or block in run.loads
                _require(ok, f"worker {worker} has task {task} while its input {block} is {STATES[s.states[block]]}")
            before.add(task)
        running += run.tasks
        loading += run.loads
    _require(sorted(running) == _in_state(s, RUNNING), f"running are {_in_state(s, RUNNING)}, in batches {running}")
    _require(sorted(loading) == _in_state(s, LOADING), f"loading are {_in_state(s, LOADING)}, in batches {loading}")
    spilling = sorted(s.spilling[1]) if s.spilling else []
    _require(spilling == _in_state(s, SPILLING), f"spilling are {_in_state(s, SPILLING)}, asked for {spilling}")
    _require(not (s.spilling and s.running), "tasks run while blocks are spilled")
    _require(s.spilling is None or bool(spilling), "somebody spills nothing")


def _bytes(s: Scheduler) -> None:
    def weigh(*states: int) -> int:
        return sum(s.sizes[task] for task, state in enumerate(s.states) if state in states)

    _require(s.held == weigh(HELD, SPILLING), f"held {s.held}, not {weigh(HELD, SPILLING)}")
    _require(s.on_disk == weigh(SPILLED, LOADING), f"on disk {s.on_disk}, not {weigh(SPILLED, LOADING)}")
    reserved = sum(run.reserved for run in s.running.values())
    _require(s.reserved == reserved, f"reserved {s.reserved}, not {reserved}")
    graph = s.graph
    for worker, run in s.running.items():
        need = sum(int(graph.out_bytes[task]) for task in run.tasks) + sum(s.sizes[block] for block in run.loads)
        need += max((int(graph.work_bytes[task]) for task in run.tasks), default=0)
        _require(run.reserved >= need, f"worker {worker} has reserved {run.reserved} for {need}")
    _require(s.peak >= s.held + s.reserved, f"peak {s.peak} below {s.held + s.reserved}")


def _in_state(s: Scheduler, wanted: int) -> list[int]:
    return [task for task, state in enumerate(s.states) if state == wanted]
