"""xarray on a cube of ten years of days: rolling means, quantiles along time, interpolation to a finer grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Case, Work

SHAPE = (3653, 180, 360)


def cube(kind: str) -> Any:
    """The cube in chunks of 100 days, in memory."""
    import dask
    import pandas as pd
    import xarray as xr

    dask.config.set(scheduler="threads")
    coords = {
        "time": pd.date_range("2000-01-01", periods=SHAPE[0]),
        "lat": np.linspace(-89.5, 89.5, SHAPE[1]),
        "lon": np.arange(SHAPE[2]) + 0.5,
    }
    data = xr.DataArray(np.random.default_rng(0).random(SHAPE), coords, dims=tuple(coords))
    return data.chunk({"time": 100}, chunked_array_type=kind)


def peers(operation: Callable[[Any], Any]) -> dict[str, Any]:
    """Both do the same, and reduce it to a series or a map."""

    def peer(kind: str) -> Work:
        data = cube(kind)
        return lambda: operation(data).compute().values

    return {"tilework": lambda: peer("tilework"), "dask threads": lambda: peer("dask")}


def rolling(data: Any) -> Any:
    return data.rolling(time=30).mean().mean(("lat", "lon"))


def quantile(data: Any) -> Any:
    return data.quantile([0.1, 0.9], "time")


def interp(data: Any) -> Any:
    return data.interp(lat=np.linspace(-89, 89, 270), lon=np.linspace(1, 359, 540)).mean(("lat", "lon"))


GOALS = "faster than Dask, with half its memory over start"

CASES = [
    Case(
        f"xarray-{name}", f"{title}, {SHAPE} float64 in chunks of 100 days, through xarray", peers(operation), GOALS,
        ("dask threads", "cpu"), warm=False, rounds=2, rtol=1e-9,
    )
    for name, title, operation in (
        ("rolling", "rolling(time=30).mean(), averaged over the map", rolling),
        ("quantile", "quantile([0.1, 0.9], \"time\")", quantile),
        ("interp", "interp to 270 x 540, averaged over the map", interp),
    )
]  # fmt: skip
