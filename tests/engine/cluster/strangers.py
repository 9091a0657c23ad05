"""Strangers who try to get into a cluster. Each function is one attempt, and returns only if it was turned away.

They know the protocol (it is public) but not the secret. They use plain sockets, so that nothing of ours holds them
back.
"""

from __future__ import annotations

import os
import pickle
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tilework.base.errors import ConnectionLostError
from tilework.engine.cluster.wire import auth

GREETING = b"tilework" + auth.PROTOCOL.to_bytes(2, "big") + bytes(32)
ANSWER = 8 + 2 + 32 + 32  # bytes of the scheduler's answer to it
LONGEST = 3 * auth.PATIENCE  # seconds after which a connection that is still open counts as let in


def connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=LONGEST)


def turned_away(sock: socket.socket) -> bytes:
    """What the other end says until it closes the connection; fails if it does not."""
    said = b""
    sock.settimeout(LONGEST)
    try:
        while more := sock.recv(4096):
            said += more
            assert len(said) <= ANSWER, f"a stranger is told {said!r}"
    except ConnectionError:
        pass
    except TimeoutError:
        raise AssertionError(f"the connection of a stranger is still open after {LONGEST} s") from None
    finally:
        sock.close()
    return said


def _say(sock: socket.socket, data: bytes) -> None:
    """Write as much as the other end lets us."""
    with suppress(OSError):
        sock.sendall(data)


def silent(host: str, port: int) -> None:
    assert turned_away(connected(host, port)) == b""


def speaks_http(host: str, port: int) -> None:
    sock = connected(host, port)
    _say(sock, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert turned_away(sock) == b""


def without_secret(host: str, port: int) -> None:
    """Speaks the protocol, and makes up the proof."""
    sock = connected(host, port)
    _say(sock, GREETING + bytes(32))
    assert len(turned_away(sock)) in (0, ANSWER)  # nothing, if what we said too much made the kernel drop the answer


def wrong_secret(host: str, port: int) -> None:
    """A client like ours, with the secret of another cluster."""
    with pytest.raises(ConnectionLostError, match="secret"):
        auth.connect(port, auth.new_secret())


def mirrors_the_proof(host: str, port: int) -> None:
    """Proves itself with what the scheduler has just proved itself with."""
    sock = connected(host, port)
    sock.sendall(GREETING)
    answer = b""
    while len(answer) < ANSWER:
        more = sock.recv(ANSWER - len(answer))
        assert more, "the scheduler does not answer the greeting"
        answer += more
    _say(sock, answer[-32:])
    assert turned_away(sock) == b""


def garbage(host: str, port: int) -> None:
    generator = random.Random(0)
    for size in (1, 9, 10, 41, 42, 74, 4096, 1 << 20):
        sock = connected(host, port)
        _say(sock, generator.randbytes(size))
        sock.shutdown(socket.SHUT_WR) if size < 10 else None  # a part of a greeting would be waited for
        turned_away(sock)


def huge_length(host: str, port: int) -> None:
    """Announces 4 EiB: at once, behind a greeting, and behind a made-up proof."""
    for before in (b"", GREETING, GREETING + bytes(32)):
        sock = connected(host, port)
        _say(sock, before + struct.pack("<Q", 1 << 62) + bytes(1 << 16))
        turned_away(sock)


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def pickle_bomb(host: str, port: int, path: Path) -> None:
    """Sends messages that would make the directory ``path`` if anyone unpickled them. Look for it afterwards."""
    data = pickle.dumps(_Bomb(path))
    for before in (b"", GREETING, GREETING + bytes(32)):
        sock = connected(host, port)
        _say(sock, before + struct.pack("<Q", len(data)) + data)
        turned_away(sock)


def replayed(host: str, port: int, secret: bytes) -> None:
    """Says again what a legitimate client said. (The secret is for that client, not for the stranger.)"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        overheard: list[bytes] = []

        def relay() -> None:
            client, _ = listener.accept()
            with client, connected(host, port) as server:
                ways = ((client, server, 42), (server, client, ANSWER), (client, server, 32), (server, client, 1))
                for receiver, sender, size in ways:
                    data = receiver.recv(size, socket.MSG_WAITALL)
                    sender.sendall(data)
                    if receiver is client:
                        overheard.append(data)

        thread = threading.Thread(target=relay)
        thread.start()
        auth.connect(listener.getsockname()[1], secret).close()
        thread.join()
    sock = connected(host, port)
    _say(sock, b"".join(overheard))
    turned_away(sock)


def drip(host: str, port: int, patience: float = auth.PATIENCE) -> None:
    """Says a byte now and then, so as never to be idle."""
    sock = connected(host, port)
    end = time.monotonic() + LONGEST
    for k in range(len(GREETING)):
        _say(sock, GREETING[k : k + 1])
        if select.select([sock], [], [], patience / 10)[0]:
            break
        assert time.monotonic() < end
    assert turned_away(sock) == b""


@contextmanager
def flood(host: str, port: int, n: int = 500, said: bytes = GREETING[:20]) -> Iterator[None]:
    """Keep ``n`` connections half open while the ``with`` block runs, and open new ones for those that are closed."""
    over = threading.Event()
    full = threading.Event()

    def pour() -> None:
        held: list[socket.socket] = []
        while not over.is_set():
            try:
                sock = connected(host, port)
                _say(sock, said)
                held.append(sock)
            except OSError:
                continue
            if len(held) == n:
                full.set()
                held.pop(0).close()
        for sock in held:
            sock.close()

    thread = threading.Thread(target=pour, name="flood", daemon=True)
    thread.start()
    try:
        assert full.wait(60), "the flood did not come about"
        yield
    finally:
        over.set()
        thread.join()
