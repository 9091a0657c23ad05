"""Clusters on one machine: what futures, blocks, starting, scaling and idle workers cost."""

from __future__ import annotations

import operator
import os
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np
import psutil

from benchmarks.case import Case, Told, Work


def noop(x: int) -> int:
    return x


def make(k: int) -> np.ndarray:
    return np.full(1_000_000, float(k))


def use(block: np.ndarray) -> float:
    return float(block.sum())


def slow(function: Callable[..., float], *args: float) -> float:
    time.sleep(0.1)
    return function(*args)


# ---------------------------------------------------------------- peers: each can do a part of what follows


class Tilework:
    """``tilework.distributed``; with Dask's the programs are the same, but for the import."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, workers: int, threads: int) -> None:
        self.module = self.imported()
        self.cluster = self.module.LocalCluster(n_workers=workers, threads_per_worker=threads, **self.options)
        self.client = self.module.Client(self.cluster)
        self.submit, self.gather, self.wait = self.client.submit, self.client.gather, self.module.wait

    @staticmethod
    def imported() -> Any:
        import tilework.distributed

        return tilework.distributed

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return self.gather(self.client.map(function, items, pure=False))

    def pids(self) -> list[int]:
        return list(self.client.run(os.getpid).values())


class Distributed(Tilework):
    options: ClassVar[dict[str, Any]] = {"dashboard_address": "127.0.0.1:0"}

    @staticmethod
    def imported() -> Any:
        import distributed

        return distributed


class Frisky:
    """Its workers are threads of the client's process, unless asked for processes."""

    processes = False

    def __init__(self, workers: int, threads: int) -> None:
        self.module = self.imported()
        self.cluster = self.module.LocalCluster(
            n_workers=workers, threads_per_worker=threads, processes=self.processes, silence_summary=True
        )
        self.client = self.module.Client(self.cluster.scheduler)
        self.submit, self.gather, self.wait = self.client.submit, self.client.gather, self.module.wait

    @staticmethod
    def imported() -> Any:
        import frisky

        return frisky

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return self.gather(self.client.map(function, items))

    def pids(self) -> list[int]:
        return [process.pid for process in self.cluster._subprocess_handles]


class FriskyProcesses(Frisky):
    processes = True


class Ray:
    """A worker is a process that does one thing at a time, so there are ``workers`` times ``threads`` of them."""

    def __init__(self, workers: int, threads: int) -> None:
        ray = self.imported()
        ray.init(num_cpus=workers * threads, include_dashboard=False, log_to_driver=False, logging_level="error")
        self.remote = cache(lambda function: ray.remote(lambda *args: function(*args)).remote)  # takes no builtins
        self.gather, self.wait = ray.get, lambda futures: ray.wait(futures, num_returns=len(futures))

    @staticmethod
    def imported() -> Any:
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # quiet
        import ray

        return ray

    def submit(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.remote(function)(*args)

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        call = self.remote(function)
        return self.gather([call(item) for item in items])

    def pids(self) -> list[int]:
        return [child.pid for child in psutil.Process().children(recursive=True) if child.name() == "ray::IDLE"]


class Pool:
    """``concurrent.futures.ProcessPoolExecutor``."""

    def __init__(self, workers: int, threads: int) -> None:
        self.pool = ProcessPoolExecutor(workers)
        self.submit, self.gather = self.pool.submit, lambda futures: [future.result() for future in futures]

    @staticmethod
    def imported() -> None: ...

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(function, items))

    def pids(self) -> list[int]:
        return list(self.pool._processes)


class Joblib:
    """joblib's default backend, loky: it puts calls together into batches as it sees fit."""

    def __init__(self, workers: int, threads: int) -> None:
        self.joblib, self.workers = self.imported(), workers

    @staticmethod
    def imported() -> Any:
        import joblib

        return joblib

    def map(self, function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
        return self.joblib.Parallel(n_jobs=self.workers)(self.joblib.delayed(function)(item) for item in items)

    def pids(self) -> list[int]:
        from joblib.externals.loky import get_reusable_executor

        return list(get_reusable_executor(reuse=True)._processes)


PEERS: dict[str, Any] = {
    "tilework": Tilework,
    "distributed": Distributed,
    "frisky": FriskyProcesses,
    "frisky threads": Frisky,
    "Ray": Ray,
    "joblib": Joblib,
    "ProcessPoolExecutor": Pool,
}
LIKE_DASK = ("tilework", "distributed")
FUTURES = (*LIKE_DASK, "frisky", "frisky threads", "Ray")


def on_cluster(
    body: Callable[[Any], Work], names: Iterable[str] = PEERS, workers: int = 2, threads: int = 1
) -> dict[str, Callable[[], Work]]:
    """For each peer: a cluster that has worked before (not measured), and ``body`` on it."""

    def prepare(name: str) -> Work:
        cluster = PEERS[name](workers, threads)
        cluster.map(operator.neg, range(4 * workers * threads))
        return body(cluster)

    return {name: partial(prepare, name) for name in names}


# ---------------------------------------------------------------- work


def noops(n: int) -> dict[str, Callable[[], Work]]:
    return on_cluster(lambda cluster: lambda: sum(cluster.map(noop, range(n))))


def round_trips(n: int) -> dict[str, Callable[[], Work]]:
    def setup(cluster: Any) -> Work:
        def work() -> Told:
            seconds, total = [], 0
            for k in range(n):
                start = time.perf_counter()
                total += cluster.gather([cluster.submit(noop, k)])[0]
                seconds.append(time.perf_counter() - start)
            return Told(total, {"wall": statistics.median(seconds) * n})

        return work

    return on_cluster(setup, (*FUTURES, "ProcessPoolExecutor"))


def blocks(n: int) -> dict[str, Callable[[], Work]]:
    def setup(cluster: Any) -> Work:
        return lambda: sum(cluster.gather([cluster.submit(use, cluster.submit(make, k)) for k in range(n)]))

    return on_cluster(setup, FUTURES)


def fetching(n: int) -> dict[str, Callable[[], Work]]:
    def setup(cluster: Any) -> Work:
        futures = [cluster.submit(make, k) for k in range(n)]
        cluster.wait(futures)
        return lambda: sum(block[-1] for block in cluster.gather(futures))

    return on_cluster(setup, FUTURES)


def starting() -> dict[str, Callable[[], Work]]:
    def prepare(name: str) -> Work:
        PEERS[name].imported()
        kept = []

        def work() -> int:
            kept.append(PEERS[name](2, 1))  # closed when the process ends
            return kept[0].map(operator.neg, [1])[0]

        return work

    return {name: partial(prepare, name) for name in PEERS}


def scaling() -> dict[str, Callable[[], Work]]:
    """The cluster has work all the time, and four serve when four have done some of it."""

    def setup(cluster: Any) -> Work:
        def slow_pid(_: int) -> int:  # defined here, so that it is sent by value and imports nothing
            time.sleep(0.02)
            return os.getpid()

        def work() -> int:
            futures = cluster.client.map(slow_pid, range(4_000))
            seen = set()
            cluster.cluster.scale(4)
            for future in cluster.module.as_completed(futures):
                seen.add(future.result())
                if len(seen) == 4:
                    cluster.client.cancel(futures)
                    return 4
            return len(seen)

        return work

    return on_cluster(setup, LIKE_DASK, workers=1)


def chains(workers: int, threads: int) -> dict[str, Callable[[], Work]]:
    def setup(cluster: Any) -> Work:
        def work() -> float:
            ends = []
            for k in range(30):
                squares = [cluster.submit(slow, operator.mul, x, x) for x in (float(2 * k), float(2 * k + 1))]
                ends.append(cluster.submit(slow, pow, cluster.submit(slow, operator.add, *squares), 0.5))
            return sum(cluster.gather(ends))

        return work

    return on_cluster(setup, FUTURES, workers, threads)


def idling() -> dict[str, Callable[[], Work]]:
    def setup(cluster: Any) -> Work:
        def work() -> Told:
            answer = sum(cluster.map(operator.neg, range(8)))
            workers = [psutil.Process(pid).memory_full_info() for pid in cluster.pids()]
            everyone = [child.memory_full_info() for child in psutil.Process().children(recursive=True)]
            figures = {
                "USS of a worker": statistics.mean(worker.uss for worker in workers),
                "PSS of a worker": statistics.mean(worker.pss for worker in workers),
                "PSS of all processes but the client": sum(process.pss for process in everyone),
            }
            return Told(answer, figures)

        return work

    return on_cluster(setup, [name for name in PEERS if name != "frisky threads"])


CASES = [
    Case(
        "noop-futures", "10,000 no-op futures on two worker processes: map and gather", noops(10_000),
        "at most 60 µs a task", ("distributed", "wall"), 10_000,
    ),
    Case(
        "round-trip", "submit().result(), median of 500", round_trips(500), "at most 700 µs",
        ("distributed", "wall"), 500,
    ),
    Case(
        "blocks", "1,000 times: make an array of 8 MB, sum it in another task", blocks(1_000), "at most 2 s",
        ("distributed", "wall"), warm=False,
    ),
    Case(
        "fetch", "50 results of 8 MB fetched by the client", fetching(50), "at most 0.02 s", ("distributed", "wall"),
        warm=False,
    ),
    Case(
        "start", "From LocalCluster(2) to the first result", starting(), "at most 0.6 s", ("distributed", "wall"),
        warm=False, rounds=5,
    ),
    Case(
        "scale", "One worker is busy: from scale(4) until four have worked", scaling(), "at most 1 s",
        ("distributed", "wall"), warm=False,
    ),
    Case(
        "chains-4", "30 x (square, square, add, sqrt), 0.1 s each, 1 worker with 4 threads", chains(1, 4),
        "at most 3.09 s, 1.03 times the ideal of 3.0 s", ("distributed", "wall"), warm=False,
    ),
    Case(
        "chains-16", "30 x (square, square, add, sqrt), 0.1 s each, 4 workers with 4 threads", chains(4, 4),
        "at most 0.92 s, 1.15 times the ideal of 0.8 s", ("distributed", "wall"), warm=False,
    ),
    Case(
        "idle", "Memory of an idle worker that has run a no-op", idling(), "at most half of distributed's",
        ("distributed", "USS of a worker"), warm=False,
    ),
]  # fmt: skip
