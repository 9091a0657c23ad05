"""From a program to a task graph: what it costs before anything runs."""

from __future__ import annotations

from typing import Any

from benchmarks.case import Case, Work


def chunked_mean(side: int) -> dict[str, Any]:
    """``((x + 1) * 2 - x.mean(axis=0)).sum()`` over ``side`` x ``side`` chunks; the answer is the number of chunks."""

    def tilework() -> Work:
        import tilework.array as ta
        from tilework import session
        from tilework.base import config

        def work() -> int:
            x = ta.ones((side * 10, side * 10), chunks=(10, 10))
            y = ((x + 1) * 2 - x.mean(axis=0)).sum()
            session.prepare([session._as_result(y.node)[0]], config.get())
            return x.npartitions

        return work

    def dask() -> Work:
        import dask
        import dask.array as da
        from dask.order import order

        def work() -> int:
            x = da.ones((side * 10, side * 10), chunks=(10, 10))
            y = ((x + 1) * 2 - x.mean(axis=0)).sum()
            (y,) = dask.optimize(y)
            order(dict(y.__dask_graph__()))
            return x.npartitions

        return work

    def cubed() -> Work:
        import cubed
        import cubed.array_api as xp

        def work() -> int:
            x = xp.ones((side * 10, side * 10), chunks=(10, 10), spec=cubed.Spec(allowed_mem="2GB"))
            y = xp.sum((x + 1) * 2 - xp.mean(x, axis=0))
            y.plan()  # optimizes and finalizes
            return x.npartitions

        return work

    return {"tilework": tilework, "dask": dask, "cubed (defers the work)": cubed}


CASES = [
    Case(
        "plan-10k", "((x+1)*2 - x.mean(axis=0)).sum() over 10,000 chunks: build, optimize, lower, order",
        chunked_mean(100), "-", ("dask", "cpu"), warm=False,
    ),
    Case(
        "plan-1m", "The same over 1,000,000 chunks",
        {k: v for k, v in chunked_mean(1000).items() if k != "dask"},
        "at most 1.5 s and 300 MB over the import; Dask's ordering does not end in minutes", warm=False,
    ),
]  # fmt: skip
