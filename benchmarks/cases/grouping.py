"""Grouping: the anomaly of each day from its month's mean, ten years of daily fields, in large and in small chunks.

The data lie in an uncompressed Zarr store, since holding them in memory would take twice what the work may take; for
the same reason the anomalies (as large as the data) are reduced to their largest along time before they are returned.
Every peer reads the same store and gives the same answer.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Work

SHAPE = (3653, 180, 360)
START = "2001-01-01"


def store(chunk: int) -> Path:
    """A Zarr store, made once per machine: seasons and noise, float64, not compressed."""
    path = Path(tempfile.gettempdir(), f"tilework-bench-months-{chunk}.zarr")
    if not (path / "done").exists():
        import pandas as pd
        import xarray as xr

        rng = np.random.default_rng(0)
        time = pd.date_range(START, periods=SHAPE[0])
        lat = np.linspace(-89.5, 89.5, SHAPE[1])
        season = np.cos(2 * np.pi * time.dayofyear.to_numpy() / 365)
        values = rng.normal(size=SHAPE)
        values += 12 * season[:, None, None] * np.sin(np.deg2rad(lat))[:, None]
        ds = xr.Dataset({"t": (("time", "lat", "lon"), values)}, {"time": time, "lat": lat})
        encoding = {"t": {"chunks": tuple(min(chunk, n) for n in SHAPE), "compressors": None}}
        ds.to_zarr(path, mode="w", encoding=encoding, consolidated=False)
        (path / "done").touch()
    return path


def through_xarray(kind: str, chunk: int) -> Work:
    import xarray as xr

    path = store(chunk)
    if kind == "dask":
        import dask

        dask.config.set(scheduler="threads")

    def work() -> np.ndarray:
        with xr.set_options(use_flox=True):
            ds = xr.open_zarr(path, chunks={}, chunked_array_type=kind, consolidated=False)
            by_month = ds.t.groupby("time.month")
            return (by_month - by_month.mean()).max("time").values

    return work


def through_numpy(chunk: int) -> Work:
    import pandas as pd
    import zarr

    path = store(chunk)

    def work() -> np.ndarray:
        values: Any = zarr.open_group(path, mode="r")["t"][:]
        month = pd.date_range(START, periods=SHAPE[0]).month
        largest = np.full(SHAPE[1:], -np.inf)
        for k in range(1, 13):
            mine = values[month == k]
            mine -= mine.mean(axis=0)
            np.maximum(largest, mine.max(axis=0), out=largest)
        return largest

    return work


def _case(chunk: int, peers: tuple[str, ...]) -> Case:
    works = {
        "tilework": lambda: through_xarray("tilework", chunk),
        "dask threads": lambda: through_xarray("dask", chunk),
        "NumPy, month by month": partial(through_numpy, chunk),
    }
    return Case(
        f"months-{chunk}",
        f'groupby("time.month") - mean of {SHAPE} float64 in chunks of {chunk}, from uncompressed Zarr',
        {name: works[name] for name in peers},
        "at most 1.5 x the NumPy loop (CPU), in at most 1 GB", ("NumPy, month by month", "cpu"), warm=False, rtol=1e-9,
    )  # fmt: skip


CASES = [
    _case(100, ("tilework", "dask threads", "NumPy, month by month")),
    _case(30, ("tilework", "NumPy, month by month")),
]
