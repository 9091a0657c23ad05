"""The scheduler process's event loop: one thread that hears clients and workers, and never waits for any of them.

Each turn of the loop: wait for sockets and timers; take in all that has arrived; then, once, hand out work, answer
clients, and give memory back. So a thousand results cost one message to the client, not a thousand.

Everything that decides lives in modules without I/O (see ``scheduling``); here are sockets, signals and the clock. The
loop runs nothing of the user's and unpickles nothing of it. A bug that shows while a message is handled is logged, and
the client that sent it is told and let go; the loop goes on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import Any, Final, TypeVar

from tilework.base.errors import ConfigError, ConnectionLostError, TileworkError
from tilework.base.scratch import ScratchFile, punch_hole
from tilework.engine.cluster.scheduler.clients import Client
from tilework.engine.cluster.scheduler.crew import Crew
from tilework.engine.cluster.scheduler.dispatch import PATIENCE_SECONDS
from tilework.engine.cluster.scheduler.journal import Journal
from tilework.engine.cluster.scheduler.members import Cause, Worker
from tilework.engine.cluster.scheduler.report import snapshot
from tilework.engine.cluster.scheduler.requests import Requests
from tilework.engine.cluster.scheduler.scheduling import Scheduling
from tilework.engine.cluster.scheduler.slots import Slots
from tilework.engine.cluster.start.launch import ClusterConfig
from tilework.engine.cluster.start.nursery import Nursery
from tilework.engine.cluster.store.arena import Arena
from tilework.engine.cluster.wire import register
from tilework.engine.cluster.wire.auth import Doorman, new_secret
from tilework.engine.cluster.wire.channel import QueuedChannel
from tilework.engine.cluster.wire.messages import Cancel, Closing, Hello, Refused, Request, Welcome
from tilework.engine.cluster.wire.snapshot import Snapshot
from tilework.engine.cluster.wire.versions import mismatch, versions

BACKLOG: Final = 128
BUGS: Final = 20
"""So many turns in a row may fail before the cluster ends: it would do nothing but fail."""

DISK_SECONDS: Final = 10.0
"""After a disk was full it is not tried again for so long."""

_READABLE: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
T = TypeVar("T")


class Server:
    """The scheduler of a cluster. Serves from :meth:`serve` on.

    Parameters
    ----------
    config
        What the cluster should be.
    arena, spill
        Its memory, and its file for what does not fit.
    nursery
        Where workers come from.
    owner
        A connection that ends when the cluster shall end; None if nobody owns it.

    Attributes
    ----------
    address, secret, dashboard
        What clients must know.
    """

    def __init__(
        self, config: ClusterConfig, arena: Arena, spill: ScratchFile, nursery: Nursery, owner: socket.socket | None
    ) -> None:
        self.config, self.arena = config, arena
        self._spill, self._nursery, self._owner = spill, nursery, owner
        self.started = time.time()
        self.strangers = 0  # that were refused
        self.journal = Journal()
        self.scheduling = Scheduling(arena.slot_of, config.memory, config.memory_limit, config.task_timeout)
        self._slots = Slots(arena, self.scheduling.blocks)
        self.crew = Crew(config, self.scheduling, nursery, self._slots, self.journal, self._attach_worker)
        self._requests = Requests(self)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}  # by descriptor
        self._channels: dict[QueuedChannel, int] = {}  # and their descriptors
        self._writing: set[int] = set()  # descriptors that we wait to write to
        self._calls: deque[Callable[[], object]] = deque()  # from other threads
        self._ending: str | None = None  # why
        self._idle_since = monotonic()
        self._disk_tried = 0.0
        self._bugs = 0
        self._versions = versions()
        self._listener = _listen(config.port)
        self.secret = new_secret()
        self._doorman: Doorman[socket.socket] = Doorman(self.secret)
        self._port = self._listener.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.dashboard: str | None = None
        nursery.introduce(self.address, self.secret)
        self._wake, self._waken = socket.socketpair()
        for sock in (self._wake, self._waken):
            sock.setblocking(False)
        self._nursery_fd = nursery.fileno()
        self._add(self._listener.fileno(), self._accept)
        self._add(self._wake.fileno(), self._woken)
        self._add(self._nursery_fd, self._workers_ended)
        if owner is not None:
            owner.setblocking(False)
            self._add(owner.fileno(), self._owner_says)
        self.crew.fill(monotonic())
        self._flush()
        self._start_extras()
        register.write(register.Entry(config.name, self._port, self.secret, os.getpid(), self.started, self.dashboard))

    def _start_extras(self) -> None:
        """Functions of others: one that returns a link has made the status page."""
        for extra in self.config.extras:
            module, _, function = extra.partition(":")
            link = getattr(import_module(module), function)(self)
            if isinstance(link, str):
                self.dashboard = link

    # ------------------------------------------------------------ for other threads

    def call(self, function: Callable[[], T], answer: Callable[[T], object]) -> None:
        """Have ``answer(function())`` called by the loop, soon. Any thread may ask."""
        self._calls.append(lambda: answer(function()))
        with suppress(BlockingIOError, OSError):  # it will wake up anyway; or has ended
            self._waken.send(b"c")

    def snapshot(self) -> Snapshot:
        """What the cluster is doing. To be called by the loop, see :meth:`call`."""
        return snapshot(self)

    def end(self, reason: str) -> None:
        """End the cluster at the end of this turn."""
        if self._ending is None:
            self._ending = reason

    # ------------------------------------------------------------ the loop

    def serve(self) -> None:
        """Until the cluster ends."""
        signal.signal(signal.SIGTERM, lambda *_: self.end("its scheduler process was told to end (SIGTERM)"))
        signal.set_wakeup_fd(self._waken.fileno(), warn_on_full_buffer=False)
        try:
            while self._ending is None:
                for descriptor, event in self._epoll.poll(self._timeout()):
                    handler = self._handlers.get(descriptor)
                    if handler is not None:
                        handler(event)
                self._turn()
        except BaseException as error:
            self.end(f"of a bug in the scheduler: {error!r}")
            raise
        finally:
            self._close()

    def _turn(self) -> None:
        try:
            now = monotonic()
            if now >= self.crew.due():
                self.crew.look(now)
            if now >= (self._doorman.deadline() or now + 1):
                for sock in self._doorman.expired(now):
                    self._turn_away(sock)
            dispatch = self.scheduling.dispatch
            self.scheduling.turn(now)
            if dispatch.idle:
                dispatch.ask_back(now)
            if dispatch.disk_problem is not None:
                self._watch_disk(now)
            self._requests.look()
            for client, messages in self.scheduling.holders.take_messages():
                for message in messages:
                    client.channel.send(message)
            self._slots.settle()
            for offset, size in self.scheduling.blocks.take_unused():
                punch_hole(self._spill.fileno(), offset, size)
            self._look_idle(now)
            self._bugs = 0
        except Exception:
            self._bugs += 1
            self.journal.bug("a bug in the scheduler:", traceback.format_exc())
            if self._bugs >= BUGS:
                self.end("its scheduler has a bug; its output says which")
        self._flush()

    def _timeout(self) -> float:
        """Seconds until something must be done though nothing arrives."""
        now = monotonic()
        due = self.crew.due()
        deadline = self._doorman.deadline()
        if deadline is not None:
            due = min(due, deadline)
        if self.scheduling.dispatch.idle and self.scheduling.members.batches:
            due = min(due, now + PATIENCE_SECONDS)
        return max(0.0, due - now)

    def _flush(self) -> None:
        """Write what is queued, as far as sockets take it."""
        for channel, descriptor in self._channels.items():
            if channel.wants_write:
                channel.flush()
                self._watch_writing(channel, descriptor)

    def _watch_writing(self, channel: QueuedChannel, descriptor: int) -> None:
        if channel.wants_write != (descriptor in self._writing):
            if channel.wants_write:
                self._writing.add(descriptor)
                self._epoll.modify(descriptor, _READABLE | select.EPOLLOUT)
            else:
                self._writing.discard(descriptor)
                self._epoll.modify(descriptor, _READABLE)

    def _look_idle(self, now: float) -> None:
        busy = self.scheduling.core.unfinished or len(self.scheduling.holders.clients) > 1
        if busy:
            self._idle_since = now
        elif self.config.idle_timeout is not None and now - self._idle_since > self.config.idle_timeout:
            self.end(f"it was idle for {self.config.idle_timeout:g} s")

    def _watch_disk(self, now: float) -> None:
        """Try a full disk again after a while."""
        if not self._disk_tried:
            self._disk_tried = now
            self.journal.note("error", f"nothing goes to disk: {self.scheduling.dispatch.disk_problem}")
        elif now - self._disk_tried > DISK_SECONDS:
            self._disk_tried = 0.0
            self.scheduling.dispatch.disk_problem = None
            self.scheduling.core.unwritable.clear()

    def _add(self, descriptor: int, handler: Callable[[int], None]) -> None:
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, _READABLE)

    def _remove(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            with suppress(OSError):
                self._epoll.unregister(descriptor)
        self._writing.discard(descriptor)

    def _drop_channel(self, channel: QueuedChannel) -> None:
        descriptor = self._channels.pop(channel, None)
        if descriptor is not None:
            self._remove(descriptor)

    def _woken(self, event: int) -> None:
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        while self._calls:
            try:
                self._calls.popleft()()
            except Exception:
                self.journal.bug("a bug in what another thread has asked:", traceback.format_exc())

    def _owner_says(self, event: int) -> None:
        assert self._owner is not None
        with suppress(BlockingIOError):
            try:
                data = self._owner.recv(1)
            except ConnectionError:
                data = b""
            if not data:
                self.end("whoever started it has closed it, or is gone")

    # ------------------------------------------------------------ workers

    def _attach_worker(self, worker: Worker) -> None:
        channel = worker.channel
        descriptor = channel.fileno()
        self._channels[channel] = descriptor
        self._add(descriptor, lambda event: self._worker_says(worker, event))

    def _worker_says(self, worker: Worker, event: int) -> None:
        if event & select.EPOLLOUT:
            worker.channel.flush()
            self._watch_writing(worker.channel, worker.channel.fileno())
        if event & _READABLE:
            try:
                for message in worker.channel.receive():
                    self._hear_worker(worker, message)
            except ConnectionLostError:  # its process ends, or should
                self._drop_channel(worker.channel)
                self.crew.lost(worker)

    def _hear_worker(self, worker: Worker, message: Any) -> None:
        try:
            self.crew.hear(worker, message)
        except Exception:
            self.journal.bug(
                f"a bug, when worker {worker.number} said {type(message).__name__}:", traceback.format_exc()
            )

    def _workers_ended(self, event: int) -> None:
        for worker in self.crew.exits():
            self._drop_channel(worker.channel)
        descriptor = self._nursery.fileno()
        if descriptor != self._nursery_fd:  # a new nursery
            self._remove(self._nursery_fd)
            self._nursery_fd = descriptor
            self._add(descriptor, self._workers_ended)
        self.crew.fill(monotonic())

    # ------------------------------------------------------------ strangers

    def _accept(self, event: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again; or we have too many descriptors open
            return
        sock.setblocking(False)
        for oldest in self._doorman.arrived(sock, monotonic()):
            self._turn_away(oldest)
        self._add(sock.fileno(), lambda event: self._stranger_says(sock))

    def _stranger_says(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(self._doorman.wanted(sock))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        verdict = self._doorman.heard(sock, data)
        if verdict.answer:
            with suppress(OSError):  # a few bytes, which always fit
                sock.send(verdict.answer)
        if verdict.refused is not None:
            self._turn_away(sock)
        elif verdict.admitted:
            self._admit(sock)

    def _turn_away(self, sock: socket.socket) -> None:
        self.strangers += 1
        self._remove(sock.fileno())
        sock.close()

    # ------------------------------------------------------------ clients

    def _admit(self, sock: socket.socket) -> None:
        """Whoever it is knows the secret."""
        descriptor = sock.fileno()
        self._remove(descriptor)
        channel = QueuedChannel(sock)
        self._channels[channel] = descriptor
        visitor: list[Client] = []  # once it has said hello
        self._add(descriptor, lambda event: self._client_says(channel, visitor, event))

    def _client_says(self, channel: QueuedChannel, visitor: list[Client], event: int) -> None:
        if event & select.EPOLLOUT:
            channel.flush()
            self._watch_writing(channel, channel.fileno())
        if event & _READABLE:
            try:
                for message in channel.receive():
                    if visitor:
                        self._hear_client(visitor[0], message)
                    else:
                        self._welcome(channel, visitor, message)
            except ConnectionLostError:
                self._drop_channel(channel)
                channel.close()
                if visitor:
                    self._client_gone(visitor[0])

    def _welcome(self, channel: QueuedChannel, visitor: list[Client], message: Hello) -> None:
        try:
            problem = mismatch(self._versions, message.versions)
            if problem is not None:
                raise ConfigError(problem)
            slot = self._slots.take()
        except TileworkError as error:
            channel.send(Refused(str(error)))
            channel.flush()
            raise ConnectionLostError("it was refused") from None
        self._slots.own(slot, channel)
        client = self.scheduling.holders.new_client(slot, channel)
        client.name, client.pid, client.since = message.name, message.pid, time.time()
        visitor.append(client)
        channel.send(
            Welcome(
                client.number,
                slot,
                self.arena.place,
                self.config.memory,
                self.address,
                self.dashboard,
                self.config.name,
            )
        )

    def _hear_client(self, client: Client, message: Any) -> None:
        try:
            if type(message) is Request:
                self._requests.ask(client, message)
            elif type(message) is Cancel:
                self._cancel(message)
            else:
                self.scheduling.from_client(client, message)
        except Exception as error:
            trace = traceback.format_exc()
            self.journal.bug(f"a bug, when client {client.number} said {type(message).__name__}:", trace)
            if type(message) is not Request:  # else it was told
                client.channel.send(Closing(f"InternalError in the scheduler, please report it: {error!r}\n{trace}"))
                client.channel.flush()
                raise ConnectionLostError("of a bug") from None

    def _cancel(self, message: Cancel) -> None:
        tasks = set(self.scheduling.cancel(message.futures))
        if message.force and tasks:
            for worker in self.crew.serving():
                running = tasks.intersection(self.arena.marks(worker.slot))
                if running and not tasks.isdisjoint(t for batch in worker.batches.values() for t in batch.run.tasks):
                    self.crew.kill(worker, Cause("cancelled", frozenset(running)))

    def _client_gone(self, client: Client) -> None:
        self._requests.client_gone(client)
        self.scheduling.client_gone(client)
        self._slots.give_up(client.slot, set(self.scheduling.members.batches))

    # ------------------------------------------------------------ the end

    def _close(self) -> None:
        """Tell all, kill all, and leave nothing."""
        with suppress(OSError, TileworkError):
            register.remove(self._port, os.getpid())
        self._listener.close()
        for client in self.scheduling.holders.clients.values():
            if client.channel is not None:
                client.channel.send(Closing(self._ending or ""))
                client.channel.flush()
        self._nursery.close()
        for channel in self._channels:
            channel.close()
        self._epoll.close()


def _listen(port: int) -> socket.socket:
    """A socket on loopback, and nowhere else."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} of 127.0.0.1 cannot be used: {error.strerror}. Choose another one, or 0 for any that is free"
        ) from error
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
