"""Array arithmetic: fused chains, random numbers, reductions, products; against hand-tiled loops and Dask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.case import Case, Work

TILE = 1 << 16


def spans(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each piece of ``size``."""
    for lo in range(0, n, size):
        yield lo, min(n, lo + size)


def on_two_threads(n: int, one: Callable[[int, int], Any]) -> list[Any]:
    """``one(lo, hi)`` for both halves of ``n``, at the same time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda half: one(*half), [(0, n // 2), (n // 2, n)]))


def hypotenuse(n: int = 100_000_000) -> dict[str, Any]:
    def data() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.random(n), rng.random(n)

    def chunked(module: Any) -> Work:
        x, y = (module.from_array(a, chunks=n // 8) for a in data())
        return lambda: float((np.sqrt(x * x + y * y) * 2 - 1).sum().compute(scheduler="threads"))

    def tilework() -> Work:
        import tilework.array as ta

        return chunked(ta)

    def dask() -> Work:
        import dask.array as da

        return chunked(da)

    def hand() -> Work:
        x, y = data()

        def half(lo: int, hi: int) -> float:
            a, b, total = np.empty(TILE), np.empty(TILE), 0.0
            for s, e in spans(hi - lo, TILE):
                u, v = a[: e - s], b[: e - s]
                p, q = x[lo + s : lo + e], y[lo + s : lo + e]
                np.multiply(p, p, out=u)
                np.multiply(q, q, out=v)
                np.add(u, v, out=u)
                np.sqrt(u, out=u)
                np.multiply(u, 2, out=u)
                np.subtract(u, 1, out=u)
                total += float(np.add.reduce(u))
            return total

        return lambda: sum(on_two_threads(n, half))

    def numexpr() -> Work:
        import numexpr as ne

        x, y = data()
        return lambda: float(ne.evaluate("sum(sqrt(x*x+y*y)*2-1)", local_dict={"x": x, "y": y}))

    return {"tilework": tilework, "hand-tiled": hand, "dask threads": dask, "numexpr": numexpr}


def random_stats(n: int = 300_000_000) -> dict[str, Any]:
    """Sum, mean and std of uniform numbers; the answer is rounded, as the peers draw different numbers."""

    def rounded(total: float, mean: float, std: float) -> list[float]:
        return [round(total / n, 3), round(mean, 3), round(std, 3)]

    def tilework() -> Work:
        import tilework as tw
        import tilework.array as ta

        def work() -> list[float]:
            x = ta.random.default_rng(0).random(n, chunks=n // 24)
            return rounded(*tw.compute(x.sum(), x.mean(), x.std(), scheduler="threads"))

        return work

    def dask() -> Work:
        import dask
        import dask.array as da

        def work() -> list[float]:
            x = da.random.default_rng(0).random(n, chunks=n // 24)
            return rounded(*dask.compute(x.sum(), x.mean(), x.std(), scheduler="threads"))

        return work

    def hand() -> Work:
        def half(lo: int, hi: int) -> tuple[float, float]:
            rng, tile, total, squares = np.random.default_rng(lo), np.empty(TILE), 0.0, 0.0
            for s, e in spans(hi - lo, TILE):
                u = tile[: e - s]
                rng.random(out=u)
                total += float(np.add.reduce(u))
                squares += float(np.add.reduce(np.multiply(u, u, out=u)))
            return total, squares

        def work() -> list[float]:
            parts = on_two_threads(n, half)
            total, squares = sum(p[0] for p in parts), sum(p[1] for p in parts)
            return rounded(total, total / n, (squares / n - (total / n) ** 2) ** 0.5)

        return work

    return {"tilework": tilework, "hand-tiled": hand, "dask threads": dask}


def std_over_first(rows: int = 40_000, columns: int = 50_000) -> dict[str, Any]:
    """``std(axis=0)`` of random float32; the answer is the mean of the result, rounded."""

    def chunked(module: Any, **options: Any) -> Work:
        def work() -> float:
            x = module.random.default_rng(0).random((rows, columns), dtype=np.float32, chunks=(2_500, 5_000))
            return round(float(x.std(axis=0).mean().compute(scheduler="threads", **options)), 3)

        return work

    def tilework() -> Work:
        import tilework.array as ta

        return chunked(ta, memory="300MB")

    def dask() -> Work:
        import dask.array as da

        return chunked(da)

    def hand() -> Work:
        width = 5_000

        def half(lo: int, hi: int) -> float:
            total = 0.0
            rng, step = np.random.default_rng(lo), TILE // width
            tile = np.empty((step, width), np.float32)
            for s, e in spans(hi - lo, width):
                first, second = np.zeros(e - s), np.zeros(e - s)
                for r, t in spans(rows, step):
                    u = tile[: t - r, : e - s]
                    rng.random(out=tile, dtype=np.float32)
                    first += np.add.reduce(u, axis=0)
                    np.multiply(u, u, out=u)
                    second += np.add.reduce(u, axis=0)
                total += float(np.sqrt(second / rows - (first / rows) ** 2).sum())
            return total

        return lambda: round(sum(on_two_threads(columns, half)) / columns, 3)

    return {"tilework": tilework, "hand-tiled": hand, "dask threads": dask}


def mean_dot(shape: tuple[int, int, int] = (2920, 192, 288)) -> dict[str, Any]:
    """``tas.mean(lat, lon).dot(tas.T)``: a field regressed on its own mean."""

    def data() -> np.ndarray:
        return np.random.default_rng(0).random(shape, dtype=np.float32)

    def chunked(kind: str) -> Work:
        import xarray as xr

        tas = xr.DataArray(data(), dims=("time", "lat", "lon")).chunk({"time": 365}, chunked_array_type=kind)
        import dask

        dask.config.set(scheduler="threads")
        return lambda: tas.mean(("lat", "lon")).dot(tas.T).compute().values.T

    def blas() -> Work:
        tas = data()

        def work() -> np.ndarray:
            flat = tas.reshape(shape[0], -1)
            return (flat.mean(axis=1) @ flat).reshape(shape[1:])

        return work

    return {"tilework": lambda: chunked("tilework"), "BLAS in one pass": blas, "dask threads": lambda: chunked("dask")}


CASES = [
    Case(
        "hypot", "(sqrt(x*x+y*y)*2-1).sum(), 1e8 float64 in memory", hypotenuse(), "at most 1.25 x hand-tiled (CPU)",
        ("hand-tiled", "cpu"),
    ),
    Case(
        "random-stats", "sum, mean and std of 3e8 uniform random float64", random_stats(),
        "at most 1.3 x hand-tiled (CPU)", ("hand-tiled", "cpu"), rtol=2e-3,
    ),
    Case(
        "std-axis0", 'std over axis 0 of 8 GB of random float32, memory="300MB"', std_over_first(),
        "at most 1.5 x hand-tiled (CPU), peak at most 400 MB", ("hand-tiled", "cpu"), warm=False, rtol=2e-3,
        skip_rounds={"dask threads": 1},
    ),
    Case(
        "mean-dot", "tas.mean(lat, lon).dot(tas.T), (2920, 192, 288) float32, through xarray", mean_dot(),
        "at most 2 x BLAS (CPU)", ("BLAS in one pass", "cpu"), rtol=1e-3,
    ),
]  # fmt: skip
