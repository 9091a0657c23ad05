"""Values for clients: they wait until all that they asked for is done, in memory, and stays there. Pure: no I/O.

What a client looks at in the arena is pinned: the core neither frees it nor writes it to disk, until the client says
that the last array on it is gone. What is on disk is brought back by a task that needs it and does nothing else, so it
waits for its turn and for room like all others.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tilework.base.errors import MemoryBudgetError
from tilework.base.sizes import format_bytes
from tilework.engine.cluster.scheduler.clients import Client
from tilework.engine.cluster.scheduler.definitions import Function
from tilework.engine.cluster.scheduler.futures import CANCELLED, PRIORITIES, Futures
from tilework.engine.cluster.store.values import dump_error
from tilework.engine.cluster.wire.messages import Get, Stored, TaskOptions, Value, Values
from tilework.engine.local.states import HELD, SPILLING

_NO_ARGUMENTS: Final = pickle.dumps(((), {}), 5)
_ABSENT: Final = -(1 << 62)


@dataclass(slots=True, eq=False)
class Wanted:
    """A Get that is not answered yet."""

    client: int
    request: int
    futures: list[int]
    missing: int = 0  # tasks that have not ended
    loader: int | None = None  # the task that brings back what is on disk


class Fetching:
    """What clients want to see, and what they look at."""

    def __init__(self, futures: Futures) -> None:
        self._futures, self._core, self._holders = futures, futures.core, futures.holders
        self._values = futures.blocks.values
        self._wanted: dict[int, list[Wanted]] = {}  # by task that has not ended
        self.loader: Function | None = None

    def get(self, client: Client, message: Get) -> None:
        """A client wants values: it is answered when all have ended in some way."""
        wanted = Wanted(client.number, message.request, message.futures)
        for future in message.futures:
            task = self._holders.task_of.get(future)
            if task is not None and task not in self._values and task not in self._futures.failures:
                self._await(task, wanted)
        if not wanted.missing:
            self._deliver(wanted)

    def _await(self, task: int, wanted: Wanted) -> None:
        wanted.missing += 1
        self._wanted.setdefault(task, []).append(wanted)
        self._futures.awaited.add(task)

    def settle(self) -> None:
        """Answer those whose last task has ended. To be called after each event."""
        while self._futures.ended:
            task = self._futures.ended.pop()
            self._futures.awaited.discard(task)
            for wanted in self._wanted.pop(task, ()):
                wanted.missing -= 1
                if not wanted.missing:
                    self._deliver(wanted)

    def _deliver(self, wanted: Wanted) -> None:
        """Answer, unless some of the values must be loaded first."""
        client = self._holders.clients.get(wanted.client)
        if client is None:
            return
        error = CANCELLED if wanted.loader is None else self._futures.failures.get(wanted.loader, CANCELLED)
        found: list[Value | None] = []
        there: list[tuple[int, int]] = []
        disk: list[int] = []
        for future in wanted.futures:
            task = self._holders.task_of.get(future, _ABSENT)
            value = self._values.get(task)
            if type(value) is Stored and self._core.states[task] in (HELD, SPILLING):
                there.append((future, task))
            elif value is not None and type(value) is not bytes:
                disk.append(task)
            found.append(value)
        tasks = [task for _, task in there]
        if disk and not error:
            error = self._refusal(wanted, {*disk, *tasks})
            if not error:
                self._bring(wanted, disk)
                return
        if error:
            self._holders.tell(client, Values(wanted.request, [None] * len(found), error))
            return
        self._core.pin(tasks)
        for future, task in there:
            client.pins.setdefault(future, []).append(task)
        self._holders.tell(client, Values(wanted.request, found))

    def _refusal(self, wanted: Wanted, tasks: set[int]) -> bytes:
        """The error if so much cannot be in memory at once."""
        sizes, limit = self._core.sizes, self._core.limit
        pins = [tasks for client in self._holders.clients.values() for tasks in client.pins.values()]
        looked_at = {task for pinned in pins for task in pinned}
        before, size = sum(sizes[task] for task in looked_at), sum(sizes[task] for task in tasks)
        if before + sum(sizes[task] for task in tasks - looked_at) <= limit:
            return CANCELLED
        return dump_error(
            MemoryBudgetError(
                f"{len(wanted.futures)} values of {format_bytes(size)} together are asked for at once; the cluster may "
                f"have {format_bytes(limit)} in memory, of which {format_bytes(before)} are results that clients "
                "look at. Fetch fewer at a time and let go of them, store them (to_zarr, store) instead of fetching "
                "them, or give the cluster more memory"
            )
        )

    def _bring(self, wanted: Wanted, disk: list[int]) -> None:
        """Have blocks read back into memory, then try again."""
        if self.loader is None:
            self.loader = self._futures.new_function(pickle.dumps(bool, 5), "load")
        options = TaskOptions(priority=PRIORITIES)
        (task,) = self._futures.add_calls(self.loader, [_NO_ARGUMENTS], [tuple(disk)], options)
        self._holders.enter(self._holders.nobody, [~task], [task])
        wanted.loader = task
        self._await(task, wanted)

    # ------------------------------------------------------------ and when they have seen enough

    def unpin(self, client: Client, futures: Iterable[int]) -> None:
        """A client looks no more at values, once for each. Forgetting what the core releases must follow."""
        tasks = []
        for future in futures:
            pinned = client.pins.get(future)
            if pinned:
                tasks.append(pinned.pop())
                if not pinned:
                    del client.pins[future]
        self._core.unpin(tasks)

    def client_gone(self, client: Client) -> None:
        """A client has left, or vanished. Forgetting what the core releases must follow."""
        self.unpin(client, [future for future, tasks in client.pins.items() for _ in tasks])
        for task, waiting in list(self._wanted.items()):
            left = [wanted for wanted in waiting if wanted.client != client.number]
            if left:
                self._wanted[task] = left
            else:
                del self._wanted[task]
                self._futures.awaited.discard(task)
