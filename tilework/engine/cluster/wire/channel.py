"""Messages over a stream socket: pickled, each after its length.

Both ends have proved who they are (see :mod:`~tilework.engine.cluster.wire.auth`) or have their end of a socket pair
from their parent. A message costs one pickling and one system call; one read returns all messages that came with it.

*Interrupts.* Ctrl-C may raise KeyboardInterrupt in the main thread after any call, so also between the return of a
system call and the line that notes how much it did. The counts are therefore put into a list by the very call that
makes them (``list.extend(map(call, ...))`` is one step for the interpreter), and looked at before the next. So a
message is either not queued or written in whole, and what was read is never lost, however often one is interrupted.

*Errors.* Who writes may learn only later that nobody reads. All such errors are one, :class:`ConnectionLostError`.
"""

from __future__ import annotations

import math
import pickle
import select
import socket
import time
from typing import Any

import numpy as np

from tilework.base.errors import ConnectionLostError, MemoryBudgetError
from tilework.base.sizes import format_bytes

MAX_MESSAGE = 4 << 30
"""Bytes of a message. Values travel through the arena, so messages are small; this is a bound for what is wrong."""

QUEUE_LIMIT = 256 << 20
"""Bytes that wait in the scheduler for a client that does not read, before it is given up."""

_READ = 64 << 10  # bytes of the standing buffer; a larger message gets one of its own
_JOIN = 64 << 10  # up to here, copying the message behind its header is cheaper than another buffer
_BUFFERS = 512  # buffers a system call; Linux takes 1024
_HEADER = 8


class Channel:
    """One end of a connection. Its owner waits when it must: workers and clients.

    One thread may send while another one receives. Each of the two is for one thread at a time.

    Parameters
    ----------
    sock
        A connected stream socket, which is the channel's from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        # Reading: buffer[:filled] has been read, and is not yet returned. `read` is the count of a read in progress.
        self._standing = np.empty(_READ, np.uint8).data
        self._buffer = self._standing
        self._filled = 0
        self._read: list[int] = []
        self._untaken = False  # whether the buffer may hold complete messages, since taking them was interrupted
        # Writing: `offset` bytes of queue[0] are written. `written` is the count of a write in progress.
        self._queue: list[bytes] = []
        self._offset = 0
        self._written: list[int] = []

    def fileno(self) -> int:
        """The descriptor to wait for; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """End the connection. What is queued is lost. Does nothing the second time."""
        self._socket.close()

    # ------------------------------------------------------------ writing

    def send(self, message: Any) -> None:
        """Write a message; wait while the other end does not read.

        If interrupted, the message is either not sent at all or the rest of it goes with the next one (or ``flush``).

        Raises
        ------
        ConnectionLostError
            If the other end is gone.
        MemoryBudgetError
            If the message is larger than MAX_MESSAGE. Nothing is sent then.
        """
        self._put(message)
        self.flush()

    def flush(self) -> None:
        """Write what is left of earlier messages; wait while the other end does not read.

        Raises
        ------
        ConnectionLostError
            If the other end is gone.
        """
        while self._queue:
            if not self._write():
                _wait(self._socket, select.POLLOUT, None)

    def _put(self, message: Any) -> int:
        """Queue a message and return its size."""
        data = pickle.dumps(message, 5)
        size = len(data)
        if size > MAX_MESSAGE:
            raise MemoryBudgetError(
                f"a message of {format_bytes(size)} is larger than messages may be ({format_bytes(MAX_MESSAGE)}); "
                "send large arguments by scatter(), or fewer at a time"
            )
        header = size.to_bytes(_HEADER, "little")
        if size <= _JOIN:
            self._queue.append(header + data)
        else:
            self._queue.extend((header, data))
        return _HEADER + size

    def _write(self) -> bool:
        """Write once; False if the socket takes nothing now."""
        self._note_written()
        if not self._queue:
            return True
        buffers: list[bytes | memoryview] = [*self._queue[:_BUFFERS]]
        if self._offset:
            buffers[0] = memoryview(buffers[0])[self._offset :]
        try:
            self._written.extend(map(self._socket.sendmsg, (buffers,)))
        except BlockingIOError:
            return False
        except OSError as error:
            raise _lost(error) from error
        self._note_written()
        return True

    def _note_written(self) -> None:
        """Take what the last write wrote out of the queue. From its first assignment on it cannot be interrupted."""
        if not self._written:
            return
        offset = self._offset + self._written[0]
        n = 0
        for buffer in self._queue:
            if offset < len(buffer):
                break
            offset -= len(buffer)
            n += 1
        self._offset = offset
        del self._queue[:n]
        self._written = []

    # ------------------------------------------------------------ reading

    def receive(self) -> list[Any]:
        """Read once, without waiting, and return the messages that are complete now, perhaps none.

        Raises
        ------
        ConnectionLostError
            If the other end is gone and all it sent was returned before, or sends what is no message.
        """
        if not self._untaken:  # else a read was interrupted: first of all what it brought
            self._untaken = True
            try:
                self._read.extend(map(self._socket.recv_into, (self._buffer[self._filled :],)))
            except BlockingIOError:
                pass
            except OSError as error:
                raise _lost(error) from error
        self._note_read()
        return self._take()

    def receive_blocking(self, timeout: float | None = None) -> list[Any]:
        """Wait for messages, at most ``timeout`` seconds, and return those that are complete: none if time is up.

        Raises
        ------
        ConnectionLostError
            As ``receive``.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._untaken and not _wait(self._socket, select.POLLIN, left):
                return []
            messages = self.receive()
            if messages:
                return messages

    def _note_read(self) -> None:
        """Count what the last read read. From its first assignment on it cannot be interrupted."""
        if not self._read:
            return
        if not self._read[0]:
            raise ConnectionLostError("the other end has closed the connection")
        self._filled += self._read[0]
        self._read = []

    def _take(self) -> list[Any]:
        """Take the complete messages out of the buffer. If interrupted, the next call finds them again."""
        buffer, filled = self._buffer, self._filled
        messages: list[Any] = []
        start, needed = 0, _HEADER
        while filled - start >= _HEADER:
            begin = start + _HEADER
            size = int.from_bytes(buffer[start:begin], "little")
            if size > MAX_MESSAGE:
                raise ConnectionLostError(f"the other end announces a message of {format_bytes(size)}: no such exists")
            if filled - begin < size:
                needed = _HEADER + size
                break
            messages.append(_load(buffer[begin : begin + size]))
            start = begin + size
        if needed <= _READ:
            target = self._standing
        else:
            target = buffer if needed <= len(buffer) else _allocate(needed)
        # No call from here on, so no interrupt.
        if start or target is not buffer:
            target[: filled - start] = buffer[start:filled]
        self._buffer = target
        self._filled = filled - start
        self._untaken = False
        return messages


class QueuedChannel(Channel):
    """The scheduler's end of a connection: it never waits.

    If the other end is gone, that shows in ``receive`` alone: ``send`` and ``flush`` then do nothing.

    Parameters
    ----------
    sock
        A connected stream socket, which is the channel's from now on.
    limit
        If more bytes than this wait to be written, the connection is given up.

    Attributes
    ----------
    queued
        Bytes that wait to be written.
    """

    def __init__(self, sock: socket.socket, limit: int = QUEUE_LIMIT) -> None:
        super().__init__(sock)
        self.queued = 0
        self._limit = limit
        self._gone = False  # nothing can be written any more
        self._reason: str | None = None  # why we gave it up

    @property
    def wants_write(self) -> bool:
        """Whether ``flush`` should be called when the socket can be written."""
        return bool(self._queue)

    def send(self, message: Any) -> None:
        """Queue a message. It is written by ``flush``."""
        if self._gone:
            return
        self.queued += self._put(message)
        if self.queued > self._limit:
            self._reason = f"it does not read: {format_bytes(self.queued)} wait for it"
            self._abandon()
            self._socket.shutdown(socket.SHUT_RDWR)  # so that whoever waits for the socket calls receive

    def flush(self) -> None:
        """Write what the socket takes now."""
        try:
            while self._queue:
                if not self._write():
                    break
        except ConnectionLostError:  # what it said before is still to be read
            self._abandon()
            return
        self.queued = sum(map(len, self._queue)) - self._offset

    def receive(self) -> list[Any]:
        """Read once and return the messages that are complete now, perhaps none.

        Raises
        ------
        ConnectionLostError
            If the other end is gone and all it sent was returned before, sends what is no message, or was given up.
        """
        if self._reason is not None:
            raise ConnectionLostError(self._reason)
        return super().receive()

    def _abandon(self) -> None:
        self._gone = True
        self._queue.clear()
        self._offset = self.queued = 0


def _wait(sock: socket.socket, event: int, timeout: float | None) -> bool:
    """Wait until a socket can be read or written; False if it cannot in time."""
    poll = select.poll()
    try:
        poll.register(sock, event)
    except ValueError:
        raise ConnectionLostError("the connection is closed") from None
    return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))


def _allocate(size: int) -> memoryview:
    """A buffer for a message. Its pages become memory only as they are written: as the message really arrives."""
    try:
        return np.empty(size, np.uint8).data
    except MemoryError as error:
        raise ConnectionLostError(f"there is no memory for a message of {format_bytes(size)}") from error


def _load(data: memoryview) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:
        raise ConnectionLostError(f"the other end sent what is no message: {error!r}") from error


def _lost(error: OSError) -> ConnectionLostError:
    return ConnectionLostError(f"the connection is lost: {error.strerror}")
