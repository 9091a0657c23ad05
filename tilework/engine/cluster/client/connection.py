"""A connection that needs no thread: whoever waits reads, for all who wait.

*Reading.* One thread holds the baton and reads the socket, the others wait until it has read something and look again.
So an answer takes no hop from one thread to another. A thread of its own is started only by what must hear without
waiting: callbacks. It then waits like everyone else, for callbacks to call.

*Writing.* Under one lock, by the calling thread. What objects have to say that are destroyed only joins a queue
(``_send_dropped``), since that happens in any thread and inside any lock; whoever has the lock sends it.

*Interrupts.* All of it runs inside :class:`~tilework.engine.cluster.client.interrupts.Deferred`: Ctrl-C ends waiting,
and nothing else.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from tilework.base.errors import ClusterClosedError, ConnectionLostError, TileworkError
from tilework.engine.cluster.client.interrupts import Deferred
from tilework.engine.cluster.wire.channel import Channel

LONG = 0.5
"""Seconds to wait at a time. A Ctrl-C that comes after Python has last looked for one, but before the system call that
waits has begun, does not end that call."""


class Connection:
    """The general part of :class:`~tilework.engine.cluster.client.link.Link`.

    Parameters
    ----------
    sock, channel
        To the scheduler.
    address
        Its address, for messages.

    Attributes
    ----------
    waiting
        Entered by a thread while it waits: in a task, so that the worker can run another one meanwhile.
    handlers
        What to do with each kind of message. Called by whoever reads.
    """

    def __init__(self, sock: socket.socket, channel: Channel, address: str) -> None:
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self.handlers: dict[type, Callable[[Any], None]] = {}
        self._socket = sock
        self._channel = channel
        self._address = address
        self._broken: TileworkError | None = None
        self._callbacks: deque[Callable[[], object]] = deque()
        self._urgent = False  # whether what was dropped should be sent soon
        self._over = False  # nothing is sent or read any more
        self._make_locks()
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        _connections.add(self)

    def _make_locks(self) -> None:
        self._sending = threading.Lock()
        self._baton = threading.Lock()  # held by the thread that reads
        self._waiters: deque[threading.Lock] = deque()  # of the threads that wait for it
        self._ending = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def broken(self) -> TileworkError | None:
        """Why the connection is over; None while it is not."""
        return self._broken

    # ------------------------------------------------------------ for subclasses

    def _send_dropped(self) -> None:
        """Send what was dropped. Called with the lock for sending."""

    def _linger(self) -> bool:
        """The connection is over. Whether to keep the socket, for what is dropped later."""
        return False

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

    def _flush(self) -> None:
        """Send what was dropped, if it is urgent. If another thread has the lock it does so when it gives it back.

        Called inside Deferred.
        """
        while self._urgent and not sys.is_finalizing() and self._sending.acquire(blocking=False):
            try:
                self._urgent = False
                self._send_dropped()
            except ConnectionLostError as error:
                self._break(self._lost(error))
                self._end()
            finally:
                self._sending.release()
        if self._broken is not None and not self._over and not self._linger():
            self._end()

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

    def poll(self) -> None:
        """Take in what has arrived, without waiting."""
        self._wait(lambda: False, 0.0)

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
            self.handle(self._channel.receive())
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

    def handle(self, received: Iterable[Any]) -> None:
        """Do what messages say."""
        for message in received:
            self.handlers[type(message)](message)

    # ------------------------------------------------------------ callbacks

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the thread. It may wait."""
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
        if not self._linger():
            self._end()
        self._wake()

    def _end(self) -> None:
        """Close the socket, or have the thread do it that waits for it."""
        self._over = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._baton.acquire(blocking=False):
            self._channel.close()
            self._baton.release()
        self._wake()

    def _lost(self, reason: object) -> ConnectionLostError:
        return ConnectionLostError(f"the cluster at {self._address} has ended: {reason}. Its futures are lost")

    def _check(self) -> None:
        if self._broken is not None:
            raise type(self._broken)(*self._broken.args)

    def forget_in_child(self) -> None:
        """We are a copy, in a forked process: we must not take part in the conversation."""
        self._broken = ClusterClosedError(
            f"this process ({os.getpid()}) was forked from one that has a client, and cannot use it: make a client of "
            f"its own, Client({self._address!r})"
        )
        self._over = True
        self._make_locks()
        self._channel.close()  # else the scheduler would not see when the parent is gone


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_connections):
        connection.forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
