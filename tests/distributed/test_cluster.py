from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

import tilework as tw
from tilework.base import machine
from tilework.base.errors import ClusterClosedError, ConfigError, UnsupportedError
from tilework.distributed import Client, LocalCluster
from tilework.distributed.cluster import cluster_config

MEMORY = machine.memory_total()


def inc(x: int) -> int:
    return x + 1


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("cores", "options", "expected"),
    [
        (1, {}, (1, 1)),
        (4, {}, (4, 1)),
        (8, {}, (4, 2)),
        (32, {}, (8, 4)),
        (13, {}, (13, 1)),
        (8, {"n_workers": 3}, (3, 3)),
        (8, {"threads_per_worker": 3}, (2, 3)),
        (2, {"threads_per_worker": 5}, (1, 5)),
        (8, {"processes": False}, (1, 8)),
        (8, {"n_workers": 2, "threads_per_worker": 7}, (2, 7)),
    ],
)
def test_workers_and_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, options: dict[str, Any], expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    config = cluster_config(memory_limit="100MB", **options)
    assert (config.n_workers, config.threads) == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("auto", MEMORY // 2),
        (None, MEMORY),
        (0, MEMORY),
        ("200MB", 200_000_000),
        (300_000_000, 300_000_000),
        (0.5, MEMORY // 2),
    ],
)
def test_memory(limit: Any, expected: int) -> None:
    config = cluster_config(2, memory_limit=limit)
    assert config.memory_limit == expected
    assert config.memory == int(0.6 * min(MEMORY, 2 * expected))
    assert cluster_config(2, memory_limit=limit, memory="70MB").memory == 70_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_workers": 0}, "n_workers=0"),
        ({"n_workers": -1}, "n_workers=-1"),
        ({"n_workers": "2"}, "n_workers='2'"),
        ({"n_workers": 1.5}, "n_workers=1.5"),
        ({"threads_per_worker": 0}, "threads_per_worker=0"),
        ({"memory_limit": "1MB"}, "memory_limit='1MB' is less than a Python process"),
        ({"memory_limit": 10 * MEMORY}, "is more than the"),
        ({"memory_limit": "much"}, "memory_limit='much'"),
        ({"memory": 10 * MEMORY}, "memory="),
        ({"processes": 4}, "processes=4"),
        ({"scheduler_port": -1}, "scheduler_port=-1"),
        ({"scheduler_port": 70000}, "scheduler_port=70000"),
        ({"dashboard_address": "here"}, "dashboard_address='here'"),
        ({"dashboard_address": "0.0.0.0:8787"}, "would let others in"),
        ({"host": "0.0.0.0"}, "would let others in"),
        ({"local_directory": "/nowhere"}, "local_directory='/nowhere'"),
        ({"nworkers": 4}, "did you mean 'n_workers'"),
        ({"task_timeout": "soon"}, "'soon'"),
    ],
)
def test_bad_options_start_nothing(options: dict[str, Any], message: str) -> None:
    before = psutil.Process().children()
    with pytest.raises(ConfigError) as caught:
        LocalCluster(**options)
    assert message in str(caught.value)
    assert psutil.Process().children() == before


def test_ports_that_are_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"scheduler_port: port {port} cannot be had"):
            LocalCluster(1, scheduler_port=port)
        with pytest.raises(ConfigError, match=f"dashboard_address: port {port} cannot be had"):
            LocalCluster(1, dashboard_address=f":{port}")


def test_asynchronous_clusters_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="await"):
        LocalCluster(asynchronous=True)


# ---------------------------------------------------------------- clusters


def test_a_cluster(cluster: LocalCluster) -> None:
    assert cluster.name == "shared"
    assert cluster.status == "running"
    assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
    assert cluster.dashboard_link is not None
    assert cluster.dashboard_link.startswith("http://127.0.0.1:")
    assert sorted(cluster.workers) == [0, 1]
    assert isinstance(cluster.logs(), dict)
    with cluster.get_client(set_as_default=False) as client:
        assert client.cluster is cluster
        assert client.submit(inc, 1).result() == 2
    assert cluster.status == "running"


def test_two_clusters_and_their_ends() -> None:
    before = threading.active_count()
    with LocalCluster(1, memory_limit="500MB") as a, LocalCluster(1, memory_limit="500MB", dashboard_address=None) as b:
        assert a.scheduler_address != b.scheduler_address
        assert b.dashboard_link is None
        with a.get_client() as first, b.get_client() as second:
            assert first.run(os.getpid) != second.run(os.getpid)
        pids = [cluster._launched.pid for cluster in (a, b)]
    assert not any(map(psutil.pid_exists, pids))
    a.close()
    assert a.status == "closed"
    for use in (a.get_client, lambda: a.scale(2), lambda: a.workers, lambda: tw.delayed(inc)(1).compute(scheduler=a)):
        with pytest.raises(ClusterClosedError, match="was closed"):
            use()
    assert repr(a) == f"LocalCluster({a.name}, {a.scheduler_address!r}, closed)"
    assert "closed" in a._repr_html_()
    assert threading.active_count() == before


def test_scale_and_adapt() -> None:
    with LocalCluster(1, 1, memory_limit="500MB") as cluster, cluster.get_client() as client:
        future = client.submit(inc, 1)
        cluster.scale(3)
        cluster.wait_for_workers(3, timeout=20)
        assert len(client.run(os.getpid)) == 3
        cluster.scale(1)
        assert future.result() == 2
        assert client.gather(client.map(inc, range(10))) == list(range(1, 11))
        cluster.adapt(minimum=2, maximum=3)
        cluster.wait_for_workers(2, timeout=20)
        with pytest.raises(ConfigError, match="minimum=3 is more than maximum=2"):
            cluster.adapt(minimum=3, maximum=2)
        with pytest.raises(ConfigError, match="n=-1"):
            cluster.scale(-1)
        with pytest.raises(TimeoutError):
            cluster.wait_for_workers(50, timeout=0.05)


def test_without_processes_there_is_one_worker() -> None:
    with LocalCluster(processes=False, threads_per_worker=3, memory_limit="500MB") as cluster:
        assert [worker["threads"] for worker in cluster.workers.values()] == [3]


def test_the_spill_directory(tmp_path: Path) -> None:
    with LocalCluster(1, memory_limit="500MB", local_directory=tmp_path) as cluster, cluster.get_client() as client:
        assert client.submit(inc, 1).result() == 2
    assert list(tmp_path.iterdir()) == []


def test_it_is_a_scheduler_for_lazy_things(cluster: LocalCluster) -> None:
    assert tw.delayed(os.getpid)().compute(scheduler=cluster) != os.getpid()


def test_it_ends_with_the_process_that_made_it() -> None:
    """Also if that one is killed, and has forked a child that lives on."""
    code = """if True:
        import os, sys, time
        from tilework.distributed import LocalCluster
        cluster = LocalCluster(1, memory_limit="500MB")
        if os.fork() == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        print(cluster._launched.pid, flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        scheduler = psutil.Process(int(process.stdout.readline()))
        (child,) = set(psutil.Process(process.pid).children()) - {scheduler}
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([scheduler], timeout=20)
    assert not scheduler.is_running()
    assert child.is_running()
    child.kill()


def test_reprs(cluster: LocalCluster) -> None:
    assert repr(cluster).startswith(
        f"LocalCluster(shared, {cluster.scheduler_address!r}, workers=2, threads=4, memory="
    )
    html = cluster._repr_html_()
    assert "LocalCluster shared" in html
    assert cluster.dashboard_link is not None
    assert f"href='{cluster.dashboard_link}'" in html
    token = cluster.dashboard_link.rpartition("=")[2]
    assert html.count(token) == 1  # in the link, and not for all to read
    with Client(cluster) as client:
        assert client._repr_html_().count("<tr>") == html.count("<tr>")


def test_a_cluster_knows_its_clients_if_nothing_else_is_imported() -> None:
    program = """
from tilework.distributed import LocalCluster
with LocalCluster(1, 1, dashboard_address=None) as cluster, cluster.get_client() as client:
    assert client.submit(abs, -1).result() == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
