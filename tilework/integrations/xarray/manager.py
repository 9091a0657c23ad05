"""xarray on tilework, through xarray's own plug-in point (entry point group ``xarray.chunkmanagers``).

xarray asks a chunk manager for everything it wants of chunked arrays; here each request is passed on to the function of
the same name in :mod:`tilework.array`. Loading the manager also teaches ``tw.compute`` and its kin to look into
xarray objects. Nothing here needs Dask, and nothing is changed for arrays of other kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from xarray import DataArray, Dataset, Variable
from xarray.namedarray.parallelcompat import ChunkManagerEntrypoint

import tilework.array as ta
from tilework import session
from tilework.array import Array
from tilework.array.binding import name_of
from tilework.array.creation import normalize
from tilework.array.shuffling import shuffle
from tilework.base import config
from tilework.integrations.xarray.adapting import ENCODING, adapt
from tilework.integrations.xarray.groupby import adapt_groupby
from tilework.integrations.xarray.interpolation import adapt_interpolation
from tilework.integrations.xarray.opening import unwrapped
from tilework.integrations.xarray.rolling import adapt_rolling
from tilework.integrations.xarray.writing import Writes
from tilework.plan import blocks


class TileworkManager(ChunkManagerEntrypoint[Array]):
    """xarray's door to tilework: ``xr.open_zarr(path, chunked_array_type="tilework")``."""

    array_cls: type[Array]
    available: bool = True

    def __init__(self) -> None:
        self.array_cls = Array

    def is_chunked_array(self, data: Any) -> bool:
        """Whether ``data`` is a tilework array."""
        return isinstance(data, Array)

    def chunks(self, data: Array) -> Any:
        """Block sizes along each axis."""
        return data.chunks

    def normalize_chunks(
        self,
        chunks: Any,
        shape: tuple[int, ...] | None = None,
        limit: int | None = None,
        dtype: Any = None,
        previous_chunks: Any = None,
    ) -> Any:
        """Chunks as one tuple of sizes per axis."""
        return blocks.normalize_chunks(chunks, shape or (), dtype, limit or config.get().chunk_size, previous_chunks)

    def from_array(self, data: Any, chunks: Any, **kwargs: Any) -> Array:
        """A chunked array over ``data``, which may be one of xarray's lazily indexed arrays."""
        chunks = _no_auto_on_empty(chunks, data.shape)
        node = unwrapped(data, normalize(chunks, data.shape, data.dtype, getattr(data, "chunks", None)))
        return ta.from_array(data, chunks, **kwargs) if node is None else Array(node)

    def rechunk(self, data: Array, chunks: Any, **kwargs: Any) -> Any:
        """``data`` in other chunks."""
        return super().rechunk(data, _no_auto_on_empty(chunks, data.shape), **kwargs)

    def compute(self, *data: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Compute everything in one go; what is not chunked is passed through."""
        values = session.compute(*data, traverse=False, **kwargs)
        return tuple(_as_array(v) if isinstance(x, Array) else v for x, v in zip(data, values, strict=True))

    def persist(self, *data: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Compute everything in one go and keep the blocks in memory."""
        return session.persist(*data, traverse=False, **kwargs)

    @property
    def array_api(self) -> Any:
        """The array namespace."""
        return ta

    def reduction(
        self,
        arr: Array,
        func: Callable[..., Any],
        combine_func: Callable[..., Any] | None = None,
        aggregate_func: Callable[..., Any] | None = None,
        axis: int | Sequence[int] | None = None,
        dtype: Any = None,
        keepdims: bool = False,
    ) -> Array:
        """A tree reduction from functions of blocks."""
        return ta.reduction(
            arr, chunk=func, combine=combine_func, aggregate=aggregate_func, axis=axis, dtype=dtype, keepdims=keepdims
        )

    def scan(
        self,
        func: Callable[..., Any],
        binop: Callable[..., Any],
        ident: float,
        arr: Array,
        axis: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ) -> Array:
        """A cumulative operation from functions of blocks."""
        return ta.cumreduction(func, binop, ident, arr, axis=axis, dtype=dtype, **kwargs)

    def apply_gufunc(
        self,
        func: Callable[..., Any],
        signature: str,
        *args: Any,
        axes: Sequence[tuple[int, ...]] | None = None,
        axis: int | None = None,
        keepdims: bool = False,
        output_dtypes: Sequence[Any] | None = None,
        output_sizes: dict[str, int] | None = None,
        vectorize: bool | None = None,
        allow_rechunk: bool = False,
        meta: Any = None,
        **kwargs: Any,
    ) -> Any:
        """A function with core dimensions, applied block by block."""
        if output_dtypes is not None:
            output_dtypes = [_of_any_length(np.dtype(dtype)) for dtype in output_dtypes]
            if not vectorize:
                func = _AsAnnounced(func, tuple(output_dtypes))
        return ta.apply_gufunc(
            func, signature, *args, axes=axes, axis=axis, keepdims=keepdims, output_dtypes=output_dtypes,
            output_sizes=output_sizes, vectorize=vectorize, allow_rechunk=allow_rechunk, meta=meta, **kwargs,
        )  # fmt: skip

    def map_blocks(
        self,
        func: Callable[..., Any],
        *args: Any,
        dtype: Any = None,
        chunks: Any = None,
        drop_axis: Any = None,
        new_axis: Any = None,
        **kwargs: Any,
    ) -> Any:
        """A function applied to every block."""
        if dtype is not None:
            dtype = np.dtype(np.int64 if ENCODING.get() and np.dtype(dtype).kind in "iu" else dtype)
            func = _AsAnnounced(func, (dtype,))
        return ta.map_blocks(func, *args, dtype=dtype, chunks=chunks, drop_axis=drop_axis, new_axis=new_axis, **kwargs)

    def blockwise(
        self,
        func: Callable[..., Any],
        out_ind: Iterable[Any],
        *args: Any,
        adjust_chunks: dict[Any, Callable[..., Any]] | None = None,
        new_axes: dict[Any, int] | None = None,
        align_arrays: bool = True,
        **kwargs: Any,
    ) -> Any:
        """A function of blocks in index notation."""
        return ta.blockwise(
            func, out_ind, *args, adjust_chunks=adjust_chunks, new_axes=new_axes, align_arrays=align_arrays, **kwargs
        )

    def unify_chunks(self, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], list[Any]]:
        """Arrays in common chunks."""
        return ta.unify_chunks(*args, **kwargs)

    def store(self, sources: Any, targets: Any, **kwargs: Any) -> Any:
        """Write arrays into array-likes."""
        return ta.store(sources, targets, **kwargs)

    def shuffle(self, x: Array, indexer: list[list[int]], axis: int, chunks: Any) -> Array:
        """``x`` with the positions along ``axis`` reordered; the members of each group end up in one block."""
        return shuffle(x, indexer, axis, "auto" if chunks is None else chunks)

    def get_auto_chunk_size(self) -> int:
        """Bytes that an automatically chosen block may have."""
        return config.get().chunk_size


@dataclass(frozen=True, slots=True)
class _AsAnnounced:
    """``func`` with its results in the dtypes that were announced, if they are of the same kind.

    xarray announces what goes in (float32) even where more comes out (interp returns float64), and the dtype that is
    wanted (int32) where encoding returns another one.
    """

    func: Callable[..., Any]
    dtypes: tuple[np.dtype[Any], ...]

    @property
    def __name__(self) -> str:
        return name_of(self.func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        results = self.func(*args, **kwargs)
        if isinstance(results, tuple):
            return tuple(map(_converted, results, self.dtypes))
        return _converted(results, self.dtypes[0])


def _of_any_length(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Text as objects: xarray announces it in the length that goes in, and ``str.pad`` would be cut."""
    return np.dtype(object) if dtype.kind in "US" else dtype


def _converted(block: Any, dtype: np.dtype[Any]) -> Any:
    same = not isinstance(block, np.ndarray | np.generic) or block.dtype == dtype
    return block if same or not np.can_cast(block.dtype, dtype, "same_kind") else block.astype(dtype)


def _no_auto_on_empty(chunks: Any, shape: Sequence[int]) -> Any:
    """An array without elements is one block: there is nothing to weigh."""
    wanted = chunks.values() if isinstance(chunks, Mapping) else chunks if isinstance(chunks, tuple) else (chunks,)
    if 0 in shape and any(isinstance(entry, str) and entry == "auto" for entry in wanted):
        return tuple(shape)
    return chunks


def _as_array(value: Any) -> Any:
    """What xarray can hold: NumPy gives scalars, and objects themselves, for results without dimensions."""
    if hasattr(value, "ndim") and not isinstance(value, np.generic):
        return value
    array = np.empty((), getattr(value, "dtype", object))
    array[()] = value
    return array


# ---------------------------------------------------------------- tw.compute(ds)


def _unpack(x: Any) -> session.Unpacked | None:
    """The chunked arrays inside an xarray object, and how to put others in their places."""
    if isinstance(x, DataArray):
        dataset = x._to_temp_dataset()
        inner, rebuild = _unpack_dataset(dataset)
        return inner, lambda values: x._from_temp_dataset(rebuild(values))
    if isinstance(x, Dataset):
        return _unpack_dataset(x)
    if isinstance(x, Variable):
        return [x._data], lambda values: x._replace(data=values[0])
    if isinstance(x, Writes):
        return list(x.writes), x.finish
    return None


def _unpack_dataset(dataset: Dataset) -> session.Unpacked:
    lazy = {name: v for name, v in dataset.variables.items() if isinstance(v._data, Array)}

    def rebuild(values: list[Any]) -> Dataset:
        new = {name: v.copy(data=_as_array(value)) for (name, v), value in zip(lazy.items(), values, strict=True)}
        return dataset._replace({**dataset._variables, **new})

    return [v._data for v in lazy.values()], rebuild


session.register_container(_unpack)
adapt()
adapt_groupby()
adapt_rolling()
adapt_interpolation()
