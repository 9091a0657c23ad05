"""Memory that is free, but that the C library keeps: given back to the system before it breaks the contract.

glibc keeps freed blocks of up to 32 MiB in its heaps, one for each thread, for later use. Blocks of many sizes leave
holes there that nothing fits into, and the process grows beyond what is counted, the more threads and the longer the
run. (A fixed threshold above which memory is mapped and unmapped at once, M_MMAP_THRESHOLD, was measured as well: it
holds the budget, and page faults cost up to 40 % more time in all runs, also in those that are far from any budget.)
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic

TRIM_SHARE = 0.7
"""Of the budget: so much may the process have grown before the C library is asked."""

TRIM_SECONDS = 0.02
"""Time between two looks, and ten times that after one that was of little use."""


def _trim_function() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return trim


def resident_bytes() -> int | None:
    """Bytes of this process in memory, apart from files and shared memory; None where the system does not tell."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_bytes().split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class HeapTrimmer:
    """Watches how much the process has grown during a run. Any thread may call it, best without a lock."""

    def __init__(self, budget: int) -> None:
        self._limit = TRIM_SHARE * budget
        self._trim = _trim_function()
        self._start = resident_bytes()
        self._next = 0.0  # monotonic time of the next look

    def trim(self) -> None:
        """Give free memory back to the system now."""
        if self._trim is not None:
            self._trim(0)

    def look(self) -> bool:
        """Give free memory back if the process has grown near the budget. Returns whether it did."""
        now = monotonic()
        if now < self._next or self._trim is None or self._start is None:
            return False
        self._next = now + TRIM_SECONDS
        grown = (resident_bytes() or 0) - self._start
        if grown < self._limit:
            return False
        self._trim(0)
        after = (resident_bytes() or 0) - self._start
        if after > 0.9 * grown:
            self._next = monotonic() + 10 * TRIM_SECONDS
        return True
