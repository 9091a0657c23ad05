"""What a worker hears and says.

Waking another thread is dear (0.1 to 0.3 ms on a virtual machine), so there is no thread that only reads. Whoever has
nothing to do reads the socket itself, and runs what it gets (*leader and followers*). Only when all threads have been
busy for some milliseconds a *watcher* listens in their place: what frees memory or takes tasks back must be heard
while tasks run.

In the other direction no thread waits for another either: what is said while somebody writes is written by them.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from threading import Event, Lock
from time import sleep
from typing import Any, Generic, TypeVar

from tilework.base.errors import ConnectionLostError
from tilework.engine.cluster.wire.channel import Channel

PATIENCE_SECONDS = 5e-3
"""So long all threads may be busy before the watcher listens."""

_LOOKS = 20  # of the watcher, one each PATIENCE_SECONDS, at a worker without work before it goes to sleep

IDLE_SECONDS = 1.0
"""After so long without work, memory that is only kept to save time is given back."""

Work = TypeVar("Work")


class Outbox:
    """Says things to the scheduler. Any thread may, also while it destroys objects in the midst of doing so."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._unsent: deque[Any] = deque()
        self._writing = Lock()

    def post(self, message: Any) -> None:
        """Messages arrive in the order in which they were posted. This process ends if nobody listens any more."""
        unsent, writing = self._unsent, self._writing
        unsent.append(message)
        while unsent and writing.acquire(blocking=False):  # else who writes will find it
            try:
                while unsent:
                    self._channel.send(unsent.popleft())
            except ConnectionLostError:
                os._exit(1)
            finally:
                writing.release()


class Inbox(Generic[Work]):
    """Reads from the scheduler, and hands out work.

    Parameters
    ----------
    channel
        The connection.
    hear
        Called with each message, by one thread at a time. Returns what it means for threads to do, if anything.
    rest
        Called when there was nothing to do for IDLE_SECONDS.
    """

    def __init__(self, channel: Channel, hear: Callable[[Any], Work | None], rest: Callable[[], None]) -> None:
        self._channel, self._hear, self._rest = channel, hear, rest
        self._work: deque[Work] = deque()
        self._reading = Lock()
        self._taken = 0  # how often somebody has taken work
        self._rested = False
        self._sleeping = False  # whether the watcher has gone to sleep, until ...
        self._wake = Event()
        self.closed = False  # whether no more work will come

    def take(self) -> Work | None:
        """Wait for work; None once it is closed and nothing is left."""
        while True:
            try:
                work = self._work.popleft()
            except IndexError:
                pass
            else:
                self._taken += 1
                if self._sleeping:
                    self._wake.set()
                return work
            with self._reading:
                if self._work:  # whoever has read before has got more than one
                    continue
                if self.closed:
                    return None
                if not self._read(None if self._rested else IDLE_SECONDS):
                    self._rested = True
                    self._rest()

    def waiting(self) -> list[Work]:
        """Take away all work that nobody has begun."""
        out = []
        while self._work:
            try:
                out.append(self._work.popleft())
            except IndexError:
                break
        return out

    def remove(self, work: Work) -> bool:
        """Take away work that nobody has begun; False if somebody has."""
        try:
            self._work.remove(work)
        except ValueError:
            return False
        return True

    def watch(self) -> None:
        """Body of the watcher's thread."""
        looks = 0
        while True:
            taken = self._taken
            sleep(PATIENCE_SECONDS)
            if taken != self._taken:
                looks = 0
            elif self._reading.locked():
                looks += 1
                if looks == _LOOKS:
                    self._sleep(taken)
                    looks = 0
            else:
                self._listen()

    def _listen(self) -> None:
        """Hear what comes while all threads are busy; until one of them reads again."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        while True:
            poll.poll()
            if not self._reading.acquire(blocking=False):
                return
            try:
                self._read(0.0)
            finally:
                self._reading.release()

    def _sleep(self, taken: int) -> None:
        """Until work is taken."""
        self._wake.clear()
        self._sleeping = True
        if taken == self._taken:  # else whoever took it may not have seen that we sleep
            self._wake.wait()
        self._sleeping = False

    def _read(self, timeout: float | None) -> bool:
        try:
            messages = self._channel.receive_blocking(timeout)
        except ConnectionLostError:
            os._exit(1)  # the nursery will end us anyway
        for message in messages:
            work = self._hear(message)
            if work is not None:
                self._work.append(work)
                self._rested = False
        return bool(messages)
