from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engine.cluster import housing, leaks
from tilework.base.errors import InternalError
from tilework.engine.cluster.start.nursery import SPARE
from tilework.engine.cluster.wire import register


@pytest.fixture
def house() -> Iterator[housing.House]:
    with housing.house() as made:
        yield made


def sockets(pid: int) -> set[str]:
    return {link for link in leaks.links(pid) if link.startswith("socket:")}


def test_workers_are_children_of_the_nursery_and_lead_their_own_sessions(house: housing.House) -> None:
    pids = [house.spawn(slot=k).pid for k in range(4)]
    assert [housing.parent(pid) for pid in pids] == [house.nursery.pid] * 4
    assert [os.getsid(pid) for pid in pids] == pids


def test_a_worker_has_one_connection_and_nobody_elses() -> None:
    already = sockets(os.getpid())
    with housing.house() as house:
        others = [house.spawn(slot=0), house.spawn(slot=1)]
        worker = house.spawn(slot=2)
        mine = sockets(worker.pid) - already - {os.readlink(f"/proc/self/fd/{house.lifeline.fileno()}")}
        assert len(mine) == 1
        assert not any(mine & sockets(other.pid) for other in others)


def test_some_wait_for_orders(house: housing.House) -> None:
    house.spawn()
    housing.soon(lambda: len(housing.children(house.nursery.pid)) == 1 + SPARE)
    spares = set(housing.children(house.nursery.pid))
    worker = house.spawn(slot=1)
    assert worker.pid in spares
    housing.soon(lambda: len(housing.children(house.nursery.pid)) == 2 + SPARE)


def test_one_that_waits_may_be_killed(house: housing.House) -> None:
    housing.soon(lambda: len(housing.children(house.nursery.pid)) == SPARE)
    killed = housing.children(house.nursery.pid)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    housing.soon(lambda: not any(housing.runs(pid) for pid in killed))
    worker = house.spawn()
    assert worker.pid not in killed
    housing.soon(lambda: len(housing.children(house.nursery.pid)) == 1 + SPARE)
    assert house.nursery.events() == []


def test_more_workers_than_messages_that_a_socket_holds(house: housing.House) -> None:
    for number in range(1000, 1100):
        house.nursery.spawn(number, 0, 1).close()
        for _ in range(10):
            house.nursery.kill(-1)
    assert sorted(end.number for end in house.exits(100)) == list(range(1000, 1100))


def test_a_system_that_allows_no_more_processes() -> None:
    script = """
import os
from tests.engine.cluster import housing
fork, forked = os.fork, []
def full():
    if forked:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    forked.append(True)
    return fork()
os.fork = full
with housing.house() as house:
    house.nursery.spawn(7, 0, 1).close()
    print(house.exits())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[Exit(number=7, pid=0, code=1)]\n"
    assert "no worker can be started: Resource temporarily unavailable" in done.stderr


def test_kill(house: housing.House) -> None:
    worker, other = house.spawn(slot=0), house.spawn(slot=1)
    house.nursery.kill(worker.number)
    (end,) = house.exits()
    assert end == (worker.number, worker.pid, -signal.SIGKILL)
    assert not housing.runs(worker.pid)
    assert other.run(os.getpid) == other.pid
    house.nursery.kill(worker.number)  # again
    house.nursery.kill(other.number, signal.SIGTERM)
    assert house.exits() == [(other.number, other.pid, -signal.SIGTERM)]


def test_an_exit_is_told_with_its_code(house: housing.House) -> None:
    worker = house.spawn()
    worker.start(worker.call(os._exit, 7))
    assert house.exits() == [(worker.number, worker.pid, 7)]


def start_sleeper() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


def test_what_a_task_has_started_dies_with_its_worker(house: housing.House) -> None:
    worker = house.spawn()
    sleeper = worker.run(start_sleeper)
    assert housing.runs(sleeper)
    worker.start(worker.call(os._exit, 0))
    house.exits()
    housing.soon(lambda: not housing.runs(sleeper))


def draw() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def test_workers_draw_different_random_numbers(house: housing.House) -> None:
    np.random.random()  # the state is there, and would be inherited
    drawn = [house.spawn(slot=k).run(draw) for k in range(3)]
    assert len({x for x, _ in drawn}) == 3
    assert len({y for _, y in drawn}) == 3


def test_the_system_kills_workers_first(house: housing.House) -> None:
    mine = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{house.spawn().pid}/oom_score_adj").read_text()) == 500 > mine


def test_a_crash_tells_where_it_was(house: housing.House, capfd: pytest.CaptureFixture[str]) -> None:
    house.start_anew()
    worker = house.spawn()
    worker.start(worker.call(ctypes.string_at, 0))
    assert house.exits() == [(worker.number, worker.pid, -signal.SIGSEGV)]
    errors = capfd.readouterr().err
    assert "Segmentation fault" in errors
    assert "string_at" in errors


def test_signals_of_the_terminal_are_not_heard(house: housing.House) -> None:
    worker = house.spawn()
    os.kill(worker.pid, signal.SIGINT)
    assert worker.run(os.getpid) == worker.pid


def test_after_the_nurserys_death_there_is_another_one(house: housing.House) -> None:
    doomed = [house.spawn(slot=k) for k in range(2)]
    sleeper = doomed[0].run(start_sleeper)
    spares = set(housing.children(house.nursery.pid))
    first = house.nursery.pid
    os.kill(first, signal.SIGKILL)
    ends = house.exits(2)
    assert {(end.number, end.pid, end.code) for end in ends} == {(w.number, w.pid, -signal.SIGKILL) for w in doomed}
    assert not any(housing.runs(worker.pid) for worker in doomed)
    housing.soon(lambda: not any(housing.runs(pid) for pid in [sleeper, *spares]))
    worker = house.spawn()
    assert housing.parent(worker.pid) == house.nursery.pid != first
    assert worker.run(np.arange, 3).tolist() == [0, 1, 2]
    assert worker.run(np.ones, 100_000).sum() == 100_000
    os.kill(house.nursery.pid, signal.SIGKILL)  # and again
    assert house.exits() == [(worker.number, worker.pid, -signal.SIGKILL)]
    assert house.spawn().run(os.getpid) > 0


def test_a_worker_that_was_ordered_from_a_dead_nursery_counts_as_killed(house: housing.House) -> None:
    os.kill(house.nursery.pid, signal.SIGKILL)
    os.waitid(os.P_PID, house.nursery.pid, os.WEXITED | os.WNOWAIT)
    house.nursery.spawn(77, 0, 1).close()
    assert [(end.number, end.code) for end in house.exits()] == [(77, -signal.SIGKILL)]


def test_a_nursery_that_cannot_be_started(house: housing.House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.spawn()
    os.kill(house.nursery.pid, signal.SIGKILL)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(InternalError, match="ends as soon as it is started"):
            house.exits(99)


def test_close_leaves_no_process() -> None:
    with housing.house() as house:
        pids = [house.spawn(slot=0).pid, house.spawn(slot=1).pid, house.nursery.pid]
        pids += housing.children(house.nursery.pid)
    assert not any(housing.runs(pid) for pid in pids)


SCHEDULER = """
import os, signal, sys, time
from tests.engine.cluster import housing
from tilework.engine.cluster.wire import register
house = housing.House()
house.nursery.introduce("tcp://127.0.0.1:4321", b"secret")
register.write(register.Entry("mine", 4321, b"secret", os.getpid(), time.time()))
for k in range(2):
    house.spawn(slot=k)
print(house.nursery.pid, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_if_the_scheduler_dies_nothing_is_left() -> None:
    with leaks.watched() as watch:
        scheduler = subprocess.Popen(
            [sys.executable, "-c", SCHEDULER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        assert scheduler.stdin is not None
        assert scheduler.stdout is not None
        nursery = int(scheduler.stdout.readline())
        assert register.read("tcp://127.0.0.1:4321").pid == scheduler.pid
        watch.wait_for_processes(1 + 1 + 2 + SPARE)
        assert housing.runs(nursery)
        scheduler.communicate()
        watch.assert_nothing_left()
