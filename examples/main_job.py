"""Two scenarios for a continent: 240 years of climate model output, refined, averaged, and drawn.

The PyPI package iris-sample-data carries yearly air temperature over North America from a climate model (Met Office
Hadley Centre) under two scenarios: A1B, business with a balance of fuels, and E1, aggressive mitigation. This job

1. opens both lazily with xarray on tilework,
2. refines the 37 x 49 grid bilinearly, which makes hundreds of megabytes out of four,
3. computes the area-weighted mean temperature of each year, as the anomaly against 1861-1890, and the trend of each
   cell from 1990 on, all in one pass inside a memory budget,
4. says beforehand what that will cost, shows progress, and checks the numbers against plain NumPy,
5. leaves a picture.

Run it with ``make run``, or ``python examples/main_job.py --help``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import iris_sample_data
import numpy as np
import xarray as xr

import tilework as tw

SCENARIOS = ("A1B", "E1")
BASELINE = slice("1861", "1890")
TREND_FROM = 1990


def load() -> xr.DataArray:
    """Both scenarios as one lazy array (scenario, year, latitude, longitude) in kelvin."""
    decode = xr.coders.CFDatetimeCoder(use_cftime=True)
    parts = [
        xr.open_dataset(
            Path(iris_sample_data.path, f"{name}_north_america.nc"),
            chunks={"time": 20},
            chunked_array_type="tilework",
            decode_times=decode,
        ).air_temperature
        for name in SCENARIOS
    ]
    tas = xr.concat(
        parts, dim=xr.Variable("scenario", list(SCENARIOS)), coords="minimal", compat="override", join="exact"
    )
    return tas.assign_coords(year=("time", [t.year for t in tas.time.values])).swap_dims(time="year").drop_vars("time")


def interpolation(coarse: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Points ``factor`` times as dense as ``coarse``, and the matrix that interpolates linearly to them."""
    fine = np.interp(np.arange((len(coarse) - 1) * factor + 1) / factor, np.arange(len(coarse)), coarse)
    columns = np.eye(len(coarse))
    matrix = np.stack([np.interp(fine, coarse, column) for column in columns], axis=1)
    return fine, matrix.astype(np.float32)


def refine(tas: xr.DataArray, factor: int) -> xr.DataArray:
    """``tas`` interpolated bilinearly to a grid that is ``factor`` times as dense."""
    lat, lat_matrix = interpolation(tas.latitude.values, factor)
    lon, lon_matrix = interpolation(tas.longitude.values, factor)
    by_lat = xr.DataArray(lat_matrix, dims=("lat", "latitude"), coords={"lat": lat, "latitude": tas.latitude})
    by_lon = xr.DataArray(lon_matrix, dims=("lon", "longitude"), coords={"lon": lon, "longitude": tas.longitude})
    fine = xr.dot(xr.dot(tas, by_lat, dim="latitude"), by_lon, dim="longitude")
    return fine.transpose("scenario", "year", "lat", "lon")


def analyse(fine: xr.DataArray) -> xr.Dataset:
    """Anomaly of the yearly mean against the baseline (K), and the trend of each cell (K per century)."""
    weights = np.cos(np.deg2rad(fine.lat)).astype(np.float32)
    yearly = fine.weighted(weights).mean(("lat", "lon"))
    baseline = yearly.sel(year=slice(int(BASELINE.start), int(BASELINE.stop))).mean("year")
    recent = fine.sel(year=slice(TREND_FROM, None))
    years = (recent.year - recent.year.mean()).astype(np.float32)
    trend = xr.dot(recent, years, dim="year") / float((years**2).sum()) * 100
    return xr.Dataset({"anomaly": yearly - baseline, "trend": trend})


def check(result: xr.Dataset, tas: xr.DataArray, factor: int) -> None:
    """Compare with the same work in plain NumPy, year by year. Raises AssertionError if they differ."""
    coarse = np.stack(
        [
            xr.open_dataset(Path(iris_sample_data.path, f"{s}_north_america.nc")).air_temperature.values
            for s in SCENARIOS
        ]
    )
    lat, lat_matrix = interpolation(tas.latitude.values, factor)
    _, lon_matrix = interpolation(tas.longitude.values, factor)
    weights = np.cos(np.deg2rad(lat))
    year = tas.year.values
    yearly = np.empty(coarse.shape[:2])
    trend = np.zeros((len(SCENARIOS), len(lat_matrix), len(lon_matrix)))
    centred = np.where(year >= TREND_FROM, year - year[year >= TREND_FROM].mean(), 0.0)
    for s in range(len(SCENARIOS)):
        for k in range(len(year)):
            field = lat_matrix.astype(float) @ coarse[s, k].astype(float) @ lon_matrix.T.astype(float)
            yearly[s, k] = np.average(field.mean(axis=1), weights=weights)
            trend[s] += centred[k] * field
    trend *= 100 / (centred**2).sum()
    base = (year >= int(BASELINE.start)) & (year <= int(BASELINE.stop))
    anomaly = yearly - yearly[:, base].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(result.anomaly.transpose("scenario", "year").values, anomaly, atol=2e-3)
    np.testing.assert_allclose(result.trend.transpose("scenario", "lat", "lon").values, trend, atol=2e-2)


def draw(result: xr.Dataset, path: Path) -> None:
    """The picture: both anomalies through 240 years, and both maps of the trend."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colour = {"A1B": "#c1440e", "E1": "#2a6f97"}
    name = {"A1B": "A1B: balanced growth", "E1": "E1: aggressive mitigation"}
    fig = plt.figure(figsize=(12, 8.2), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=(1, 1.12))
    ax = top.subplots()
    for scenario in SCENARIOS:
        series = result.anomaly.sel(scenario=scenario)
        smooth = series.rolling(year=11, center=True, min_periods=6).mean()
        ax.plot(series.year, series, color=colour[scenario], alpha=0.35, linewidth=0.9)
        ax.plot(smooth.year, smooth, color=colour[scenario], linewidth=2.4)
        end = int(smooth.year[-1]), float(smooth[-1])
        text = f"{name[scenario]}\n{end[1]:+.1f} K in {end[0]}"
        style = {"va": "center", "fontsize": 10, "fontweight": "bold", "annotation_clip": False}
        ax.annotate(text, (end[0] + 2, end[1]), color=colour[scenario], **style)
    ax.axvspan(int(BASELINE.start), int(BASELINE.stop), color="0.92", zorder=0)
    ax.text(
        (int(BASELINE.start) + int(BASELINE.stop)) / 2, ax.get_ylim()[1] * 0.92, "baseline", ha="center", color="0.45"
    )
    ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set_xlim(int(result.year[0]), int(result.year[-1]) + 62)
    ax.set_xticks(range(1860, 2101, 40))
    ax.set_ylabel("anomaly against 1861-1890 (K)")
    ax.set_title("North America's mean air temperature under two scenarios", loc="left", fontsize=14, fontweight="bold")
    ax.spines[["top", "right"]].set_visible(False)
    axes = bottom.subplots(1, 2, sharey=True)
    limit = float(np.ceil(np.abs(result.trend).quantile(0.995)))
    for ax, scenario in zip(axes, SCENARIOS, strict=True):
        trend = result.trend.sel(scenario=scenario)
        image = ax.pcolormesh(
            trend.lon - 360,
            trend.lat,
            trend,
            cmap="RdBu_r",
            vmin=-limit,
            vmax=limit,
            rasterized=True,
            shading="nearest",
        )
        lines = ax.contour(
            trend.lon - 360, trend.lat, trend, levels=np.arange(-limit, limit + 1), colors="0.25", linewidths=0.5
        )
        ax.clabel(lines, fontsize=7, fmt="%g")
        ax.set_title(
            f"{scenario}: trend {TREND_FROM}-{int(result.year[-1])}", loc="left", fontsize=11, color=colour[scenario]
        )
        ax.set_xlabel("longitude (°E)")
        ax.set_aspect(1.35)
    axes[0].set_ylabel("latitude (°N)")
    bottom.colorbar(image, ax=axes, label="K per century", shrink=0.85)
    fig.savefig(path, dpi=150)


def main() -> None:
    """The whole job, with what a user wants to see on the way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", type=int, default=16, help="refinement of the grid along each axis (default 16)")
    parser.add_argument("--memory", default="400MB", help="memory budget (default 400MB)")
    parser.add_argument("--output", type=Path, default=Path("north_america.png"), help="the picture")
    options = parser.parse_args()
    if options.factor < 1:
        parser.error(f"--factor {options.factor} must be at least 1")

    tas = load()
    fine = refine(tas, options.factor)
    print(
        f"{fine.sizes['year']} years x {len(SCENARIOS)} scenarios on a {fine.sizes['lat']} x {fine.sizes['lon']} grid:"
    )
    print(f"{tas.nbytes / 1e6:.1f} MB on disk, {fine.nbytes / 1e6:.0f} MB refined, budget {options.memory}\n")
    result = analyse(fine)
    with tw.config.set(memory=options.memory):
        print(tw.explain(result))
        start = time.perf_counter()
        with tw.ProgressBar():
            (result,) = tw.compute(result)
        print(f"computed in {time.perf_counter() - start:.1f} s")
    check(result, tas, options.factor)
    print("the numbers agree with plain NumPy")
    for scenario in SCENARIOS:
        last = float(result.anomaly.sel(scenario=scenario, year=slice(2080, None)).mean())
        print(f"  {scenario:4} {last:+.2f} K in the last decades against {BASELINE.start}-{BASELINE.stop}")
    draw(result, options.output)
    print(f"picture: {options.output.resolve()}")


if __name__ == "__main__":
    main()
