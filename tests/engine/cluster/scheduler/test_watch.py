from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.engine.cluster import real
from tilework.engine.cluster.scheduler import watch
from tilework.engine.cluster.scheduler.limits import how_it_ended, is_stopped, own_bytes
from tilework.engine.cluster.scheduler.members import SERVING, Members, Worker
from tilework.engine.cluster.scheduler.watch import STOPPED_SECONDS, Watch
from tilework.engine.local.states import Run


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        yield running
        running.kill()


def busy(pid: int) -> tuple[Members, Worker]:
    members = Members()
    worker = Worker(0, 0, 1, None, 0.0, SERVING, pid)
    members.join(worker)
    members.give(worker, worker.credit, Run([7]), 0.0)
    return members, worker


def test_what_a_process_takes() -> None:
    before = own_bytes(os.getpid())
    data = bytearray(b"x") * (50 << 20)
    assert own_bytes(os.getpid()) - before >= 49 << 20
    del data
    assert own_bytes(1 << 30) == 0


def test_a_worker_that_takes_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "own_bytes", lambda pid: 101)
    members, worker = busy(os.getpid())
    ((who, cause),) = Watch(members, lambda slot: [7, -1], 100, None).look(1.0)
    assert who is worker
    assert (cause.kind, cause.tasks, cause.taken) == ("memory", {7}, 101)


def test_a_task_that_takes_too_long() -> None:
    members, _ = busy(os.getpid())
    marks = [7]
    look = Watch(members, lambda slot: marks, 1 << 60, 10.0).look
    assert look(0.0) == []
    marks[0] = 8
    assert look(9.0) == []
    assert look(18.0) == [], "another task than at first"
    ((_, cause),) = look(20.0)
    assert (cause.kind, cause.tasks) == ("timeout", {8})


def test_a_worker_that_does_not_begin() -> None:
    members, _ = busy(os.getpid())
    look = Watch(members, lambda slot: [-1], 1 << 60, 10.0).look
    assert look(9.0) == []
    ((_, cause),) = look(11.0)
    assert (cause.kind, cause.tasks) == ("timeout", frozenset())


def test_a_worker_that_was_stopped(process: subprocess.Popen[bytes]) -> None:
    members, _ = busy(process.pid)
    look = Watch(members, lambda slot: [7], 1 << 60, None).look
    assert look(0.0) == []
    process.send_signal(signal.SIGSTOP)
    real.until(lambda: is_stopped(process.pid))
    assert look(1.0) == []
    assert look(STOPPED_SECONDS) == []
    ((_, cause),) = look(STOPPED_SECONDS + 2.0)
    assert (cause.kind, cause.tasks) == ("stopped", frozenset())


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "closed its connection"),
        (3, "ended with exit code 3"),
        (-11, "was killed by SIGSEGV: a crash in compiled code"),
        (-99, "was killed by signal 99"),
    ],
)
def test_ends_in_words(code: int | None, text: str) -> None:
    assert how_it_ended(code) == text


def test_killed_by_the_system() -> None:
    assert "out of memory" in how_it_ended(-9, out_of_memory=True)
