from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.cluster import strangers
from tilework.base.errors import ConnectionLostError
from tilework.engine.cluster.wire import auth
from tilework.engine.cluster.wire.auth import MAX_PENDING, PATIENCE, Doorman, Verdict
from tilework.engine.cluster.wire.channel import Channel

SECRET = bytes(range(32))

# ---------------------------------------------------------------- the doorman alone


def say(doorman: Doorman[str], name: str, data: bytes) -> Verdict:
    """Feed data in the pieces that the doorman wants; his last verdict, with all his answers."""
    answer, verdict = b"", Verdict()
    while data and name in doorman:
        n = doorman.wanted(name)
        verdict, data = doorman.heard(name, data[:n]), data[n:]
        answer += verdict.answer
    return verdict._replace(answer=answer)


def test_who_knows_the_secret_is_admitted() -> None:
    doorman: Doorman[str] = Doorman(SECRET)
    doorman.arrived("a", 0.0)
    nonce = bytes([7]) * 32
    answer = say(doorman, "a", strangers.GREETING[:10] + nonce).answer
    server_nonce, proof = answer[10:42], answer[42:]
    assert proof == auth._proof(SECRET, b"server", nonce, server_nonce)
    assert say(doorman, "a", auth._proof(SECRET, b"client", nonce, server_nonce)) == Verdict(b"\x06", admitted=True)
    assert len(doorman) == 0


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GET / HTTP/1.1", "does not speak"),
        (b"tilework\x00\x02", "speaks version 2 of the protocol, not 1"),
        (strangers.GREETING + bytes(32), "does not know the secret"),
        (b"", "closed the connection"),
    ],
)
def test_why_one_is_refused(data: bytes, text: str) -> None:
    doorman: Doorman[str] = Doorman(SECRET)
    doorman.arrived("a", 0.0)
    verdict = say(doorman, "a", data) if data else doorman.heard("a", b"")
    assert verdict.refused is not None
    assert text in verdict.refused
    assert not verdict.admitted
    assert len(doorman) == 0


def test_each_handshake_has_a_nonce_of_its_own() -> None:
    doorman: Doorman[str] = Doorman(SECRET)
    answers = set()
    for name in "abc":
        doorman.arrived(name, 0.0)
        answers.add(say(doorman, name, strangers.GREETING).answer[10:])
    assert len(answers) == 3


@given(st.binary(max_size=200), st.booleans())
def test_nothing_made_up_is_admitted_and_little_of_it_is_read(data: bytes, with_greeting: bool) -> None:
    doorman: Doorman[str] = Doorman(SECRET)
    doorman.arrived("a", 0.0)
    read = 0
    data = strangers.GREETING + data if with_greeting else data
    while "a" in doorman and read < len(data):
        piece = data[read : read + doorman.wanted("a")]
        assert 0 < len(piece) <= 32
        assert not doorman.heard("a", piece).admitted
        read += len(piece)
    assert read <= 74


def test_one_too_many_and_the_oldest_goes() -> None:
    doorman: Doorman[int] = Doorman(SECRET)
    for k in range(MAX_PENDING):
        assert doorman.arrived(k, 0.0) == []
    assert doorman.arrived(-1, 0.0) == [0]
    assert doorman.arrived(-2, 0.0) == [1]
    assert len(doorman) == MAX_PENDING


def test_time_is_up_for_each_in_turn() -> None:
    doorman: Doorman[str] = Doorman(SECRET)
    assert doorman.deadline() is None
    doorman.arrived("a", 10.0)
    doorman.arrived("b", 12.0)
    assert doorman.deadline() == 10.0 + PATIENCE
    assert doorman.expired(10.0 + PATIENCE - 0.1) == []
    doorman.heard("a", b"t")  # no excuse
    assert doorman.expired(10.0 + PATIENCE) == ["a"]
    assert doorman.deadline() == 12.0 + PATIENCE
    assert doorman.expired(100.0) == ["b"]


# ---------------------------------------------------------------- the client


HANGS_UP = b"t"


@pytest.fixture
def other_end() -> Iterator[Callable[[bytes], int]]:
    """Something that listens and says what it is told to, whoever connects. Call it to get its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def talk(words: bytes) -> None:
        try:
            while True:
                sock, _ = listener.accept()
                sock.sendall(words)
                sock.recv(1000)
                sock.recv(1000) if words != HANGS_UP else sock.close()
        except OSError:
            pass

    def start(words: bytes) -> int:
        threads.append(threading.Thread(target=talk, args=(words,)))
        threads[-1].start()
        return listener.getsockname()[1]

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (b"", "does not answer as a tilework cluster does"),
        (HANGS_UP, r"no connection to .* in 0.3 s: it closed the connection"),
        (b"tilework", "does not answer as a tilework cluster does"),
        (b"SSH-2.0-OpenSSH_9.9", "is no tilework cluster"),
        (b"tilework\x01\x02", r"speaks version 258 of the protocol, this process version 1; use the same version"),
        (b"tilework\x00\x01" + bytes(64), "does not know the secret"),
    ],
)
def test_what_is_no_cluster_of_ours(other_end: Callable[[bytes], int], words: bytes, text: str) -> None:
    with pytest.raises(ConnectionLostError, match=text):
        auth.connect(other_end(words), SECRET, timeout=0.3)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionLostError, match=f"nobody listens at tcp://127.0.0.1:{port} .*tilework cluster start"):
        auth.connect(port, SECRET)


# ---------------------------------------------------------------- strangers at a real door

SERVER = """
import selectors, socket, sys, time
from tilework.base.errors import ConnectionLostError
from tilework.engine.cluster.wire.auth import Doorman
from tilework.engine.cluster.wire.channel import QueuedChannel

secret, haste = bytes.fromhex(sys.argv[1]), float(sys.argv[2])
clock = lambda: time.monotonic() * haste
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
listener.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
selector.register(sys.stdin, selectors.EVENT_READ)
doorman, channels = Doorman(secret), {}

def drop(sock):
    selector.unregister(sock)
    channels.pop(sock, None)
    sock.close()

print(listener.getsockname()[1], flush=True)
while True:
    deadline = doorman.deadline()
    for key, _ in selector.select(None if deadline is None else max(0, deadline - clock()) / haste):
        sock = key.fileobj
        if sock is sys.stdin:
            sys.exit()
        elif sock is listener:
            new, _ = listener.accept()
            new.setblocking(False)
            selector.register(new, selectors.EVENT_READ)
            for old in doorman.arrived(new, clock()):
                drop(old)
        elif sock in doorman:
            try:
                data = sock.recv(doorman.wanted(sock))
            except OSError:
                data = b""
            verdict = doorman.heard(sock, data)
            if verdict.answer:
                sock.send(verdict.answer)
            if verdict.refused is not None:
                drop(sock)
            elif verdict.admitted:
                channels[sock] = QueuedChannel(sock)
        elif sock in channels:
            try:
                for message in channels[sock].receive():
                    channels[sock].send(message)
                    channels[sock].flush()
            except ConnectionLostError:
                drop(sock)
    for late in doorman.expired(clock()):
        drop(late)
"""
HASTE = 10.0  # the server's clock runs so much faster


@dataclass
class Server:
    port: int
    process: psutil.Process

    @property
    def where(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def serves(self) -> None:
        """Fails unless a legitimate client gets in and is answered."""
        channel = Channel(auth.connect(self.port, SECRET))
        channel.send("hello")
        assert channel.receive_blocking(10) == ["hello"]
        channel.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, SECRET.hex(), str(HASTE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()), psutil.Process(process.pid))
        process.stdin.close()


def test_a_client_gets_in(server: Server) -> None:
    server.serves()


@pytest.mark.parametrize(
    "attempt",
    [
        strangers.silent,
        strangers.speaks_http,
        strangers.without_secret,
        strangers.wrong_secret,
        strangers.mirrors_the_proof,
        strangers.garbage,
        strangers.huge_length,
    ],
)
def test_a_stranger_is_turned_away(server: Server, attempt: Callable[[str, int], None]) -> None:
    before = server.process.memory_info().rss
    attempt(*server.where)
    server.serves()
    assert server.process.memory_info().rss - before < 4 << 20


def test_dripping_does_not_keep_a_place(server: Server) -> None:
    strangers.drip(*server.where, patience=PATIENCE / HASTE)
    server.serves()


def test_what_was_overheard_is_of_no_use(server: Server) -> None:
    strangers.replayed(*server.where, SECRET)
    server.serves()


def test_nothing_of_a_stranger_is_unpickled(server: Server, tmp_path: Path) -> None:
    strangers.pickle_bomb(*server.where, tmp_path / "made by a stranger")
    server.serves()
    assert list(tmp_path.iterdir()) == []


def test_a_client_gets_in_during_a_flood(server: Server) -> None:
    server.serves()
    before = server.process.memory_info().rss
    with strangers.flood(*server.where):
        for _ in range(3):
            server.serves()
        assert server.process.num_fds() <= MAX_PENDING + 16
    assert server.process.memory_info().rss - before < 4 << 20
