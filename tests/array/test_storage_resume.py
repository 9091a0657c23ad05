"""Writes that are taken up again: what an interrupted run has finished is not made again, and every byte is right."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import zarr

import tilework as tw
import tilework.array as ta
from tilework.array.rechunking import rechunk
from tilework.base.errors import ChunkError, StorageError, UnsupportedError

X = np.arange(1.0, 1601.0).reshape(80, 20)
PROGRAM = """
import os, signal, sys
from pathlib import Path
import numpy as np
import tilework.array as ta

source, target, notes, most, options = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), eval(sys.argv[5])

def root(block, block_info=None):
    if len(list(notes.iterdir())) >= most:
        os.kill(os.getpid(), signal.SIGKILL)
    Path(notes, "-".join(map(str, block_info[0]["chunk-location"]))).touch()
    return np.sqrt(block)

ta.to_zarr(ta.from_zarr(source).map_blocks(root, dtype="f8"), target, resume=True, **options)
"""


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def source(tmp_path):
    zarr.create_array(tmp_path / "source", data=X, chunks=(10, 10))
    return tmp_path / "source"


@pytest.mark.parametrize("options", [{"zarr_format": 2}, {"chunks": (5, 5), "shards": (10, 10)}])
def test_killed_half_way(source, tmp_path, options):
    target, staged = tmp_path / "target", tmp_path / ".target.partial"

    def run(number, most):
        """A run that is killed when it has made so many blocks; the blocks that it made."""
        notes = tmp_path / f"notes-{number}"
        notes.mkdir()
        program = [sys.executable, "-c", PROGRAM, *map(str, (source, target, notes, most, options))]
        code = subprocess.run(program, check=False).returncode
        return code, {tuple(map(int, note.name.split("-"))) for note in notes.iterdir()}

    code, first = run(1, 9)
    assert code == -signal.SIGKILL
    assert not target.exists()  # nobody takes what is half done for the whole
    half = zarr.open_array(staged)[:].reshape(8, 10, 2, 10).transpose(0, 2, 1, 3)
    finished = {block for block in first if half[block].all()}
    assert len(finished) >= 6  # but for those that were being made
    code, second = run(2, 1000)
    assert code == 0
    assert second == {(i, j) for i in range(8) for j in range(2)} - finished
    assert not staged.exists()
    resumed = files_of(target)
    target.rename(tmp_path / "resumed")
    assert run(3, 1000)[0] == 0
    assert files_of(target) == resumed
    np.testing.assert_array_equal(zarr.open_array(target)[:], np.sqrt(X))


# ---------------------------------------------------------------- in this process


class Failing:
    """A function of blocks that fails after some; it is the same function whatever it is told."""

    def __init__(self):
        self.made, self.left = [], 10**6

    def __call__(self, block, block_info=None):
        if not self.left:
            raise OSError("the disk is on fire")
        self.left -= 1
        self.made.append(block_info[0]["chunk-location"])
        return block * 2

    def __reduce__(self):
        return Failing, ()

    def after(self, n):
        self.made, self.left = [], n
        return self


@pytest.fixture
def double(source):
    function = Failing()
    return ta.from_zarr(source).map_blocks(function, dtype="f8"), function


def interrupted(write, function, n=7):
    function.after(n)
    with pytest.raises(OSError, match="on fire"):
        write()
    function.after(10**6)


@pytest.mark.parametrize("place", ["path", "component", "memory", "region"])
def test_failed_half_way(place, double, tmp_path):
    x, function = double
    if place == "region":
        whole = zarr.create_array(tmp_path / "x", shape=(100, 20), chunks=(10, 10), dtype="f8")
        args, options = (whole,), {"region": (slice(20, 100),)}
    else:
        url = zarr.storage.MemoryStore() if place == "memory" else tmp_path / "x"
        args, options = (url, None if place == "path" else "a/b"), {}

    def write(x=x):
        ta.to_zarr(x, *args, resume=True, **options)

    with tw.config.set(scheduler="sync"):
        interrupted(write, function)
        write()
        assert len(function.made) == 16 - 7
        function.after(0)
        write()
        assert function.made == []
        found = whole[20:] if place == "region" else ta.from_zarr(*args).compute()
        np.testing.assert_array_equal(found, X * 2)
        with pytest.raises(StorageError, match=r"already|has not written"):
            write(x + 1)


def test_rechunked_before_it_is_written(double, tmp_path):
    """Only what unfinished chunks need is made again."""
    x, function = double
    with tw.config.set(scheduler="sync"):
        interrupted(lambda: ta.to_zarr(rechunk(x, (40, 5)), tmp_path / "x", resume=True), function, 13)
        ta.to_zarr(rechunk(x, (40, 5)), tmp_path / "x", resume=True)
    assert len(function.made) <= 12
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x")[:], X * 2)


def test_blocks_of_fill_values_are_made_again(double):
    x, function = double
    y = x * 0
    with tw.config.set(scheduler="sync"):
        store = zarr.storage.MemoryStore()
        for config, made in (({}, 16), ({"write_empty_chunks": True}, 0)):
            for _ in range(2):
                function.after(100)
                ta.to_zarr(y, store, component=str(made), resume=True, config=config)
            assert len(function.made) == made


def test_another_program_does_not_take_it_up(double, tmp_path):
    x, function = double
    with tw.config.set(scheduler="sync"):
        interrupted(lambda: ta.to_zarr(x, tmp_path / "x", resume=True), function)
        for other, options in ((x + 1, {}), (x, {"chunks": (20, 20)}), (x, {"fill_value": 7})):
            with pytest.raises(StorageError, match=r"\.x\.partial holds what an interrupted run of another program"):
                ta.to_zarr(other, tmp_path / "x", resume=True, **options)
        ta.to_zarr(x + 1, tmp_path / "x", resume=True, overwrite=True)
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "x")[:], X * 2 + 1)
        with pytest.raises(StorageError, match="use overwrite=True"):
            ta.to_zarr(x, tmp_path / "x", resume=True)
        interrupted(lambda: ta.to_zarr(x, tmp_path / "x", resume=True, overwrite=True), function)
        np.testing.assert_array_equal(zarr.open_array(tmp_path / "x")[:], X * 2 + 1)
        ta.to_zarr(x, tmp_path / "x", resume=True, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x")[:], X * 2)


def test_what_is_in_the_way(double, tmp_path):
    """A run that was killed when it had hardly begun leaves nothing of value; whatever else is there is left alone."""
    x, _ = double
    staged = tmp_path / ".x.partial"
    staged.mkdir()
    (staged / "thesis.txt").write_text("my only copy")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(StorageError, match=r"\.x\.partial is in the way"):
            ta.to_zarr(x, tmp_path / "x", resume=True, **options)
    (staged / "thesis.txt").rename(staged / "zarr.json.0123.partial")
    ta.to_zarr(x, tmp_path / "x", resume=True)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x")[:], X * 2)
    assert not staged.exists()


def test_a_write_that_is_not_resumed_ends_all_claims(double, tmp_path):
    x, _ = double
    z = zarr.create_array(tmp_path / "x", shape=X.shape, chunks=(10, 10), dtype="f8")
    ta.store(x, z, resume=True)
    ta.store(x * 0 + 1, z)
    with pytest.raises(StorageError, match="chunks that this program has not written"):
        ta.store(x, z, resume=True)
    np.testing.assert_array_equal(z[:], 1)


def test_what_cannot_be_resumed(double, tmp_path):
    x, _ = double
    z = zarr.create_array(tmp_path / "x", shape=(90, 20), chunks=(10, 10), dtype="f8")
    with pytest.raises(ChunkError, match=r"regions of whole storage chunks.* 5:85 of axis 0 is not"):
        ta.store(x, z, regions=(slice(5, 85),), resume=True)
    with pytest.raises(UnsupportedError, match="for Zarr arrays, not for ndarray"):
        ta.store(x, np.zeros((80, 20)), resume=True)
    with pytest.raises(UnsupportedError, match="needs compute=True"):
        ta.to_zarr(x, tmp_path / "y", resume=True, compute=False)


def test_explained(double, tmp_path):
    """What is finished is not in the plan any more."""
    x, function = double
    z = zarr.create_array(tmp_path / "x", shape=X.shape, chunks=(10, 10), dtype="f8")
    with tw.config.set(scheduler="sync"):
        interrupted(lambda: ta.store(x, z, resume=True), function)
    assert tw.explain(ta.store(x, z, resume=True, compute=False)).n_tasks == 16 - 7
