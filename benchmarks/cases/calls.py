"""Delayed calls: how much a task costs when it does nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.case import Case, Work


def noop(x: int) -> int:
    return x


def add(a: int, b: int) -> int:
    return a + b


def independent(n: int) -> dict[str, Any]:
    def tilework() -> Work:
        import tilework as tw

        call = tw.delayed(noop)
        return lambda: sum(tw.compute(*[call(i) for i in range(n)], scheduler="threads"))

    def dask() -> Work:
        import dask

        call = dask.delayed(noop)
        return lambda: sum(dask.compute(*[call(i) for i in range(n)], scheduler="threads"))

    def joblib() -> Work:
        from joblib import Parallel, delayed

        return lambda: sum(Parallel(n_jobs=2, prefer="threads")(delayed(noop)(i) for i in range(n)))

    def pool() -> Work:
        def work() -> int:
            with ThreadPoolExecutor(2) as executor:
                return sum(f.result() for f in [executor.submit(noop, i) for i in range(n)])

        return work

    return {"tilework": tilework, "dask threads": dask, "joblib threads": joblib, "ThreadPoolExecutor": pool}


def building(n: int) -> dict[str, Any]:
    def tilework() -> Work:
        import tilework as tw

        call = tw.delayed(noop)
        return lambda: len([call(i) for i in range(n)])

    def dask() -> Work:
        import dask

        call = dask.delayed(noop)
        return lambda: len([call(i) for i in range(n)])

    return {"tilework": tilework, "dask": dask}


def tree(n: int) -> dict[str, Any]:
    def build(call: Any) -> Any:
        level = list(range(n + 1))
        while len(level) > 1:
            pairs = [call(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
            level = pairs + level[len(pairs) * 2 :]
        return level[0]

    def tilework() -> Work:
        import tilework as tw

        call = tw.delayed(add)
        return lambda: build(call).compute(scheduler="threads")

    def dask() -> Work:
        import dask

        call = dask.delayed(add)
        return lambda: build(call).compute(scheduler="threads")

    return {"tilework": tilework, "dask threads": dask}


def _without(peers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: work for name, work in peers.items() if name not in names}


CASES = [
    Case("build-20k", "Build 20,000 delayed calls", building(20_000), "at most 5 µs a call", ("dask", "wall"), 20_000),
    Case(
        "calls-2k", "2,000 independent no-op calls, build and run", independent(2_000), "at most 11 µs a task",
        ("dask threads", "wall"), 2_000,
    ),
    Case(
        "calls-20k", "20,000 independent no-op calls, build and run", _without(independent(20_000), "dask threads"),
        "at most 11 µs a task", ("ThreadPoolExecutor", "wall"), 20_000,
    ),
    Case(
        "calls-200k", "200,000 independent no-op calls, build and run", _without(independent(200_000), "dask threads"),
        "at most 11 µs a task, as for 20,000", ("ThreadPoolExecutor", "wall"), 200_000, rounds=2,
    ),
    Case(
        "tree-20k", "A tree of 20,000 delayed adds, build and run", tree(20_000), "at most 8 µs a task to run",
        ("dask threads", "wall"), 20_000,
    ),
]  # fmt: skip
