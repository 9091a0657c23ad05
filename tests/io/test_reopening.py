from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tilework.io import reopening
from tilework.io.memory import ArraySource
from tilework.io.reopening import NamedLock, named_lock, portable


def test_a_lock_is_the_same_wherever_it_turns_up() -> None:
    lock = NamedLock()
    assert pickle.loads(pickle.dumps(lock)) is lock
    given = threading.Lock()
    assert named_lock(given) is named_lock(given)
    assert named_lock(given) is not named_lock(threading.Lock())
    with named_lock(given):
        assert given.locked(), "it is the user's lock that is held"
    assert not given.locked()
    assert named_lock(lock) is lock


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_sources_that_share_a_lock_share_one_elsewhere(make: type) -> None:
    lock = make()
    pair = [ArraySource(np.ones(3), False, lock), ArraySource(np.ones(4), False, lock)]
    code = (
        "import sys, pickle; first, second = pickle.load(sys.stdin.buffer)\n"
        "assert first._lock is second._lock\n"
        "with first._lock: print(first.array.sum(), second.array.sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(pair), capture_output=True, check=True)
    assert done.stdout.split() == [b"3.0", b"4.0"]


def test_locks_are_forgotten() -> None:
    gc.collect()  # what other tests have left
    before = set(reopening._named)
    locks = [named_lock(threading.Lock()) for _ in range(5)]
    ours = set(reopening._named) - before
    assert len(ours) == 5
    del locks
    gc.collect()
    assert not ours & set(reopening._named)


def test_mapped_files_are_pickled_by_place(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", np.int32, "w+", offset=100, shape=(50, 60))
    mapped[...] = np.arange(3000).reshape(50, 60)
    for view in (mapped, mapped[3:, ::-2], np.asarray(mapped).T[5:7], mapped[4, 5:6], mapped.view("i2"), mapped[5:5]):
        data = pickle.dumps(portable(view))
        assert len(data) < 1000
        back = pickle.loads(data)
        np.testing.assert_array_equal(back, view)
        assert back.dtype == view.dtype
        assert 0 in back.shape or not back.flags.writeable
    mapped[0] = 7
    assert pickle.loads(pickle.dumps(portable(mapped)))[0].min() == 7
    for other in (np.arange(5), np.memmap(tmp_path / "x", mode="c"), mapped.copy()):
        assert portable(other) is other
