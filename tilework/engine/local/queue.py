"""Which tasks are ready, and which of them is next.

Every task has a *rank*, and the lowest goes first. Tasks of priority 0 are ranked in the order in which they were
added (those of a graph among themselves by ``graph.rank``), which is the order of ``order``. ``cursor`` walks along
that once; tasks that it passed before they were ready wait in the heap ``passed``. So the next task is found in O(1)
if tasks come in order, in O(log n) for the others. Tasks of another priority are never in ``order``: their rank
is their place in ``others`` minus ``priority * FAR``, and while they are ready they are in the heap.

Tasks that are bound to workers, or must run alone, are APART while they are ready, where neither the cursor nor the
heap finds them. They are in a heap of their own for each set of workers.

A task leaves by changing its state: what lies in a heap without being READY (or APART, under the same terms) is thrown
away when it comes to the top. Only of what comes back after it has left so, heaps are searched (``purge``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

import numpy as np

from tilework.engine.local.states import APART, READY

FAR: Final = 1 << 40  # more tasks than there will ever be
NONE: Final = 1 << 62  # a rank behind all others
Terms: TypeAlias = tuple[frozenset[int] | None, bool]  # the only workers that may run it (None: all), alone in a batch


def enlarged(view: memoryview, used: int, more: int) -> memoryview:
    """The same array with a place for ``more`` items behind the ``used`` ones.

    Growing arrays are memoryviews with room to spare: one item is read in a third of the time that an ndarray takes,
    and faster than from array.array.
    """
    if used + more <= len(view):
        return view
    bigger = np.empty(max(used + more, len(view) * 3 // 2), np.asarray(view).dtype)
    bigger[:used] = view[:used]
    return bigger.data


class Queue:
    """The ready tasks of a scheduler, whose ``states`` it reads."""

    def __init__(self, states: bytearray) -> None:
        self.states = states
        self.order = np.empty(0, np.int32).data  # tasks of priority 0 by rank ...
        self.n = 0  # ... so many
        self.others = np.empty(0, np.int32).data  # tasks of other priorities by rank % FAR ...
        self.n_others = 0
        self.ranks = np.empty(0, np.int64).data  # by task
        self.cursor = 0  # every READY task of rank cursor <= rank < n is found by walking on from here ...
        self.passed: list[int] = []  # ... and this heap has the rank of every other READY task
        self.terms: dict[int, Terms] = {}  # of all tasks that are bound or must run alone
        self.apart: dict[Terms, list[int]] = {}  # heaps with the rank of every APART task

    def enter(self, base: int, rank: np.ndarray | None, n: int, priority: int) -> None:
        """Give ranks to the new tasks ``base .. base + n``; ``rank`` is a permutation of ``range(n)``."""
        self.ranks = enlarged(self.ranks, base, n)
        place = self.n if priority == 0 else self.n_others
        if priority == 0:
            tasks = self.order = enlarged(self.order, place, n)
            self.n += n
        else:
            tasks = self.others = enlarged(self.others, place, n)
            self.n_others += n
        first = place - priority * FAR
        if n == 1:  # a future by itself: in a tenth of the time
            tasks[place], self.ranks[base] = base, first
            return
        numbers = np.arange(n) if rank is None else rank.astype(np.int64)
        np.asarray(tasks)[place + numbers] = np.arange(base, base + n)
        np.asarray(self.ranks)[base : base + n] = first + numbers

    def task(self, rank: int) -> int:
        """The task of a rank."""
        return self.order[rank] if 0 <= rank < FAR else self.others[rank % FAR]

    def purge(self, tasks: Iterable[int]) -> None:
        """These may become ready again, and shall not be in a heap twice."""
        ranks = {self.ranks[task] for task in tasks}
        for heap in (self.passed, *self.apart.values()):
            if not ranks.isdisjoint(heap):
                heap[:] = [rank for rank in heap if rank not in ranks]
                heapify(heap)

    def offer(self, tasks: Iterable[int]) -> None:
        """These have just become READY."""
        ranks, cursor, n, passed = self.ranks, self.cursor, self.n, self.passed
        for task in tasks:
            rank = ranks[task]
            if not cursor <= rank < n:
                heappush(passed, rank)

    def top(self, heap: list[int], terms: Terms | None) -> int:
        """The first rank in a heap that stands, or NONE: its task is READY (APART under these ``terms``)."""
        state = READY if terms is None else APART
        while heap:
            task = self.task(heap[0])
            if self.states[task] == state and (terms is None or self.terms[task] == terms):
                return heap[0]
            heappop(heap)
        return NONE

    def lowest(self) -> int:
        """The rank of the first READY task, or NONE."""
        states, order, cursor = self.states, self.order, self.cursor
        found = self.top(self.passed, None) if self.passed else NONE
        stop = min(found, self.n)
        while cursor < stop and states[order[cursor]] != READY:
            cursor += 1
        self.cursor = cursor
        return cursor if cursor < stop else found

    def take(self, rank: int) -> None:
        """Take what :meth:`lowest` or :meth:`ready` has found out of the ready ones."""
        if rank == self.cursor:
            self.cursor = rank + 1
        elif self.passed and self.passed[0] == rank:
            heappop(self.passed)
        elif rank in self.passed:
            self.purge([self.task(rank)])

    def ready(self) -> list[int]:
        """The ranks of all READY tasks. Takes as long as there are tasks left."""
        states, order = self.states, self.order
        walked = [rank for rank in range(self.cursor, self.n) if states[order[rank]] == READY]
        return walked + [rank for rank in self.passed if states[self.task(rank)] == READY]

    # ------------------------------------------------------------ tasks that are not for everybody

    def lowest_apart(self, worker: int | None) -> tuple[int, Terms] | None:
        """The rank of the first APART task that ``worker`` (None: anybody) may run, and its terms."""
        found = None
        for terms, heap in self.apart.items():
            if worker is None or terms[0] is None or worker in terms[0]:
                rank = self.top(heap, terms)
                if rank != NONE and (found is None or rank < found[0]):
                    found = rank, terms
        return found

    def set_apart(self, tasks: Iterable[int]) -> None:
        """These have just become APART."""
        for task in tasks:
            heappush(self.apart.setdefault(self.terms[task], []), self.ranks[task])

    def agree(self, tasks: Iterable[int], workers: Collection[int] | None, alone: bool) -> None:
        """New terms for these tasks."""
        terms = (None if workers is None else frozenset(workers), alone)
        for task in tasks:
            if terms == (None, False):
                self.terms.pop(task, None)
            else:
                self.terms[task] = terms

    def forget(self, tasks: Iterable[int]) -> None:
        """These will not run again."""
        for task in tasks:
            self.terms.pop(task, None)
        if not self.terms:
            self.apart.clear()

    def renumber(self, mapping: dict[int, int], alive: np.ndarray) -> None:
        """Tasks have new numbers, old → new; only those that are ``alive`` (by their new ones) may run again."""
        ranks = np.zeros(len(mapping), np.int64)
        old = np.fromiter(mapping, np.int64, len(mapping))
        before = np.asarray(self.ranks)[old[alive]]
        by_rank = alive[np.argsort(before % FAR, kind="stable")]
        usual = np.asarray(self.ranks)[old[by_rank]] // FAR  # minus the priority
        for tasks, first in ((by_rank[usual == 0], 0), (by_rank[usual != 0], usual[usual != 0] * FAR)):
            ranks[tasks] = np.arange(len(tasks)) + first
        self.order, self.others = (by_rank[chosen].astype(np.int32).data for chosen in (usual == 0, usual != 0))
        self.n, self.n_others = len(self.order), len(self.others)
        self.ranks, self.cursor = ranks.data, 0
        self.passed = []
        self.terms = {mapping[task]: terms for task, terms in self.terms.items()}
        self.apart = {}
        self.offer(task for task in self.others.tolist() if self.states[task] == READY)
        self.set_apart(task for task in self.terms if self.states[task] == APART)
