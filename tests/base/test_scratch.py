from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework.base.errors import InternalError
from tilework.base.scratch import ScratchFile, punch_hole


def test_places_are_written_and_read_in_any_order(tmp_path: Path) -> None:
    file = ScratchFile(str(tmp_path))
    late, early = np.arange(5.0), np.arange(3, dtype=np.int16)
    file.write([late.data], 1000)
    file.write([early.data, late.data], 0)
    back, both = np.empty(5), np.empty(46, np.uint8)
    file.read([back.data], 1000)
    file.read([both.data], 0)
    np.testing.assert_array_equal(back, late)
    np.testing.assert_array_equal(both, np.concatenate([early.view(np.uint8), late.view(np.uint8)]))


def test_it_has_no_name_and_goes_with_its_last_reference(tmp_path: Path) -> None:
    file = ScratchFile(str(tmp_path))
    file.write([memoryview(b"abc")], 0)
    assert not list(tmp_path.iterdir())
    descriptor = file.fileno()
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, real = ScratchFile(str(tmp_path)), os.pwritev

    def short(descriptor: int, buffers: Any, offset: int) -> int:
        return real(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    data = np.arange(100.0)
    file.write([data[:3].data, data[3:].data], 16)
    back = np.empty(100)
    file.read([back.data], 16)
    np.testing.assert_array_equal(back, data)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    file = ScratchFile(str(tmp_path))
    file.write([memoryview(b"abcdef")], 0)
    file.truncate(3)
    with pytest.raises(OSError, match="the file ends at 3"):
        file.read([memoryview(bytearray(6))], 0)


def test_it_stays_in_its_process(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(ScratchFile(str(tmp_path)))


def test_a_range_of_a_file_that_others_have_open_too(tmp_path: Path) -> None:
    file = ScratchFile(str(tmp_path))
    first, second = (ScratchFile.shared(file.fileno(), start, 100) for start in (1000, 1100))
    first.write([memoryview(b"a" * 100)], 0)
    second.write([memoryview(b"b" * 50), memoryview(b"c" * 10)], 40)
    back = bytearray(200)
    file.read([memoryview(back)], 1000)
    assert bytes(back) == b"a" * 100 + bytes(40) + b"b" * 50 + b"c" * 10
    assert second.shared_range() == (1100, 100)
    for beyond in (91, 100, 5000):
        with pytest.raises(InternalError, match="of a scratch space of 100"):
            first.read([memoryview(bytearray(10))], beyond)
    del first, second
    assert os.fstat(file.fileno()).st_size == 1200, "it is not theirs to close"
    with pytest.raises(TypeError, match="stays in its process"):
        file.shared_range()


def test_holes_take_no_space(tmp_path: Path) -> None:
    file = ScratchFile(str(tmp_path))
    file.write([memoryview(b"x" * (1 << 20))], 0)
    before = os.fstat(file.fileno())
    punch_hole(file.fileno(), 1 << 16, 1 << 19)
    after = os.fstat(file.fileno())
    assert after.st_size == before.st_size
    assert after.st_blocks * 512 <= before.st_blocks * 512 - (1 << 19) + (1 << 13)
    back = bytearray(4)
    file.read([memoryview(back)], (1 << 16) - 2)
    assert bytes(back) == b"xx\0\0"
    with pytest.raises(OSError, match="Bad file descriptor"):
        punch_hole(-1, 0, 10)


def test_file_systems_without_holes() -> None:
    with open("/proc/self/comm", "r+b", buffering=0) as file:
        name = file.read()
        punch_hole(file.fileno(), 0, 2)
        file.seek(0)
        assert file.read() == name


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ScratchFile(str(tmp_path / "nowhere"))
