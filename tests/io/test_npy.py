"""Stacks of .npy files: the suites, and what is peculiar to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tilework.base.errors import StorageError
from tilework.io.npy import NpyStackSink, NpyStackSource
from tilework.plan.blocks import AxisChunks
from tilework.plan.protocols import Source
from tilework.testing.sinks import SinkSuite
from tilework.testing.sources import SourceSuite

VALUES = np.arange(60.0).reshape(4, 15)


def write(directory: Path) -> None:
    chunks = AxisChunks((4,)), AxisChunks((6, 2, 7))
    sink = NpyStackSink(directory, chunks, VALUES.dtype, axis=1)
    for k, (lo, hi) in enumerate([(0, 6), (6, 8), (8, 15)]):
        sink.write((0, k), (slice(0, 4, 1), slice(lo, hi, 1)), VALUES[:, lo:hi])


@pytest.mark.parametrize("mmap_mode", ["r", None])
class TestSource(SourceSuite):
    @pytest.fixture
    def make(self, tmp_path: Path, mmap_mode: str | None) -> Callable[[], Source]:
        write(tmp_path)
        return lambda: NpyStackSource(tmp_path, mmap_mode)

    @pytest.fixture
    def reference(self) -> np.ndarray:
        return VALUES


class TestSink(SinkSuite):
    chunks = AxisChunks((3, 3, 2)), AxisChunks((8,))

    @pytest.fixture
    def sink(self, tmp_path: Path) -> NpyStackSink:
        self.directory = tmp_path
        return NpyStackSink(tmp_path / "stack", self.chunks, self.dtype, 0)

    def contents(self, sink: NpyStackSink) -> np.ndarray:
        return np.concatenate([np.load(self.directory / "stack" / f"{k}.npy") for k in range(3)])


def test_no_stack(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no stack of \.npy files"):
        NpyStackSource(tmp_path)


def test_a_file_is_missing(tmp_path: Path) -> None:
    write(tmp_path)
    source = NpyStackSource(tmp_path)
    (tmp_path / "1.npy").unlink()
    with pytest.raises(StorageError, match=r"reading .*\[0:4, 0:15\]"):
        source.read((slice(0, 4, 1), slice(0, 15, 1)))


def test_rewritten_stacks_are_others(tmp_path: Path) -> None:
    write(tmp_path)
    before = NpyStackSource(tmp_path).token
    (tmp_path / "1.npy").touch()
    assert NpyStackSource(tmp_path).token != before
