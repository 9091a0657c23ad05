"""The scheduler core under a virtual clock: thousands of workers in one thread, to see what scheduling itself costs.

The core is the real one, and so are its graphs; time, workers, messages and the disk are imagined. A day of a cluster
takes seconds, a run with the same numbers is the same run, and what remains of the real time is what the core took.

A worker is a process that runs one batch after another. It has ``credits``: for the core it is so many workers, and
while it runs the batch of one the next one is there already, or on its way. Workers that find nothing to do are asked
again when something is ready, one after another, so that a thousand idle workers cost as much as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TypeAlias

from tilework.base.errors import InternalError
from tilework.engine.local.state import Scheduler
from tilework.engine.local.states import Run, Spill

_Step: TypeAlias = Run | Spill | None  # None: the worker dies


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulated run went.

    Attributes
    ----------
    seconds
        Of the virtual clock.
    busy
        The share of that time that workers were running tasks, on average.
    tasks
        How often a task was run to its end.
    events
        How often the core was called.
    """

    seconds: float
    busy: float
    tasks: int
    events: int


class Simulation:
    """Workers for a scheduler.

    Parameters
    ----------
    scheduler
        With tasks in it. Its ``workers`` should be ``workers * credits``.
    workers
        How many processes there are, which run a batch each.
    seconds
        How long a task takes. For what is to depend on chance, draw from a generator with a seed.
    sizes
        What its block weighs; without it what was predicted.
    credits
        Batches that a process may have at a time.
    latency
        Seconds that a message takes one way.
    disk
        Bytes a second that are spilled or loaded.
    deaths
        ``(time, worker)``: then the process dies, and another one takes its place at once.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        workers: int,
        seconds: Callable[[int], float],
        sizes: Callable[[int], int] | None = None,
        credits: int = 1,
        latency: float = 1e-4,
        disk: float = 1e9,
        deaths: Iterable[tuple[float, int]] = (),
    ) -> None:
        self.now = 0.0
        self._core = scheduler
        self._seconds, self._sizes = seconds, sizes or scheduler.sizes.__getitem__
        self._credits, self._latency, self._disk = credits, latency, disk
        self._idle = list(range(workers * credits))[::-1]  # credits without a batch; the last is the next
        self._free = [0.0] * workers  # when each process has run what it has
        self._doing: dict[int, int] = {}  # credit → entry on the agenda; others with that credit are void
        self._agenda: list[tuple[float, int, int, _Step]] = []  # time, entry, credit or (for deaths) worker, report
        self._entries = 0
        self._events = self._done = 0
        self._busy = 0.0
        for time, worker in deaths:
            self._plan(time, worker, None)

    def run(self) -> Outcome:
        """Until there is nothing left to do."""
        core = self._core
        self._hand_out()
        while self._agenda and (core.unfinished or self._doing):
            time, entry, credit, step = heappop(self._agenda)
            if step is None:
                self.now = time
                self._die(credit)
            elif self._doing.get(credit) == entry:
                self.now = time
                self._report(credit, step)
            self._hand_out()
        if core.unfinished:
            raise InternalError(f"{core.unfinished} tasks are left, and all workers wait")
        self.now = max(self.now, 1e-300)
        return Outcome(self.now, self._busy / self.now / len(self._free), self._done, self._events)

    def _plan(self, time: float, credit: int, step: _Step) -> None:
        self._entries += 1
        heappush(self._agenda, (time, self._entries, credit, step))
        if step is not None:
            self._doing[credit] = self._entries

    def _hand_out(self) -> None:
        """Ask for workers without a batch, until one gets nothing; all of them if some tasks are not for everybody."""
        core, idle = self._core, self._idle
        k = len(idle)
        while k and core.has_ready:
            k -= 1
            self._events += 1
            step = core.next(idle[k])
            if isinstance(step, Run | Spill):
                self._start(idle.pop(k), step)
            elif not core.queue.apart:
                return

    def _start(self, credit: int, step: Run | Spill) -> None:
        """The worker gets it a moment later, and does it when it has done what it had before."""
        worker = credit // self._credits
        begin = max(self.now + self._latency, self._free[worker])
        if isinstance(step, Spill):
            took = sum(self._core.sizes[block] for block in step.blocks) / self._disk
        elif step.loads:
            took = sum(self._core.sizes[block] for block in step.loads) / self._disk
        else:
            took = sum(map(self._seconds, step.tasks))
            self._busy += took
        self._free[worker] = begin + took
        self._plan(begin + took + self._latency, credit, step)

    def _report(self, credit: int, step: Run | Spill) -> None:
        core = self._core
        self._events += 1
        if isinstance(step, Spill):
            core.spilled(credit, step.blocks)
        elif step.loads:
            core.loaded(credit)
            self._start(credit, step)
            return
        else:
            tasks = step.tasks
            self._done += len(tasks)
            core.finished(credit, list(map(self._sizes, tasks)), sum(map(self._seconds, tasks)))
        core.take_freed()
        del self._doing[credit]
        self._idle.append(credit)

    def _die(self, worker: int) -> None:
        for credit in range(worker * self._credits, (worker + 1) * self._credits):
            if self._doing.pop(credit, None) is not None:
                self._events += 1
                self._core.died(credit)
                self._idle.append(credit)
        self._free[worker] = self.now
