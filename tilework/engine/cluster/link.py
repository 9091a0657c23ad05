"""A client's connection to its scheduler: it sends, waits, and knows how the futures stand. It has no thread.

*Reading.* Whoever waits reads, for all who wait: one thread holds the baton and reads the socket, the others wait until
it has read something and look again. So an answer takes no hop from one thread to another. A thread of its own is
started only by what must hear without waiting: callbacks (``call_when_done``, and by it ``await`` and executors). It
then waits like everyone else, for callbacks to call.

*Writing.* Under one lock, by the calling thread. References that are dropped (``drop``: futures and values that are
garbage) only join a queue, since that happens in any thread and inside any lock; whoever has the lock sends them.

*Interrupts.* All of it runs inside :class:`~tilework.engine.cluster.interrupts.Deferred`: Ctrl-C ends waiting, and
nothing else.

*The end.* When the connection is over, for whatever reason, all futures that are not done are lost, and all waiting
ends.
"""

from __future__ import annotations

import builtins
import os
import select
import socket
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from tilework.base import errors
from tilework.base.errors import ClusterClosedError, ConnectionLostError, TileworkError
from tilework.engine.cluster import auth, messages, register, values
from tilework.engine.cluster.arena import Arena, Slot
from tilework.engine.cluster.channel import Channel
from tilework.engine.cluster.interrupts import Deferred
from tilework.engine.cluster.versions import versions

SERIAL_BITS = 40
"""A future is ``client number << SERIAL_BITS | serial``."""

WARM_BYTES = 64 << 20
"""Bytes that may lie idle in a client's slot, for the next arguments."""

LAZY_RELEASES = 512
"""So many futures whose values are here, and that are garbage, may wait for others, to be released together."""

LONG = 0.5
"""Seconds to wait at a time. A Ctrl-C that comes after Python has last looked for one, but before the system call that
waits has begun, does not end that call."""

NOT_PINNED = -1
"""In the place of a future that was asked for in vain: nothing has to be unpinned."""

PENDING, FINISHED, ERROR, CANCELLED, LOST = "pending", "finished", "error", "cancelled", "lost"


class State:
    """What a client knows of a future.

    Attributes
    ----------
    number
        Names the future in the cluster.
    label
        What it is of: the name of a function, for example.
    given_key
        The key that the user has chosen.
    status
        PENDING, FINISHED, ERROR, CANCELLED, or LOST: the connection was over before it was done.
    value
        Its pickled value once finished, if that is small. Otherwise the scheduler knows where it is.
    size
        Bytes of memory that the value takes.
    error
        The pickled error.
    references
        How many Future objects there are. Changed only with the lock for sending.
    """

    __slots__ = ("error", "given_key", "label", "listeners", "number", "references", "size", "status", "value")

    def __init__(self, number: int, label: str, given_key: str | None = None) -> None:
        self.number = number
        self.label = label
        self.given_key = given_key
        self.status = PENDING
        self.value: bytes | None = None
        self.size = 0
        self.error = b""
        self.references = 1
        self.listeners: list[Callable[[State], object]] | None = None

    @property
    def key(self) -> str:
        """Names the future to people."""
        return self.given_key or f"{self.label}-{self.number:x}"

    def settle(self, status: str) -> None:
        """It is done, or otherwise at an end. What goes with the status has been set before."""
        self.status = status
        self._tell()

    def listen(self, listener: Callable[[State], object]) -> None:
        """Have ``listener`` called once it is done, by whoever reads: it must return at once, and not raise."""
        with _listening:
            if self.listeners is None:
                self.listeners = []
            self.listeners.append(listener)
        if self.status != PENDING:
            self._tell()

    def _tell(self) -> None:
        """Each listener once, however many threads come here."""
        listeners = self.listeners
        while listeners:
            try:
                listener = listeners.pop(0)
            except IndexError:  # another thread took the last
                return
            listener(self)


_listening = threading.Lock()


class Link:
    """A connection. Made by :meth:`connect`.

    Attributes
    ----------
    welcome
        What the scheduler said at the beginning.
    arena
        The cluster's shared memory.
    slot
        The part of it in which this client allocates.
    waiting
        Entered by a thread while it waits: in a task, so that the worker can run another one meanwhile.
    """

    def __init__(self, sock: socket.socket, channel: Channel, welcome: messages.Welcome, arena: Arena) -> None:
        self.welcome = welcome
        self.arena = arena
        self.slot = Slot(arena, welcome.slot, WARM_BYTES)
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self._socket = sock
        self._channel = channel
        self._broken: TileworkError | None = None
        self._states: dict[int, State] = {}
        self._serials = count(welcome.client << SERIAL_BITS)
        self._requests = count()
        self._answers: dict[int, messages.Reply | messages.Values | None] = {}  # None: not there yet
        self._abandoned: dict[int, list[int]] = {}  # futures of Gets whose answers nobody waits for any more
        self._failures = 0  # how often some future has failed
        self._watchers: dict[int, Callable[[messages.Progress | messages.Over], object]] = {}
        self._callbacks: deque[Callable[[], object]] = deque()
        self._dropped: deque[State] = deque()
        self._unpinned: deque[int] = deque()
        self._urgent = False  # whether some of these should be sent soon
        self._pins = 0  # values that were asked for and are not unpinned; changed only with the lock for sending
        self._over = False  # nothing is sent or read any more
        self._make_locks()
        self._handlers: dict[type, Callable[[Any], None]] = {
            messages.Done: self._done,
            messages.Erred: self._erred,
            messages.Values: self._values,
            messages.Reply: self._reply,
            messages.Progress: self._watched,
            messages.Over: self._watched,
            messages.Free: self._free,
            messages.Closing: self._closing,
        }
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        _links.add(self)

    def _make_locks(self) -> None:
        self._sending = threading.Lock()
        self._baton = threading.Lock()  # held by the thread that reads
        self._waiters: deque[threading.Lock] = deque()  # of the threads that wait for it
        self._answering = threading.Lock()
        self._ending = threading.Lock()
        self._thread: threading.Thread | None = None

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
        link._handle(others)
        return link

    @property
    def broken(self) -> TileworkError | None:
        """Why the connection is over; None while it is not."""
        return self._broken

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

    def poll(self) -> None:
        """Take in what has arrived, without waiting."""
        self._wait(lambda: False, 0.0)

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

    # ------------------------------------------------------------ messages

    def send(self, *what: Any) -> None:
        """Send messages, in this order.

        Raises
        ------
        ClusterClosedError
            If this connection was closed.
        ConnectionLostError
            If the scheduler is gone.
        """
        with Deferred():
            try:
                with self._sending:
                    self._check()
                    for message in what:
                        self._channel.send(message)
            except ConnectionLostError as error:
                self._break(self._lost(error))
                raise
            self._flush()

    def request(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        """Ask for something and return the answer: see :class:`~tilework.engine.cluster.messages.Request`.

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
        state.listen(lambda _: self._call_soon(function))
        self.read_always()

    # ------------------------------------------------------------ waiting

    def wait(self, ready: Callable[[], object], timeout: float | None = None) -> bool:
        """Read, or wait for those who do, until ``ready()``; return whether it is.

        Raises
        ------
        TileworkError
            If the connection is over and it is not.
        """
        if timeout == 0.0:
            return self._wait(ready, 0.0)
        if ready():
            return True
        with self.waiting():
            return self._wait(ready, None if timeout is None else time.monotonic() + timeout)

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

    def _wait(self, ready: Callable[[], object], deadline: float | None) -> bool:
        with Deferred() as deferred:
            self._flush()
            while True:
                left = LONG if deadline is None else min(LONG, max(0.0, deadline - time.monotonic()))
                if self._baton.acquire(blocking=False):
                    try:
                        if not ready():
                            self._check()
                            self._read(left, deferred)
                    finally:
                        self._pass_baton()
                else:
                    self._follow(ready, left, deferred)
                if ready():
                    return True
                self._check()
                if deadline is not None and left == 0.0:
                    return False

    def _read(self, seconds: float, deferred: Deferred) -> None:
        """Wait for messages and handle them. By who holds the baton."""
        try:
            deferred.call(self._poll.poll, 1e3 * seconds)
            self._handle(self._channel.receive())
        except ConnectionLostError as error:
            self._break(self._lost(error))

    def _pass_baton(self) -> None:
        if self._over:
            self._channel.close()
        self._baton.release()
        self._wake()
        self._flush()

    def _follow(self, ready: Callable[[], object], seconds: float, deferred: Deferred) -> None:
        """Wait until the thread that reads has read something, or reads no more."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        if not ready() and self._baton.locked() and self._broken is None:  # it may have gone before it could see us
            deferred.call(lambda seconds: waiter.acquire(timeout=seconds), seconds)

    def _wake(self) -> None:
        while self._waiters:
            try:
                self._waiters.popleft().release()
            except IndexError:  # another thread took the last
                return

    # ------------------------------------------------------------ what comes in

    def _handle(self, received: Iterable[Any]) -> None:
        for message in received:
            self._handlers[type(message)](message)

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
        self._answers_abandoned(self._abandoned.pop(message.request), message)

    def _reply(self, message: messages.Reply) -> None:
        with self._answering:
            if message.number in self._answers:
                self._answers[message.number] = message

    def _watched(self, message: messages.Progress | messages.Over) -> None:
        watcher = self._watchers.get(message.first)
        if watcher is not None:
            watcher(message)

    def _free(self, message: messages.Free) -> None:
        self.slot.free(message.extents)

    def _closing(self, message: messages.Closing) -> None:
        self._break(ConnectionLostError(f"the cluster at {self.welcome.address} has ended: {message.reason}"))

    # ------------------------------------------------------------ values

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
                self._answers_abandoned(futures, arrived)
        assert isinstance(answer, messages.Values)
        if answer.error:
            self._unpinned.extend([NOT_PINNED] * len(futures))
            raise values.load_error(answer.error)
        self._unpinned.extend(NOT_PINNED for value in answer.values if value is None)
        return answer.values

    def _answers_abandoned(self, futures: list[int], message: messages.Values) -> None:
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

    def _flush(self) -> None:
        """Send what was dropped, if it is urgent. If another thread has the lock it does so when it gives it back.

        Called inside Deferred.
        """
        while self._urgent and not sys.is_finalizing() and self._sending.acquire(blocking=False):
            try:
                self._urgent = False
                if self._over:
                    self._dropped.clear()
                    self._unpinned.clear()
                    return
                self._send_dropped()
            except ConnectionLostError as error:
                self._break(self._lost(error))
                self._end()
            finally:
                self._sending.release()
        if self._broken is not None and not self._pins and not self._over:
            self._end()

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

    # ------------------------------------------------------------ callbacks

    def _call_soon(self, function: Callable[[], object]) -> None:
        self._callbacks.append(function)
        if self._broken is not None:  # its thread may have ended
            self.read_always()

    def read_always(self) -> None:
        """Read also while nobody waits, in a thread."""
        with self._ending:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="tilework-client", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        """Wait for callbacks and call them, in a thread."""
        while True:
            with suppress(TileworkError):  # the connection is over
                self.wait(lambda: self._callbacks)
            while self._callbacks:
                try:
                    self._callbacks.popleft()()
                except Exception:  # like concurrent.futures: a callback's error is told, and stops nothing
                    traceback.print_exc()
            with self._ending:
                if self._broken is not None and not self._callbacks:
                    self._thread = None
                    return

    # ------------------------------------------------------------ the end

    def close(self) -> None:
        """Give up all futures and end the connection; what was loaded stays valid. Does nothing the second time."""
        with Deferred():
            self._break(ClusterClosedError("the client was closed: its futures are lost. Make a new Client"))

    def _break(self, error: TileworkError) -> None:
        """The connection is over, other than for values that are still looked at: until they are not, they stay."""
        with self._ending:
            if self._broken is not None:
                return
            self._broken = error
        for state in list(self._states.values()):
            if state.status == PENDING:
                state.settle(LOST)
        if isinstance(error, ClusterClosedError) and self._pins:
            self._release_all()
        else:
            self._end()
        self._wake()

    def _release_all(self) -> None:
        with suppress(ConnectionLostError), self._sending:
            self._channel.send(messages.Release(list(self._states)))

    def _end(self) -> None:
        """Close the socket, or have the thread do it that waits for it."""
        self._over = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._baton.acquire(blocking=False):
            self._channel.close()
            self._baton.release()
        self._wake()

    def _lost(self, error: ConnectionLostError) -> ConnectionLostError:
        return ConnectionLostError(f"the cluster at {self.welcome.address} has ended: {error}. Its futures are lost")

    def _check(self) -> None:
        if self._broken is not None:
            raise type(self._broken)(*self._broken.args)

    def forget_in_child(self) -> None:
        """We are a copy of this link in a forked process: it must not take part in the conversation."""
        self._broken = ClusterClosedError(
            f"this process ({os.getpid()}) was forked from one that has a client, and cannot use it: make a client of "
            f"its own, Client({self.welcome.address!r})"
        )
        self._over = True
        self._make_locks()
        self._channel.close()  # else the scheduler would not see when the parent is gone


_links: weakref.WeakSet[Link] = weakref.WeakSet()


def _after_fork() -> None:
    for link in list(_links):
        link.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _error_class(name: str | None) -> Callable[[str], Exception]:
    """The class that a Reply names: one of ours or of Python's."""
    found = getattr(errors, name or "", None) or getattr(builtins, name or "", None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return errors.InternalError
