from __future__ import annotations

import os
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.base import scratch
from tilework.base.errors import StorageError
from tilework.engine.local.spill import SpillFile


@pytest.fixture
def file(tmp_path: Path) -> Any:
    file = SpillFile(str(tmp_path))
    yield file
    file.close()


def on_disk(file: SpillFile) -> int:
    return os.fstat(file._opened().fileno()).st_size


@pytest.mark.parametrize(
    "value",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(100)[::7],
        np.array([1, "a", None], dtype=object),
        np.zeros((0, 3)),
        np.array("2020-01-01", dtype="M8[D]"),
        (np.ones(3), np.arange(3)),
        {"a": [1, 2], "b": np.arange(5)},
        "text",
        None,
    ],
    ids=repr,
)
def test_values_come_back(file: SpillFile, value: Any) -> None:
    assert file.write(7, value)
    back = file.read(7)
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    assert getattr(back, "dtype", None) == getattr(value, "dtype", None)


def test_arrays_come_back_writable(file: SpillFile) -> None:
    file.write(0, np.zeros(5))
    back = file.read(0)
    back += 1
    np.testing.assert_array_equal(back, np.ones(5))


def test_what_pickle_cannot_write_cloudpickle_may(file: SpillFile) -> None:
    assert file.write(0, lambda x: x + 1)
    assert file.read(0)(1) == 2
    assert not file.write(1, threading.Lock())
    assert not file.write(2, [np.ones(5), (i for i in range(3))])


def test_no_name_ever_shows(file: SpillFile, tmp_path: Path) -> None:
    file.write(0, np.ones(1000))
    assert on_disk(file) > 8000
    assert list(tmp_path.iterdir()) == []


def test_many_buffers_in_one_value(file: SpillFile) -> None:
    value = [np.full(i % 3, i) for i in range(3 * scratch._VECTORS)]
    file.write(0, value)
    np.testing.assert_equal(file.read(0), value)


@given(steps=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 400)), max_size=60))
@settings(max_examples=100)
def test_space_is_used_again(steps: list[tuple[int, int]]) -> None:
    """Write a number that is not there, read one that is; nothing may lie on top of anything else."""
    file = SpillFile()
    there: dict[int, np.ndarray] = {}
    for number, size in steps:
        if number in there:
            np.testing.assert_array_equal(file.read(number), there.pop(number))
        else:
            there[number] = np.full(size, number * 1000 + size, np.int64)
            assert file.write(number, there[number])
        extents = sorted((e.offset, e.offset + sum(e.sizes)) for e in file._extents.values())
        assert all(stop <= start for (_, stop), (start, _) in pairwise(extents)), "no overlap"
        assert file._space.used_bytes == sum(stop - start for start, stop in extents), "no loss"
        assert on_disk(file) == file._space.top == max((stop for _, stop in extents), default=0)
    for number, value in there.items():
        np.testing.assert_array_equal(file.read(number), value)
    if steps:
        assert on_disk(file) == file._space.top == 0
    file.close()


def test_a_directory_that_is_not_there() -> None:
    with pytest.raises(
        StorageError, match=r"block of 8\.\d KiB to '/not/there'.*No such file.*spill_directory.*memory"
    ):
        SpillFile("/not/there").write(0, np.ones(1050))


def test_a_write_that_fails_half_way_loses_nothing(file: SpillFile, monkeypatch: pytest.MonkeyPatch) -> None:
    before = np.arange(1000)
    file.write(0, before)
    real, calls = os.pwritev, []

    def full(descriptor: int, buffers: Any, offset: int) -> int:
        if calls:
            raise OSError(28, "No space left on device")
        calls.append(1)
        return real(descriptor, [buffers[0][:10]], offset)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StorageError, match="No space left on device"):
        file.write(1, np.arange(2000))
    monkeypatch.undo()
    file.write(2, before + 1)
    np.testing.assert_array_equal(file.read(0), before)
    np.testing.assert_array_equal(file.read(2), before + 1)
    with pytest.raises(KeyError):
        file.read(1)


def test_a_file_that_was_cut_short(file: SpillFile) -> None:
    file.write(0, np.ones(1000))
    os.ftruncate(file._opened().fileno(), 100)
    with pytest.raises(StorageError, match=r"cannot read a spilled block of 7\.9 KiB"):
        file.read(0)


def test_closing_while_somebody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor stays open until the write is through: its number must not go to another file meanwhile."""
    file = SpillFile(str(tmp_path))
    file.write(0, 1)
    descriptor = file._opened().fileno()
    writing, go_on = threading.Event(), threading.Event()
    real = os.pwritev

    def slow(*args: Any) -> int:
        writing.set()
        go_on.wait(60)
        return real(*args)

    monkeypatch.setattr(os, "pwritev", slow)
    thread = threading.Thread(target=file.write, args=(1, 2))
    thread.start()
    writing.wait(60)
    file.close()
    assert os.fstat(descriptor)
    go_on.set()
    thread.join(60)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    with pytest.raises(StorageError, match="the run is over"):
        file.write(3, 4)
    file.close()
