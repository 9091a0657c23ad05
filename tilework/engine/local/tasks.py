"""The tasks of all graphs and futures: who needs whom, who still wants what, what shall not run.

Tasks are numbered as they come, and the arrays of this module have an entry for each. A graph brings its edges as
arrays, and so the users of each task *inside* it are an array, too. Users that come later (calls whose inputs are
futures, graphs over persisted blocks) are in ``later``.

Who wants a block is counted in ``uses``: tasks that need it and have not finished, places in a graph's outputs, and
holds of futures. When a count comes down to nothing,

- a finished block is released, in memory or on disk;
- a task that has not started will not run: it fails, without anybody being told, and is released;
- a FAILED task is released: until then it keeps its inputs, so that it can be tried again;
- a task that runs, or whose block is on its way to or from disk, is looked at again when that is over;

and a task that failed lets go of its inputs when it is released. (Tasks that nobody ever wanted, such as those that
write, run all the same: their count never *comes* down.) So whatever is cancelled, failed or forgotten, in the end
nothing remains of it. :meth:`Tasks.take_freed` tells what has been released, whatever event released it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.local.queue import Queue
from tilework.engine.local.states import (
    APART,
    FAILED,
    HELD,
    ILLEGAL,
    LOADING,
    READY,
    RELEASED,
    RUNNING,
    SPILLED,
    SPILLING,
    STATES,
    STEPS,
    WAITING,
)


class Tasks:
    """The tasks of a scheduler: their states, edges and counts."""

    def __init__(self) -> None:
        # One entry a task. Lists where the numbers are small, since Python has those made already.
        self.states = bytearray()
        self.remaining: list[int] = []  # input edges whose task has not finished
        self.uses: list[int] = []  # user edges whose task has not finished, + places in outputs, + holds
        self.stage_of: list[int] = []
        self.sizes = np.empty(0, np.int64).data  # of the block in bytes: predicted, from `finished` on real
        self.work = np.empty(0, np.int64).data  # scratch in bytes
        # Task t needs deps[indptr[t]:indptr[t + 1]], and is needed by users[users_indptr[t]:users_indptr[t + 1]]
        # and later[t] (of finished tasks: if it has not finished itself; released ones are needed by none).
        self.indptr, self.deps = np.zeros(1, np.int64).data, np.empty(0, np.int32).data
        self.users_indptr, self.users = np.zeros(1, np.int64).data, np.empty(0, np.int32).data
        self.later: dict[int, list[int]] = {}
        self.queue = Queue(self.states)

        self.seconds: list[float] = []  # by stage: what a task of it takes; inf: not known yet
        self.expected: list[int] = []  # by stage: what a block weighs for which nothing was predicted
        self.learns: list[bool] = []  # by stage: whether `expected` follows what is seen
        self.unfinished = 0  # tasks that have not finished and are not FAILED or RELEASED
        self.held = 0  # bytes of HELD and SPILLING blocks
        self.reserved = 0  # bytes that running batches may come to hold
        self.peak = 0  # the most that held + reserved has been
        self.on_disk = 0  # bytes of SPILLED and LOADING blocks
        self.pins: dict[int, int] = {}  # how many look at a block from outside: it may not be written
        self.unwritable: set[int] = set()  # held blocks that cannot be written
        self.cancelled: set[int] = set()  # RUNNING tasks that count as FAILED when they come back
        self.attempts: dict[int, int] = {}  # how often a task has raised
        self._freed: list[int] = []

    # ------------------------------------------------------------ reading

    def inputs(self, task: int) -> list[int]:
        """The tasks that this one needs, in order; one that is needed twice stands twice."""
        return self.deps[self.indptr[task] : self.indptr[task + 1]].tolist()

    def users_of(self, task: int) -> list[int]:
        """The tasks that need this one; of a finished one, those that have not finished are among them."""
        return self.users[self.users_indptr[task] : self.users_indptr[task + 1]].tolist() + self.later.get(task, [])

    def elsewhere(self, task: int) -> bool:
        """Whether an input is not in memory, or moving. Only the first task of a batch may have such."""
        return any(self.states[block] in (SPILLED, LOADING, SPILLING) for block in self.inputs(task))

    def completed(self, task: int, inputs: dict[int, int]) -> list[int]:
        """Later users of a task in a batch that need nothing else but tasks of the batch, counted in ``inputs``."""
        found = []
        for user in self.later[task]:
            inputs[user] = inputs.get(user, 0) + 1
            if inputs[user] == self.remaining[user] and self.states[user] == WAITING and user not in self.queue.terms:
                found.append(user)
        return found

    def frees(self, task: int) -> int:
        """Bytes of inputs that nobody needs after this task."""
        blocks = self.inputs(task)
        return sum(self.sizes[block] for block in set(blocks) if self.uses[block] == blocks.count(block))

    def take_freed(self) -> list[int]:
        """Tasks that were released since this was last called. Drop their blocks, and all that is known of them."""
        freed, self._freed = self._freed, []
        return freed

    # ------------------------------------------------------------ who wants what

    def hold(self, tasks: Iterable[int]) -> None:
        """Somebody wants these blocks, once more."""
        tasks = list(tasks)
        self._check_alive(tasks)
        for task in tasks:
            self.uses[task] += 1

    def release(self, tasks: Iterable[int]) -> None:
        """Somebody who held these blocks wants them no longer."""
        uses = self.uses
        dropped = []
        for task in tasks:
            if uses[task] <= 0:
                raise InternalError(f"task {task} is released more often than it was held")
            uses[task] -= 1
            if not uses[task]:
                dropped.append(task)
        self._let_go(dropped)

    def pin(self, tasks: Iterable[int]) -> None:
        """Hold blocks that somebody looks at where they are, so that they are not written to disk meanwhile.

        One that is being written already must be reported as ``kept``.
        """
        tasks = list(tasks)
        self.hold(tasks)
        for task in tasks:
            self.pins[task] = self.pins.get(task, 0) + 1

    def unpin(self, tasks: Iterable[int]) -> None:
        """The opposite of :meth:`pin`."""
        tasks = list(tasks)
        for task in tasks:
            left = self.pins[task] - 1
            if left:
                self.pins[task] = left
            else:
                del self.pins[task]
        self.release(tasks)

    def cancel(self, tasks: Iterable[int]) -> list[int]:
        """Do not run these tasks, nor what needs them. Returns all that will not run.

        Finished ones stay, but nobody may use them any more. Those that run count as FAILED when they come back,
        whatever they bring.
        """
        doomed = []
        for task in tasks:
            doomed += [task] if self.states[task] <= RUNNING else self.users_of(task)
        failed = self._doom(doomed)
        self._let_go(failed)
        return failed

    def retry(self, tasks: Iterable[int]) -> list[int]:
        """Run FAILED tasks after all, and the FAILED ones that they need. Returns all that will run."""
        again = []
        todo = list(tasks)
        while todo:
            task = todo.pop()
            if task in self.cancelled:
                self.cancelled.remove(task)
            elif self.states[task] == FAILED:
                self.move("retry", [task])
                self.attempts.pop(task, None)
                self.unfinished += 1
            else:
                continue
            again.append(task)
            todo += self.inputs(task)
        self.queue.purge(again)
        self.unblock([task for task in again if self.states[task] == WAITING and not self.remaining[task]])
        return again

    def bind(self, tasks: Iterable[int], workers: Collection[int] | None) -> None:
        """Only these workers (None: all again) may be given the tasks, as far as they are not running."""
        tasks = list(dict.fromkeys(tasks))
        for task in tasks:
            self.queue.agree([task], workers, self.queue.terms.get(task, (None, False))[1])
        self._file(tasks)

    def alone(self, tasks: Iterable[int], alone: bool = True) -> None:
        """These tasks are handed out one at a time, marked ``Run.alone``, as far as they are not running."""
        tasks = list(dict.fromkeys(tasks))
        for task in tasks:
            self.queue.agree([task], self.queue.terms.get(task, (None, False))[0], alone)
        self._file(tasks)

    # ------------------------------------------------------------ transitions

    def move(self, event: str, tasks: list[int]) -> None:
        """Take all ``tasks`` along one arrow of the table, or raise and change none."""
        states, step = self.states, STEPS[event]
        if len(tasks) == 1 and (state := step[states[tasks[0]]]) != ILLEGAL:  # in a third of the time
            states[tasks[0]] = state
            return
        new = bytes(map(states.__getitem__, tasks)).translate(step)
        if ILLEGAL in new:
            task = tasks[new.index(ILLEGAL)]
            raise InternalError(f"task {task} is {STATES[states[task]]}: no transition for {event!r}")
        for task, state in zip(tasks, new, strict=True):
            states[task] = state

    def unblock(self, tasks: list[int]) -> None:
        """Nothing is missing for these tasks any more."""
        self.move("unblock", tasks)
        terms = self.queue.terms
        if terms:
            apart = [task for task in tasks if task in terms]
            self.move("set_apart", apart)
            self.queue.set_apart(apart)
            tasks = [task for task in tasks if task not in terms]
        self.queue.offer(tasks)

    def give_back(self, tasks: list[int]) -> None:
        """These were running, and did not finish: somebody else may run them, if they were not cancelled."""
        if self.cancelled:
            failed = [task for task in tasks if task in self.cancelled]
            self.fail(failed)
            self._let_go(failed)
            tasks = [task for task in tasks if self.states[task] == RUNNING]
        self.move("give_back", tasks)
        self.unblock([task for task in tasks if not self.remaining[task]])

    def fail(self, tasks: list[int]) -> None:
        """These will not run."""
        self.move("fail", tasks)
        self.unfinished -= len(tasks)
        self.cancelled.difference_update(tasks)

    def _doom(self, tasks: Iterable[int]) -> list[int]:
        """Fail these tasks and all that need them, as far as they have not finished. Returns those that do."""
        failed = []
        todo = list(tasks)
        while todo:
            task = todo.pop()
            if self.states[task] == RUNNING and task not in self.cancelled:
                self.cancelled.add(task)
            elif self.states[task] < RUNNING:
                self.fail([task])
            else:
                continue
            failed.append(task)
            todo += self.users_of(task)
        return failed

    def _let_go(self, tasks: Iterable[int]) -> None:
        """Release those of these tasks that nobody wants any more, and what they alone wanted."""
        states, uses = self.states, self.uses
        todo = [task for task in tasks if not uses[task]]
        while todo:
            task = todo.pop()
            state = states[task]
            if state in (WAITING, READY, APART):
                self.fail([task])
                state = FAILED
            if state == FAILED:
                for block in self.inputs(task):
                    uses[block] -= 1
                    if not uses[block]:
                        todo.append(block)
            elif state == HELD:
                self.held -= self.sizes[task]
            elif state == SPILLED:
                self.on_disk -= self.sizes[task]
            else:  # RUNNING, SPILLING or LOADING: looked at again when that is over; or RELEASED: listed twice
                continue
            self.move("release", [task])
            self._forget([task])

    def _forget(self, freed: list[int]) -> None:
        """These have been released."""
        self._freed += freed
        if self.later:
            for block in freed:
                self.later.pop(block, None)
        if self.unwritable:
            self.unwritable.difference_update(freed)
        if self.attempts:
            for block in freed:
                self.attempts.pop(block, None)
        if self.queue.terms:
            self.queue.forget(freed)

    def _file(self, tasks: list[int]) -> None:
        """Bring tasks whose terms have changed to where they belong."""
        ready = [task for task in tasks if self.states[task] == READY]
        apart = [task for task in tasks if self.states[task] == APART]
        self.move("rejoin", apart)
        self.queue.purge(apart)
        terms = self.queue.terms
        self.queue.offer(task for task in apart if task not in terms)
        filed = [task for task in ready + apart if task in terms]
        self.move("set_apart", filed)
        self.queue.set_apart(filed)

    def _check_alive(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if self.states[block] == RELEASED:
                raise InternalError(f"task {block} was released, and is needed again")
