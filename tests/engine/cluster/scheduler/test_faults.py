"""What goes wrong in a cluster of real processes: answers are right all the same, and nothing is left."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from operator import add, mul
from pathlib import Path

import numpy as np
import pytest

from tests.engine.cluster import real
from tests.engine.cluster.real import Gate, Real, options
from tilework.base.errors import (
    ConnectionLostError,
    KilledWorker,
    MemoryBudgetError,
    MemoryLimitError,
    StorageError,
    TaskTimeoutError,
)
from tilework.distributed import Client, fire_and_forget, wait
from tilework.engine.cluster.scheduler.clients import CLIENT_SHIFT
from tilework.engine.cluster.scheduler.faults import _is_guilty


def pause(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


# ---------------------------------------------------------------- workers that die


def test_workers_killed_at_random_change_no_answer(cluster: Real) -> None:
    client, chance = cluster.client, random.Random(0)
    leaves = client.map(lambda i: pause(0.01, i), range(150))
    sums = [client.submit(add, a, b) for a, b in pairwise(leaves)]
    products = [client.submit(mul, a, 3) for a in sums]
    kills = 0
    while not all(future.done() for future in products):
        pids = [worker["pid"] for worker in cluster.workers().values() if worker["pid"]]
        if pids:
            cluster.kill(chance.choice(pids))
            kills += 1
        time.sleep(0.1 + chance.random() * 0.3)
    assert client.gather(products) == [3 * (2 * i + 1) for i in range(149)]
    assert kills >= 3


def exits() -> None:
    os._exit(3)


def crashes() -> None:
    ctypes.string_at(0)


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("bad", "how"),
    [(exits, "ended with exit code 3"), (crashes, "SIGSEGV"), (kills_itself, "SIGKILL")],
)
def test_a_task_that_kills_its_worker_fails_alone(cluster: Real, bad: object, how: str) -> None:
    killer = cluster.client.submit(bad)
    user = cluster.client.submit(add, killer, 1)
    others = cluster.client.map(lambda i: pause(0.01, i), range(30))
    error = killer.exception(timeout=real.PATIENCE)
    assert isinstance(error, KilledWorker)
    assert str(error).count(how) >= 3, "the story of all three deaths"
    assert bad.__name__ in str(error)
    assert isinstance(user.exception(), KilledWorker), "so does what needs it"
    assert cluster.client.gather(others) == list(range(30))


def test_finished_blocks_survive(cluster: Real, gate: Gate) -> None:
    gate.open()

    def make(i: int) -> np.ndarray:
        gate.passes(i)
        return np.full(100_000, float(i))

    blocks = cluster.client.map(make, range(4))
    wait(blocks)
    for number in (0, 1):
        cluster.kill(cluster.worker(number))
    sums = cluster.client.map(np.sum, blocks)
    assert cluster.client.gather(sums) == [0.0, 1e5, 2e5, 3e5]
    assert [gate.reached(i) for i in range(4)] == [1, 1, 1, 1], "nothing was made again"


@options(n_workers=1, threads=2)
def test_what_ran_beside_a_killer_is_no_killer(cluster: Real, gate: Gate) -> None:
    patient = cluster.client.submit(lambda: (gate.passes("patient"), 5)[1])
    gate.wait("patient")
    killer = cluster.client.submit(exits)
    gate.wait("patient", 2)
    gate.open()
    assert isinstance(killer.exception(timeout=real.PATIENCE), KilledWorker)
    assert patient.result(timeout=real.PATIENCE) == 5


def test_the_nursery_is_killed(cluster: Real) -> None:
    futures = cluster.client.map(lambda i: pause(0.01, i), range(60))
    cluster.worker(1)
    before = cluster.nursery()
    cluster.kill(before)
    assert cluster.client.gather(futures) == list(range(60))
    assert cluster.nursery() != before


def test_retries_are_for_errors_and_count(cluster: Real, gate: Gate) -> None:
    gate.open()

    def fails() -> None:
        gate.passes("try")
        raise ValueError("again")

    future = cluster.client.submit(fails, retries=2)
    with pytest.raises(ValueError, match="again"):
        future.result(timeout=real.PATIENCE)
    assert gate.reached("try") == 3


# ---------------------------------------------------------------- workers that do not move, or take too much


@options(task_timeout=0.5)
def test_a_task_that_hangs_is_stopped(cluster: Real) -> None:
    hangs = cluster.client.submit(time.sleep, 1000)
    others = cluster.client.map(lambda i: pause(0.01, i), range(30))
    with pytest.raises(TaskTimeoutError, match=r"'sleep' was stopped: it ran for longer than task_timeout=0.5 s"):
        hangs.result(timeout=real.PATIENCE)
    assert cluster.client.gather(others) == list(range(30))


@options(task_timeout=0.5)
def test_a_stopped_worker_is_replaced(cluster: Real) -> None:
    cluster.kill(cluster.worker(0), signal.SIGSTOP)
    cluster.kill(cluster.worker(1), signal.SIGSTOP)
    assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3


@options(memory_limit=200 << 20)
def test_a_task_that_takes_too_much_memory_is_stopped(cluster: Real) -> None:
    def takes(block: np.ndarray) -> int:
        kept = []
        for _ in range(1000):
            kept.append(np.ones(1_000_000))
            time.sleep(0.001)
        return len(kept)

    block = cluster.client.scatter(np.ones(1_000_000))
    greedy = cluster.client.submit(takes, block)
    others = cluster.client.map(lambda i: pause(0.01, i), range(30))
    with pytest.raises(MemoryLimitError, match=r"'takes' was stopped.*may take 200.0 MiB.*inputs weigh 7.6 MiB"):
        greedy.result(timeout=real.PATIENCE)
    assert cluster.client.gather(others) == list(range(30))


def test_forced_cancelling_stops_what_runs(cluster: Real) -> None:
    running = cluster.client.map(lambda i: pause(1000, i), range(2))
    real.until(lambda: sum(worker["running"] for worker in cluster.workers().values()) == 2)
    cluster.client.cancel(running[:1], force=True)
    assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3
    assert running[1].status == "pending"
    cluster.client.cancel(running[1:], force=True)


# ---------------------------------------------------------------- disk and memory


@options(memory=100 << 20)
def test_blocks_that_do_not_fit_go_to_disk_and_come_back(cluster: Real) -> None:
    client = cluster.client
    blocks = client.map(lambda i: np.full(2_000_000, float(i)), range(20))
    wait(blocks)
    assert client.gather(client.map(np.mean, blocks)) == list(range(20))
    for i in (0, 19):
        assert blocks[i].result()[0] == i
    with pytest.raises(MemoryBudgetError, match=r"20 values of 305.2 MiB together.*may have 100.0 MiB"):
        client.gather(blocks)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can make a small disk")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_fails_only_what_cannot_fit(small_disk: Path) -> None:
    with real.cluster(memory=100 << 20, spill_directory=str(small_disk)) as cluster:
        fill_the_disk(cluster.client)
        assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3


def fill_the_disk(client: Client) -> None:
    blocks = client.map(lambda i: np.full(2_000_000, float(i)), range(30))
    wait(blocks)
    good = {i: block for i, block in enumerate(blocks) if block.status == "finished"}
    bad = [block for block in blocks if block.status == "error"]
    assert good
    assert bad
    assert all(isinstance(block.exception(), StorageError) for block in bad)
    assert client.gather(client.map(np.mean, list(good.values()))) == list(good)


# ---------------------------------------------------------------- clients and schedulers that vanish


VANISHING = """
import sys, time
import numpy as np
from tilework.distributed import Client, fire_and_forget
client = Client(sys.argv[1])
slow = client.map(lambda i: time.sleep(1000), range(10))
block = client.scatter(np.ones(1_000_000))
kept = client.submit(lambda path: open(path, "w").close(), sys.argv[2])
print("ready", flush=True)
time.sleep(1000)
"""


def test_a_client_that_vanishes_takes_its_work_with_it(cluster: Real, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", VANISHING, cluster.address, str(tmp_path / "x")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    real.until(lambda: sum(worker["running"] for worker in cluster.workers().values()) == 2)
    process.kill()
    process.communicate()
    cluster.ask("restart")  # the two that run cannot be cancelled otherwise
    assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3
    assert {future >> CLIENT_SHIFT for future in cluster.ask("who_has", None)} <= {cluster.client.link.welcome.client}


def test_what_is_to_be_forgotten_runs_after_its_client_has_gone(cluster: Real, gate: Gate) -> None:
    with Client(cluster.address) as other:
        blocked = [other.submit(gate.passes, i) for i in range(2)]
        last = other.submit(gate.passes, "last")
        fire_and_forget([*blocked, last])
        gate.wait(0)
    gate.open()
    gate.wait("last")


def test_futures_live_as_long_as_one_client_holds_them(cluster: Real) -> None:
    with Client(cluster.address) as other:
        block = other.submit(np.arange, 100_000)
        wait(block)
        held = cluster.client.submit(np.sum, block)
        assert held.result(timeout=real.PATIENCE) == 4999950000


def test_a_killed_scheduler_ends_all(cluster: Real) -> None:
    future = cluster.client.submit(time.sleep, 1000)
    cluster.kill(cluster.launched.pid)
    with pytest.raises(ConnectionLostError):
        future.result(timeout=real.PATIENCE)


# ---------------------------------------------------------------- who is to blame


@pytest.mark.parametrize(
    ("elapsed", "guilty"),
    [
        ([None, None], False),
        ([None, None, None], True),  # crashed, or ended by itself
        ([None, 0.001], False),
        ([None, 0.001, 0.003], True),  # kills itself at once
        ([None, 5.0, 5.1], False),
        ([None, 5.0, 5.1, 4.9], True),  # kills itself after five seconds
        ([None, 1.0, 3.0, 2.0, 0.5, 4.0], False),  # somebody kills it now and then
        ([None, 1.0, 3.0, 2.0, 0.5, 4.0, 1.5, 0.2, 6.0, 9.0], True),  # enough is enough
    ],
)
def test_who_is_guilty(elapsed: list[float | None], guilty: bool) -> None:
    assert _is_guilty(elapsed) == guilty
