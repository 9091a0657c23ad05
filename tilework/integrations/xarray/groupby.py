"""Grouped reductions of xarray objects: ``ds.groupby("time.month").mean()``, ``ds.resample(time="1MS").max()``.

xarray hands grouped reductions to the package flox, if it is there; without it, it selects, reduces and joins group
after group, which makes as many operations as there are groups. flox knows arrays of NumPy, Dask and Cubed, and there
is no way to register another. So for objects that hold tilework arrays :func:`adapt_groupby` puts :func:`_reduce` in
the place of both ways: it hands all groups at once to :func:`tilework.array.grouping.groupby_reduce`. flox need not be
there, and is not imported.

What is no reduction with a name (``map``, ``reduce`` with a function of one's own, cumulative operations) goes xarray's
way, group after group.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from datetime import timedelta
from functools import wraps
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from xarray import Variable
from xarray.core import common, coordinates, duck_array_ops, groupby

from tilework.array import Array, asarray, map_blocks
from tilework.array.grouping import groupby_reduce
from tilework.integrations.xarray.adapting import holds_arrays

Dims = tuple[Hashable, ...]

_REDUCTIONS = ("all", "any", "count", "first", "last", "max", "mean", "median", "min", "prod", "std", "sum", "var")

_OPTIONS = ("fill_value", "min_count", "ddof", "q", "dtype")
"""What is passed on. Other options choose between ways of flox that differ in speed only."""

_WITHOUT_SKIPNA = ("all", "any", "count")


def adapt_groupby() -> None:
    """Let grouped operations on tilework arrays find their way. Once, when the chunk manager loads."""
    groups = groupby.GroupBy
    groups._flox_reduce = _instead(groups._flox_reduce, _reduce)
    groups._flox_scan = _instead(groups._flox_scan, _scan)
    groups._first_or_last = _instead(groups._first_or_last, _first_or_last(groups._first_or_last))
    groups.quantile = _instead(groups.quantile, _quantile(groups.quantile))
    for base in (groupby.DataArrayGroupByBase, groupby.DatasetGroupByBase):
        base.reduce = _instead(base.reduce, _reduce_with(base.reduce))


def _instead(theirs: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """``ours`` for groups of objects that hold tilework arrays, and for labels that are such arrays."""

    @wraps(theirs)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        lazy = holds_arrays(self._original_obj) or holds_arrays(self.encoded.codes)
        return (ours if lazy else theirs)(self, *args, **kwargs)

    return method


# ---------------------------------------------------------------- the doors


def _reduce_with(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """``reduce`` with a function that has a name is that reduction."""

    def method(self: Any, func: Any, dim: Any = None, *, axis: Any = None, **kwargs: Any) -> Any:
        name = _name(func)
        if name is None or axis is not None:
            return theirs(self, func, dim, axis=axis, **kwargs)
        kwargs.pop("shortcut", None)
        own = [dim] if isinstance(dim, str) else dim
        if own is not None and own is not ... and list(own) == [self._group_dim]:
            dim = None  # several dimensions that xarray has made one
        return self._flox_reduce(dim=dim, func=name, **kwargs)

    return method


def _name(func: Callable[..., Any]) -> str | None:
    """The name of a function that xarray reduces with where there is no flox; None for any other."""
    functions = {k: getattr(duck_array_ops, {"all": "array_all", "any": "array_any"}.get(k, k)) for k in _REDUCTIONS}
    return next((name for name, function in functions.items() if function is func), None)


def _first_or_last(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, op: str, skipna: bool | None, keep_attrs: bool | None) -> Any:
        if self._by_chunked:
            return self._flox_reduce(dim=None, func=op, skipna=skipna, keep_attrs=keep_attrs)
        with xr.set_options(use_flox=False):  # which goes to reduce
            return theirs(self, op, skipna, keep_attrs)

    return method


def _quantile(theirs: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, q: Any, dim: Any = None, *, method: str = "linear", **kwargs: Any) -> Any:
        if method != "linear" or kwargs.get("interpolation") is not None:
            with xr.set_options(use_flox=False):
                return theirs(self, q, dim, method=method, **kwargs)
        kwargs.pop("interpolation", None)
        return self._flox_reduce(dim=dim, func="quantile", q=np.asarray(q, np.float64), **kwargs)

    return method


def _scan(self: Any, dim: Any, *, func: str, **kwargs: Any) -> Any:
    """Cumulative operations by group, as xarray does it without flox; only the dimensions lie as with it."""
    result = self.reduce(getattr(duck_array_ops, func), dim=dim, **kwargs).assign_coords(self._obj.coords)
    return result.transpose(..., *self._parse_dim(dim))


# ---------------------------------------------------------------- reductions


def _reduce(
    self: Any,
    dim: Any = None,
    keep_attrs: bool | None = None,
    *,
    func: str,
    skipna: bool | None = None,
    numeric_only: bool = False,
    **options: Any,
) -> Any:
    """``GroupBy._flox_reduce``: a reduction of all groups at once."""
    if "keepdims" in options:
        del options["keepdims"]
        warnings.warn(
            "Reductions are applied along the grouping or resampling dimension. Passing the 'keepdims' kwarg to "
            "reduction is not supported and will be ignored.", FutureWarning, stacklevel=3,
        )  # fmt: skip
    if "min_count" in options and func not in ("sum", "prod"):
        raise TypeError("Received an unexpected keyword argument 'min_count'")
    if skipna and func in _WITHOUT_SKIPNA:
        raise ValueError(f"skipna cannot be truthy for {func} reductions.")
    if "min_count" in options:
        options["min_count"] = options["min_count"] or 0
    missing = self.encoded.unique_coord.size != self.encoded.full_index.size
    if self._by_chunked or missing or options.get("min_count"):  # xarray wants NaN for groups that have no members
        options = {"fill_value": np.nan, "min_count": 1, **options}
    obj, dims = self._original_obj, self._parse_dim(dim)
    ds = obj._to_temp_dataset() if isinstance(obj, xr.DataArray) else obj
    if numeric_only:
        ds = ds.drop_vars(
            [name for name, v in ds.data_vars.items() if not common._is_numeric_aggregatable_dtype(v.variable)]
        )
    job = _Reduction(self.groupers, dims, func, skipna, options)
    if not set(dims) & set(job.group_dims):
        reduced = _without_groups(self, ds, dims, func, skipna, keep_attrs, options)
        return obj._from_temp_dataset(reduced) if isinstance(obj, xr.DataArray) else reduced
    attrs = keep_attrs is None or bool(keep_attrs)
    made = {name: job.of(v.variable, attrs, isinstance(obj, xr.Dataset)) for name, v in ds.data_vars.items()}
    result = ds.drop_vars(ds.data_vars).drop_dims(dims, errors="ignore").assign(made)
    result.attrs = ds.attrs if attrs else {}
    if func == "quantile":
        result = result.assign_coords(
            quantile=options["q"] if np.ndim(options["q"]) == 0 else ("quantile", options["q"])
        )
    result = _with_groups(self, result, dims, ds.data_vars if isinstance(obj, xr.Dataset) else obj.coords)
    return self._restore_dim_order(obj._from_temp_dataset(result)) if isinstance(obj, xr.DataArray) else result


def _without_groups(
    self: Any, ds: xr.Dataset, dims: Dims, func: str, skipna: bool | None, keep_attrs: bool | None, options: Any
) -> xr.Dataset:
    """A reduction along dimensions along which groups do not vary: nothing is grouped."""
    codes = [grouper.codes for grouper in self.groupers]
    exclude = set(ds.dims) - {d for c in codes for d in c.dims}
    kwargs = {name: options[name] for name in ("ddof", "q") if name in options}
    if skipna is not None:
        kwargs["skipna"] = skipna
    return getattr(xr.broadcast(ds, *codes, exclude=exclude)[0], func)(dim=dims, keep_attrs=keep_attrs, **kwargs)


def _with_groups(self: Any, result: xr.Dataset, dims: Dims, variables: Any) -> xr.Dataset:
    """The result with coordinates for its groups, and what had only dimensions that the groups still have."""
    for grouper in self.groupers:
        if set(grouper.group.dims) & set(dims) and not isinstance(grouper.full_index, pd.RangeIndex):
            labels = xr.IndexVariable(grouper.name, grouper.full_index, grouper.codes.attrs)
            result = result.assign_coords(coordinates.coordinates_from_variable(labels))
    for name, v in variables.items():
        if name not in result.variables and set(v.dims) <= set(dims) and set(v.dims) & set(result.dims):
            sizes = {d: result.sizes.get(d, self._original_obj.sizes.get(d)) for d in dims if d not in v.dims}
            if sizes:
                wide = v.variable.set_dims({**sizes, **v.sizes})
                result = result.assign_coords({name: wide.transpose(*(d for d in result.dims if d in wide.dims))})
    return result


class _Reduction:
    """A reduction by the groups of one or several groupers along ``dims``, for one variable after another.

    Groups are numbered together: one number for each combination. Along dimensions of the labels that are not reduced,
    each position has groups of its own.
    """

    def __init__(
        self, groupers: Sequence[Any], dims: Dims, func: str, skipna: bool | None, options: dict[str, Any]
    ) -> None:
        self.dims, self.func, self.skipna, self.options = dims, func, skipna, options
        self.labels = [grouper.codes for grouper in groupers]
        self.group_dims = list(dict.fromkeys(d for labels in self.labels for d in labels.dims))
        self.lengths = {d: n for labels in self.labels for d, n in labels.sizes.items()}
        self.sizes: dict[Hashable, int] = {d: n for d, n in self.lengths.items() if d not in dims}
        parts = [(Variable((d,), np.arange(n)), n) for d, n in self.sizes.items()]
        parts += [(grouper.codes.variable, len(grouper)) for grouper in groupers]
        self.names = [grouper.name for grouper in groupers]
        self.sizes |= {grouper.name: len(grouper) for grouper in groupers}
        (self.codes, _), *others = parts
        for codes, size in others:
            none = (self.codes < 0) | (codes < 0)
            self.codes = (self.codes * size + codes).where(~none, -1)

    def of(self, v: Variable, attrs: bool, in_dataset: bool) -> Variable:
        """The reduction of one variable."""
        if not set(self.dims) & set(v.dims):
            wide = {name: self.sizes[name] for name in self.names if name not in v.dims}
            return v.set_dims({**wide, **v.sizes})
        wide = v.set_dims({**v.sizes, **{d: n for d, n in self.lengths.items() if d not in v.dims}})
        codes = self.codes
        if codes.ndim > 1:
            together = {"groups of all": codes.dims}
            wide, codes = wide.stack(together), codes.stack(together)
        (along,) = codes.dims
        also = [d for d in self.dims if d in wide.dims and d != along]
        func, options = self.func, {k: v for k, v in self.options.items() if k in _OPTIONS}
        skipna = wide.dtype.kind in "cfO" if self.skipna is None else self.skipna
        if skipna and func not in _WITHOUT_SKIPNA:
            func = f"nan{func}"
        places = (codes.data, prod(self.sizes.values()), wide.dims.index(along), [wide.dims.index(d) for d in also])
        found = _reduced(asarray(wide.data), func, *places, **options)
        lead = ["quantile"] * np.ndim(options.get("q", 0))
        groups = along if len(self.sizes) > 1 else self.names[0]
        dims = [*lead, *(groups if d == along else d for d in wide.dims if d not in also)]
        reduced = Variable(dims, found, v.attrs if attrs else {})
        if len(self.sizes) > 1:
            reduced = reduced.unstack({along: self.sizes})
        return self._in_order(reduced, v, in_dataset)

    def _in_order(self, reduced: Variable, v: Variable, in_dataset: bool) -> Variable:
        """Dimensions as they were; the groups come first in a dataset, else where the labels' dimension was."""

        def place(dim: Hashable) -> float:
            if dim == "quantile" or dim not in (*self.names, *v.dims):
                return np.inf
            if dim not in self.names:
                return v.dims.index(dim)
            (labels, *others) = self.labels
            if others or labels.ndim > 1:
                return v.ndim
            return -1 if in_dataset else v.dims.index(labels.dims[0])

        return reduced.transpose(*sorted(reduced.dims, key=place))


_START = {"year": 2000, "month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0, "microsecond": 0}


def _reduced(array: Array, func: str, codes: Any, size: int, axis: int, also: list[int], **options: Any) -> Array:
    """The reduction of an array. Objects of which a mean is wanted are dates of other calendars than NumPy's."""
    if array.dtype.kind != "O" or not func.endswith("mean"):
        return groupby_reduce(array, codes, size, func, axis, also=also, **options)
    numbers = map_blocks(_microseconds, array, dtype=float)
    middle = groupby_reduce(numbers, codes, size, "nanmean", axis, also=also, **options)
    first = groupby_reduce(array, codes, size, "first", axis)
    for k in sorted(also, reverse=True):
        first = first[(slice(None),) * k + (0,)]
    return map_blocks(_dates, middle, first, dtype=object)


def _microseconds(dates: np.ndarray) -> np.ndarray:
    """Since the year 2000 of the dates' own calendar; NaN for what is no date."""
    return np.array([_since(d) if hasattr(d, "calendar") else np.nan for d in dates.flat], float).reshape(dates.shape)


def _since(date: Any) -> float:
    return float((date - date.replace(**_START)) // timedelta(microseconds=1))


def _dates(microseconds: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The other way round, in the calendar of dates."""
    found = np.full(microseconds.shape, np.nan, object)
    for place in np.argwhere(microseconds == microseconds):
        passed = timedelta(microseconds=float(microseconds[tuple(place)]))
        found[tuple(place)] = like[tuple(place)].replace(**_START) + passed
    return found
