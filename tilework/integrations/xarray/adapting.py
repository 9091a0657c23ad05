"""The places where xarray names Dask and means any chunked array.

Most of xarray asks the chunk manager. What is left asks "is this a Dask array?" and otherwise takes the array for one
in memory: it would be computed without being asked for (``weights``, ``.dt``, ``polyfit``, ``ffill``), or refused
(``isel`` with several arrays). :func:`adapt` gives these functions an answer for tilework's arrays. It replaces names
in xarray's modules, once, when the chunk manager loads; each replacement passes on whatever holds no tilework array,
and a name that a version of xarray does not have is left out.

- ``is_duck_dask_array`` in the modules of :data:`_ASKING` says yes: what they do then is right for any chunked array.
  Methods that it refuses for Dask's (``argsort``) are not refused.
- ``push`` (ffill, bfill), ``least_squares`` (polyfit), ``lazy_array_equiv`` (merge, concat), the mean and the fields of
  dates are functions of this module.
- Dates that are written keep 64 bits until fill values have taken the place of those that are missing.
- Rolling reductions and interpolation are in :mod:`tilework.integrations.xarray.rolling` and ``interpolation``.
- ``to_zarr`` and ``to_netcdf`` refuse to empty what they are about to read, and writes that wait are tilework's own:
  :mod:`tilework.integrations.xarray.writing`.
- ``curvefit`` lets the dimensions that are fitted become one block.
- ``map_blocks`` is that of :mod:`tilework.integrations.xarray.mapping`.
- Pointwise indexing goes through :attr:`tilework.array.Array.vindex`, and so does assignment.
- ``chunk()``, and arithmetic with groups, make tilework arrays of what is not chunked yet, if the object holds such
  arrays already. xarray would take the default chunk manager.

What has only missing values gives a missing value, and NumPy warns of it. xarray does not; nor do blocks, then.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import partial, wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr
from xarray.coding import times
from xarray.core import duck_array_ops, groupby, indexing, nputils
from xarray.namedarray.core import NamedArray

from tilework.array import Array, map_blocks, push
from tilework.array.order import in_one_block
from tilework.integrations.xarray.mapping import map_blocks as map_xarray_blocks
from tilework.integrations.xarray.writing import close_later, guarded, netcdf_places, zarr_places
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Slot

_ASKING = (
    "xarray.core.variable", "xarray.core.duck_array_ops", "xarray.computation.weighted", "xarray.computation.fit",
    "xarray.backends.common", "xarray.core.utils",
)  # fmt: skip
_OPERATIONS = ("xarray.core.duck_array_ops",)
_PUSHING = ("xarray.core.duck_array_ops", "xarray.core.missing")
_FITTING = ("xarray.core.duck_array_ops", "xarray.computation.fit")
_WRITING = ("xarray.backends.api", "xarray.backends.writers")
_COMPARING = ("xarray.core.duck_array_ops", "xarray.structure.merge", "xarray.structure.concat")


def holds_arrays(obj: Any) -> bool:
    """Whether there is a tilework array in an xarray object."""
    if isinstance(obj, xr.DataArray):
        obj = obj.variable
    variables = obj.variables.values() if isinstance(obj, xr.Dataset) else (obj,)
    return any(isinstance(getattr(v, "_data", None), Array) for v in variables)


def adapt() -> None:
    """Replace the names. Once; :mod:`tilework.integrations.xarray.manager` does it."""
    for message in ("All-NaN slice", "Mean of empty slice", "Degrees of freedom"):
        warnings.filterwarnings("ignore", message, RuntimeWarning, r"tilework\.(optimize\.blockfuncs|array\.)")
    for module in _ASKING:
        _replace("is_duck_dask_array", [module], lambda is_dask: lambda x: isinstance(x, Array) or is_dask(x))
    _replace("is_0d_dask_array", ["xarray.core.variable"], lambda is_dask: lambda x: _is_scalar(x) or is_dask(x))
    _replace("module_available", ["xarray.core.variable"], _lazy_quantiles)
    _replace("fail_on_dask_array_input", _OPERATIONS, lambda theirs: _for_arrays(theirs, lambda *_, **__: None))
    _replace("mean", _OPERATIONS, lambda theirs: _for_arrays(theirs, partial(_mean, theirs)))
    duck_array_ops.dask_available = True  # else it does not ask whether an array is chunked
    _replace("push", _PUSHING, lambda theirs: _for_arrays(theirs, _push))
    _replace("apply_ufunc", ["xarray.computation.fit"], _gathering)
    _replace("least_squares", _FITTING, lambda theirs: _for_arrays(theirs, partial(_least_squares, theirs)))
    _replace("lazy_array_equiv", _COMPARING, lambda theirs: _for_arrays(theirs, partial(_equivalent, theirs)))
    for name in ("_get_date_field", "_round_field", "_strftime"):
        _replace(name, ["xarray.core.accessor_dt"], lambda theirs: _for_arrays(theirs, partial(_dates, theirs)))
    _replace("delayed_close_after_writes", _WRITING, lambda theirs: partial(close_later, theirs))
    _replace("to_zarr", ["xarray.backends.writers"], partial(guarded, places=zarr_places))
    _replace("to_netcdf", ["xarray.backends.writers"], partial(guarded, places=netcdf_places))
    _replace("map_blocks", ["xarray.core.parallel", "xarray"], lambda theirs: partial(map_xarray_blocks, theirs))
    for coder in (times.CFDatetimeCoder, times.CFTimedeltaCoder):
        coder.encode = _encoding(coder.encode)
    adapter = indexing.ArrayApiIndexingAdapter
    adapter._oindex_get = _taking(adapter._oindex_get)
    adapter._vindex_get = _for_own(adapter._vindex_get, _points)
    adapter._vindex_set = _for_own(adapter._vindex_set, _set_points)
    adapter._oindex_set = _for_own(adapter._oindex_set, _set_outer)
    xr.Dataset.chunk = _keeping_manager(xr.Dataset.chunk, holds_arrays)
    NamedArray.chunk = _keeping_manager(NamedArray.chunk, holds_arrays)
    groupby.GroupBy._binary_op = _aligned(
        _keeping_manager(groupby.GroupBy._binary_op, lambda groups: holds_arrays(groups._obj))
    )


def _replace(name: str, modules: Iterable[str], make: Callable[[Any], Any]) -> None:
    """Replace a function by ``make(function)`` in the modules that have it."""
    made: dict[int, Any] = {}
    for module in map(_module, modules):
        theirs = getattr(module, name, None)
        if callable(theirs):
            if id(theirs) not in made:
                made[id(theirs)] = wraps(theirs)(make(theirs))
            setattr(module, name, made[id(theirs)])


def _module(name: str) -> ModuleType | None:
    """A module of xarray's, or None where this version has no such module."""
    try:
        return import_module(name)
    except ImportError:
        return None


def _for_arrays(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """``ours`` if an argument is a tilework array."""
    return lambda *args, **kwargs: (ours if any(isinstance(a, Array) for a in args) else theirs)(*args, **kwargs)


def _for_own(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """A method of xarray's indexing adapter, of ours if it adapts a tilework array."""

    @wraps(theirs)
    def method(self: Any, *args: Any) -> Any:
        return ours(self.array, *args) if isinstance(self.array, Array) else theirs(self, *args)

    return method


def _keeping_manager(method: Callable[..., Any], holds: Callable[[Any], bool]) -> Callable[..., Any]:
    @wraps(method)
    def keeping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not holds(self):
            return method(self, *args, **kwargs)
        with xr.set_options(chunk_manager="tilework"):
            return method(self, *args, **kwargs)

    return keeping


def _lazy_quantiles(available: Callable[..., bool]) -> Callable[..., bool]:
    """``Variable.quantile`` leaves chunked arrays to NumPy's quantile only if Dask is there, and new enough."""
    return lambda module, *args: module == "dask" or available(module, *args)


# ---------------------------------------------------------------- dates that are written

ENCODING: ContextVar[bool] = ContextVar("tilework-encoding", default=False)
"""Whether dates are made numbers to be written. xarray says which dtype the file will have, but needs 64 bits until it
has put the fill value in the place of missing dates; then it converts by itself."""


def _encoding(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def encode(*args: Any, **kwargs: Any) -> Any:
        token = ENCODING.set(True)
        try:
            return method(*args, **kwargs)
        finally:
            ENCODING.reset(token)

    return encode


# ---------------------------------------------------------------- indexing


def _is_scalar(x: Any) -> bool:
    return isinstance(x, Array) and x.ndim == 0


def _points(array: Array, indexer: Any) -> Array:
    return array.vindex[indexer.tuple]


def _set_points(array: Array, indexer: Any, value: Any) -> None:
    nputils.NumpyVIndexAdapter(array)[indexer.tuple] = value


_GROUP_CHUNKS: ContextVar[AxisChunks | None] = ContextVar("tilework-group-chunks", default=None)


def _aligned(method: Callable[..., Any]) -> Callable[..., Any]:
    """Arithmetic with groups: for each position the group's value is selected, in blocks that fit the other operand."""

    @wraps(method)
    def aligned(self: Any, *args: Any, **kwargs: Any) -> Any:
        chunks = self._original_obj.chunksizes.get(self._group_dim)
        token = _GROUP_CHUNKS.set(None if chunks is None else AxisChunks.of(chunks))
        try:
            return method(self, *args, **kwargs)
        finally:
            _GROUP_CHUNKS.reset(token)

    return aligned


def _taking(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def outer(self: Any, indexer: Any) -> Any:
        chunks = _GROUP_CHUNKS.get()
        if chunks is None or not isinstance(self.array, Array):
            return theirs(self, indexer)
        found = self.array
        for axis, entry in reversed(list(enumerate(indexer.tuple))):
            if isinstance(entry, np.ndarray) and entry.shape == (chunks.total,):
                positions = np.where(entry < 0, entry + found.shape[axis], entry).astype(np.int64)
                found = Array(build.take(found.node, positions, axis, chunks))
            else:
                found = found[(slice(None),) * axis + (entry, Ellipsis)]
        return found

    return outer


def _set_outer(array: Array, indexer: Any, value: Any) -> None:
    array[indexing._outer_to_numpy_indexer(indexer, array.shape)] = value


# ---------------------------------------------------------------- functions


def _equivalent(theirs: Callable[..., Any], one: Any, other: Any) -> bool | None:
    """Whether two arrays are equal, None if one has to compute to know. Equal programs give equal arrays."""
    if not (isinstance(one, Array) and isinstance(other, Array)):
        return theirs(one, other)
    if one.shape != other.shape:
        return False
    return True if one.node.token == other.node.token else None


def _mean(theirs: Callable[..., Any], array: Array, axis: Any = None, skipna: Any = None, **kwargs: Any) -> Any:
    """The mean; of dates, from the middle of the years they span, as in xarray, where that is computed beforehand."""
    if array.dtype.kind not in "mM":
        return theirs(array, axis=axis, skipna=skipna, **kwargs)
    first, last = (
        duck_array_ops._datetime_nanreduce(array, reduce).astype("M8[Y]").astype(int)
        for reduce in (duck_array_ops.min, duck_array_ops.max)
    )
    offset = (first + (last - first) // 2).astype("M8[Y]").astype(array.dtype)
    distance = theirs(duck_array_ops.datetime_to_numeric(array, offset), axis=axis, skipna=skipna, **kwargs)
    return distance.astype(array.dtype.str.replace("M", "m")) + offset


def _dates(theirs: Callable[..., Any], values: Array, name: str, *args: Any) -> Array:
    """Fields of dates, block by block."""
    options: dict[str, Any] = {}
    if values.dtype.hasobject:
        date = import_module("cftime").DatetimeGregorian(2000, 1, 1)
        options["dtype"] = theirs(np.array([date]), name, *args).dtype
    if name == "isocalendar":
        options |= {"new_axis": 0, "chunks": ((3,), *values.chunks)}
    return map_blocks(theirs, values, name, *args, **options)


def _push(array: Array, n: int | None = None, axis: int = -1, **_: Any) -> Array:
    """ffill, whatever method is asked for: there is one."""
    return push(array, n, axis)


def _gathering(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """``apply_ufunc`` as ``curvefit`` calls it: the dimensions that are fitted become one block."""

    def apply(func: Any, obj: Any, *args: Any, dask_gufunc_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        options = dask_gufunc_kwargs | {"allow_rechunk": True} if holds_arrays(obj) else dask_gufunc_kwargs
        return theirs(func, obj, *args, dask_gufunc_kwargs=options, **kwargs)

    return apply


def _least_squares(theirs: Callable[..., Any], lhs: Any, rhs: Array, rcond: Any = None, skipna: bool = False) -> Any:
    """Coefficients and residuals of a fit along the first axis, which becomes one block."""
    node = in_one_block(rhs.node, (0,), "polyfit")
    options = {"lhs": np.asarray(lhs), "rcond": rcond, "skipna": skipna}
    labels, rows = range(node.ndim), np.shape(lhs)[1] + 1
    fit = BlockFunction(partial(_fit, theirs), (Slot(0),), options, scratch=4.0)  # LAPACK copies to 64 bits, twice
    found = Array(build.blockwise(fit, labels, [(node, labels)], float, adjust_chunks={0: rows}, label="polyfit"))
    return found[:-1], found[-1]


def _fit(theirs: Callable[..., Any], block: np.ndarray, *, lhs: np.ndarray, rcond: Any, skipna: bool) -> np.ndarray:
    coefficients, residuals = theirs(lhs, block, rcond=rcond, skipna=skipna)
    residuals = np.broadcast_to(np.reshape(residuals, (-1,)), (coefficients[0].size,))
    return np.concatenate([coefficients, residuals.reshape(1, *coefficients.shape[1:])])
