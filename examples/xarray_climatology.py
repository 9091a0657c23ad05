"""A climatology with xarray, larger than the memory that it may take: ``python examples/xarray_climatology.py``.

Five years of daily temperatures lie in a Zarr store, packed into 16-bit integers as such data usually are. Wanted: the
course of a normal year, how far each day departs from it, and where it gets warmer. The program is plain xarray; one
argument says that its chunks are tilework's, and one number says how much memory it may take.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import tilework as tw

MEMORY = "30MB"
DIMS = ("time", "lat", "lon")


def make_data(path: str) -> None:
    """Seasons, weather, and a warming that is twice as fast in the far north. Written year by year."""
    time = pd.date_range("2001-01-01", "2005-12-31")
    lat, lon = np.linspace(-87, 87, 60), np.arange(0.0, 360, 3)
    rng = np.random.default_rng(0)
    for _, days in pd.Series(range(len(time)), time).groupby(time.year):
        t = time[days]
        season = np.cos(2 * np.pi * (t.day_of_year.to_numpy() - 200) / 365)[:, None, None]
        warming = np.where(lat > 60, 0.08, 0.04)[None, :, None] * (t.year.to_numpy() - 2001)[:, None, None]
        zone = (27 * np.cos(np.deg2rad(lat)) - 5)[None, :, None]
        field = zone + 12 * np.sin(np.deg2rad(lat))[None, :, None] * season + warming
        noise = rng.normal(0, 2, (len(t), len(lat), len(lon)))
        ds = xr.Dataset({"tas": (DIMS, field + noise, {"units": "degC"})}, {"time": t, "lat": lat, "lon": lon})
        if days.iloc[0] == 0:
            packing = {"dtype": "i2", "scale_factor": np.float32(0.01), "_FillValue": -32768, "chunks": (73, 60, 60)}
            ds.to_zarr(path, encoding={"tas": packing}, consolidated=False)
        else:
            ds.to_zarr(path, append_dim="time", consolidated=False, align_chunks=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, tw.config.set(memory=MEMORY):
        make_data(str(Path(directory, "tas.zarr")))
        ds = xr.open_zarr(Path(directory, "tas.zarr"), chunks={}, chunked_array_type="tilework", consolidated=False)
        print(f"{ds.tas.nbytes / 1e6:.0f} MB of temperatures, with {MEMORY} to work in\n")

        area = np.cos(np.deg2rad(ds.lat))
        normal = ds.tas.groupby("time.month").mean()
        anomaly = ds.tas.groupby("time.month") - normal
        yearly = anomaly.weighted(area).mean(("lat", "lon")).resample(time="YS").mean()
        years = (ds.time - ds.time.mean()) / np.timedelta64(1, "D") / 365.25
        trend = (anomaly * years).sum("time") / (years**2).sum()  # a straight line by least squares
        print(tw.explain(yearly, trend))

        yearly, trend, normal = tw.compute(yearly, trend, normal)
        north = float(trend.sel(lat=slice(60, None)).weighted(area).mean())
        rest = float(trend.sel(lat=slice(None, 60)).weighted(area).mean())
        years = zip(yearly.time.dt.year.values, yearly.values, strict=True)
        print("\nyear by year:   " + "  ".join(f"{year}: {value:+.2f}" for year, value in years))
        print(f"warming:        {north:.3f} K a year north of 60°N, {rest:.3f} K elsewhere")
        print(f"a normal July:  {float(normal.sel(month=7, lat=slice(40, 60)).mean()):.1f} °C between 40°N and 60°N")

        result = xr.Dataset({"anomaly": anomaly, "smooth": anomaly.rolling(time=30, center=True).mean()})
        result.chunk(ds.chunks).to_zarr(Path(directory, "anomaly.zarr"), consolidated=False)
        stored = sum(file.stat().st_size for file in Path(directory, "anomaly.zarr").rglob("*") if file.is_file())
        print(f"written:        {stored / 1e6:.0f} MB of anomalies, daily and smoothed")


if __name__ == "__main__":
    main()
