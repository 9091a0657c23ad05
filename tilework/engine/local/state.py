"""The scheduler core: a pure state machine. No I/O, no threads, no clock; events in, instructions out.

Theory of operation
===================

Every task of a :class:`~tilework.engine.taskgraph.TaskGraph` is in one state. Before it has run the state speaks of
the task, afterwards of its block::

                unblock          assign            finish          release
       WAITING ────────▶ READY ────────▶ RUNNING ────────▶ HELD ──────────▶ RELEASED
          │  ▲             assign          ▲ │ │            ▲ │ ▲
          └──┼─────────────────────────────┘ │ └▶ FAILED    │ │ └ loaded ── LOADING ◀─┐
             └─────────── give_back ─────────┘         keep │ │                │      │ load
                                                            │ ▼ spill   unload ▼      │
                                                          SPILLING ─────────▶ SPILLED ┘
                                                                    spilled

:data:`TRANSITIONS` is that picture as a table, and every change of state goes through it. Two rules: what the table
does not list raises :class:`~tilework.base.errors.InternalError` and changes nothing; and a task's state is only one
half of the truth, the counts beside it (``remaining`` inputs, ``uses`` left) are the other, so each event brings both
up to date before it returns. :func:`tilework.engine.local.check.validate` says what "up to date" means.

An engine calls one method per event, and obeys what it returns::

    next(worker)                  a worker wants work        → Run | Spill | WAIT | STOP
    loaded(worker)                its Run.loads are back     → nothing
    finished(worker, sizes, s)    its batch is done          → blocks to free
    failed(worker, sizes, ...)    a task of it raised        → blocks to free, and whether to go on
    returned(worker, n)           n tasks were not started   → nothing
    spilled(worker, blocks)       blocks are on disk         → nothing
    kept(worker, blocks)          they cannot be spilled     → nothing
    stop()                        cancel                     → nothing; from now on next() says STOP

Policy
======

*Which task.* The ready task of lowest ``graph.rank``. Rank is a depth-first order in which inputs precede users, so
one worker that has memory enough runs exactly ``graph.order``. ``_cursor`` walks that order once; tasks that it passed
before they were ready wait in the heap ``_passed``. Finding the next task is therefore O(1) for tasks that come in
order, O(log n) for the others.

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
Nothing runs while blocks are being spilled, so a block is never on its way out while somebody reads it.

*Sizes* of finished blocks are what the engine reports; predictions serve before that (delayed calls predict nothing).

Workers are any integers, and need not be announced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Final, TypeAlias

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.taskgraph import TaskGraph

# ---------------------------------------------------------------- states and transitions

WAITING: Final = 0  # some input is not finished
READY: Final = 1  # all inputs are finished, and on disk at worst
RUNNING: Final = 2  # in the batch of one worker
HELD: Final = 3  # finished; its block is in memory
SPILLING: Final = 4  # on its way to disk, still in memory
SPILLED: Final = 5  # on disk only
LOADING: Final = 6  # on its way back; the worker that will use it is loading it
RELEASED: Final = 7  # finished, and every user is: nobody has the block
FAILED: Final = 8  # raised, and has no retries left
STATES: Final = ("waiting", "ready", "running", "held", "spilling", "spilled", "loading", "released", "failed")

TRANSITIONS: Final[dict[str, dict[int, int]]] = {
    "unblock": {WAITING: READY},
    "assign": {READY: RUNNING, WAITING: RUNNING},  # WAITING: behind its last inputs, in the same batch
    "give_back": {RUNNING: WAITING},  # "unblock" follows at once if nothing is missing
    "finish": {RUNNING: HELD},
    "fail": {RUNNING: FAILED},
    "spill": {HELD: SPILLING},
    "spilled": {SPILLING: SPILLED},
    "keep": {SPILLING: HELD},
    "load": {SPILLED: LOADING},
    "loaded": {LOADING: HELD},
    "unload": {LOADING: SPILLED},
    "release": {HELD: RELEASED},
}

_ILLEGAL: Final = 255
_STEPS: Final = {  # the same for bytes.translate, which checks and maps a whole batch at once
    event: bytes(arrows.get(state, _ILLEGAL) for state in range(256)) for event, arrows in TRANSITIONS.items()
}

# ---------------------------------------------------------------- instructions


@dataclass(slots=True, eq=False)
class Run:
    """Run ``tasks`` one after another, after loading the blocks ``loads`` from disk (and reporting ``loaded``).

    The scheduler keeps the same object until the batch is reported; ``returned`` shortens ``tasks``.
    """

    tasks: list[int]
    loads: list[int] = field(default_factory=list)
    reserved: int = 0  # bytes: all out_bytes, the largest work_bytes (scratch), and loads until they are held
    scratch: int = 0
    allowance: int = 0  # if the blocks turn out to weigh more together, return the rest instead of starting it


@dataclass(slots=True, eq=False)
class Spill:
    """Write these blocks to disk, then drop them from memory. Report each as ``spilled`` or ``kept``."""

    blocks: list[int]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until another worker has reported something."""


@dataclass(frozen=True, slots=True)
class Stop:
    """There will be no more work for this worker."""


WAIT: Final = Wait()
STOP: Final = Stop()
Instruction: TypeAlias = Run | Spill | Wait | Stop

# ---------------------------------------------------------------- policy constants

BATCH_SECONDS: Final = 1e-3  # a batch costs ~10 microseconds of bookkeeping and hand-over: one percent
BATCH_TASKS: Final = 1000  # also bounds what an event for listeners weighs
BATCH_BYTES: Final = 1 << 20  # what a batch may reserve beyond its first task: more was not predicted ...
BATCH_SHARE: Final = 64  # ... and at most this fraction of the budget
LOOKAHEAD: Final = 8  # candidates tried when the first does not fit
SPILL_SHARE: Final = 32  # spill at least this fraction of the budget at once: finding victims is O(held blocks)
_BLOCKED: Final = 1 << 62  # the demand of a task that waits for another worker's load: fits nowhere


class Scheduler:
    """The state of one run. See the module's docstring for the theory.

    Parameters
    ----------
    graph
        What to run. It is not changed.
    budget
        Bytes for blocks, scratch and ``graph.resident_bytes`` together.
    workers
        How many will ask for work: decides how much one of them may take, and how much to spill at once.
    """

    def __init__(self, graph: TaskGraph, budget: int, workers: int) -> None:
        n = graph.n_tasks
        users_indptr, users = graph.dependents
        counts = np.diff(graph.indptr).astype(np.int32)
        uses = np.diff(users_indptr).astype(np.int32)
        np.add.at(uses, graph.outputs, 1)
        states = np.where(counts == 0, READY, WAITING).astype(np.int8)

        self.graph = graph
        self.workers = workers
        self.limit = budget - graph.resident_bytes  # what held + reserved may reach
        # One entry a task. Memoryviews, since reading one item of an ndarray costs three times as much.
        self.states = bytearray(states.tobytes())
        self.remaining = counts.data  # input edges whose task has not finished
        self.uses = uses.data  # user edges whose task has not finished, + 1 per place in graph.outputs
        self.sizes = graph.out_bytes.astype(np.int64).data  # a copy: predicted, from `finished` on real

        self.unfinished = n  # tasks that have not finished; FAILED ones never will
        self.held = 0  # bytes of HELD and SPILLING blocks
        self.reserved = 0  # bytes: the sum over `running`
        self.on_disk = 0  # bytes of SPILLED and LOADING blocks
        self.peak = 0  # the most that held + reserved has been
        self.spilled_total = 0  # bytes ever written
        self.running: dict[int, Run] = {}
        self.spilling: tuple[int, set[int]] | None = None  # the one worker that spills, and what it still has to
        self.pinned: set[int] = set()  # held blocks that cannot be written
        self.attempts: dict[int, int] = {}  # how often a task has raised
        self.stopped = False

        self._cursor = 0  # every READY task of rank >= _cursor is found by walking on from here ...
        self._passed: list[int] = []  # ... and this heap has the rank of every other READY task, once
        self._extra = min(BATCH_BYTES, self.limit // BATCH_SHARE)
        self._seconds = [inf] * len(graph.stages)  # what a task of the stage takes; inf: not known yet

        self._n = n
        self._order = graph.order.data
        self._rank = graph.rank.data
        self._out = graph.out_bytes.data
        self._work = graph.work_bytes.data
        self._indptr, self._deps = graph.indptr.data, graph.deps.data
        self._users_indptr, self._users = users_indptr.data, users.data
        stage_of = np.repeat(np.arange(len(graph.stages), dtype=np.int32), np.diff(graph.offsets))
        self.stage_of = stage_of.data

    # ------------------------------------------------------------ what engines ask

    @property
    def room(self) -> int:
        """Bytes that are neither held nor reserved; negative if blocks weigh more than was predicted."""
        return self.limit - self.held - self.reserved

    @property
    def has_ready(self) -> bool:
        """Whether another worker could be worth waking."""
        return not self.stopped and self._lowest(self._n) < self._n

    def next(self, worker: int) -> Instruction:
        """A worker has nothing to do."""
        if worker in self.running or (self.spilling is not None and self.spilling[0] == worker):
            raise InternalError(f"worker {worker} asks for work before it has reported its last")
        if self.stopped or not self.unfinished:
            return STOP
        if self.spilling is not None:
            return WAIT
        rank = self._lowest(self._n)
        if rank == self._n:
            if not self.running:
                raise InternalError(f"{self.unfinished} tasks are left, none is ready and none runs: cyclic graph?")
            return WAIT
        task = self._order[rank]
        need, loads = self._demand(task)
        if need <= self.limit - self.held - self.reserved:
            self._take(rank)
        elif self.running:
            found = self._look_ahead()
            if found is None:
                return WAIT
            task, need, loads = found
        else:
            victims = self._victims(task, need)
            if victims:
                self._move("spill", victims)
                self.spilling = (worker, set(victims))
                return Spill(victims)
            self._take(rank)
        return self._admit(worker, Run([task], loads, need, self._work[task]))

    # ------------------------------------------------------------ events

    def loaded(self, worker: int) -> None:
        """The blocks ``Run.loads`` are in memory again."""
        run = self._running(worker)
        self._move("loaded", run.loads)
        size = sum(self.sizes[block] for block in run.loads)
        run.loads = []
        run.reserved -= size
        self.reserved -= size
        self.on_disk -= size
        self.held += size

    def finished(self, worker: int, sizes: Sequence[int], seconds: float) -> list[int]:
        """All tasks of the worker's batch are done; their blocks weigh ``sizes``. Returns blocks to drop.

        ``seconds`` is how long the whole batch took.
        """
        run = self._running(worker)
        tasks = run.tasks
        if len(sizes) != len(tasks) or run.loads:
            raise InternalError(f"worker {worker} reports {len(sizes)} of {len(tasks)} tasks, {len(run.loads)} loads")
        self._move("finish", tasks)
        del self.running[worker]
        self.reserved -= run.reserved
        self.unfinished -= len(tasks)
        if tasks:
            self._learn(self.stage_of[tasks[0]], seconds / len(tasks))

        states, weights, remaining, uses = self.states, self.sizes, self.remaining, self.uses
        indptr, deps, users_indptr, users = self._indptr, self._deps, self._users_indptr, self._users
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
        self.held += sum(sizes)
        self.peak = max(self.peak, self.held + self.reserved)
        self._unblock(ready)
        self._move("release", freed)
        for block in freed:
            self.held -= weights[block]
        return freed

    def failed(self, worker: int, sizes: Sequence[int], seconds: float, retries: int) -> tuple[list[int], int | None]:
        """Task number ``len(sizes)`` of the worker's batch raised, those before it are done, those after not started.

        Returns blocks to drop, and the number of the attempt that failed if it shall be tried again, else None: then
        the run has stopped.
        """
        run = self._running(worker)
        done = len(sizes)
        if done >= len(run.tasks):
            raise InternalError(f"worker {worker} reports the failure of task {done} of {len(run.tasks)}")
        task = run.tasks[done]
        self.returned(worker, len(run.tasks) - done - 1)
        if run.loads:
            self._move("unload", run.loads)
            run.loads = []
        attempt = self.attempts.get(task, 0) + 1
        again = attempt <= retries and not self.stopped
        if again:
            self.attempts[task] = attempt
            self.returned(worker, 1)
        else:
            self._move("fail", [task])
            run.tasks.pop()
            self.stopped = True
        return self.finished(worker, sizes, seconds), attempt if again else None

    def returned(self, worker: int, n: int) -> None:
        """The last ``n`` tasks of the worker's batch were not started and shall go to whoever asks next."""
        run = self._running(worker)
        if not 0 <= n <= len(run.tasks):
            raise InternalError(f"worker {worker} returns {n} of {len(run.tasks)} tasks")
        if not n:
            return
        tasks = run.tasks[len(run.tasks) - n :]
        self._move("give_back", tasks)
        del run.tasks[len(run.tasks) - n :]
        size = sum(self._out[task] for task in tasks)
        run.reserved -= size
        self.reserved -= size
        self._unblock([task for task in tasks if not self.remaining[task]])

    def spilled(self, worker: int, blocks: list[int]) -> None:
        """These blocks are on disk and out of memory."""
        self._left_memory(worker, blocks, "spilled")
        size = sum(self.sizes[block] for block in blocks)
        self.held -= size
        self.on_disk += size
        self.spilled_total += size

    def kept(self, worker: int, blocks: list[int]) -> None:
        """These blocks cannot be written (now or ever) and stay in memory; nobody will ask for them again."""
        self._left_memory(worker, blocks, "keep")
        self.pinned.update(blocks)

    def stop(self) -> None:
        """Hand out no more work. What runs may still be reported; all blocks may be dropped."""
        self.stopped = True

    # ------------------------------------------------------------ transitions

    def _move(self, event: str, tasks: list[int]) -> None:
        """Take all ``tasks`` along one arrow of the table, or raise and change none."""
        states = self.states
        new = bytes(map(states.__getitem__, tasks)).translate(_STEPS[event])
        if _ILLEGAL in new:
            task = tasks[new.index(_ILLEGAL)]
            raise InternalError(f"task {task} is {STATES[states[task]]}: no transition for {event!r}")
        for task, state in zip(tasks, new, strict=True):
            states[task] = state

    def _running(self, worker: int) -> Run:
        try:
            return self.running[worker]
        except KeyError:
            raise InternalError(f"worker {worker} reports work that it does not have") from None

    def _left_memory(self, worker: int, blocks: list[int], event: str) -> None:
        if self.spilling is None or self.spilling[0] != worker or not self.spilling[1].issuperset(blocks):
            raise InternalError(f"worker {worker} was not asked to spill {blocks}")
        self._move(event, blocks)
        self.spilling[1].difference_update(blocks)
        if not self.spilling[1]:
            self.spilling = None

    def _unblock(self, tasks: list[int]) -> None:
        """Nothing is missing for these tasks any more."""
        self._move("unblock", tasks)
        for task in tasks:
            rank = self._rank[task]
            if rank < self._cursor:
                heappush(self._passed, rank)

    def _learn(self, stage: int, seconds: float) -> None:
        """Halfway towards the new observation. A batch may mix stages: its mean is put down to the first."""
        known = self._seconds[stage]
        self._seconds[stage] = seconds if known == inf else (known + seconds) / 2

    # ------------------------------------------------------------ choosing

    def _lowest(self, limit: int) -> int:
        """The rank of the first READY task, ``limit`` if there is none below that."""
        states, order, cursor = self.states, self._order, self._cursor
        if self._passed and self._passed[0] < limit:
            limit = self._passed[0]
        while cursor < limit and states[order[cursor]] != READY:
            cursor += 1
        self._cursor = cursor
        return min(cursor, limit)

    def _take(self, rank: int) -> None:
        """Take what :meth:`_lowest` has found out of the ready ones."""
        if rank == self._cursor:
            self._cursor = rank + 1
        else:
            heappop(self._passed)

    def _demand(self, task: int) -> tuple[int, list[int]]:
        """Bytes that must be free for the task, and the inputs to load for it."""
        need = self._out[task] + self._work[task]
        loads: list[int] = []
        if self.on_disk:
            for block in set(self._deps[self._indptr[task] : self._indptr[task + 1]].tolist()):
                state = self.states[block]
                if state == LOADING:
                    need = _BLOCKED
                elif state == SPILLED:
                    loads.append(block)
                    need += self.sizes[block]
        return need, loads

    def _elsewhere(self, task: int) -> bool:
        """Whether an input must be loaded first, or is being loaded. Only the first task of a batch may have such."""
        return any(
            self.states[block] in (SPILLED, LOADING)
            for block in self._deps[self._indptr[task] : self._indptr[task + 1]].tolist()
        )

    def _look_ahead(self) -> tuple[int, int, list[int]] | None:
        """One of the next few ready tasks that fits and leaves no more behind than it frees."""
        room = self.room
        seen: list[int] = []
        found = None
        while len(seen) < LOOKAHEAD and (rank := self._lowest(self._n)) < self._n:
            self._take(rank)
            task = self._order[rank]
            need, loads = self._demand(task)
            if need <= room and self._out[task] <= self._frees(task):
                found = task, need, loads
                break
            seen.append(rank)
        for rank in seen:  # all are behind the cursor now
            heappush(self._passed, rank)
        return found

    def _frees(self, task: int) -> int:
        """Bytes of inputs that nobody needs after this task."""
        blocks = self._deps[self._indptr[task] : self._indptr[task + 1]].tolist()
        return sum(self.sizes[block] for block in set(blocks) if self.uses[block] == blocks.count(block))

    def _admit(self, worker: int, run: Run) -> Run:
        """Fill the batch and enter it into the books."""
        self._fill(run)
        self._move("assign", run.tasks)
        self._move("load", run.loads)
        self.running[worker] = run
        self.reserved += run.reserved
        self.peak = max(self.peak, self.held + self.reserved)
        run.allowance = run.reserved + self._extra
        return run

    def _fill(self, run: Run) -> None:
        """Add tasks of about a millisecond to a batch of one: the lowest ranks that are ready, or will be within it.

        This and ``finished`` are what a task costs. What _lowest and _take do is therefore repeated here in line.
        """
        order, ranks, out, work, stage_of = self._order, self._rank, self._out, self._work, self.stage_of
        users_indptr, users, remaining, costs = self._users_indptr, self._users, self.remaining, self._seconds
        states, passed, cursor, n = self.states, self._passed, self._cursor, self._n
        near: list[int] = []  # heap: ranks of WAITING tasks whose last inputs are in this batch
        inputs: dict[int, int] = {}  # inputs in this batch, of tasks that need more than those
        task, scratch, total = run.tasks[0], run.scratch, run.reserved
        most = min(self.room, total + self._extra)
        idle = max(1, self.workers - len(self.running))  # with this one
        seconds = BATCH_SECONDS / idle - costs[stage_of[task]]
        tasks = run.tasks
        while seconds > 0 and len(tasks) < BATCH_TASKS:
            first, stop = users_indptr[task], users_indptr[task + 1]
            while first < stop:
                user = users[first]
                first += 1
                missing = remaining[user]
                if missing > 1:
                    inputs[user] = have = inputs.get(user, 0) + 1
                    if have < missing:
                        continue
                heappush(near, ranks[user])
            heap = near
            rank = near[0] if near else n
            if passed and passed[0] < rank:
                rank, heap = passed[0], passed
            while cursor < rank and states[order[cursor]] != READY:
                cursor += 1
            walk = cursor < rank
            if walk:
                rank = cursor
            elif rank == n:
                break
            task = order[rank]
            seconds -= costs[stage_of[task]]
            total += out[task]
            needs = work[task]
            if needs > scratch:
                total += needs - scratch
                scratch = needs
            if seconds < 0 or total > most or (self.on_disk and self._elsewhere(task)):
                break
            if walk:
                cursor += 1
            else:
                heappop(heap)
            run.reserved, run.scratch = total, scratch
            tasks.append(task)
        self._cursor = cursor

    # ------------------------------------------------------------ spilling

    def _victims(self, task: int, need: int) -> list[int]:
        """Held blocks to spill so that ``task`` fits, those needed last first. Its own inputs are not among them.

        Enough is spilled for all workers to go on at once with tasks of that kind.
        """
        goal = max(need * self.workers - self.room, self.limit // SPILL_SHARE)
        states, sizes = np.frombuffer(self.states, np.int8), np.asarray(self.sizes)
        inputs = self.graph.deps[self.graph.indptr[task] : self.graph.indptr[task + 1]]
        usable = (states == HELD) & (sizes > 0)
        usable[inputs] = False
        usable[list(self.pinned)] = False
        blocks = np.flatnonzero(usable)
        blocks = blocks[np.argsort(-next_use(self.graph, states, blocks), kind="stable")]
        enough = int(np.searchsorted(np.cumsum(sizes[blocks]), goal)) + 1
        victims: list[int] = blocks[:enough].tolist()
        return victims


def next_use(graph: TaskGraph, states: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """For each block the rank of its first unfinished user; the number of tasks if it is only an output."""
    indptr, users = graph.dependents
    first, count = indptr[blocks], indptr[blocks + 1] - indptr[blocks]
    ends = np.cumsum(count)
    edges = users[np.repeat(first - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)]
    ranks = np.where(states[edges] < HELD, graph.rank[edges], graph.n_tasks)
    out = np.full(len(blocks), graph.n_tasks, np.int64)
    np.minimum.at(out, np.repeat(np.arange(len(blocks)), count), ranks)
    return out
