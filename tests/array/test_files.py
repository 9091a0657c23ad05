"""HDF5 files and stacks of .npy files, against h5py and Dask."""

import dask.array as da
import h5py
import numpy as np
import pytest

import tilework.array as ta
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.testing import assert_eq

A = np.arange(60.0).reshape(4, 15)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_npy_stack(tmp_path, axis):
    ta.to_npy_stack(tmp_path / "x", ta.from_array(A, chunks=(3, 4)), axis)
    x = ta.from_npy_stack(tmp_path / "x")
    assert x.numblocks[axis] > 1
    assert sum(n > 1 for n in x.numblocks) == 1
    assert_eq(x, A)
    assert_eq(x[1::2, 3:9].sum(axis=0), A[1::2, 3:9].sum(axis=0))


def test_npy_stacks_are_dasks(tmp_path):
    ta.to_npy_stack(tmp_path / "ours", ta.from_array(A, chunks=(4, 6)), 1)
    np.testing.assert_array_equal(da.from_npy_stack(str(tmp_path / "ours")).compute(), A)
    da.to_npy_stack(str(tmp_path / "theirs"), da.from_array(A, chunks=(3, 5)), 1)
    assert_eq(ta.from_npy_stack(tmp_path / "theirs", mmap_mode=None), A)


def test_npy_stack_of_unknown_sizes(tmp_path):
    x = ta.from_array(A, chunks=2)
    with pytest.raises(UnknownChunksError):
        ta.to_npy_stack(tmp_path, x[x[:, 0] > 3])


def test_hdf5(tmp_path):
    x = ta.from_array(A, chunks=(3, 4))
    ta.to_hdf5(tmp_path / "a.h5", {"/x": x, "/group/y": x + 1})
    x.to_hdf5(tmp_path / "a.h5", "/z", compression="gzip", chunks=(2, 5))
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["x"], A)
        np.testing.assert_array_equal(file["group/y"], A + 1)
        np.testing.assert_array_equal(file["z"], A)
        assert file["x"].chunks == (3, 4)
        assert file["z"].chunks == (2, 5)
    with pytest.raises(PlanError, match="a dict from paths"):
        ta.to_hdf5(tmp_path / "a.h5", x)
