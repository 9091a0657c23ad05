"""What threads say to the scheduler. How they hear it is tested on real workers: a process ends with its connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from tilework.engine.cluster.wire.channel import Channel
from tilework.engine.cluster.workers.inbox import Outbox


@pytest.fixture
def ends() -> Iterator[tuple[Outbox, Channel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Outbox(Channel(ours)), Channel(theirs)


def hear(channel: Channel, n: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < n:
        messages = channel.receive_blocking(10.0)
        assert messages, found
        found += messages
    return found


class Chatty:
    """Says something while it is being said, as objects do that are destroyed just then."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    def __reduce__(self) -> tuple[Any, ...]:
        self.outbox.post("in between")
        return str, ("chatty",)


def test_what_is_said_while_something_is_said(ends: tuple[Outbox, Channel]) -> None:
    outbox, other = ends
    outbox.post(Chatty(outbox))
    outbox.post("last")
    assert hear(other, 3) == ["chatty", "in between", "last"]


def test_each_thread_is_heard_in_its_order(ends: tuple[Outbox, Channel]) -> None:
    outbox, other = ends

    def talk(k: int) -> None:
        for n in range(500):
            outbox.post((k, n))

    threads = [Thread(target=talk, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    heard = hear(other, 2000)
    for thread in threads:
        thread.join()
    for k in range(4):
        assert [n for j, n in heard if j == k] == list(range(500))
