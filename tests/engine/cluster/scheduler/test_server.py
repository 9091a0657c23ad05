"""The scheduler process as a whole: who comes in, what can be asked, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from operator import add
from pathlib import Path

import numpy as np
import pytest

from tests.engine.cluster import leaks, real, strangers
from tests.engine.cluster.real import Gate, Real, options
from tilework.base.errors import ConfigError, ConnectionLostError
from tilework.distributed import Client, wait
from tilework.engine.cluster.client import link
from tilework.engine.cluster.start import launch
from tilework.engine.cluster.wire import register
from tilework.engine.cluster.wire.versions import versions

# ---------------------------------------------------------------- who comes in


def test_strangers_get_nowhere_and_the_cluster_goes_on(cluster: Real, tmp_path: Path) -> None:
    port = register.parse_address(cluster.address)
    for attempt in (strangers.speaks_http, strangers.without_secret, strangers.wrong_secret, strangers.garbage,
                    strangers.huge_length, strangers.mirrors_the_proof):  # fmt: skip
        attempt("127.0.0.1", port)
        assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3
    strangers.pickle_bomb("127.0.0.1", port, tmp_path / "bomb")
    with strangers.flood("127.0.0.1", port, n=300):
        assert cluster.client.submit(add, 2, 2).result(timeout=real.PATIENCE) == 4
        with Client(cluster.address) as other:
            assert other.submit(add, 2, 3).result(timeout=real.PATIENCE) == 5


def test_other_versions_are_refused(cluster: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    here = versions()
    monkeypatch.setattr(link, "versions", lambda: {**here, "python": "2.7.18"})
    with pytest.raises(ConnectionLostError, match=f"python {here['python']} on the cluster and 2.7.18 on the client"):
        Client(cluster.address)
    assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3


# ---------------------------------------------------------------- what can be asked


def test_info(cluster: Real) -> None:
    cluster.ask("wait_for_workers", 2)
    info = cluster.ask("info")
    assert info["address"] == cluster.address
    assert info["memory"] == 1 << 30
    assert set(info["workers"]) == {0, 1}
    worker = info["workers"][0]
    assert worker["threads"] == 1
    assert worker["memory_limit"] == 1 << 30
    assert 0 < worker["memory"] < 1 << 29
    assert worker["pid"] in cluster.watch.processes()


def test_an_unknown_request(cluster: Real) -> None:
    with pytest.raises(ConfigError, match="knows no request 'dance'"):
        cluster.ask("dance")


def test_who_has_what(cluster: Real) -> None:
    small, large = cluster.client.submit(add, 1, 2), cluster.client.submit(np.ones, 100_000)
    wait([small, large])
    found = cluster.ask("who_has", None)
    assert found[small.number] == ()
    assert found[large.number] in ((0,), (1,))


def test_run_on_workers(cluster: Real) -> None:
    cluster.ask("wait_for_workers", 2)
    pids = cluster.client.run(os.getpid)
    assert pids == {number: worker["pid"] for number, worker in cluster.workers().items()}
    assert list(cluster.client.run(np.ones, 100_000, workers=[1])) == [1]
    with pytest.raises(ZeroDivisionError):
        cluster.client.run(lambda: 1 / 0)
    with pytest.raises(ConfigError, match="no worker 7"):
        cluster.client.run(os.getpid, workers=[7])


def test_setup_runs_in_every_worker_before_anything_else(cluster: Real) -> None:
    def set_up() -> None:
        os.environ["SET_UP"] = "yes"

    cluster.ask("wait_for_workers", 2)
    cluster.client.register_worker_callbacks(set_up)
    cluster.ask("scale", 3)
    found = cluster.client.map(lambda i: os.environ.get("SET_UP"), range(30), workers=[0, 1])
    assert set(cluster.client.gather(found)) == {"yes"}
    cluster.ask("wait_for_workers", 3)
    assert cluster.client.run(lambda: os.environ.get("SET_UP")) == {0: "yes", 1: "yes", 2: "yes"}


def test_logs_tell_of_deaths_and_warnings(cluster: Real) -> None:
    pid = cluster.worker(0)
    cluster.kill(pid)
    real.until(lambda: cluster.worker(0) != pid)
    assert f"worker 0 (process {pid}) was killed by SIGKILL" in cluster.ask("logs")["scheduler"]
    cluster.client.submit(warnings.warn, "mind the gap").result(timeout=real.PATIENCE)
    real.until(lambda: any("mind the gap" in text for text in cluster.ask("logs").values()))


# ---------------------------------------------------------------- where tasks run


def test_tasks_run_only_on_the_workers_that_were_named(cluster: Real) -> None:
    pid = cluster.worker(1)
    futures = cluster.client.map(lambda i: os.getpid(), range(50), workers=[1])
    assert set(cluster.client.gather(futures)) == {pid}
    nowhere = cluster.client.submit(os.getpid, workers=["nobody"])
    with pytest.raises(ConfigError, match="there is no worker 'nobody'; there are 0, 1"):
        nowhere.result(timeout=real.PATIENCE)


@options(n_workers=1)
def test_higher_priority_goes_first(cluster: Real, gate: Gate, tmp_path: Path) -> None:
    order = tmp_path / "order"

    def note(name: str) -> None:
        with order.open("a") as file:
            file.write(name)

    first = cluster.client.submit(gate.passes, "first")
    gate.wait("first")
    rest = [cluster.client.submit(note, name, priority=p) for name, p in (("a", 0), ("b", -1), ("c", 5))]
    gate.open()
    wait([first, *rest])
    assert order.read_text() == "cab"


def test_work_that_waits_behind_a_long_task_goes_to_who_is_idle(cluster: Real, gate: Gate) -> None:
    def work(i: int) -> int:
        if i == 20:
            gate.passes("long")
        return i

    cluster.ask("wait_for_workers", 2)
    cluster.client.gather(cluster.client.map(work, range(20)))  # so that they are known to be short
    futures = cluster.client.map(work, range(20, 300))
    wait(futures[1:], timeout=real.PATIENCE)
    assert not futures[0].done()
    gate.open()


def test_tasks_submit_tasks(cluster: Real) -> None:
    def fibonacci(n: int) -> int:
        from tilework.distributed import get_client

        if n < 2:
            return n
        client = get_client()
        return sum(client.gather(client.map(fibonacci, [n - 1, n - 2])))

    assert cluster.client.submit(fibonacci, 6).result(timeout=real.PATIENCE) == 8


# ---------------------------------------------------------------- how many workers


def test_scaling_while_work_runs(cluster: Real) -> None:
    futures = cluster.client.map(lambda i: time.sleep(0.01) or i, range(300))
    for n in (4, 1, 0, 3):
        cluster.ask("scale", n)
        cluster.ask("wait_for_workers", n)
        real.until(lambda n=n: len(cluster.workers()) == n)  # type: ignore[misc]
    assert cluster.client.gather(futures) == list(range(300))


def test_blocks_of_workers_that_left_stay(cluster: Real) -> None:
    blocks = cluster.client.map(lambda i: np.full(100_000, i), range(8))
    wait(blocks)
    cluster.ask("scale", 0)
    cluster.watch.wait_for_processes(0, "tw-worker")
    cluster.ask("scale", 1)
    assert cluster.client.gather(cluster.client.map(np.max, blocks)) == list(range(8))


def test_adapting_follows_the_work(cluster: Real) -> None:
    cluster.ask("adapt", 0, 3)
    futures = cluster.client.map(lambda i: time.sleep(0.02) or i, range(400))
    cluster.ask("wait_for_workers", 3)
    assert cluster.client.gather(futures) == list(range(400))


def test_restart(cluster: Real) -> None:
    before = {cluster.worker(0), cluster.worker(1)}
    block, running = cluster.client.submit(np.ones, 100_000), cluster.client.submit(time.sleep, 1000)
    wait(block)
    cluster.ask("restart")
    assert {block.status, running.status} == {"cancelled"}
    assert not before & {cluster.worker(0), cluster.worker(1)}
    assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3


# ---------------------------------------------------------------- how it ends


def test_shutdown_by_a_client(cluster: Real) -> None:
    with Client(cluster.address) as other:
        other.shutdown()
    with pytest.raises(ConnectionLostError, match="it was shut down by client"):
        cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE)


def test_sigterm_ends_it_and_sigint_does_not(cluster: Real) -> None:
    cluster.kill(cluster.launched.pid, signal.SIGINT)
    assert cluster.client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3
    cluster.kill(cluster.launched.pid, signal.SIGTERM)
    cluster.watch.wait_for_processes(0)
    assert not cluster.watch.processes()


def test_a_cluster_without_owner_ends_when_it_is_idle() -> None:
    with leaks.watched() as watch:
        config = launch.ClusterConfig(1, 1, 1 << 30, 1 << 28, dashboard_port=None, owned=False, idle_timeout=0.3)
        launched = launch.launch(config)
        use(launched.address)
        assert watch.processes(), "it outlives its first client"
        watch.wait_for_processes(0)


def use(address: str) -> None:
    with Client(address) as client:
        assert client.submit(add, 1, 2).result(timeout=real.PATIENCE) == 3


MANY = """
import sys
from operator import add
from tilework.distributed import Client
with Client(sys.argv[1]) as client:
    print(sum(client.gather(client.map(add, range(500), range(500)))))
"""


def test_several_clients_at_once(cluster: Real) -> None:
    command = [sys.executable, "-c", MANY, cluster.address]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    results: list[int] = []
    thread = threading.Thread(
        target=lambda: results.append(sum(cluster.client.gather(cluster.client.map(abs, range(500)))))
    )
    thread.start()
    assert [other.communicate(timeout=real.PATIENCE)[0] for other in others] == ["249500\n"] * 3
    thread.join(real.PATIENCE)
    assert results == [124750]
