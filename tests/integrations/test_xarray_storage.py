"""The table of what xarray opens and writes, row by row."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import tilework as tw
import tilework.array as ta

PAGE = (Path(__file__).parents[2] / "docs" / "xarray-operations.md").read_text("utf-8")
ROWS = re.findall(r"^\| (open|write) \| `(.+)` \| .*\|$", PAGE, re.MULTILINE)
pytestmark = pytest.mark.filterwarnings(
    "ignore:The specified chunks", "ignore:.*Consolidated", "ignore:.*FutureWarning"
)


@pytest.fixture(scope="module")
def dataset() -> xr.Dataset:
    values = np.random.default_rng(0).random((400, 6, 8)).astype("f4")
    coords = {"time": np.arange(400.0), "lat": np.linspace(-60, 60, 6), "lon": np.arange(8.0)}
    return xr.Dataset({"t": (("time", "lat", "lon"), values), "n": (("time",), np.arange(400.0))}, coords)


@pytest.fixture(scope="module")
def places(dataset: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("data")
    dataset.to_zarr(root / "store", encoding={"t": {"chunks": (50, 6, 8)}}, consolidated=True)
    dataset.to_netcdf(root / "file", encoding={"t": {"chunksizes": (50, 6, 8), "zlib": True}})
    dataset.to_netcdf(root / "old", engine="scipy")
    parts = [str(root / f"part-{k}") for k in range(4)]
    for k, part in enumerate(parts):
        dataset.isel(time=slice(100 * k, 100 * k + 100)).to_netcdf(part)
    return {name: str(root / name) for name in ("store", "file", "old")} | {"parts": parts}


@pytest.mark.parametrize(("kind", "code"), ROWS, ids=[code for _, code in ROWS])
def test_row(
    kind: str, code: str, dataset: xr.Dataset, places: dict[str, Any], tmp_path: Path, nothing_runs: Any
) -> None:
    ds = dataset.chunk(time=90, lat=4, chunked_array_type="tilework")
    first = ds.isel(time=slice(0, 180))
    path = str(tmp_path / "path")
    known = {**places, "ds": ds, "first": first, "rest": ds.isel(time=slice(180, None)), "path": path}
    if "region" in code:
        known |= {k: known[k].drop_vars(["lat", "lon"]) for k in ("first", "rest")}
    with xr.set_options(chunk_manager="tilework"):
        if kind == "write":
            eval(code, {**known, "xr": xr, "tw": tw})
            found = xr.concat([opened(path + ".0"), opened(path + ".1")], "time") if ".0" in code else opened(path)
        elif "delayed" in code:
            found = eval(code, {**known, "xr": xr, "tw": tw})
        else:
            with nothing_runs():
                found = eval(code, {**known, "xr": xr, "tw": tw})
        if kind == "open":
            assert all(isinstance(v.variable._data, ta.Array) for v in found.data_vars.values())
    xr.testing.assert_equal(found.compute(), dataset)
    found.close()


def opened(path: str) -> xr.Dataset:
    if Path(path).is_dir():
        return xr.open_dataset(path, engine="zarr", chunks=None)
    return xr.open_dataset(path, chunks=None)


def test_there_are_rows() -> None:
    assert len(ROWS) == sum(line.startswith(("| open |", "| write |")) for line in PAGE.splitlines()) > 20
