"""Arrays and xarray on a cluster of worker processes. Run it with ``python examples/cluster_array.py``.

The program is the one that would run on threads. While the client is there, everything that is lazy is computed by its
workers, block by block in memory that all of them share, and the status page says how far they are.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

import tilework.array as ta
from tilework.distributed import Client, LocalCluster


def main() -> None:
    xr.set_options(chunk_manager="tilework")
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="1 GiB") as cluster, Client(cluster) as client:
        print(f"watch it at {cluster.dashboard_link}")

        # Ten years of daily weather on a grid, made by the workers and kept by them.
        rng = ta.random.default_rng(0)
        days = np.datetime64("2011-01-01") + np.arange(3650)
        season = 10 * np.sin(2 * np.pi * np.arange(3650) / 365.25)
        values = 15 + season[:, None, None] + rng.normal(size=(3650, 45, 90), chunks=(365, 45, 90))
        weather = xr.DataArray(values, {"time": days}, ("time", "lat", "lon"), name="temperature").persist()
        print(f"{weather.nbytes / 1e6:.0f} MB in {weather.data.npartitions} blocks")

        # Several answers at once, each block read where it lies.
        monthly = weather.groupby("time.month").mean("time")
        anomaly = weather.groupby("time.month") - monthly
        found = xr.Dataset({"mean": weather.mean(), "spread": anomaly.std(), "cycle": monthly.mean(("lat", "lon"))})
        found = found.compute()
        print(f"mean {float(found['mean']):.2f}, spread without seasons {float(found['spread']):.2f}")
        print("by month", np.round(found["cycle"].values, 1))

        # A block can be an argument of any function.
        future = client.submit(np.linalg.norm, client.compute(weather[0]))
        print(f"norm of the first day: {future.result():.1f}")

        cluster.scale(1)  # at any time
        assert abs(float(weather.mean()) - float(found["mean"])) < 1e-9
    assert abs(float(found["mean"]) - 15) < 0.5


if __name__ == "__main__":
    main()
