"""The workers: what they have under way, and what they may be given. Pure: no I/O.

*Numbers.* A worker's number says which place it has: 0, 1, 2 ... The process that replaces it has the same. For the
core a worker is many workers, one for each batch that it may have at a time: these are its *credits*,
``number * CREDITS + k``.

*How much.* One batch a thread; one more a thread while tasks are short (prefetch), so that the next is there when one
is done. What was not started of such a batch, and what waits in a batch behind a task that takes long, is asked back
as soon as somebody else has nothing to do.

*Cells.* Tasks that ran when a worker died are suspects. Each runs again alone in its *cell*: bound to the worker that
replaces the dead one, which has one credit (credit 0) as long as suspects are bound to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tilework.engine.cluster.wire.messages import Scratch, Value
from tilework.engine.local.states import Run

CREDITS: Final = 256
STARTING, SERVING, LEAVING = "starting", "running", "leaving"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why we have killed a worker."""

    kind: str  # "memory", "timeout", "stopped", "cancelled", "restart", "lost"
    tasks: frozenset[int] = frozenset()  # whose fault it is
    taken: int = 0  # bytes


@dataclass(slots=True, eq=False)
class UnderWay:
    """A batch that a worker has."""

    number: int
    credit: int
    run: Run
    sent: float
    scratch: list[Scratch] = field(default_factory=list)  # space that was allocated for it
    asked: bool = False  # back


@dataclass(slots=True, eq=False)
class Worker:
    """A worker process."""

    number: int
    slot: int
    threads: int
    channel: Any
    started: float
    state: str = STARTING
    pid: int = 0
    functions: set[int] = field(default_factory=set)  # numbers of those it knows
    graphs: dict[int, Value] = field(default_factory=dict)  # that it knows, by number: payloads, in use by it ...
    forgetting: dict[int, Value] = field(default_factory=dict)  # ... until it has not only been told to, but does
    batches: dict[int, UnderWay] = field(default_factory=dict)  # in the order in which they were sent
    free: list[int] = field(default_factory=list)  # credits of which it has no batch, the next one last
    spilling: int | None = None  # the credit that spills
    suspects: set[int] = field(default_factory=set)  # tasks whose cell it is
    viewed: list[int] = field(default_factory=list)  # blocks that it looks at, once for each time it said so
    viewed_arguments: dict[int, Value] = field(default_factory=dict)  # the same, arguments by ~task
    blocked: int = 0  # tasks that wait for other tasks
    done: int = 0  # tasks
    own_bytes: int = 0  # when last looked
    looked: float = 0.0  # when that was
    stopped: float | None = None  # since when it has been seen stopped
    marks: dict[int, tuple[int, float]] = field(default_factory=dict)  # by thread: task, and since when
    cause: Cause | None = None  # why we have killed it

    def __post_init__(self) -> None:
        first = self.number * CREDITS
        self.free = list(range(first + CREDITS - 1, first - 1, -1))

    @property
    def room(self) -> int:
        """Batches that it may be given for threads that have none; negative if some wait."""
        if self.state is not SERVING or self.cause is not None:
            return 0
        busy = len(self.batches) + (self.spilling is not None)
        if self.suspects:
            return 1 - busy
        return min(self.threads + self.blocked - busy, len(self.free))

    @property
    def credit(self) -> int:
        """The credit to ask the core for its next batch."""
        return self.number * CREDITS if self.suspects else self.free[-1]


class Members:
    """All workers by number, and who has which batch."""

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.batches: dict[int, tuple[Worker, UnderWay]] = {}  # by number
        self._count = 0  # of batches so far

    def join(self, worker: Worker) -> None:
        """A worker is being started."""
        self.workers[worker.number] = worker

    def leave(self, worker: Worker) -> None:
        """It has ended."""
        for number in worker.batches:
            del self.batches[number]
        del self.workers[worker.number]

    def free_number(self) -> int:
        """The lowest number that no worker has."""
        number = 0
        while number in self.workers:
            number += 1
        return number

    @property
    def present(self) -> list[Worker]:
        """Those that stay."""
        return [worker for worker in self.workers.values() if worker.state is not LEAVING]

    @property
    def threads(self) -> int:
        """Tasks that can run at a time."""
        return sum(worker.threads for worker in self.workers.values() if worker.state is SERVING)

    # ------------------------------------------------------------ batches

    def give(self, worker: Worker, credit: int, run: Run, now: float) -> UnderWay:
        """A worker is given a batch."""
        self._count += 1
        batch = UnderWay(self._count, credit, run, now)
        if worker.free[-1] == credit:
            worker.free.pop()
        else:
            worker.free.remove(credit)
        worker.batches[batch.number] = batch
        self.batches[batch.number] = worker, batch
        return batch

    def end(self, worker: Worker, batch: UnderWay) -> None:
        """It has reported it."""
        del worker.batches[batch.number], self.batches[batch.number]
        worker.free.append(batch.credit)

    def ask_back(self, now: float, patience: float) -> list[tuple[Worker, tuple[int, ...]]]:
        """Batches to ask back since somebody has nothing to do.

        That is, those with tasks that were surely not started: they wait behind others, or the worker has had them for
        longer than ``patience``.
        """
        out = []
        for worker in self.workers.values():
            waiting = -worker.room
            asked = []
            for k, batch in enumerate(reversed(worker.batches.values())):
                late = len(batch.run.tasks) > 1 and now - batch.sent > patience
                if not batch.asked and (late or (k < waiting and now - batch.sent > patience)):
                    batch.asked = True
                    asked.append(batch.number)
            if asked:
                out.append((worker, tuple(asked)))
        return out

    def to_leave(self, n: int) -> list[Worker]:
        """The ``n`` workers that will be missed least: idle ones first, of these those with the highest numbers."""
        return sorted(self.present, key=lambda w: (w.state is SERVING, len(w.batches), -w.number))[: max(0, n)]

    def find(self, names: Iterable[int | str]) -> list[int]:
        """Numbers of workers by number, or by text that ends in it (name, address).

        Raises
        ------
        KeyError
            With the name that no worker has.
        """
        out = []
        for name in names:
            text = str(name)
            digits = text[len(text.rstrip("0123456789")) :]
            if not digits or int(digits) not in self.workers:
                raise KeyError(name)
            out.append(int(digits))
        return out


def credits_of(numbers: Iterable[int]) -> list[int]:
    """All credits of these workers."""
    return [credit for number in numbers for credit in range(number * CREDITS, (number + 1) * CREDITS)]
