"""Looks after busy workers: who takes too much memory, takes too long, or does not move at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tilework.engine.cluster.scheduler.limits import is_stopped, own_bytes
from tilework.engine.cluster.scheduler.members import SERVING, Cause, Members, Worker

BUSY_SECONDS: Final = 0.05  # between two looks at a busy worker: in that time one can write some 100 MB
IDLE_SECONDS: Final = 1.0
STOPPED_SECONDS: Final = 5.0  # SIGSTOP for longer than that, with work to do, and its work is given to others


class Watch:
    """Decides which workers are to be killed.

    Parameters
    ----------
    members
        The workers.
    marks
        What the threads of a slot run (``Arena.marks``).
    memory_limit
        Bytes that a worker may take for itself.
    task_timeout
        Seconds that a task may take; None if there is no limit.
    """

    def __init__(
        self, members: Members, marks: Callable[[int], list[int]], memory_limit: int, task_timeout: float | None
    ) -> None:
        self._members, self._marks = members, marks
        self._memory_limit, self._task_timeout = memory_limit, task_timeout
        self._looked = 0.0

    def due(self) -> float:
        """When to look next."""
        busy = any(worker.batches for worker in self._members.workers.values())
        return self._looked + (BUSY_SECONDS if busy else IDLE_SECONDS)

    def look(self, now: float) -> list[tuple[Worker, Cause]]:
        """Look at all workers; return those that must go."""
        self._looked = now
        out = []
        for worker in self._members.workers.values():
            if worker.state != SERVING or worker.cause is not None:
                continue
            cause = self._take(worker, now) or self._time(worker, now)
            if cause is not None:
                out.append((worker, cause))
        return out

    def _take(self, worker: Worker, now: float) -> Cause | None:
        if not worker.batches and now - worker.looked < IDLE_SECONDS:
            return None
        worker.looked = now
        worker.own_bytes = own_bytes(worker.pid)
        if worker.own_bytes <= self._memory_limit:
            return None
        return Cause("memory", frozenset(task for task in self._marks(worker.slot) if task >= 0), worker.own_bytes)

    def _time(self, worker: Worker, now: float) -> Cause | None:
        if not worker.batches:
            worker.marks.clear()
            worker.stopped = None
            return None
        if self._task_timeout is not None:
            hung = self._hung(worker, now, self._task_timeout)
            if hung is not None:
                return Cause("timeout", hung)
        if not is_stopped(worker.pid):
            worker.stopped = None
        elif worker.stopped is None:
            worker.stopped = now
        elif now - worker.stopped > STOPPED_SECONDS:
            return Cause("stopped")
        return None

    def _hung(self, worker: Worker, now: float, timeout: float) -> frozenset[int] | None:
        """The tasks that have taken too long; none of them if it has not even begun. None if all is well."""
        marks = self._marks(worker.slot)
        for thread, task in enumerate(marks):
            if task < 0:
                worker.marks.pop(thread, None)
            elif worker.marks.get(thread, (-1, 0.0))[0] != task:
                worker.marks[thread] = task, now
        hung = frozenset(task for task, since in worker.marks.values() if now - since > timeout)
        if hung:
            return hung
        first = next(iter(worker.batches.values()))
        return frozenset() if not worker.marks and now - first.sent > timeout else None
