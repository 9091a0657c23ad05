"""The worker processes: started, watched, killed, buried and replaced. The scheduler's loop calls it.

There shall be :attr:`Crew.target` of them. One that dies is replaced at once, by a spare that the nursery has forked
before. If new ones die before they have served, there is a pause before the next: it would not fare better.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Final

from tilework.base.errors import ConnectionLostError, KilledWorker
from tilework.base.sizes import format_bytes
from tilework.engine.cluster.scheduler.adaptive import UNKNOWN_SECONDS, Adaptive, Load
from tilework.engine.cluster.scheduler.journal import Journal
from tilework.engine.cluster.scheduler.limits import how_it_ended, out_of_memory_kills
from tilework.engine.cluster.scheduler.members import LEAVING, SERVING, STARTING, Cause, Worker
from tilework.engine.cluster.scheduler.scheduling import Scheduling
from tilework.engine.cluster.scheduler.slots import Slots
from tilework.engine.cluster.scheduler.watch import Watch
from tilework.engine.cluster.start.launch import ClusterConfig
from tilework.engine.cluster.start.nursery import Nursery
from tilework.engine.cluster.store.values import dump_error
from tilework.engine.cluster.wire.channel import QueuedChannel
from tilework.engine.cluster.wire.messages import Failed, Finished, Log, Ran, Ready, Returned, RunOnWorker, Value
from tilework.engine.local.states import APART, READY, RUNNING

QUICK_DEATHS: Final = 3
"""So many workers may die before they serve, one after another, ..."""

PAUSE_SECONDS: Final = 2.0
"""... until this long passes before another is started."""

ADAPT_SECONDS: Final = 0.5

Answer = Callable[[int, Value | None, bytes | None], None]
"""Called with a worker's number, and the value or the error of what was run there."""


class Crew:
    """See the module's docstring.

    Parameters
    ----------
    config
        The cluster.
    scheduling
        Told of what workers say, and of their deaths.
    nursery, slots
        Where they come from, and where they store their values.
    journal
        What has happened.
    attach
        Called with each new worker: the loop shall read its channel, and hand over what it says to :meth:`hear`.
    """

    def __init__(
        self,
        config: ClusterConfig,
        scheduling: Scheduling,
        nursery: Nursery,
        slots: Slots,
        journal: Journal,
        attach: Callable[[Worker], None],
    ) -> None:
        self._config, self._scheduling, self._members = config, scheduling, scheduling.members
        self._nursery, self._slots, self._journal, self._attach = nursery, slots, journal, attach
        self._watch = Watch(self._members, slots.marks, config.memory_limit, config.task_timeout)
        self.target = config.n_workers
        self.setups: list[Value] = []  # pickled functions that every new worker calls first
        self.started = self.died = 0  # so far
        self._adaptive: Adaptive | None = None
        self._adapted = 0.0  # when that was last asked
        self._answers: dict[int, tuple[Worker, Answer]] = {}  # by request
        self._requests = 0
        self._quick_deaths = 0
        self._pause_until = 0.0
        self._kills = out_of_memory_kills()
        self._nursery_pid = nursery.pid

    # ------------------------------------------------------------ how many

    def fill(self, now: float) -> None:
        """Start workers until there are enough."""
        while len(self._members.present) < self.target and now >= self._pause_until:
            number = self._members.free_number()
            slot = self._slots.take()
            channel = QueuedChannel(self._nursery.spawn(number, slot, self._config.threads))
            self._slots.own(slot, channel)
            worker = Worker(number, slot, self._config.threads, channel, now)
            self._members.join(worker)
            self._attach(worker)
            self.started += 1

    def scale(self, n: int) -> None:
        """Have ``n`` workers from now on."""
        self._adaptive = None
        self._aim(n)

    def _aim(self, n: int) -> None:
        self.target = n
        for worker in self._members.to_leave(len(self._members.present) - n):
            self._scheduling.worker_leaves(worker)
        self.fill(monotonic())

    def adapt(self, minimum: int, maximum: int) -> None:
        """Have as many workers as the work calls for, from now on."""
        self._adaptive = Adaptive(minimum, maximum, self._config.threads, self._config.memory_limit)
        self._aim(max(minimum, min(self.target, maximum)))

    def restart(self) -> None:
        """Have new processes in the place of all."""
        for worker in self._members.present:
            self.kill(worker, Cause("restart"))

    # ------------------------------------------------------------ time

    def due(self) -> float:
        """When :meth:`look` is to be called next."""
        due = self._watch.due()
        if self._adaptive is not None:
            due = min(due, self._adapted + ADAPT_SECONDS)
        if len(self._members.present) < self.target:
            due = min(due, self._pause_until)
        return due

    def look(self, now: float) -> None:
        """Look after the workers."""
        if now >= self._watch.due():
            for worker, cause in self._watch.look(now):
                self.kill(worker, cause)
        if self._adaptive is not None and now >= self._adapted + ADAPT_SECONDS:
            self._adapted = now
            target = self._adaptive.target(now, self.target, self._load())
            if target != self.target:
                self._journal.note("info", f"{target} workers are called for, instead of {self.target}")
                self._aim(target)
        self.fill(now)

    def _load(self) -> Load:
        """What there is to do."""
        core = self._scheduling.core
        tasks = sum(map(core.states.count, (READY, APART, RUNNING)))
        return Load(self._scheduling.futures.seconds_left(UNKNOWN_SECONDS), tasks, core.held + core.on_disk)

    def kill(self, worker: Worker, cause: Cause) -> None:
        """Kill a worker; the rest follows when it is dead."""
        if worker.cause is None:
            worker.cause = cause
            text = {
                "memory": f"it had taken {format_bytes(cause.taken)}, and may take "
                f"{format_bytes(self._config.memory_limit)}",
                "timeout": f"a task ran for longer than {self._config.task_timeout} s",
                "stopped": "it was stopped by a signal, while it had work to do",
                "cancelled": "its task was cancelled",
                "restart": "of a restart",
            }[cause.kind]
            self._journal.note(
                "info" if cause.kind in ("cancelled", "restart") else "warning",
                f"worker {worker.number} is killed, because {text}",
            )
        self._nursery.kill(worker.number, signal.SIGKILL)

    # ------------------------------------------------------------ what they say

    def hear(self, worker: Worker, message: Any) -> None:
        """A worker has said something."""
        kind = type(message)
        if kind is Ready:
            worker.pid = message.pid
            if not self.setups:
                self._serves(worker)
            else:
                self._set_up(worker, list(self.setups))
        elif kind is Ran:
            found = self._answers.pop(message.request, None)
            if found is not None:
                found[1](worker.number, message.value, message.error)
        elif kind is Log:
            self._journal.log(str(worker.number), message.level, message.text)
        else:
            self._scheduling.from_worker(worker, message)
            if isinstance(message, Finished | Failed | Returned) and message.batch not in self._members.batches:
                self._slots.batch_ended(message.batch)

    def _serves(self, worker: Worker) -> None:
        self._quick_deaths = 0
        if worker.state == STARTING:
            self._scheduling.worker_serves(worker)

    def _set_up(self, worker: Worker, blobs: list[Value]) -> None:
        """Call setup functions one after another, then serve."""

        def answered(number: int, value: Value | None, error: bytes | None) -> None:
            if error is not None:
                self._journal.note("error", f"a setup function failed on worker {number}; it serves all the same")
            self._set_up(worker, blobs[1:])

        if blobs:
            self.run(worker, blobs[0], answered)
        else:
            self._serves(worker)

    def run(self, worker: Worker, blob: Value, answer: Answer) -> None:
        """Call a pickled function on a worker, beside its tasks."""
        self._requests += 1
        self._answers[self._requests] = worker, answer
        worker.channel.send(RunOnWorker(self._requests, blob))

    # ------------------------------------------------------------ deaths

    def lost(self, worker: Worker) -> None:
        """A worker's connection is over: it is dead, or shall be."""
        self._nursery.kill(worker.number, signal.SIGKILL)

    def exits(self) -> list[Worker]:
        """See who has ended; returns them. What they said last is heard first."""
        found = self._nursery.events()
        successor = self._nursery.pid != self._nursery_pid
        if successor:
            self._nursery_pid = self._nursery.pid
            self._journal.note(
                "warning", "the process that forks workers was killed, and the workers with it; there is a new one"
            )
        kills = out_of_memory_kills() if found else self._kills
        gone = []
        for number, _, code in found:
            worker = self._members.workers.get(number)
            if worker is not None:
                if successor and worker.cause is None:
                    worker.cause = Cause("lost")
                self._bury(worker, code, kills > self._kills)
                gone.append(worker)
        self._kills = kills
        return gone

    def _bury(self, worker: Worker, code: int, out_of_memory: bool) -> None:
        self._hear_last(worker)
        worker.channel.close()
        if worker.state == LEAVING and code == 0:
            self._journal.note("info", f"worker {worker.number} has left")
        else:
            self.died += 1
            if worker.cause is None:
                self._journal.note(
                    "warning",
                    f"worker {worker.number} (process {worker.pid}) "
                    f"{how_it_ended(code, out_of_memory)}; its tasks run again elsewhere",
                )
        if worker.state == STARTING and worker.cause is None:
            self._quick_deaths += 1
            if self._quick_deaths >= QUICK_DEATHS:
                self._pause_until = monotonic() + PAUSE_SECONDS
                self._journal.note(
                    "error", f"{self._quick_deaths} workers ended before they served; their output says why"
                )
        batches = set(self._members.batches)
        self._scheduling.worker_died(worker, code, self._slots.marks(worker.slot), monotonic(), out_of_memory)
        self._slots.give_up(worker.slot, batches - worker.batches.keys())
        for number in worker.batches:
            self._slots.batch_ended(number)
        ended = dump_error(KilledWorker(f"worker {worker.number} {how_it_ended(code, out_of_memory)}"))
        for request in [r for r, (who, _) in self._answers.items() if who is worker]:
            self._answers.pop(request)[1](worker.number, None, ended)

    def _hear_last(self, worker: Worker) -> None:
        try:
            while said := worker.channel.receive():
                for message in said:
                    self.hear(worker, message)
        except ConnectionLostError:
            pass

    def serving(self) -> Iterable[Worker]:
        """Those that can be asked to do something."""
        return [w for w in self._members.workers.values() if w.state == SERVING and w.cause is None]
