"""Real nurseries and workers, driven by a test in the scheduler's place."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle

from tilework.base.scratch import ScratchFile
from tilework.engine.cluster.start.nursery import Exit, Nursery
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.cluster.wire.channel import Channel
from tilework.engine.cluster.wire.messages import Batch, CallTask, Failed, Finished, Function, Graph, Log, Ready, Value
from tilework.engine.taskgraph import TaskGraph

PATIENCE = 20.0  # seconds for what must happen soon
OURS = 15  # the slot of the test
ALLOWANCE = 1 << 40


class House:
    """An arena, a spill file and a nursery."""

    def __init__(self, memory_limit: int = 1 << 30) -> None:
        self.arena = Arena.create(16, 1 << 30)
        self._spill = ScratchFile()
        self.arena.spill = self._spill.fileno()
        self.lifeline, theirs = socket.socketpair()
        with theirs:
            self.nursery = Nursery(self.arena, memory_limit, theirs.fileno())
        self.slot = Slot(self.arena, OURS, 0)
        self.workers: list[Worker] = []  # whose connections must stay

    def spawn(self, threads: int = 1, slot: int = 0) -> Worker:
        number = len(self.workers) + 1
        self.workers.append(Worker(self, number, slot, Channel(self.nursery.spawn(number, slot, threads))))
        return self.workers[-1]

    def exits(self, n: int = 1) -> list[Exit]:
        """The next ends of workers."""
        found: list[Exit] = []
        while len(found) < n:
            assert select.select([self.nursery], [], [], PATIENCE)[0], f"only {found}"
            found += self.nursery.events()
        return found

    def start_anew(self) -> None:
        """From here on, workers have inherited nothing of the test's process."""
        old = self.nursery.pid
        os.kill(old, signal.SIGKILL)
        while self.nursery.pid == old:
            assert select.select([self.nursery], [], [], PATIENCE)[0]
            self.nursery.events()

    def dump(self, value: Any) -> Value:
        return values.dump(value, self.slot)[0]

    def load(self, value: Value | None) -> Any:
        assert value is not None
        return values.load(value, self.arena)


@contextmanager
def house(memory_limit: int = 1 << 30) -> Iterator[House]:
    made = House(memory_limit)
    try:
        yield made
    finally:
        made.nursery.close()
        made.lifeline.close()
        made.arena.close()


class Worker:
    """The scheduler's end of a worker."""

    def __init__(self, house: House, number: int, slot: int, channel: Channel) -> None:
        self.house, self.number, self.slot, self.channel = house, number, slot, channel
        self.logs: list[Log] = []
        self._said: list[Any] = []
        self._functions: dict[Callable[..., Any], int] = {}
        self._batches = 0
        self.pid = self.hear(Ready).pid

    def say(self, message: Any) -> None:
        self.channel.send(message)

    def hear(self, kind: type[Any]) -> Any:
        """The next message that is no Log, which must be of this kind."""
        while not self._said:
            messages = self.channel.receive_blocking(PATIENCE)
            assert messages, f"no {kind.__name__}"
            self.logs += [m for m in messages if type(m) is Log]
            self._said += [m for m in messages if type(m) is not Log]
        message = self._said.pop(0)
        if type(message) is Failed and kind is not Failed:
            raise values.load_error(message.error)
        assert type(message) is kind, message
        return message

    def call(self, function: Callable[..., Any], *args: Any, inputs: tuple[int, ...] = (), **kwargs: Any) -> CallTask:
        """A task, whose function the worker knows from now on."""
        if function not in self._functions:
            self._functions[function] = number = len(self._functions)
            self.say(Function(number, cloudpickle.dumps(function), function.__name__))
        return CallTask(self._functions[function], self.house.dump((args, kwargs)), inputs)

    def define(self, graph: TaskGraph, number: int, base: int, held: dict[int, int] | None = None) -> None:
        self.say(Graph(number, cloudpickle.dumps(graph), base, held or {}))

    def start(
        self,
        *work: Any,
        tasks: list[int] | None = None,
        inputs: dict[int, Value] | None = None,
        inner: dict[int, int] | None = None,
        allowance: int = ALLOWANCE,
    ) -> int:
        """Send a batch; its number."""
        self._batches += 1
        tasks = list(range(100, 100 + len(work))) if tasks is None else tasks
        self.say(Batch(self._batches, tasks, list(work), inputs or {}, inner or {}, allowance))
        return self._batches

    def results(self, *work: Any, **options: Any) -> list[Any]:
        """Run a batch; its values."""
        self.start(*work, **options)
        finished = self.hear(Finished)
        return [None if value is None else self.house.load(value) for value in finished.results]

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.results(self.call(function, *args, **kwargs))[0]


class Gate:
    """Something that a task waits for, until the test opens it; the test can wait until a task stands before it."""

    def __init__(self, directory: Path, name: str = "gate") -> None:
        self.here, self.go = str(directory / f"{name}-here"), str(directory / f"{name}-go")
        os.mkfifo(self.here)
        os.mkfifo(self.go)

    def wait(self) -> None:
        """In the task."""
        os.close(os.open(self.here, os.O_WRONLY))
        os.close(os.open(self.go, os.O_RDONLY))

    def reached(self) -> None:
        """Until a task waits."""
        os.close(os.open(self.here, os.O_RDONLY))

    def open(self) -> None:
        os.close(os.open(self.go, os.O_WRONLY))


def soon(what: Callable[[], Any]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
