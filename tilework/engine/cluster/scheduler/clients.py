"""The clients: which futures they hold, which tasks these are, and what the clients are to be told. Pure: no I/O.

A future is a number that a client chose: ``client << CLIENT_SHIFT | serial``. Its *task* is the scheduler core's number
of the same thing, by which its block is known. Most tasks belong to one future at most; those of graphs may have
none, or several. What has no task in the core is written as a negative number where a task is meant.

A future lives as long as somebody holds it: the client that made it, clients that follow it, or nobody in person
(:data:`DETACHED`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tilework.engine.cluster.scheduler.definitions import Function
from tilework.engine.cluster.wire.messages import Done, Progress, Value

CLIENT_SHIFT: Final = 40
DETACHED: Final = 0  # the number of the client that stands for nobody


@dataclass(slots=True, eq=False)
class Client:
    """What one client has here, and what it is to be told at the end of the turn."""

    number: int
    slot: int = -1
    channel: Any = None
    name: str = ""
    pid: int = 0
    since: float = 0.0
    functions: dict[int, Function] = field(default_factory=dict)  # by its own number
    held: set[int] = field(default_factory=set)  # futures
    pins: dict[int, list[int]] = field(default_factory=dict)  # by future: its task, once for each look at it
    done: Done = field(default_factory=lambda: Done([], [], []))
    progress: list[Progress] = field(default_factory=list)
    outbox: list[Any] = field(default_factory=list)


class Holders:
    """Who holds which future."""

    def __init__(self) -> None:
        self.nobody = Client(DETACHED)
        self.clients: dict[int, Client] = {DETACHED: self.nobody}
        self.task_of: dict[int, int] = {}  # by future
        self.future_of: dict[int, int] = {}  # by task: one of its futures
        self.aliases: dict[int, list[int]] = {}  # by task: its other futures, if there are any
        self.followers: dict[
            int, set[int]
        ] = {}  # by future: clients that hold it and did not make it, if there are any
        self.touched: set[Client] = set()  # clients with something to be told
        self._count = 0

    def new_client(self, slot: int, channel: Any = None) -> Client:
        """A client has come."""
        self._count += 1
        client = Client(self._count, slot, channel)
        self.clients[client.number] = client
        return client

    def forget(self, client: Client) -> None:
        """A client has gone. It holds nothing any more."""
        del self.clients[client.number]
        self.touched.discard(client)

    # ------------------------------------------------------------ holding

    def enter(self, client: Client, futures: Sequence[int], tasks: Sequence[int]) -> None:
        """A client has made futures for tasks that have none yet."""
        self.task_of.update(zip(futures, tasks, strict=True))
        self.future_of.update(zip(tasks, futures, strict=True))
        client.held.update(futures)

    def alias(self, client: Client, future: int, task: int) -> None:
        """A client has made a future for a task that may have others."""
        self.task_of[future] = task
        client.held.add(future)
        if task in self.future_of:
            self.aliases.setdefault(task, []).append(future)
        else:
            self.future_of[task] = future

    def move(self, future: int, task: int) -> None:
        """A future without a task has got one."""
        del self.future_of[self.task_of[future]]
        self.task_of[future], self.future_of[task] = task, future

    def hold(self, client: Client, future: int) -> None:
        """A client holds a future that it may not have made."""
        client.held.add(future)
        if future >> CLIENT_SHIFT != client.number:
            self.followers.setdefault(future, set()).add(client.number)

    def let_go(self, client: Client, futures: Iterable[int]) -> list[int]:
        """A client lets go of futures. Returns the tasks of those that nobody has any more, once for each future."""
        held, clients, followers = client.held, self.clients, self.followers
        tasks = []
        for future in futures:
            if future not in held:
                continue
            held.discard(future)
            if followers and future in followers:
                followers[future].discard(client.number)
                if not followers[future]:
                    del followers[future]
            made = clients.get(future >> CLIENT_SHIFT)
            if (made is None or future not in made.held) and future not in followers:
                tasks.append(self._remove(future))
        return tasks

    def take_away(self, future: int) -> int:
        """Nobody shall hold this future any more. Returns its task."""
        for client in self.of(future):
            client.held.discard(future)
        self.followers.pop(future, None)
        return self._remove(future)

    def _remove(self, future: int) -> int:
        task = self.task_of.pop(future)
        if self.aliases and task in self.aliases:
            others = self.aliases[task]
            if self.future_of[task] == future:
                self.future_of[task] = others.pop()
            else:
                others.remove(future)
            if not others:
                del self.aliases[task]
        else:
            del self.future_of[task]
        return task

    def futures(self, task: int) -> list[int]:
        """All futures of a task."""
        first = self.future_of.get(task)
        return [] if first is None else [first, *self.aliases.get(task, ())]

    def of(self, future: int) -> list[Client]:
        """All who hold a future."""
        made = self.clients.get(future >> CLIENT_SHIFT)
        found = [made] if made is not None and future in made.held else []
        if future in self.followers:
            found += [self.clients[number] for number in self.followers[future]]
        elif future in self.nobody.held:  # a task of our own
            found.append(self.nobody)
        return found

    # ------------------------------------------------------------ telling

    def tell(self, client: Client, message: Any) -> None:
        """Send a message at the end of the turn."""
        if client.number != DETACHED:
            client.outbox.append(message)
            self.touched.add(client)

    def tell_done(self, client: Client, future: int, value: Value, size: int) -> None:
        """Tell a client that a future is done: with others, in one message, at the end of the turn."""
        if client.number != DETACHED:
            done = client.done
            done.futures.append(future)
            done.values.append(value if type(value) is bytes else None)
            done.sizes.append(size)
            self.touched.add(client)

    def take_messages(self) -> list[tuple[Client, list[Any]]]:
        """What clients are to be told since this was last called."""
        out = []
        for client in self.touched:
            messages: list[Any] = [*client.progress, *([client.done] if client.done.futures else ()), *client.outbox]
            client.progress, client.outbox = [], []
            if client.done.futures:
                client.done = Done([], [], [])
            out.append((client, messages))
        self.touched.clear()
        return out
