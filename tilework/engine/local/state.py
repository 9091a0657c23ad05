"""The scheduler core: a pure state machine. No I/O, no threads, no clock; events in, instructions out.

The same core drives threads, clusters and the simulator. ``states`` has the states of a task, the table of the arrows
between them and the instructions; ``tasks`` the graphs and futures and who wants what of them; ``growing`` how they
come and go; ``queue`` which task is next; ``victims`` what goes to disk. Here is who runs what, and when.

Theory of operation
===================

Every task is in one state (see the picture in ``states``), and that is one half of the truth. The counts beside it
(``remaining`` inputs, ``uses`` left) are the other, so each event brings both up to date before it returns.
:func:`tilework.engine.local.check.validate` says what "up to date" means.

An engine calls one method per event, and obeys what it returns::

    next(worker)                  a worker wants work        → Run | Spill | WAIT | STOP
    loaded(worker)                its Run.loads are back
    finished(worker, sizes, s)    its batch is done
    failed(worker, sizes, ...)    a task of it raised        → whether to try again, and what will not run otherwise
    returned(worker, n)           n tasks were not started
    died(worker)                  it is gone                 → what it was running
    spilled(worker, blocks)       blocks are on disk
    kept(worker, blocks)          they are not
    stop()                        from now on next() says STOP

    add, add_calls, adopt         there is more to do, at any time
    hold, release, pin, unpin     somebody outside wants blocks, or no longer
    cancel, retry                 tasks shall not run, or run after all
    bind, alone                   only some workers may run these; only by themselves

After any of them :meth:`take_freed` has the blocks to drop. A *worker* is any integer, and need not be announced: it
stands for one batch at a time. A process that shall have a second batch waiting while it runs the first is two workers.

Policy
======

*Which task.* The ready one of lowest rank (see ``queue``). Ranks of a graph are a depth-first order in which inputs
precede users, so one worker that has memory enough runs exactly ``graph.order``.

At the end, when few calls are left for each worker and they are long, the ready one goes first behind which most is
still to do: a chain that is begun last is what everybody would wait for. (Blocks of arrays keep to their order, by
which their memory was predicted.)

*How many.* A worker takes a batch: tasks worth about a millisecond, by what earlier tasks of the stage took, less while
others are idle, and one task where nothing is known yet. A task may join a batch whose inputs come earlier in the
*same* batch, so chains and subtrees run inline on the worker that has their data. Wrong guesses do no harm, since an
engine can give back what a busy worker has not started (``returned``).

*When.* A batch is admitted when what is held, plus what the running batches have reserved, plus its own reservation
fits. A reservation is what its blocks will weigh, the largest scratch among them, and inputs to load from disk. If the
first ready task does not fit while others run, one of the next few may go instead, provided that it leaves no more
behind than it frees; anything else could starve the first. If nothing runs and nothing fits, blocks whose next use is
farthest are spilled. If there is nothing left to spill the task runs all the same: it can only be that sizes
were predicted too small, since a task that alone exceeds the budget is refused beforehand (``budget.refuse``).

*Spilling while others run.* An engine whose tasks take long need not wait for them: a worker that asks without being
``patient`` is told to spill as soon as nothing else fits. A block is never on its way out while somebody reads it:
when victims are chosen, the inputs of all running batches are left out; and no batch is handed out that reads a block
which is SPILLING, whatever it was made READY by, because :meth:`_demand` and :meth:`elsewhere` look at the states of
all inputs of what they admit. Pinned blocks are no victims, and a block that is pinned while it is written is kept.

*Sizes* of finished blocks are what the engine reports. Before that predictions serve; where there are none
(``learns``), what earlier tasks of the stage gave.

*Failures* stop nothing but what needs the failed task. An engine that wants to stop says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from math import inf
from typing import Final

from tilework.base.errors import InternalError
from tilework.engine.local.growing import GrowingTasks
from tilework.engine.local.queue import FAR, NONE, Terms
from tilework.engine.local.states import (
    LOADING,
    READY,
    SPILLED,
    SPILLING,
    STOP,
    WAIT,
    WAITING,
    Instruction,
    Run,
    Spill,
)
from tilework.engine.local.victims import victims

# ---------------------------------------------------------------- policy constants

BATCH_SECONDS: Final = 1e-3  # a batch costs ~10 microseconds of bookkeeping and hand-over: one percent
BATCH_TASKS: Final = 1000  # also bounds what an event for listeners weighs
BATCH_BYTES: Final = 1 << 20  # what a batch may reserve beyond its first task: more was not predicted ...
BATCH_SHARE: Final = 64  # ... and at most this fraction of the budget
LOOKAHEAD: Final = 8  # candidates tried when the first does not fit
END_TASKS: Final = 8  # calls left for each worker: the end
END_LOOK: Final = 256  # ... but not more tasks than that: each is looked at whenever a worker asks
END_SECONDS: Final = 1e-2  # and only for tasks that take so long, a hundred times what looking takes
_BLOCKED: Final = 1 << 62  # the demand of a task that waits for a block which is moving: fits nowhere


class Scheduler(GrowingTasks):
    """The tasks, and who runs them. See the module's docstring for the theory.

    Parameters
    ----------
    budget
        Bytes for blocks and scratch together. It may change: see ``limit``.
    workers
        How many will ask for work: decides how much one of them may take, and how much to spill at once. It may change.
    batch_seconds, batch_tasks
        What a batch shall take, and how many tasks it may have.
    """

    def __init__(
        self, budget: int, workers: int, batch_seconds: float = BATCH_SECONDS, batch_tasks: int = BATCH_TASKS
    ) -> None:
        super().__init__()
        self.workers = workers
        self.limit = budget  # what held + reserved may reach
        self.batch_seconds, self.batch_tasks = batch_seconds, batch_tasks
        self.spilled_total = 0  # bytes ever written
        self.running: dict[int, Run] = {}
        self.spilling: tuple[int, set[int]] | None = None  # the one worker that spills, and what it still has to
        self.stopped = False

    # ------------------------------------------------------------ what engines ask

    @property
    def limit(self) -> int:
        """Bytes that blocks, and what running tasks have reserved, may take."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit
        self._extra = min(BATCH_BYTES, limit // BATCH_SHARE)

    @property
    def room(self) -> int:
        """Bytes that are neither held nor reserved; negative if blocks weigh more than was predicted."""
        return self._limit - self.held - self.reserved

    @property
    def has_ready(self) -> bool:
        """Whether another worker could be worth waking."""
        return not self.stopped and (self.queue.lowest() != NONE or self.queue.lowest_apart(None) is not None)

    def next(self, worker: int, patient: bool = True) -> Instruction:
        """A worker has nothing to do. If it is not ``patient`` it rather spills than waits for others to finish."""
        if worker in self.running or (self.spilling is not None and self.spilling[0] == worker):
            raise InternalError(f"worker {worker} asks for work before it has reported its last")
        if self.stopped or (not self.unfinished and (patient or self.held <= self._limit)):
            return STOP
        apart = self.queue.lowest_apart(worker) if self.queue.apart else None
        rank, terms = (self.queue.lowest(), None) if apart is None else apart
        if rank == NONE:
            return self._nothing_ready(worker, patient)
        if terms is None and self.unfinished <= min(END_LOOK, END_TASKS * self.workers):
            rank = self._longest_way(rank)
        task = self.queue.task(rank)
        need, loads = self._demand(task)
        if need > self._limit - self.held - self.reserved:
            if self.running or self.spilling is not None:
                found = self._look_ahead()
                if found is not None:
                    task, need, loads = found
                    return self._admit(worker, Run([task], loads, need, self.work[task]), None)
                if patient or self.spilling is not None or need >= _BLOCKED:
                    return WAIT
            blocks = victims(self, need, self.inputs(task))
            if blocks:
                return self._spill(worker, blocks)
            if self.running:
                return WAIT
        if terms is None:
            self.queue.take(rank)
        else:
            heappop(self.queue.apart[terms])
        return self._admit(worker, Run([task], loads, need, self.work[task]), terms)

    # ------------------------------------------------------------ events

    def loaded(self, worker: int) -> None:
        """The blocks ``Run.loads`` are in memory again."""
        run = self._running(worker)
        loads = run.loads
        self.move("loaded", loads)
        size = sum(self.sizes[block] for block in loads)
        run.loads = []
        run.reserved -= size
        self.reserved -= size
        self.on_disk -= size
        self.held += size
        self._let_go(loads)

    def finished(self, worker: int, sizes: Sequence[int], seconds: float) -> None:
        """All tasks of the worker's batch are done; their blocks weigh ``sizes``.

        ``seconds`` is how long the whole batch took. Blocks of tasks that were cancelled meanwhile, and are FAILED or
        RELEASED now, are not kept.
        """
        run = self._running(worker)
        tasks = run.tasks
        if len(sizes) != len(tasks) or (run.loads and tasks):
            raise InternalError(f"worker {worker} reports {len(sizes)} of {len(tasks)} tasks, {len(run.loads)} loads")
        if tasks:
            self._learn(self.stage_of[tasks[0]], seconds / len(tasks), sum(sizes) // len(tasks))
        if run.loads:
            self._unload(run)
        if self.cancelled:
            tasks, sizes = self._without_cancelled(tasks, sizes)
        self.move("finish", tasks)
        del self.running[worker]
        self.reserved -= run.reserved
        self.unfinished -= len(tasks)

        states, weights, remaining, uses, later = self.states, self.sizes, self.remaining, self.uses, self.later
        indptr, deps, users_indptr, users = self.indptr, self.deps, self.users_indptr, self.users
        freed: list[int] = []
        ready: list[int] = []
        for task, size in zip(tasks, sizes, strict=True):
            weights[task] = size
            if not uses[task]:
                freed.append(task)
            first, stop = indptr[task], indptr[task + 1]
            while first < stop:
                block = deps[first]
                first += 1
                uses[block] = left = uses[block] - 1
                if not left:
                    freed.append(block)
            first, stop = users_indptr[task], users_indptr[task + 1]
            while first < stop:
                user = users[first]
                first += 1
                remaining[user] = left = remaining[user] - 1
                if not left and states[user] == WAITING:
                    ready.append(user)
            if later and task in later:
                for user in later[task]:
                    remaining[user] = left = remaining[user] - 1
                    if not left and states[user] == WAITING:
                        ready.append(user)
        self.held += sum(sizes)
        self.peak = max(self.peak, self.held + self.reserved)
        if ready:
            self.unblock(ready)
        if freed:
            self.move("release", freed)
            for block in freed:
                self.held -= weights[block]
            self._forget(freed)
        if self.queue.terms:
            self.queue.forget(tasks)

    def failed(self, worker: int, sizes: Sequence[int], seconds: float, retries: int) -> tuple[int | None, list[int]]:
        """Task number ``len(sizes)`` of the worker's batch raised, those before it are done, those after not started.

        Returns the number of the attempt that failed if it shall be tried again, else None; and what will not run
        then: the task itself, and all that need it (the latter not if the run is stopped, since nothing will).
        """
        run = self._running(worker)
        done = len(sizes)
        if done >= len(run.tasks):
            raise InternalError(f"worker {worker} reports the failure of task {done} of {len(run.tasks)}")
        task = run.tasks[done]
        self.returned(worker, len(run.tasks) - done - 1)
        if run.loads:
            self._unload(run)
        attempt = self.attempts.get(task, 0) + 1
        if attempt <= retries and not self.stopped and task not in self.cancelled:
            self.attempts[task] = attempt
            self.returned(worker, 1)
            self.finished(worker, sizes, seconds)
            return attempt, []
        run.tasks.pop()
        errored = [] if task in self.cancelled else [task]
        self.fail([task])
        if not self.stopped:
            errored += self._doom(self.users_of(task))
        self.finished(worker, sizes, seconds)
        self._let_go([task, *errored] if not self.stopped else [])
        return None, errored

    def returned(self, worker: int, n: int) -> None:
        """The last ``n`` tasks of the worker's batch were not started and shall go to whoever asks next."""
        run = self._running(worker)
        if not 0 <= n <= len(run.tasks):
            raise InternalError(f"worker {worker} returns {n} of {len(run.tasks)} tasks")
        if not n:
            return
        tasks = run.tasks[len(run.tasks) - n :]
        del run.tasks[len(run.tasks) - n :]
        size = sum(self.sizes[task] for task in tasks)
        run.reserved -= size
        self.reserved -= size
        self.give_back(tasks)

    def died(self, worker: int) -> list[int]:
        """There is no such worker any more. What it had goes to others, what it spilled stays in memory.

        Returns the tasks of its batch.
        """
        if self.spilling is not None and self.spilling[0] == worker:
            self.kept(worker, list(self.spilling[1]), for_good=False)
        if worker not in self.running:
            return []
        tasks = list(self.running[worker].tasks)
        self.returned(worker, len(tasks))
        self.finished(worker, [], 0.0)
        return tasks

    def spilled(self, worker: int, blocks: list[int]) -> None:
        """These blocks are on disk and out of memory."""
        if not self.pins.keys().isdisjoint(blocks):
            raise InternalError(f"somebody looks at one of {blocks}, which must be kept")
        self._left_memory(worker, blocks, "spilled")
        size = sum(self.sizes[block] for block in blocks)
        self.held -= size
        self.on_disk += size
        self.spilled_total += size
        self._let_go(blocks)

    def kept(self, worker: int, blocks: list[int], for_good: bool = True) -> None:
        """These blocks stay in memory; ``for_good`` if they cannot be written, so that nobody asks for them again."""
        self._left_memory(worker, blocks, "keep")
        if for_good:
            self.unwritable.update(blocks)
        self._let_go(blocks)

    def stop(self) -> None:
        """Hand out no more work. What runs may still be reported; all blocks may be dropped."""
        self.stopped = True

    # ------------------------------------------------------------ parts of events

    def _running(self, worker: int) -> Run:
        try:
            return self.running[worker]
        except KeyError:
            raise InternalError(f"worker {worker} reports work that it does not have") from None

    def _unload(self, run: Run) -> None:
        """The loads of a batch were not done; their bytes go with the rest of its reservation."""
        loads, run.loads = run.loads, []
        self.move("unload", loads)
        self._let_go(loads)

    def _without_cancelled(self, tasks: list[int], sizes: Sequence[int]) -> tuple[list[int], list[int]]:
        """What of a batch counts as finished."""
        cancelled = [task for task in tasks if task in self.cancelled]
        good = [i for i, task in enumerate(tasks) if task not in self.cancelled]
        self.fail(cancelled)
        self._let_go(cancelled)
        return [tasks[i] for i in good], [sizes[i] for i in good]

    def _left_memory(self, worker: int, blocks: list[int], event: str) -> None:
        if self.spilling is None or self.spilling[0] != worker or not self.spilling[1].issuperset(blocks):
            raise InternalError(f"worker {worker} was not asked to spill {blocks}")
        self.move(event, blocks)
        self.spilling[1].difference_update(blocks)
        if not self.spilling[1]:
            self.spilling = None

    def _learn(self, stage: int, seconds: float, size: int) -> None:
        """Halfway towards the new observation. A batch may mix stages: its mean is put down to the first."""
        known = self.seconds[stage]
        self.seconds[stage] = seconds if known == inf else (known + seconds) / 2
        if self.learns[stage]:  # up at once, for memory is what it is about
            self.expected[stage] = max(size, (self.expected[stage] + size) // 2)

    # ------------------------------------------------------------ choosing

    def _nothing_ready(self, worker: int, patient: bool) -> Instruction:
        if self.spilling is None:
            if not patient and self.held > self._limit:
                blocks = victims(self, 0, [])
                if blocks:
                    return self._spill(worker, blocks)
            if self.unfinished and not self.running and not self.queue.terms:
                raise InternalError(f"{self.unfinished} tasks are left, none is ready and none runs: cyclic graph?")
        return WAIT

    def _spill(self, worker: int, blocks: list[int]) -> Spill:
        self.move("spill", blocks)
        self.spilling = (worker, set(blocks))
        return Spill(blocks)

    def _demand(self, task: int) -> tuple[int, list[int]]:
        """Bytes that must be free for the task, and the inputs to load for it."""
        size = self.sizes[task]
        if not size:
            self.sizes[task] = size = self.expected[self.stage_of[task]]
        need = size + self.work[task]
        loads: list[int] = []
        if self.on_disk or self.spilling is not None:
            for block in set(self.inputs(task)):
                state = self.states[block]
                if state in (LOADING, SPILLING):
                    need = _BLOCKED
                elif state == SPILLED:
                    loads.append(block)
                    need += self.sizes[block]
        return need, loads

    def _longest_way(self, rank: int) -> int:
        """Of all ready tasks the rank of that behind which most is to do, in seconds; ``rank`` if that is not worth it.

        That is Hu's rule (T. C. Hu, Parallel sequencing and assembly line problems, 1961).
        """
        costs, stage_of, states = self.seconds, self.stage_of, self.states
        stage = stage_of[self.queue.task(rank)]
        if not self.learns[stage] or not END_SECONDS < costs[stage] < inf:
            return rank
        ways: dict[int, float] = {}

        def way(task: int) -> float:
            found = ways.get(task)
            if found is None:
                cost = costs[stage_of[task]]
                left = [way(user) for user in self.users_of(task) if states[user] == WAITING]
                found = ways[task] = max(left, default=0.0) + (cost if cost < inf else 0.0)
            return found

        ready = self.queue.ready()
        longest = max(ready, key=lambda other: (way(self.queue.task(other)), -other))
        fits = self._demand(self.queue.task(longest))[0] <= self.room
        return longest if fits else rank

    def _look_ahead(self) -> tuple[int, int, list[int]] | None:
        """One of the next few ready tasks that fits and leaves no more behind than it frees."""
        room, queue = self.room, self.queue
        seen: list[int] = []
        found = None
        while len(seen) < LOOKAHEAD and (rank := queue.lowest()) != NONE:
            queue.take(rank)
            task = queue.task(rank)
            need, loads = self._demand(task)
            if need <= room and self.sizes[task] <= self.frees(task):
                found = task, need, loads
                break
            seen.append(rank)
        for rank in seen:  # all are behind the cursor now
            heappush(queue.passed, rank)
        return found

    def _admit(self, worker: int, run: Run, terms: Terms | None) -> Run:
        """Fill the batch and enter it into the books."""
        seconds = self.batch_seconds / max(1, self.workers - len(self.running))  # less while others are idle, too
        seconds -= self.seconds[self.stage_of[run.tasks[0]]]
        if terms is not None and terms[1]:
            run.alone = True
        elif seconds > 0:
            passed, n = (self.queue.passed, self.queue.n) if terms is None else (self.queue.apart[terms], 0)
            self._fill(run, seconds, passed, n, terms)
        self.move("assign", run.tasks)
        if run.loads:
            self.move("load", run.loads)
        self.running[worker] = run
        self.reserved += run.reserved
        self.peak = max(self.peak, self.held + self.reserved)
        run.allowance = run.reserved + self._extra
        return run

    def _fill(self, run: Run, seconds: float, passed: list[int], n: int, terms: Terms | None) -> None:
        """Add tasks of so many seconds to a batch of one: the lowest ranks that are ready, or will be within it.

        Those that are ready are in ``order[:n]``, and in the heap ``passed`` under these ``terms``.
        This and ``finished`` are what a task costs. What the queue does is therefore repeated here in line.
        """
        queue, states, sizes, work, stage_of = self.queue, self.states, self.sizes, self.work, self.stage_of
        order, ranks, cursor, apart = queue.order, queue.ranks, queue.cursor, queue.terms
        users_indptr, users, remaining, later = self.users_indptr, self.users, self.remaining, self.later
        costs, expected, away = self.seconds, self.expected, self.on_disk or self.spilling is not None
        usual = not queue.n_others  # all tasks have priority 0
        near: list[int] = []  # heap: ranks of WAITING tasks whose last inputs are in this batch
        inputs: dict[int, int] = {}  # inputs in this batch, of tasks that need more than those
        tasks, scratch, total = run.tasks, run.scratch, run.reserved
        task, most = tasks[0], min(self.room, total + self._extra)
        while seconds > 0 and len(tasks) < self.batch_tasks:
            first, stop = users_indptr[task], users_indptr[task + 1]
            while first < stop:
                user = users[first]
                first += 1
                missing = remaining[user]
                if missing > 1:
                    inputs[user] = have = inputs.get(user, 0) + 1
                    if have < missing:
                        continue
                if states[user] == WAITING and not (apart and user in apart):
                    heappush(near, ranks[user])
            if later and task in later:
                for user in self.completed(task, inputs):
                    heappush(near, ranks[user])
            heap, rank = near, near[0] if near else NONE
            if passed and passed[0] < rank and (top := queue.top(passed, terms)) < rank:
                rank, heap = top, passed
            limit = rank if rank < n else n
            while cursor < limit and states[task := order[cursor]] != READY:
                cursor += 1
            walk = cursor < limit
            if not walk:
                if rank == NONE:
                    break
                task = order[rank] if usual or 0 <= rank < FAR else queue.task(rank)
            stage = stage_of[task]
            seconds -= costs[stage]
            size = sizes[task]
            if not size and expected[stage]:
                sizes[task] = size = expected[stage]
            total += size
            if work[task] > scratch:
                total += work[task] - scratch
                scratch = work[task]
            if seconds < 0 or total > most or (away and self.elsewhere(task)):
                break
            if walk:
                cursor += 1
            else:
                heappop(heap)
            run.reserved, run.scratch = total, scratch
            tasks.append(task)
        queue.cursor = cursor
        if len(tasks) == 1 and self.learns[stage_of[tasks[0]]]:
            self._take_along(run)

    def _take_along(self, run: Run) -> None:
        """Behind a long call add what alone needs its value, if that is quicker: so the value stays in the worker.

        Not behind blocks of arrays: both would be held until the batch is over, and that was not predicted.
        """
        states, remaining, uses, costs, stage_of = self.states, self.remaining, self.uses, self.seconds, self.stage_of
        tasks, here = run.tasks, set(run.tasks)
        left = sum(costs[stage_of[task]] for task in tasks)
        if left == inf:
            return
        for task in tasks:  # grows meanwhile
            if uses[task] != 1:
                continue
            for user in self.users_of(task):
                cost, more = costs[stage_of[user]], max(0, self.work[user] - run.scratch)
                size = self.sizes[user] or self.expected[stage_of[user]]
                fits = cost <= left and size + more <= self.room - run.reserved and len(tasks) < self.batch_tasks
                if not fits or states[user] != WAITING or user in self.queue.terms or user in here:
                    continue
                inputs = self.inputs(user)
                if remaining[user] == sum(block in here for block in inputs) and not self.elsewhere(user):
                    left -= cost
                    self.sizes[user] = size
                    run.reserved += size + more
                    run.scratch += more
                    tasks.append(user)
                    here.add(user)
