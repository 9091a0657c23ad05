"""A client's connection to its scheduler: it knows how the client's futures stand, and loads their values.

When the connection is over, for whatever reason, all futures that are not done are lost, and all waiting ends. What was
loaded stays valid: the socket stays open, although nothing else is said there, until nobody looks at it any more.
"""

from __future__ import annotations

import builtins
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from tilework.base import errors
from tilework.base.errors import ClusterClosedError, ConnectionLostError
from tilework.engine.cluster.client.connection import Connection
from tilework.engine.cluster.client.interrupts import Deferred
from tilework.engine.cluster.client.known import CANCELLED, ERROR, FINISHED, LOST, PENDING, State
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.cluster.wire import auth, messages, register
from tilework.engine.cluster.wire.channel import Channel
from tilework.engine.cluster.wire.versions import versions

SERIAL_BITS = 40
"""A future is ``client number << SERIAL_BITS | serial``."""

WARM_BYTES = 64 << 20
"""Bytes that may lie idle in a client's slot, for the next arguments."""

LAZY_RELEASES = 512
"""So many futures whose values are here, and that are garbage, may wait for others, to be released together."""

NOT_PINNED = -1
"""In the place of a future that was asked for in vain: nothing has to be unpinned."""


class Link(Connection):
    """A connection. Made by :meth:`connect`.

    Attributes
    ----------
    welcome
        What the scheduler said at the beginning.
    arena
        The cluster's shared memory.
    slot
        The part of it in which this client allocates.
    """

    def __init__(self, sock: socket.socket, channel: Channel, welcome: messages.Welcome, arena: Arena) -> None:
        super().__init__(sock, channel, welcome.address)
        self.welcome = welcome
        self.arena = arena
        self.slot = Slot(arena, welcome.slot, WARM_BYTES)
        self._states: dict[int, State] = {}
        self._serials = count(welcome.client << SERIAL_BITS)
        self._requests = count()
        self._answering = threading.Lock()  # for the two that follow
        self._answers: dict[int, messages.Reply | messages.Values | None] = {}  # None: not there yet
        self._abandoned: dict[int, list[int]] = {}  # futures of Gets whose answers nobody waits for any more
        self._failures = 0  # how often some future has failed
        self._watchers: dict[int, Callable[[messages.Progress | messages.Over], object]] = {}
        self._dropped: deque[State] = deque()
        self._unpinned: deque[int] = deque()
        self._pins = 0  # values that were asked for and are not unpinned; changed only with the lock for sending
        self.handlers = {
            messages.Done: self._done,
            messages.Erred: self._erred,
            messages.Values: self._values,
            messages.Reply: self._reply,
            messages.Progress: self._watched,
            messages.Over: self._watched,
            messages.Free: lambda message: self.slot.free(message.extents),
            messages.Closing: lambda message: self._break(self._lost(message.reason)),
        }

    @classmethod
    def connect(cls, address: str, timeout: float = 10.0, name: str = "", secret: bytes | None = None) -> Link:
        """Connect to the cluster at an address, ``tcp://127.0.0.1:PORT``, of this user on this machine.

        The secret is looked up if it is not given.

        Raises
        ------
        ConnectionLostError
            If nobody answers there, or not as a cluster of this user should, or not in time.
        """
        port = register.parse_address(address)
        if secret is None:
            secret = register.read(address).secret
        deadline = time.monotonic() + timeout
        sock = auth.connect(port, secret, timeout)
        try:
            channel = Channel(sock)
            channel.send(messages.Hello(versions(), os.getpid(), name))
            received = channel.receive_blocking(max(0.0, deadline - time.monotonic()))
            if not received:
                raise ConnectionLostError(f"the scheduler at {address} did not answer within {timeout:g} s")
            welcome, *others = received
            if isinstance(welcome, messages.Refused):
                raise ConnectionLostError(f"the scheduler at {address} refuses the connection: {welcome.reason}")
            link = cls(sock, channel, welcome, Arena.open(welcome.arena))
        except BaseException:
            sock.close()
            raise
        link.handle(others)
        return link

    # ------------------------------------------------------------ futures

    def reserve(self, n: int, label: str = "future") -> list[State]:
        """New futures, one reference to each. Their numbers follow one another."""
        with self._sending:
            states = [State(number, label) for _, number in zip(range(n), self._serials, strict=False)]
            self._states.update([(state.number, state) for state in states])
        return states

    def meet(self, number: int, label: str = "future", given_key: str | None = None) -> State:
        """A future by its number, with one reference more. One that another client made is followed from now on."""
        with Deferred():
            with self._sending:
                state = self._states.get(number)
                if state is not None and state.references:
                    state.references += 1
                    return state
                self._check()
                state = self._states[number] = State(number, label, given_key)
                self._channel.send(messages.Follow([number]))
            self._flush()
            return state

    def key_of(self, number: int) -> str:
        """What a future is called here, also if it is another client's."""
        state = self._states.get(number)
        return f"future-{number:x}" if state is None else state.key

    def drop(self, state: State) -> None:
        """One reference less. May be called anywhere, also by the garbage collector."""
        self._dropped.append(state)
        if state.value is None or len(self._dropped) > LAZY_RELEASES:
            self._urgent = True
            with Deferred(destroying=True):
                self._flush()

    def retry(self, states: Iterable[State]) -> None:
        """Failed futures are pending again."""
        failed = [state for state in states if state.status in (ERROR, CANCELLED)]
        for state in failed:
            state.error = b""
            state.status = PENDING
        if failed:
            self.send(messages.Retry([state.number for state in failed]))

    def cancel(self, states: Iterable[State], force: bool) -> None:
        """Futures are cancelled, from here on. What needs them is so when the scheduler says it."""
        futures = list(states)
        self.send(messages.Cancel([state.number for state in futures], force))
        for state in futures:
            state.value = None
            state.settle(CANCELLED)

    def failure(self, state: State, name: str | None = None) -> Exception:
        """What to raise for a future that has no value, with the traceback that it had where it was raised.

        ``name`` is what to call it, by default its key.
        """
        if state.status == ERROR:
            error: Exception = values.load_error(state.error)  # type: ignore[assignment]
            return error
        if state.status == CANCELLED:
            return CancelledError(
                f"{name or state.key} was cancelled and has no result; retry() it, or submit it again"
            )
        return self._broken or errors.InternalError(f"the value of {name or state.key} is gone: it is {state.status}")

    # ------------------------------------------------------------ values

    def load(self, states: Sequence[State], timeout: float | None = None) -> list[Any]:
        """The values of futures that are finished. Large ones are views on shared memory and cannot be written to.

        Raises
        ------
        TimeoutError
            If they are not all there in time.
        """
        large = [state for state in states if state.value is None]
        found = iter(self._get(large, timeout) if large else ())
        # Values that follow would stay pinned if one could not be loaded, so the failure waits until all are.
        failure: Exception | None = None
        loaded: list[Any] = []
        for state in states:
            value: messages.Value | None = state.value
            done = None
            if value is None:
                value = next(found)
                if value is None:
                    failure = failure or self.failure(state)
                    continue
                done = partial(self._unpin, state.number)
            try:
                loaded.append(values.load(value, self.arena, done))
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return loaded

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Memory for a large result, in which workers write as well. It stays as long as somebody looks at it, also if
        this link is closed before.
        """
        with self._sending:
            self._check()
            self._pins += 1
        try:
            return self.slot.empty(shape, dtype, shared=True, done=partial(self._unpin, NOT_PINNED))
        except BaseException:
            self._unpin(NOT_PINNED)
            raise

    def _get(self, states: Sequence[State], timeout: float | None) -> list[messages.Value | None]:
        """Where values are. They stay there until each is unpinned."""
        number = next(self._requests)
        futures = [state.number for state in states]
        self._answers[number] = None
        with self._sending:
            self._pins += len(futures)
        answer = None
        try:
            self.send(messages.Get(number, futures))
            if not self.wait(lambda: self._answers[number] is not None, timeout):
                raise TimeoutError(f"{len(states)} values did not arrive within {timeout:g} s")
            answer = self._answers[number]
        finally:
            with self._answering:
                arrived = self._answers.pop(number)
                if arrived is None:
                    self._abandoned[number] = futures
            if answer is None and isinstance(arrived, messages.Values):
                self._unpin_all(futures, arrived)
        assert isinstance(answer, messages.Values)
        if answer.error:
            self._unpinned.extend([NOT_PINNED] * len(futures))
            raise values.load_error(answer.error)
        self._unpinned.extend(NOT_PINNED for value in answer.values if value is None)
        return answer.values

    def _unpin_all(self, futures: list[int], message: messages.Values) -> None:
        """Nobody looks at these values."""
        for number, value in zip(futures, message.values, strict=True):
            self._unpinned.append(NOT_PINNED if value is None else number)
        self._urgent = True

    def _unpin(self, number: int) -> None:
        """Nobody looks at a value any more. Called by the garbage collector, anywhere."""
        self._unpinned.append(number)
        self._urgent = True
        with Deferred(destroying=True):
            self._flush()

    def _send_dropped(self) -> None:
        released = []
        for _ in range(len(self._dropped)):
            state = self._dropped.popleft()
            state.references -= 1
            if not state.references and self._states.get(state.number) is state:
                del self._states[state.number]
                released.append(state.number)
        unpinned = [self._unpinned.popleft() for _ in range(len(self._unpinned))]
        self._pins -= len(unpinned)
        unpinned = [number for number in unpinned if number != NOT_PINNED]
        if unpinned:
            self._channel.send(messages.Unpin(unpinned))
        if released and self._broken is None:
            self._channel.send(messages.Release(released))

    # ------------------------------------------------------------ asking and waiting

    def request(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """Ask for something and return the answer: see :class:`~tilework.engine.cluster.wire.messages.Request`.

        Raises
        ------
        TimeoutError
            If there is no answer in time.
        Exception
            What the scheduler objects, by the class that it names.
        """
        number = next(self._requests)
        self._answers[number] = None
        try:
            self.send(messages.Request(number, method, args))
            if not self.wait(lambda: self._answers[number] is not None, timeout):
                raise TimeoutError(f"the scheduler has not answered {method!r} within {timeout:g} s")
        finally:
            with self._answering:
                reply = self._answers.pop(number)
        assert isinstance(reply, messages.Reply)
        if reply.error is not None:
            raise _error_class(reply.kind)(reply.error)
        return reply.value

    def watch(self, first: int, watcher: Callable[[messages.Progress | messages.Over], object] | None) -> None:
        """Have ``watcher`` called with each Progress of the graph that was submitted as ``first``, and when it is Over;
        None ends it.

        It is called by whoever reads: it must return soon, and not wait for this link.
        """
        if watcher is None:
            self._watchers.pop(first, None)
        else:
            self._watchers[first] = watcher

    def call_when_done(self, state: State, function: Callable[[], object]) -> None:
        """Call a function in this link's thread once the future is done. It may wait for other futures."""
        state.listen(lambda _: self.call_soon(function))
        self.read_always()

    def wait_done(self, states: Iterable[State], timeout: float | None = None, until_failure: bool = False) -> bool:
        """Wait until futures are done, in whatever way, or one of them in a bad way; return whether it is so."""
        pending = list(states)
        failures = -1

        def ready() -> bool:
            nonlocal failures
            while pending and pending[-1].status != PENDING:
                if pending.pop().status != FINISHED and until_failure:
                    pending.clear()
            if until_failure and failures != self._failures:
                failures = self._failures
                if any(state.status not in (PENDING, FINISHED) for state in pending):
                    pending.clear()
            return not pending

        return self.wait(ready, timeout)

    # ------------------------------------------------------------ what comes in

    def _done(self, message: messages.Done) -> None:
        states = self._states
        for number, value, size in zip(message.futures, message.values, message.sizes, strict=True):
            state = states.get(number)
            if state is not None and state.status == PENDING:  # it may have been cancelled meanwhile
                state.value = value
                state.size = size
                state.status = FINISHED
                if state.listeners:
                    state.settle(FINISHED)

    def _erred(self, message: messages.Erred) -> None:
        self._failures += 1
        status = CANCELLED if message.cancelled else ERROR
        for number in message.futures:
            state = self._states.get(number)
            if state is not None:
                state.error = message.error
                state.value = None
                state.settle(status)

    def _values(self, message: messages.Values) -> None:
        with self._answering:
            if message.request in self._answers:
                self._answers[message.request] = message
                return
        self._unpin_all(self._abandoned.pop(message.request), message)

    def _reply(self, message: messages.Reply) -> None:
        with self._answering:
            if message.number in self._answers:
                self._answers[message.number] = message

    def _watched(self, message: messages.Progress | messages.Over) -> None:
        watcher = self._watchers.get(message.first)
        if watcher is not None:
            watcher(message)

    # ------------------------------------------------------------ the end

    def forget_in_child(self) -> None:
        """As of any connection. Besides, memory that this process gives back must stay the parent's."""
        super().forget_in_child()
        self._answering = threading.Lock()
        self.arena.close()

    def _linger(self) -> bool:
        """All futures are lost. While values are looked at, other than by who lost the scheduler, they stay pinned."""
        for state in list(self._states.values()):
            if state.status == PENDING:
                state.settle(LOST)
        if not isinstance(self._broken, ClusterClosedError) or not self._pins:
            return False
        held = list(self._states)
        self._states.clear()
        if held:
            with suppress(ConnectionLostError), self._sending:
                self._channel.send(messages.Release(held))
        return True


def _error_class(name: str | None) -> Callable[[str], Exception]:
    """The class that a Reply names: one of ours or of Python's."""
    found = getattr(errors, name or "", None) or getattr(builtins, name or "", None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return errors.InternalError
