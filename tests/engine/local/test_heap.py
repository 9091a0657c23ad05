from __future__ import annotations

import subprocess
import sys

import pytest

from tilework.engine.local import heap
from tilework.engine.local.heap import HeapTrimmer, resident_bytes

MIB = 2**20

HOLES = """
import numpy as np
from tilework.engine.local.heap import HeapTrimmer, resident_bytes

trimmer = HeapTrimmer(100 << 20)
before = resident_bytes()
print(trimmer.look())
blocks = [np.ones(12_500) for _ in range(2000)]  # 200 MB in pieces below any threshold
kept = blocks[::20]
del blocks  # 190 MB of holes
grown = resident_bytes() - before
trimmer._next = 0.0
print(trimmer.look())
print(grown >> 20, (resident_bytes() - before) >> 20)
"""


def test_free_memory_in_holes_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    first, second, sizes = done.stdout.splitlines()
    assert (first, second) == ("False", "True")
    grown, after = map(int, sizes.split())
    assert grown > 100
    assert after < 60


def test_looks_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [100.0], []

    def resident() -> int:
        asked.append(now[0])
        return 0 if len(asked) == 1 else 1000 * MIB

    monkeypatch.setattr(heap, "monotonic", lambda: now[0])
    monkeypatch.setattr(heap, "resident_bytes", resident)
    trimmer = HeapTrimmer(1000 * MIB)
    assert trimmer.look()
    now[0] += heap.TRIM_SECONDS
    assert not trimmer.look(), "the last one was of no use: nothing was given back"
    now[0] += 10 * heap.TRIM_SECONDS
    assert trimmer.look()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trim_function", lambda: None)
    assert not HeapTrimmer(1).look()


def test_resident_bytes() -> None:
    here = resident_bytes()
    assert here is not None
    assert here > MIB
