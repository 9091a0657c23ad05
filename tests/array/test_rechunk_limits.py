"""Rechunks and shuffles larger than memory: in processes of their own, whose memory and disk are measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MOVE = """
import os, resource, sys
import numpy as np
import tilework as tw, tilework.array as ta
from tilework.base.machine import MemoryMeter

x = ta.random.default_rng(0).random((2000, 25_000), chunks=(20, 25_000))  # 400 MB
order = np.random.default_rng(1).permutation(2000)
moved = {"rechunk": lambda: x.rechunk((2000, 250)), "take": lambda: x[order], "flat": lambda: x.T.reshape(-1)}[MOVED]()
with tw.config.set(memory="100MB", spill_directory=DIRECTORY, workers=2):
    assert tw.explain(moved.sum()).scratch_bytes == x.nbytes
    (moved * 2).sum().compute(memory="1GB")  # imports, threads
    with MemoryMeter() as meter:
        total = (moved * 2).sum().compute()
    np.testing.assert_allclose(total, (x * 2).sum().compute())
print(meter.peak - meter.start)
print(len(os.listdir("/proc/self/fd")), len(os.listdir(DIRECTORY)))
"""


@pytest.mark.parametrize("moved", ["rechunk", "take", "flat"])
def test_memory_is_kept_and_nothing_stays_on_disk(moved: str, tmp_path: Path) -> None:
    code = f"MOVED, DIRECTORY = {moved!r}, {str(tmp_path)!r}\n{MOVE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, rest = done.stdout.splitlines()
    assert int(grown) <= 105e6, "the budget, and what the interpreter takes on top"
    descriptors, files = map(int, rest.split())
    assert descriptors < 12
    assert files == 0


FULL = """
import resource, signal
import tilework as tw, tilework.array as ta
from tilework.base.errors import StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
x = ta.random.default_rng(0).random((2000, 2000), chunks=(20, 2000)).rechunk((2000, 20))
try:
    x.sum().compute(memory="20MB")
except StorageError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
print(x.sum().compute(memory="1GB") > 0)
"""


def test_a_full_disk_is_an_error_that_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=True)
    message, after = done.stdout.splitlines()
    assert message.startswith("cannot write")
    assert "spill_directory" in message
    assert after == "True"


def test_a_scratch_directory_that_is_not_there() -> None:
    code = FULL.replace('memory="20MB"', 'memory="20MB", spill_directory="/nowhere/at/all"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot make scratch space in '/nowhere/at/all'")
