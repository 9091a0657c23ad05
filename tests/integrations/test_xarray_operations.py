"""The table of xarray's operations, row by row: equal results, nothing computed on the way, no larger blocks.

The rows are those of ``docs/xarray-operations.md``. Runs a second time without Dask and flox: see
``test_xarray_without_dask``.
"""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from xarray import groupers
from xarray.namedarray.utils import module_available

import tilework.array as ta

PAGE = (Path(__file__).parents[2] / "docs" / "xarray-operations.md").read_text("utf-8")
SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(.+?)` \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
ROWS = {
    code: (section, lazy, blocks) for section, text in SECTION.findall(PAGE) for code, lazy, blocks in ROW.findall(text)
}

RNG = np.random.default_rng(0)
VALUES = RNG.random((400, 6, 8))
VALUES[RNG.random(VALUES.shape) < 0.2] = np.nan
VALUES[:, 2, 3] = np.nan
TIME = pd.date_range("2000-01-01", periods=400)
COORDS = {"time": TIME, "lat": np.linspace(-60, 60, 6), "lon": np.arange(8.0)}
GROUPERS = {name: getattr(groupers, name) for name in groupers.__all__ if name[0].isupper()}
BLOCKS = {"time": 90, "lat": 4}


def names(lazy: bool) -> dict[str, Any]:
    """What the rows speak of."""
    d = xr.DataArray(VALUES.copy(), COORDS, tuple(COORDS), "t", {"units": "K"})
    full, memory = d.fillna(0).rename("full"), d
    when = xr.DataArray(TIME.to_numpy().reshape(40, 10), dims=("a", "b")) + np.timedelta64(90, "m")
    calendar = xr.DataArray(xr.date_range("2000-01-01", periods=40, calendar="noleap").values, dims="a")
    words = xr.DataArray(np.array([["apple", "Bee"], ["CAT", ""]] * 3), dims=("a", "b"))
    regions = xr.DataArray(np.arange(48).reshape(6, 8) % 5, dims=("lat", "lon"), name="region")
    w = np.cos(np.deg2rad(d.lat))
    if lazy:
        d, full, when, words, calendar = (
            x.chunk({k: n for k, n in (BLOCKS | {"a": 4}).items() if k in x.dims}, chunked_array_type="tilework")
            for x in (d, full, when, words, calendar)
        )
    ds = xr.Dataset({"t": d, "full": full})
    row = d.isel(time=0, lat=0, drop=True).drop_vars("lon")
    data = {"d": d, "full": full, "ds": ds, "row": row, "when": when, "calendar": calendar, "words": words}
    other = {"w": w, "regions": regions, "memory": memory, "at": at, "line": line}
    return data | other | {"np": np, "pd": pd, "xr": xr, "copy": copy, "pickle": pickle, **GROUPERS}


def line(x, slope, start):
    return slope * x + start


def at(positions):
    """Positions along new dimensions."""
    return xr.DataArray(np.array(positions), dims=("p", "q")[: np.ndim(positions)])


def run(code: str, known: dict[str, Any]) -> Any:
    """The value of an expression, or ``d`` after an assignment."""
    try:
        return eval(code, known)
    except SyntaxError:
        exec(code, known)
        return known["d"]


def variables(x: Any) -> dict[Any, xr.Variable]:
    if isinstance(x, xr.Dataset):
        return dict(x.data_vars.variables)
    return {x.name: x.variable} if isinstance(x, xr.DataArray) else {}


def check(code: str, nothing_runs: Any) -> None:
    _, lazy, blocks = ROWS[code]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = run(code, names(lazy=False))
        known = names(lazy=True)
        if lazy != "yes":
            return same(run(code, known), expected)
        with nothing_runs():
            found = run(code, known)
            repr(found)
        same(found, expected, "dtype object" in blocks)
    largest = max(np.prod(known["d"].data.chunksize), known["when"].data.chunksize[0] * 10)
    for variable in variables(found).values():
        assert isinstance(variable.data, ta.Array)
        if not re.search("whole|asked|views", blocks):
            assert np.prod(variable.data.chunksize) <= largest


def same(found: Any, expected: Any, text: bool = False) -> None:
    if not isinstance(found, xr.DataArray | xr.Dataset):
        assert type(found) is type(expected)
        return (
            np.testing.assert_equal(found, expected) if not hasattr(found, "equals") else check_frames(found, expected)
        )
    (xr.testing.assert_equal if text else xr.testing.assert_allclose)(found.compute(), expected)
    want = variables(expected)
    assert variables(found).keys() == want.keys()
    for name, variable in variables(found).items():
        assert variable.dtype == variable.compute().dtype == (object if text else want[name].dtype)
        assert variable.dims == want[name].dims
        assert variable.attrs == want[name].attrs


def check_frames(found: Any, expected: Any) -> None:
    assert found.equals(expected)


GROUPED = [code for code, (section, *_) in ROWS.items() if section == "Grouping"]


def test_rows_are_told_apart():
    assert len(ROWS) == len(re.findall(r"^\| `", PAGE, re.MULTILINE))
    assert {"Arithmetic and alignment", "Windows", "Grouping"} <= {section for section, *_ in ROWS.values()}


@pytest.mark.parametrize("code", [code for code in ROWS if code not in GROUPED])
def test_operation(code, nothing_runs):
    check(code, nothing_runs)


@pytest.mark.parametrize("use_flox", [True, False], ids=["flox", "no flox"])
@pytest.mark.parametrize("code", GROUPED)
def test_grouped(code, use_flox, nothing_runs):
    if use_flox and not module_available("flox"):
        pytest.skip("flox is not there")
    with xr.set_options(use_flox=use_flox):
        check(code, nothing_runs)


@pytest.mark.parametrize(
    "word",
    [
        "median('time')",
        "quantile([",
        "rolling(time=5).mean",
        "ffill('time')",
        "chunk(time=-1).interpolate_na('time')",
        "pad(time=2)",
    ],
)
def test_with_the_option_set(word, nothing_runs):
    (code,) = [code for code in ROWS if f"d.{word}" in code and "groupby" not in code and "'nearest'" not in code]
    with xr.set_options(chunk_manager="tilework"):
        check(code, nothing_runs)


def test_arrays_in_memory_go_where_they_went():
    """What xarray's functions were replaced by passes on everything else."""
    known = names(lazy=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for code, (section, lazy, _) in ROWS.items():
            if (
                lazy == "yes"
                and ".chunk(" not in code
                and section in ("Windows", "Along coordinates", "Missing values", "Reductions")
            ):
                for variable in variables(run(code, known)).values():
                    assert isinstance(variable.data, np.ndarray)
    assert isinstance(known["d"].time.dt.month.data, np.ndarray)
