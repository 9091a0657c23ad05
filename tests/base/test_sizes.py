from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import ConfigError
from tilework.base.sizes import format_bytes, format_count, format_time, parse_bytes


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("300MB", 300_000_000),
        ("300 mb", 300_000_000),
        ("128MiB", 128 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        (" 2G ", 2 * 10**9),
        ("2Gi", 2**31),
        ("5kB", 5000),
        ("1e3 bytes", 1000),
        ("1_000 B", 1000),
        (".5 TiB", 2**39),
        ("1PiB", 2**50),
        ("9007199254740993", 9007199254740993),  # exact beyond float64
    ],
)
def test_parse_bytes_reads_what_people_write(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("number", [1, 2**60, 1e6, np.int64(7), np.float32(8)])
def test_parse_bytes_takes_numbers(number: Any) -> None:
    assert parse_bytes(number) == int(number)
    assert type(parse_bytes(number)) is int


STRINGS = ["", "MB", "12 XB", "1 2 MB", "-5MB", "0", "0.2", "1..5GB", "nan", "1e999"]


@pytest.mark.parametrize("nonsense", [*STRINGS, 0, -1, 0.5, math.nan, math.inf, True, None, [], b"3MB", 1j])
def test_parse_bytes_refuses_nonsense_and_names_it(nonsense: Any) -> None:
    with pytest.raises(ConfigError, match="memory=") as caught:
        parse_bytes(nonsense, "memory")
    assert repr(nonsense) in str(caught.value)
    assert "300MB" in str(caught.value)  # says what to write instead


@given(st.integers(1, 2**60))
def test_format_bytes_round_trips_within_its_precision(n: int) -> None:
    again = parse_bytes(format_bytes(n))
    assert abs(again - n) <= 0.05 * 1024 ** int(math.log(n, 1024)) + n / 1000


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**30, "1.0 GiB"),
        (2**61, "2048.0 PiB"),
    ],
)
def test_format_bytes(number: int, text: str) -> None:
    assert format_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (4.2e-6, "4.2 µs"),
        (0.01234, "12.3 ms"),
        (0.99999, "1 s"),
        (59.9, "59.9 s"),
        (59.99, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3600, "1 h 00 min"),
        (90061, "25 h 01 min"),
        (math.inf, "unknown"),
    ],
)
def test_format_time(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_format_count() -> None:
    assert format_count(1_000_000) == "1,000,000"
