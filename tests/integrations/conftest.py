from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tilework import session


@pytest.fixture
def nothing_runs() -> Callable[[], AbstractContextManager[None]]:
    """A context in which no plan may run: what happens there is lazy."""

    def refuse(prepared: session.Prepared) -> None:
        raise AssertionError("computed, though nobody asked for it")

    @contextmanager
    def context() -> Iterator[None]:
        token = session.before_run.set(refuse)
        try:
            yield
        finally:
            session.before_run.reset(token)

    return context


@pytest.fixture
def dataset() -> xr.Dataset:
    """Two months of days on a coarse grid, with all kinds of values."""
    rng = np.random.default_rng(0)
    t = rng.random((100, 6, 8)) * 100
    t[rng.random(t.shape) < 0.2] = np.nan
    dims = ("time", "lat", "lon")
    data: dict[str, Any] = {
        "t": (dims, t.astype("f4"), {"units": "K"}),
        "packed": (dims, np.round(t, 2)),
        "n": (dims[:2], rng.integers(0, 99, (100, 6))),
        "flag": ("time", rng.random(100) < 0.5),
        "name": ("time", np.array(["a", "bb", "ccc", "d"] * 25)),
        "when": (dims[:2], pd.date_range("2000", periods=600, freq="h").to_numpy().reshape(100, 6)),
        "age": ("time", pd.to_timedelta(np.arange(100), "h")),
    }
    coords = {
        "time": pd.date_range("2000-01-01", periods=100),
        "lat": np.linspace(-60, 60, 6),
        "lon": np.arange(8.0),
    }
    return xr.Dataset(data, coords, {"title": "weather"})
