"""What becomes of tasks whose worker died. Pure: no I/O.

Whoever kills a worker on purpose says why (:class:`~tilework.engine.cluster.scheduler.members.Cause`), and whose fault
it is. Those tasks fail. All others just run again, on any worker.

If a worker died by itself, what its board says was running are suspects: each of them may have killed it, and most
have not. They run again one by one, in the cell (see ``members``). So at the next death there is one suspect only, and
whoever is it :data:`DEATHS` times fails, with the story of all of them.

One thing is hard to tell from a task that kills its worker: somebody who sends SIGKILL to workers, again and again,
while a task runs for long. But who kills itself does so after the same time; if that differs the death does not count.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from typing import Final

from tilework.base.errors import KilledWorker, MemoryLimitError, TaskTimeoutError
from tilework.base.sizes import format_bytes
from tilework.engine.cluster.scheduler.dispatch import Dispatch
from tilework.engine.cluster.scheduler.futures import Futures
from tilework.engine.cluster.scheduler.limits import how_it_ended, memory_limit_text
from tilework.engine.cluster.scheduler.members import CREDITS, STARTING, Members, Worker, credits_of
from tilework.engine.cluster.store.values import dump_error
from tilework.engine.local.states import FAILED, RUNNING

DEATHS: Final = 3
MOST_DEATHS: Final = 10  # whether they count or not
# Seconds, with what it takes to hear of it: whoever runs for longer must be killed once more to be found guilty of it,
AT_ONCE: Final = 0.1
# each time after the same time, give or take this share of it.
ALIKE: Final = 0.2


class Faults:
    """Deaths of workers, and the stories of tasks that were there.

    Parameters
    ----------
    memory_limit
        Bytes that a worker may take.
    task_timeout
        Seconds that a task may take; None if there is no limit.
    """

    def __init__(
        self, futures: Futures, members: Members, dispatch: Dispatch, memory_limit: int, task_timeout: float | None
    ) -> None:
        self._futures, self._members, self._dispatch = futures, members, dispatch
        self._core = futures.core
        self._memory_limit, self._task_timeout = memory_limit, task_timeout
        self._stories: dict[int, list[tuple[str, float | None]]] = {}  # by task: a line a death, and `elapsed`
        self._homeless: set[int] = set()  # suspects for whom there is no cell yet

    def worker_died(
        self, worker: Worker, code: int | None, marks: list[int], now: float, out_of_memory: bool = False
    ) -> None:
        """A worker has ended, and all it said was heard. ``marks`` is what its threads were running.

        ``Futures.collect`` must follow.
        """
        core, blocks = self._core, self._futures.blocks
        lost: set[int] = set()
        for batch in worker.batches.values():
            lost.update(core.died(batch.credit))
            self._dispatch.free_scratch(batch)
        if worker.spilling is not None:
            for task in list(core.spilling[1]) if core.spilling is not None else ():
                blocks.kept(task)
            core.died(worker.spilling)
        core.unpin(worker.viewed)
        for value in [*worker.viewed_arguments.values(), *worker.graphs.values(), *worker.forgetting.values()]:
            blocks.unref(value)
        began = max((batch.sent for batch in worker.batches.values()), default=now)
        self._members.leave(worker)
        cause = worker.cause
        for task in worker.suspects:
            self._to_cell(task)
        running = [task for task in marks if task in lost and task not in self._futures.failures]
        for task in running:
            if cause is None:
                unexplained = code == -signal.SIGKILL and not out_of_memory and task in worker.suspects
                self._suspect(worker, task, how_it_ended(code, out_of_memory), now - began if unexplained else None)
            elif task in cause.tasks:
                self._punish(worker, task, len(running))

    def _suspect(self, worker: Worker, task: int, end: str, elapsed: float | None = None) -> None:
        """``elapsed``: how long it had been running, where that may acquit it."""
        story = self._stories.setdefault(task, [])
        seen = f", {format_bytes(worker.own_bytes)} of memory when last seen" if worker.own_bytes else ""
        line = f"{time.strftime('%H:%M:%S')}: worker {worker.number} (process {worker.pid}{seen}) {end}"
        story.append((line, elapsed))
        if not _is_guilty([elapsed for _, elapsed in story]):
            self._to_cell(task)
            return
        lines = "\n".join(f"  {line}" for line, _ in story)
        self.fail(
            task,
            KilledWorker(
                f"the task {self._futures.label(task)!r} was running each time when {len(story)} workers died, so it "
                f"will not be tried again:\n{lines}\nIf it crashes in compiled code, run it by itself with "
                "scheduler='sync' under faulthandler; if memory was short, give it less at a time or use fewer workers"
            ),
        )

    def _punish(self, worker: Worker, task: int, running: int) -> None:
        """We have killed the worker because of this task."""
        cause = worker.cause
        assert cause is not None
        label = f"the task {self._futures.label(task)!r}"
        if cause.kind == "timeout":
            self.fail(
                task,
                TaskTimeoutError(
                    f"{label} was stopped: it ran for longer than task_timeout={self._task_timeout:g} s on worker "
                    f"{worker.number}. Give it less to do at a time, or set a longer task_timeout"
                ),
            )
        elif cause.kind == "memory":
            if running > 1:  # it may have been another one
                self._suspect(worker, task, f"was stopped, since it had taken {format_bytes(cause.taken)}")
                return
            sizes = [self._core.sizes[block] for block in dict.fromkeys(self._core.inputs(task))]
            text = memory_limit_text(label, cause.taken, self._memory_limit, sizes, worker.threads)
            self.fail(task, MemoryLimitError(text))

    # ------------------------------------------------------------ cells

    def _to_cell(self, task: int) -> None:
        """Run it alone, as soon as there is a cell for it."""
        self._homeless.add(task)
        self._core.alone([task])
        self._core.bind([task], ())

    def leaving(self, worker: Worker) -> None:
        """A worker will take no more batches."""
        for task in worker.suspects:
            self._to_cell(task)
        worker.suspects.clear()

    def house(self) -> None:
        """Find cells for suspects, and open those that are not needed any more. To be called at the end of a turn."""
        for worker in self._members.workers.values():
            if worker.suspects:
                worker.suspects -= self._acquit(worker.suspects)
        self._homeless -= self._acquit(self._homeless)
        if not self._homeless:
            return
        workers = self._members.present
        if any(worker.state == STARTING for worker in workers):
            return  # at best it is one that has run nothing yet
        for task in self._homeless.copy():
            allowed = self._futures.bound.get(task)
            cells = [w for w in workers if w.cause is None and (allowed is None or w.number in allowed)]
            if cells:
                cell = min(cells, key=lambda w: (not w.suspects, len(w.batches)))
                cell.suspects.add(task)
                self._core.bind([task], [cell.number * CREDITS])
                self._homeless.discard(task)

    def _acquit(self, tasks: set[int]) -> set[int]:
        """Those of these suspects that will not run now. Should they be tried again, they are tasks like others."""
        states, bound = self._core.states, self._futures.bound
        over = {task for task in tasks if states[task] > RUNNING}
        for task in over:
            if states[task] == FAILED:
                self._core.alone([task], False)
                self._core.bind([task], credits_of(bound[task]) if task in bound else None)
        return over

    def fail(self, task: int, error: Exception) -> None:
        """Do not run a task any more."""
        self._stories.pop(task, None)
        self._futures.fail(self._core.cancel([task]), dump_error(error))


def _is_guilty(elapsed: Sequence[float | None]) -> bool:
    """Whether a task is to blame for deaths of its workers: see the module's docstring. None counts in any case."""
    since = [seconds for seconds in elapsed if seconds is not None]
    alike = [seconds for seconds in since if abs(seconds - since[-1]) <= max(AT_ONCE, ALIKE * since[-1])]
    needed = DEATHS + bool(since and since[-1] > AT_ONCE)
    return len(elapsed) - len(since) + len(alike) >= needed or len(elapsed) >= MOST_DEATHS
