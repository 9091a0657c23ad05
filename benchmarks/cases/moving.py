"""Moving data: a large Zarr array into other chunks, and blocks that see their neighbours."""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
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


SIDE, TILE, REACH = 8000, 1000, 8


def gaussian() -> dict[str, Any]:
    """A Gaussian filter of a large image. Beyond its edges it is reflected."""

    def image() -> np.ndarray:
        return np.random.default_rng(0).random((SIDE, SIDE), np.float32)

    def smooth(block: np.ndarray) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(block, 2, truncate=4.0)

    def chunked(module: str) -> Work:
        import importlib

        da = importlib.import_module(module)
        plain = image()

        def work() -> np.ndarray:
            x = da.from_array(plain, chunks=TILE)
            options = {} if module.startswith("tilework") else {"scheduler": "threads"}
            y = da.map_overlap(smooth, x, depth=REACH, boundary="reflect", dtype=np.float32)
            return y.compute(**options)

        return work

    def by_hand() -> Work:
        plain = image()

        def work() -> np.ndarray:
            out = np.empty_like(plain)

            def tile(corner: tuple[int, int]) -> None:
                inner, outer, cut = [], [], []
                for start in corner:
                    lo, hi = max(0, start - REACH), min(SIDE, start + TILE + REACH)
                    inner.append(slice(start, start + TILE))
                    outer.append(slice(lo, hi))
                    cut.append(slice(start - lo, start - lo + TILE))
                out[tuple(inner)] = smooth(plain[tuple(outer)])[tuple(cut)]

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(tile, [(y, x) for y in range(0, SIDE, TILE) for x in range(0, SIDE, TILE)]))
            return out

        return work

    return {
        "tilework": lambda: chunked("tilework.array"),
        "tiles by hand, two threads": by_hand,
        "dask": lambda: chunked("dask.array"),
    }


CASES = [
    Case(
        "rechunk", "4 GB of Zarr from (40, 500, 500) to (4000, 50, 50) chunks, uncompressed", rechunk(),
        'at most 1.5 x by hand (CPU), 512 MB with memory="400MB"', ("by hand", "cpu"), warm=False, rounds=2, rtol=1e-4,
    ),
    Case(
        "gaussian", "Gaussian filter by map_overlap, 8000 x 8000 float32 in 1000 x 1000 chunks", gaussian(),
        "at most 1.2 x the tiles (CPU)", ("tiles by hand, two threads", "cpu"), rtol=1e-4,
    ),
]  # fmt: skip
