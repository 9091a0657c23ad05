"""Tasks come, at any time: whole graphs, calls of functions, blocks that exist. And their numbers go again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Protocol

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.local.queue import enlarged
from tilework.engine.local.states import FAILED, HELD, LOADING, READY, RELEASED, RUNNING, SPILLING, STATES, WAITING
from tilework.engine.local.tasks import Tasks
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


class GrowingTasks(Tasks):
    """Tasks, to which others can be added."""

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
        for s, size in enumerate(np.diff(graph.offsets).tolist()):
            self.stage_of += [self.new_stage(learns is not None and learns[s])] * size
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
        older = deps < base
        if older.any():
            self._join(np.repeat(np.arange(base, base + n), counts)[older].tolist(), deps[older].tolist())
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
        self.peak = max(self.peak, self.held + self.reserved)
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
            elif state == FAILED or block in self.cancelled:
                failing.append(user)
        for user in ready:
            states[user] = READY  # as if it had never been anything else
        self._let_go(self._doom(failing))

    # ------------------------------------------------------------ shrinking

    def renumber(self, together: Iterable[range] = ()) -> dict[int, int]:
        """Forget tasks that were released, and count the others anew. Returns old → new number of those.

        Whatever knows tasks by number must follow. Nothing may run or be on its way to disk. The arrays take about 60
        bytes a task, so it is worth while when most of some hundred thousand are dead.

        Parameters
        ----------
        together
            Ranges of tasks that keep their distances, dead or not: graphs that workers know by their ``base``.
        """
        moving = {RUNNING, SPILLING, LOADING}.intersection(self.states)
        if moving or self._freed:
            raise InternalError(
                f"tasks are renumbered while some are {[STATES[s] for s in moving]}, or freed and not taken: "
                f"{len(self._freed)}"
            )
        states = np.frombuffer(bytes(self.states), np.uint8)
        keep = states != RELEASED
        for numbers in together:
            keep[numbers.start : numbers.stop] = True
        old = np.flatnonzero(keep)
        new = np.cumsum(keep) - 1
        n = len(old)
        needs = (states[old] <= RUNNING) | (states[old] == FAILED)  # its inputs, now or when it is tried again
        counts = np.where(needs, np.diff(np.asarray(self.indptr)[: len(states) + 1])[old], 0)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
        deps = new[np.asarray(self.deps)[np.repeat(np.asarray(self.indptr)[old], counts) + within]].astype(np.int32)
        self.indptr, self.deps = indptr.data, deps.data
        users_indptr, users = users_of(indptr, deps)
        self.users_indptr, self.users = users_indptr.data, users.data
        self.later = {}
        self.sizes, self.work = np.asarray(self.sizes)[old].data, np.asarray(self.work)[old].data
        kept = old.tolist()
        self.remaining = [self.remaining[task] for task in kept]
        self.uses = [self.uses[task] for task in kept]
        self.stage_of = [self.stage_of[task] for task in kept]
        self.states[:] = states[old].tobytes()
        mapping = dict(zip(kept, range(n), strict=True))
        self.pins = {mapping[task]: count for task, count in self.pins.items()}
        self.unwritable = {mapping[task] for task in self.unwritable}
        self.attempts = {mapping[task]: count for task, count in self.attempts.items() if task in mapping}
        self.queue.renumber(mapping, np.flatnonzero(needs))
        return mapping
