from __future__ import annotations

import dis
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import ConnectionLostError, MemoryBudgetError
from tilework.engine.cluster.wire import channel as module
from tilework.engine.cluster.wire.channel import MAX_MESSAGE, Channel, QueuedChannel

LONG = 100_000  # bytes; more than the standing buffer, less than a socket takes


class Message(NamedTuple):
    number: int
    data: bytes


def pair(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


@pytest.fixture(params=["unix", "tcp"])
def sockets(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = pair(request.param)
    with ours, theirs:
        yield ours, theirs


def frame(message: Any) -> bytes:
    data = pickle.dumps(message, 5)
    return len(data).to_bytes(8, "little") + data


def everything(channel: Channel) -> list[Any]:
    """All messages until the other end is gone."""
    messages = []
    while True:
        try:
            messages += channel.receive_blocking(10)
        except ConnectionLostError:
            return messages


# ---------------------------------------------------------------- messages


def test_messages_arrive_as_they_were_sent(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = map(Channel, sockets)
    messages = [Message(1, b"x"), Message(2, bytes(LONG)), None, Message(3, b"")]
    for message in messages:
        ours.send(message)
    ours.close()
    assert everything(theirs) == messages


def test_one_read_returns_all_messages_that_came_with_it() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    for k in range(100):
        ours.send(k)
    assert theirs.receive() == list(range(100))
    assert theirs.receive() == []
    ours.close()
    theirs.close()


class CountingSocket(socket.socket):
    calls = 0

    def sendmsg(self, *args: Any) -> int:
        self.calls += 1
        return super().sendmsg(*args)

    def recv_into(self, *args: Any) -> int:
        self.calls += 1
        return super().recv_into(*args)


@pytest.mark.parametrize("size", [0, 1000, 70_000])
def test_a_message_costs_one_call_to_write_and_small_ones_one_to_read(size: int) -> None:
    sender, receiver = (CountingSocket(fileno=sock.detach()) for sock in socket.socketpair())
    ours, theirs = Channel(sender), Channel(receiver)
    ours.send(bytes(size))
    assert theirs.receive_blocking() == [bytes(size)]
    assert sender.calls == 1
    assert receiver.calls == (1 if size < 60_000 else 2)
    ours.close()
    theirs.close()


@given(
    sizes=st.lists(st.integers(0, 500), max_size=8),
    cuts=st.lists(st.integers(1, 300), min_size=1, max_size=20),
)
def test_it_does_not_matter_in_which_pieces_messages_arrive(sizes: list[int], cuts: list[int]) -> None:
    messages = [Message(k, bytes([k]) * size) for k, size in enumerate(sizes)]
    stream = b"".join(map(frame, messages))
    ours, theirs = socket.socketpair()
    received, start, k = [], 0, 0
    with ours, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_READ", 128)
        channel = Channel(theirs)
        while start < len(stream):
            piece = stream[start : start + cuts[k % len(cuts)]]
            ours.sendall(piece)
            start, k = start + len(piece), k + 1
            received += channel.receive()
        ours.close()
        assert received + everything(channel) == messages
    channel.close()


def test_a_message_larger_than_any_buffer_of_the_system(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = map(Channel, sockets)
    large = bytes(range(256)) * 200_000
    thread = threading.Thread(target=ours.send, args=(large,))
    thread.start()
    assert theirs.receive_blocking(30) == [large]
    thread.join()
    ours.send("and on")
    assert theirs.receive_blocking(30) == ["and on"]


def test_time_is_up() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    assert theirs.receive_blocking(0) == []
    assert theirs.receive_blocking(0.01) == []
    ours.close()
    theirs.close()


# ---------------------------------------------------------------- what goes wrong


def test_what_was_sent_before_the_end_is_returned_before_the_error(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = map(Channel, sockets)
    ours.send("last words")
    ours.close()
    ours.close()
    assert theirs.receive_blocking(10) == ["last words"]
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match="closed the connection"):
            theirs.receive_blocking(10)


def test_sending_to_nobody() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    theirs.close()
    with pytest.raises(ConnectionLostError, match="lost"):
        ours.send(1)
    ours.close()


def test_a_closed_channel_says_so() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    ours.close()
    theirs.close()
    assert ours.fileno() == -1
    with pytest.raises(ConnectionLostError):
        ours.send(1)
    with pytest.raises(ConnectionLostError, match="is closed"):
        ours.receive_blocking(1)
    with pytest.raises(ConnectionLostError):
        ours.receive()


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        ((MAX_MESSAGE + 1).to_bytes(8, "little"), "announces a message of 4.0 GiB"),
        ((1 << 62).to_bytes(8, "little"), "announces a message of 4096.0 PiB"),
        ((3).to_bytes(8, "little") + b"???", "no message"),
    ],
)
def test_what_is_no_message_ends_the_connection(stream: bytes, text: str) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    ours.sendall(stream)
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=text):
            channel.receive()
    ours.close()
    channel.close()


def test_a_message_that_is_too_large_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = map(Channel, socket.socketpair())
    monkeypatch.setattr(module, "MAX_MESSAGE", 1000)
    with pytest.raises(MemoryBudgetError, match="scatter"):
        ours.send(bytes(1001))
    ours.send("small")
    assert theirs.receive_blocking(10) == ["small"]
    ours.close()
    theirs.close()


def test_memory_grows_as_data_arrives_and_not_as_it_is_announced() -> None:
    program = """
import psutil, socket
from tilework.engine.cluster.wire.channel import MAX_MESSAGE, Channel
ours, theirs = socket.socketpair()
channel = Channel(theirs)
ours.sendall((MAX_MESSAGE // 16).to_bytes(8, "little"))
before = psutil.Process().memory_info().rss
assert channel.receive() == []
for _ in range(16):
    ours.sendall(bytes(1 << 16))
    assert channel.receive() == []
print((psutil.Process().memory_info().rss - before) >> 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 8  # MiB; 1 MiB came, 256 MiB were announced


# ---------------------------------------------------------------- interrupts


class InterruptedOnce:
    """Raises KeyboardInterrupt in code of the module under test, at the ``k``-th place where Python looks for signals.

    That is after calls of builtins, at the beginning of functions and where loops go back (CPython's eval breaker); not
    where a function written in Python has returned.
    """

    LOOKS = re.compile(r"CALL|PRECALL|RESUME|JUMP_BACKWARD")

    def __init__(self, k: int) -> None:
        self.left = k
        self.raised = False
        self._last: dict[FrameType | None, int] = {}

    def __enter__(self) -> InterruptedOnce:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event == "return":
            self._last.pop(frame, None)
            self._last.pop(frame.f_back, None)
        elif event == "opcode" and not self.raised:
            last = self._last.get(frame)
            self._last[frame] = frame.f_lasti
            if last is not None and self.LOOKS.search(opname(frame.f_code, last)):
                self.left -= 1
                if self.left < 0:
                    self.raised = True
                    raise KeyboardInterrupt
        return self._opcode


def opname(code: CodeType, offset: int) -> str:
    return dis.opname[code.co_code[offset]]


def test_no_interrupt_loses_or_repeats_what_was_received() -> None:
    messages = [Message(1, b""), Message(2, bytes(LONG)), Message(3, b"x"), Message(4, b"y")]
    k, raised = 0, True
    while raised:
        ours, theirs = socket.socketpair()
        for message in messages:
            ours.sendall(frame(message))
        ours.close()
        channel, received = Channel(theirs), []
        with InterruptedOnce(k) as interrupt:
            while True:
                try:
                    received.extend(channel.receive_blocking(10))
                except KeyboardInterrupt:
                    pass
                except ConnectionLostError:
                    break
        assert received == messages, f"interrupted at place {k}"
        k, raised = k + 1, interrupt.raised
        channel.close()
    assert k > 50


def test_no_interrupt_tears_what_is_sent() -> None:
    messages = [Message(1, b""), Message(2, bytes(LONG)), Message(3, b"x"), Message(4, b"y")]
    k, raised = 0, True
    while raised:
        ours, theirs = map(Channel, socket.socketpair())
        sent = []
        with InterruptedOnce(k) as interrupt:
            for message in messages:
                try:
                    ours.send(message)
                    sent.append(message)
                except KeyboardInterrupt:
                    pass
        ours.flush()
        ours.close()
        received = everything(theirs)
        assert received == [m for m in messages if m in received], f"interrupted at place {k}"
        assert set(sent) <= set(received), f"interrupted at place {k}"
        k, raised = k + 1, interrupt.raised
        theirs.close()
    assert k > 50


# ---------------------------------------------------------------- the scheduler's end


def test_the_scheduler_never_waits(sockets: tuple[socket.socket, socket.socket]) -> None:
    server, client = QueuedChannel(sockets[0]), Channel(sockets[1])
    messages = [Message(k, bytes(LONG)) for k in range(100)]
    for message in messages:
        server.send(message)
    server.flush()
    assert server.wants_write
    assert 0 < server.queued < sum(len(frame(message)) for message in messages)
    received = []
    while len(received) < len(messages):
        received += client.receive_blocking(10)
        server.flush()
    assert received == messages
    assert not server.wants_write
    assert server.queued == 0


def test_who_does_not_read_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    server = QueuedChannel(ours, limit=10**6)
    for _ in range(20):
        server.send(bytes(LONG))
    assert server.queued == 0
    assert not server.wants_write
    with pytest.raises(ConnectionLostError, match=r"does not read: .* KiB wait for it"):
        server.receive()
    assert theirs.recv(1) == b""
    theirs.close()
    server.close()


def test_the_last_words_of_one_that_is_gone_are_heard() -> None:
    ours, theirs = socket.socketpair()
    server, client = QueuedChannel(ours), Channel(theirs)
    client.send("last words")
    client.close()
    server.send(1)
    server.flush()
    server.send(2)
    server.flush()
    assert not server.wants_write
    assert server.receive() == ["last words"]
    with pytest.raises(ConnectionLostError, match="closed the connection"):
        server.receive()
    server.close()
