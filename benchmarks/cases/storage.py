"""Reading compressed Zarr: a yearly record of a region with missing values over the sea, as Daymet stores it."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Work

SHAPE = (2190, 584, 284)


def store() -> Path:
    """A Zarr store, made once per machine: smooth fields with noise, 40 % NaN, float32, zstd."""
    path = Path(tempfile.gettempdir(), "tilework-bench-daymet.zarr")
    if not (path / "done").exists():
        import xarray as xr

        rng = np.random.default_rng(0)
        y, x = np.mgrid[0 : SHAPE[1], 0 : SHAPE[2]]
        land = np.sin(y / 90) + np.cos(x / 60) > -0.35
        days = np.arange(SHAPE[0])[:, None, None]
        field = 10 + 12 * np.sin(days / 58) + np.sin(y / 40) * np.cos(x / 30) * 5 + np.round(rng.normal(size=SHAPE), 1)
        values = np.where(land, np.round(field, 2), np.nan).astype(np.float32)
        ds = xr.Dataset({"tmax": (("time", "y", "x"), values)})
        ds.to_zarr(path, mode="w", encoding={"tmax": {"chunks": (73, 292, 142)}}, zarr_format=2, consolidated=True)
        (path / "done").touch()
    return path


def skipna_mean() -> dict[str, Any]:
    def through_xarray(kind: str) -> Work:
        import xarray as xr

        path = store()
        if kind == "dask":
            import dask

            dask.config.set(scheduler="threads")

        def work() -> np.ndarray:
            ds = xr.open_zarr(path, chunks={}, chunked_array_type=kind)
            return ds.tmax.mean(("y", "x")).values

        return work

    def raw() -> Work:
        import zarr

        path = store()

        def work() -> np.ndarray:
            array: Any = zarr.open_group(path, mode="r")["tmax"]
            starts = range(0, SHAPE[0], 73)
            with ThreadPoolExecutor(2) as pool:
                parts = pool.map(lambda t: np.nanmean(array[t : t + 73], axis=(1, 2), dtype=np.float32), starts)
                return np.concatenate(list(parts))

        return work

    return {
        "tilework": lambda: through_xarray("tilework"),
        "dask threads": lambda: through_xarray("dask"),
        "raw read and nanmean, two threads": raw,
    }


CASES = [
    Case(
        "skipna-mean", "mean over y, x of a compressed Zarr with NaN (xarray, skipna)", skipna_mean(),
        "at most 0.5 x Dask (CPU)", ("dask threads", "cpu"), rtol=1e-4,
    ),
]  # fmt: skip
