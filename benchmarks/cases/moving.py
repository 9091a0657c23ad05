"""Moving data: a large Zarr array into other chunks."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Work

SHAPE = (4000, 500, 500)
SOURCE, TARGET = (40, 500, 500), (4000, 50, 50)
BETWEEN = (200, 50, 50)


def _create(path: Path, chunks: tuple[int, ...]) -> Any:
    import zarr

    shutil.rmtree(path, ignore_errors=True)
    return zarr.create_array(path, shape=SHAPE, chunks=chunks, dtype="f4", compressors=None)


def store() -> Path:
    """4 GB of float32 in slices of time, uncompressed. Made once per machine."""
    path = Path(tempfile.gettempdir(), "tilework-bench-slices.zarr")
    if not Path(f"{path}.done").exists():
        array = _create(path, SOURCE)
        rng = np.random.default_rng(0)
        for t in range(0, SHAPE[0], SOURCE[0]):
            array[t : t + SOURCE[0]] = rng.random((SOURCE[0], *SHAPE[1:]), np.float32)
        Path(f"{path}.done").touch()
    return path


def _answer(path: Path) -> np.ndarray:
    """Some columns of what was written, read by zarr itself."""
    import zarr

    array: Any = zarr.open_array(path, mode="r")
    assert array.chunks == TARGET, array.chunks
    column = array[:, 137, 200:220].astype(float)
    return np.append(column[::400].ravel(), column.sum())


def rechunk() -> dict[str, Any]:
    target = Path(tempfile.gettempdir(), "tilework-bench-columns.zarr")
    between = Path(tempfile.gettempdir(), "tilework-bench-between.zarr")

    def tilework() -> Work:
        import tilework as tw
        import tilework.array as ta

        path = store()

        def work() -> np.ndarray:
            x = ta.from_zarr(path).rechunk(TARGET)
            with tw.config.set(memory="400MB"):
                ta.to_zarr(x, _create(target, TARGET))
            return _answer(target)

        return work

    def dask_threads() -> Work:
        import dask.array as da
        import zarr

        path = store()

        def work() -> np.ndarray:
            x = da.from_zarr(zarr.open_array(path, mode="r")).rechunk(TARGET)
            da.store(x, _create(target, TARGET), lock=False, scheduler="threads")
            return _answer(target)

        return work

    def by_hand() -> Work:
        import zarr

        path = store()

        def work() -> np.ndarray:
            source: Any = zarr.open_array(path, mode="r")
            middle, out = _create(between, BETWEEN), _create(target, TARGET)
            for t in range(0, SHAPE[0], BETWEEN[0]):
                middle[t : t + BETWEEN[0]] = source[t : t + BETWEEN[0]]
            for y in range(0, SHAPE[1], TARGET[1]):
                for x in range(0, SHAPE[2], TARGET[2]):
                    out[:, y : y + TARGET[1], x : x + TARGET[2]] = middle[:, y : y + TARGET[1], x : x + TARGET[2]]
            shutil.rmtree(between)
            return _answer(target)

        return work

    return {"tilework": tilework, "by hand": by_hand, "dask": dask_threads}


CASES = [
    Case(
        "rechunk", "4 GB of Zarr from (40, 500, 500) to (4000, 50, 50) chunks, uncompressed", rechunk(),
        'at most 1.5 x by hand (CPU), 512 MB with memory="400MB"', ("by hand", "cpu"), warm=False, rounds=2, rtol=1e-4,
    ),
]  # fmt: skip
