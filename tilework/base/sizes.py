"""Byte sizes, durations and counts: read from what people write, written as people read them.

Decimal units (``kB``, ``MB``, ``GB``) are powers of 1000 and binary units (``KiB``, ``MiB``, ``GiB``) powers of 1024,
as in Dask and in SI. What is written out is always binary, for that is what allocators and caches count in.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from numbers import Integral, Real
from typing import SupportsFloat

from tilework.base.errors import ConfigError

_UNITS = {"": 1, "b": 1, "byte": 1, "bytes": 1}
for _power, _letter in enumerate("kmgtp", start=1):
    _UNITS[_letter] = _UNITS[_letter + "b"] = 1000**_power
    _UNITS[_letter + "i"] = _UNITS[_letter + "ib"] = 1024**_power

_SECONDS = {"": 1.0}
_SECONDS |= dict.fromkeys(("s", "sec", "second", "seconds"), 1.0)
_SECONDS |= dict.fromkeys(("ms", "millisecond", "milliseconds"), 1e-3)
_SECONDS |= dict.fromkeys(("us", "microsecond", "microseconds"), 1e-6)
_SECONDS |= dict.fromkeys(("m", "min", "minute", "minutes"), 60.0)
_SECONDS |= dict.fromkeys(("h", "hour", "hours"), 3600.0)
_SECONDS |= dict.fromkeys(("d", "day", "days"), 86400.0)

_SIZE = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?|\.[0-9]+)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(value: str | SupportsFloat, name: str = "size") -> int:
    """Return a number of bytes from a number or a string such as ``"300MB"``.

    Parameters
    ----------
    value
        A positive number of bytes, or a string of a number and a unit.
    name
        What the size is for; appears in the error.

    Returns
    -------
    int
        Bytes, rounded down to a whole number.

    Raises
    ------
    ConfigError
        If the value is no size, or not positive.

    Examples
    --------
    >>> parse_bytes("300MB")
    300000000
    >>> parse_bytes("1.5 GiB")
    1610612736
    >>> parse_bytes(1e6)
    1000000
    """
    remedy = 'write a positive number of bytes, or a string such as "300MB" or "1.5 GiB"'
    number: float
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None or match[2].lower() not in _UNITS:
            raise ConfigError(f"{name}={value!r} is not a byte size; {remedy}")
        digits = match[1]
        number = (int(digits) if digits.replace("_", "").isdigit() else float(digits)) * _UNITS[match[2].lower()]
    elif not isinstance(value, bool) and isinstance(value, Real):
        number = int(value) if isinstance(value, Integral) else float(value)
    else:
        raise ConfigError(f"{name}={value!r} is not a byte size; {remedy}")
    if not math.isfinite(number) or number < 1:
        raise ConfigError(f"{name}={value!r} is not a positive size; {remedy}")
    return int(number)


def parse_time(value: str | SupportsFloat | timedelta, name: str = "timeout") -> float:
    """Return seconds from a number, a timedelta, or a string such as ``"200 ms"``.

    Raises
    ------
    ConfigError
        If the value is no duration, or negative.

    Examples
    --------
    >>> parse_time("200 ms"), parse_time("5 minutes"), parse_time(3)
    (0.2, 300.0, 3.0)
    """
    seconds = math.nan
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is not None and match[2].lower() in _SECONDS:
            seconds = float(match[1]) * _SECONDS[match[2].lower()]
    elif not isinstance(value, bool) and isinstance(value, Real):
        seconds = float(value)
    if not seconds >= 0:
        raise ConfigError(f'{name}={value!r} is not a duration; write seconds, or a string such as "10 s" or "5 min"')
    return seconds


def format_bytes(n: float) -> str:
    """Write a number of bytes in binary units.

    Examples
    --------
    >>> format_bytes(128 * 2**20)
    '128.0 MiB'
    >>> format_bytes(512)
    '512 B'
    """
    if abs(n) < 1024:
        return f"{n:.0f} B"
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        n /= 1024
        if abs(n) < 1023.95:
            return f"{n:.1f} {unit}"
    return f"{n / 1024:.1f} PiB"


def format_time(seconds: float) -> str:
    """Write a duration with about three significant digits, or as hours, minutes and seconds.

    Examples
    --------
    >>> format_time(0.00123), format_time(3.14159), format_time(75), format_time(7384)
    ('1.23 ms', '3.14 s', '1 min 15 s', '2 h 03 min')
    """
    if not math.isfinite(seconds):
        return "unknown"
    for limit, factor, unit in ((0.9995e-3, 1e6, "µs"), (0.9995, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_count(n: int) -> str:
    """Write a count with thousands separated.

    Examples
    --------
    >>> format_count(1234567)
    '1,234,567'
    """
    return f"{n:,}"
