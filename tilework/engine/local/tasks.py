"""What there is to do: the tasks of all graphs and futures, who needs whom, and who still wants what.

Tasks are numbered as they come, and the arrays of this module have an entry for each. A graph brings its edges as
arrays, and so does the list of users of each task *inside* it. Users that come later (calls whose inputs are
futures, graphs over persisted blocks) are in ``later``.

Who wants a block is counted in ``uses``: tasks that need it and have not finished, places in a graph's outputs, and
holds of futures. When a count comes down to nothing,

- a finished block is released, in memory or on disk;
- a task that has not started will not run: it fails, without anybody being told, and is released;
- a FAILED task is released: until then it keeps its inputs, so that it can be tried again;
- a task that runs, or whose block is on its way to or from disk, is looked at again when that is over;

and a task that fails or is not run lets go of its inputs when it is released. (Tasks that nobody ever wanted, such as
those that write, run all the same: their count never *comes* down.) So whatever is cancelled, failed or forgotten, in
the end nothing remains of it.

What has been released is told by :meth:`Tasks.take_freed`, whatever event released it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.local.queue import Queue, enlarged
from tilework.engine.local.states import (
    APART,
    FAILED,
    HELD,
    ILLEGAL,
    READY,
    RELEASED,
    RUNNING,
    SPILLED,
    STATES,
    STEPS,
    WAITING,
)
from tilework.engine.taskgraph import users_of


class GraphArrays(Protocol):
    """What the scheduler needs of a graph: see :class:`~tilework.engine.taskgraph.TaskGraph`."""

    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def indptr(self) -> np.ndarray: ...
    @property
    def deps(self) -> np.ndarray: ...
    @property
    def out_bytes(self) -> np.ndarray: ...
    @property
    def work_bytes(self) -> np.ndarray: ...
    @property
    def rank(self) -> np.ndarray: ...
    @property
    def outputs(self) -> np.ndarray: ...


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
        self.on_disk = 0  # bytes of SPILLED and LOADING blocks
        self.pins: dict[int, int] = {}  # how many look at a block from outside: it may not be written
        self.unwritable: set[int] = set()  # held blocks that cannot be written
        self.cancelled: set[int] = set()  # RUNNING tasks that count as FAILED when they come back
        self.attempts: dict[int, int] = {}  # how often a task has raised
        self._freed: list[int] = []

    # ------------------------------------------------------------ growing

    def new_stage(self, learns: bool = True) -> int:
        """A number for tasks that do the same: time, and memory if it ``learns``, are learned from the first."""
        self.seconds.append(inf)
        self.expected.append(0)
        self.learns.append(learns)
        return len(self.seconds) - 1

    def add(
        self,
        graph: GraphArrays,
        held: Mapping[int, int] | None = None,
        priority: int = 0,
        learns: Sequence[bool] | None = None,
    ) -> int:
        """Add the tasks of a graph. Its task ``t`` is ``base + t`` here, for the ``base`` that is returned.

        Each place in ``graph.outputs`` is one hold. Tasks that need a FAILED one are FAILED from the start.

        Parameters
        ----------
        graph
            It is not changed, and not kept.
        held
            Task of the graph → task that stands for it: what the former needs is ignored, and it never runs.
        priority
            Higher goes first.
        learns
            For each stage of the graph whether it makes blocks of which nothing is predicted.
        """
        held = held or {}
        base, n = len(self.states), len(graph.rank)
        number, own = np.arange(base, base + n), np.zeros(n, bool)
        counts, deps = np.diff(graph.indptr), graph.deps
        if held:
            number[list(held)] = list(held.values())
            own[list(held)] = True
            deps = deps[~np.repeat(own, counts)]
            counts[own] = 0
        deps = number[deps].astype(np.int32)
        indptr = np.cumsum(counts)
        self._check_alive(held.values())
        users_indptr, users = users_of(np.concatenate([[0], indptr]), deps, base)
        uses = np.diff(users_indptr)
        np.add.at(uses, graph.outputs[~own[graph.outputs]], 1)

        states = np.where(counts == 0, READY, WAITING).astype(np.uint8)
        states[own] = RELEASED
        first_stage = len(self.seconds)
        for s, (a, b) in enumerate(zip(graph.offsets[:-1].tolist(), graph.offsets[1:].tolist(), strict=True)):
            self.new_stage(learns is not None and learns[s])
            self.stage_of += [first_stage + s] * (b - a)
        edges, user_edges = self.indptr[base], self.users_indptr[base]
        self._extend(base, n, edges + indptr, deps, user_edges + users_indptr[1:], users + np.int32(base))
        self.sizes[base : base + n] = graph.out_bytes.astype(np.int64).data
        self.work[base : base + n] = graph.work_bytes.astype(np.int64).data
        self.remaining += counts.tolist()
        self.uses += uses.tolist()
        self.states += states.tobytes()
        self.queue.enter(base, graph.rank, n, priority)
        self.unfinished += n - len(held)

        for block in number[graph.outputs[own[graph.outputs]]].tolist():
            self.uses[block] += 1
        self._join_others(base, np.repeat(np.arange(base, base + n), counts), deps)
        if priority:
            self.queue.offer(t for t in range(base, base + n) if self.states[t] == READY)
        return base

    def add_calls(self, n: int, inputs: Sequence[Sequence[int]] | None, stage: int, priority: int = 0) -> int:
        """Add ``n`` tasks of one stage, each held once; ``inputs[i]`` are the tasks that task ``base + i`` needs.

        Returns ``base``. Tasks that need a FAILED one are FAILED from the start.
        """
        base = len(self.states)
        deps: list[int] = []
        counts = [0] * n
        if inputs is not None:
            counts = [len(blocks) for blocks in inputs]
            deps = [block for blocks in inputs for block in blocks]
            self._check_alive(deps)
        self._new_tasks(base, n, stage, READY, counts, deps)
        self.queue.enter(base, None, n, priority)
        self.unfinished += n
        if deps:
            users = [task for task, count in enumerate(counts, base) for _ in range(count)]
            self.remaining[base:] = counts
            for task, count in enumerate(counts, base):
                if count:
                    self.states[task] = WAITING
            self._join(users, deps)
        if priority:
            self.queue.offer(t for t in range(base, base + n) if self.states[t] == READY)
        return base

    def adopt(self, sizes: Sequence[int]) -> int:
        """Add blocks that exist: tasks that have finished, each held once. Returns ``base``."""
        base, n = len(self.states), len(sizes)
        self._new_tasks(base, n, 0, HELD, [0] * n, [])
        for task, size in enumerate(sizes, base):
            self.sizes[task] = size
        self.queue.enter(base, None, n, 0)
        self.held += sum(sizes)
        return base

    def _new_tasks(self, base: int, n: int, stage: int, state: int, counts: list[int], deps: list[int]) -> None:
        """Tasks without users, held once, of which nothing is predicted."""
        edges, user_edges = self.indptr[base], self.users_indptr[base]
        if n == 1:
            self._extend(base, 1, None, None, None, None, len(deps))
            self.indptr[base + 1] = edges + len(deps)
            self.users_indptr[base + 1] = user_edges
            for block in deps:
                self.deps[edges] = block
                edges += 1
            self.sizes[base] = self.work[base] = 0
        else:
            none = np.zeros(n, np.int64)
            self._extend(
                base, n, edges + np.cumsum(counts), np.array(deps, np.int32), none + user_edges, np.empty(0, np.int32)
            )
            self.sizes[base : base + n] = self.work[base : base + n] = none.data
        self.remaining += [0] * n
        self.uses += [1] * n
        self.stage_of += [stage] * n
        self.states += bytes([state]) * n

    def _extend(
        self,
        base: int,
        n: int,
        indptr: np.ndarray | None,
        deps: np.ndarray | None,
        users_indptr: np.ndarray | None,
        users: np.ndarray | None,
        more: int = 0,
    ) -> None:
        """Make room in the arrays, and enter edges."""
        edges, user_edges = self.indptr[base], self.users_indptr[base]
        self.indptr = enlarged(self.indptr, base + 1, n)
        self.users_indptr = enlarged(self.users_indptr, base + 1, n)
        self.sizes = enlarged(self.sizes, base, n)
        self.work = enlarged(self.work, base, n)
        self.deps = enlarged(self.deps, edges, more if deps is None else len(deps))
        if indptr is not None and deps is not None and users_indptr is not None and users is not None:
            self.users = enlarged(self.users, user_edges, len(users))
            self.indptr[base + 1 : base + 1 + n] = indptr.data
            self.users_indptr[base + 1 : base + 1 + n] = users_indptr.data
            self.deps[edges : edges + len(deps)] = deps.data
            self.users[user_edges : user_edges + len(users)] = users.data

    def _check_alive(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if self.states[block] == RELEASED:
                raise InternalError(f"task {block} was released, and is needed again")

    def _join_others(self, base: int, users: np.ndarray, deps: np.ndarray) -> None:
        older = deps < base
        if older.any():
            self._join(users[older].tolist(), deps[older].tolist())

    def _join(self, users: Sequence[int], blocks: Sequence[int]) -> None:
        """Enter edges from new tasks to ones of before; what they count on is taken back if it is not so."""
        states, uses, later, remaining = self.states, self.uses, self.later, self.remaining
        failing: list[int] = []
        ready: list[int] = []
        for user, block in zip(users, blocks, strict=True):
            uses[block] += 1
            known = later.get(block)
            if known is None:
                later[block] = [user]
            else:
                known.append(user)
                if len(known) > 64 and len(known) > 4 * uses[block]:  # most of them have finished
                    known[:] = [task for task in known if states[task] <= RUNNING]
            state = states[block]
            if HELD <= state <= RELEASED:
                remaining[user] = left = remaining[user] - 1
                if not left:
                    ready.append(user)
            elif state == FAILED:
                failing.append(user)
        for user in ready:
            states[user] = READY  # as if it had never been anything else
        self._let_go(self._doom(failing))

    # ------------------------------------------------------------ reading

    def inputs(self, task: int) -> list[int]:
        """The tasks that this one needs, in order; one that is needed twice stands twice."""
        return self.deps[self.indptr[task] : self.indptr[task + 1]].tolist()

    def users_of(self, task: int) -> list[int]:
        """The tasks that need this one; of a finished one, those that have not finished are among them."""
        return self.users[self.users_indptr[task] : self.users_indptr[task + 1]].tolist() + self.later.get(task, [])

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
        self.unblock([task for task in again if self.states[task] == WAITING and not self.remaining[task]])
        return again

    # ------------------------------------------------------------ transitions

    def move(self, event: str, tasks: list[int]) -> None:
        """Take all ``tasks`` along one arrow of the table, or raise and change none."""
        states = self.states
        new = bytes(map(states.__getitem__, tasks)).translate(STEPS[event])
        if ILLEGAL in new:
            task = tasks[new.index(ILLEGAL)]
            raise InternalError(f"task {task} is {STATES[states[task]]}: no transition for {event!r}")
        for task, state in zip(tasks, new, strict=True):
            states[task] = state

    def unblock(self, tasks: list[int]) -> None:
        """Nothing is missing for these tasks any more."""
        self.move("unblock", tasks)
        self.queue.offer(tasks)
        if self.queue.terms:
            apart = [task for task in tasks if task in self.queue.terms]
            self.move("set_apart", apart)
            self.queue.set_apart(apart)

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
