from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tilework.engine.local.sizeof import sizeof


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, 0),
        (np.zeros((10, 10)), 800),
        (np.zeros((10, 10))[::2], 400),
        (np.broadcast_to(np.zeros(10), (1000, 10)), 80),
        (np.float32(1), 4),
        (np.zeros((0, 5)), 0),
        (memoryview(b"abc"), 3),
        (xr.DataArray(np.zeros(10)), 80),
        (pd.DataFrame({"a": np.zeros(10)}, index=pd.RangeIndex(10)), 80 + pd.RangeIndex(10).memory_usage()),
    ],
    ids=lambda v: type(v).__name__,
)
def test_known_sizes(value: Any, size: int) -> None:
    assert sizeof(value) == size


@pytest.mark.parametrize(
    "value", [[np.zeros(1000)] * 100, (np.zeros(1000),) * 100, {i: np.zeros(1000) for i in range(100)}]
)
def test_containers_weigh_their_contents(value: Any) -> None:
    assert 800_000 <= sizeof(value) <= 820_000


def test_text_and_bytes_weigh_what_python_says() -> None:
    for value in (b"x" * 1000, "y" * 1000, bytearray(1000), {1, 2}, [], 2**1000):
        assert abs(sizeof(value) - sys.getsizeof(value)) < 200


def test_objects_that_cannot_say_weigh_something() -> None:
    class Wrong:
        @property
        def nbytes(self) -> int:
            raise RuntimeError("closed")

    class Silly:
        nbytes = "many"

    assert sizeof(Wrong()) > 0
    assert sizeof([Silly(), Wrong()]) > 0
