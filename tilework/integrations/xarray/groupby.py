"""Grouped reductions of xarray objects: ``ds.groupby("time.month").mean()``, ``ds.resample(time="1MS").max()``.

If the package flox is installed, xarray hands grouped reductions to it. flox knows arrays of NumPy, Dask and Cubed,
and there is no way to register another. So :func:`teach_flox` lets its ``groupby_reduce``, as xarray calls it, pass
tilework arrays to :func:`tilework.array.grouping.groupby_reduce`. flox is not imported before xarray would import it.

Without flox xarray selects, reduces and joins group after group. That works on tilework as it is, but a group is a
selection of its own there: with many groups, or data that cannot be kept in memory, flox is worth having.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd
from xarray.core import duck_array_ops, groupby

from tilework.array import Array, moveaxis, transpose
from tilework.array.grouping import groupby_reduce
from tilework.base.errors import UnsupportedError
from tilework.integrations.xarray.adapting import holds_arrays
from tilework.plan import build
from tilework.plan.ops import Blockwise, Elementwise


def adapt_groupby() -> None:
    """Let grouped operations on tilework arrays find their way. Once, when the chunk manager loads."""
    groups = groupby.GroupBy
    if hasattr(groups, "_flox_reduce"):
        groups._flox_reduce = _reducing(groups._flox_reduce)
    if hasattr(groups, "_flox_scan"):
        groups._flox_scan = _scanning(groups._flox_scan)


def _reducing(theirs: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def flox_reduce(self: Any, *args: Any, **kwargs: Any) -> Any:
        if holds_arrays(self._obj):
            teach_flox()
        return theirs(self, *args, **kwargs)

    return flox_reduce


def _scanning(theirs: Callable[..., Any]) -> Callable[..., Any]:
    """Cumulative operations by group go the way that xarray goes without flox; only the dimensions lie as with it."""

    @wraps(theirs)
    def flox_scan(self: Any, dim: Any, *, func: str, **kwargs: Any) -> Any:
        if not holds_arrays(self._obj):
            return theirs(self, dim, func=func, **kwargs)
        result = self.reduce(getattr(duck_array_ops, func), dim=dim, **kwargs).assign_coords(self._obj.coords)
        return result.transpose(..., *self._parse_dim(dim))

    return flox_scan


def teach_flox() -> None:
    """Let ``flox.xarray`` pass tilework arrays on."""
    from flox import xarray as flox_xarray

    theirs: Any = flox_xarray.groupby_reduce  # type: ignore[attr-defined]
    if hasattr(theirs, "__wrapped__"):
        return

    @wraps(theirs)
    def reduce(array: Any, *by: Any, **kwargs: Any) -> Any:
        return _reduce(array, *by, **kwargs) if isinstance(array, Array) else theirs(array, *by, **kwargs)

    flox_xarray.groupby_reduce = reduce  # type: ignore[attr-defined]


def _reduce(
    array: Array,
    *by: Any,
    func: Any,
    expected_groups: Sequence[Any] | None = None,
    isbin: Any = False,
    axis: Any = None,
    fill_value: Any = None,
    dtype: Any = None,
    min_count: int | None = None,
    finalize_kwargs: dict[str, Any] | None = None,
    **_: Any,
) -> tuple[Any, ...]:
    """``flox.groupby_reduce``. The other parameters choose between ways that differ in speed only."""
    if not isinstance(func, str):
        raise UnsupportedError(f"groupby: {func!r} is no name of a reduction; use groupby(...).map()")
    if any(isinstance(labels, Array) for labels in by):
        raise UnsupportedError("groupby: labels must be in memory; call load() on the variable to group by")
    expected = expected_groups if isinstance(expected_groups, tuple) else (expected_groups,) * len(by)
    pairs = [_numbered(np.asarray(labels), groups) for labels, groups in zip(by, expected, strict=True)]
    codes, sizes = _combined([codes for codes, _ in pairs], [len(groups) for _, groups in pairs])
    first = array.ndim - codes.ndim
    axes = range(first, array.ndim) if axis is None else build.normalize_axis(axis, array.ndim)
    array, codes, along, also = _on_one_axis(array, codes, first, tuple(axes))
    array, order = _as_it_lies(array)
    options = dict(finalize_kwargs or {})
    if fill_value is not None and not np.isscalar(fill_value):  # flox's own name for "NaN, if there is a need"
        fill_value = None
    result = groupby_reduce(
        array, codes, int(np.prod(sizes)), func, order.index(along), also=[order.index(a) for a in also],
        fill_value=fill_value, min_count=min_count or 0, dtype=dtype, **options,
    )  # fmt: skip
    lead = np.ndim(options.get("q", 0))
    left = [a for a in order if a not in also]
    place = [lead + left.index(a) for a in sorted(left) if a != along]
    result = transpose(result, [*range(lead), *place, lead + left.index(along)])
    if len(sizes) > 1:
        result = result.reshape(*result.shape[:-1], *sizes)
    return (result, *(groups for _, groups in pairs))


def _as_it_lies(array: Array) -> tuple[Array, list[int]]:
    """The array before it was transposed, and for each of its axes which one that has become.

    flox wants the grouped axis last. Blocks are larger and reductions faster in the order in which values are stored.
    """
    node = array.node
    if isinstance(node, Blockwise) and isinstance(node.op, Elementwise) and node.op.fn is None:
        order = list(node.axes[0])
        if sorted(order) == list(range(node.ndim)) and all(
            have == node.chunks[a] for have, a in zip(node.inputs[0].chunks, order, strict=True)
        ):
            return Array(node.inputs[0]), order
    return array, list(range(array.ndim))


def _numbered(labels: np.ndarray, groups: pd.Index | None) -> tuple[np.ndarray, pd.Index]:
    """The number of each label's group, and the groups."""
    if groups is None:
        codes, found = pd.factorize(labels.ravel(), sort=True)
        return codes.reshape(labels.shape), pd.Index(found)
    groups = pd.Index(groups)
    return groups.get_indexer(labels.ravel()).reshape(labels.shape), groups


def _combined(codes: list[np.ndarray], sizes: list[int]) -> tuple[np.ndarray, list[int]]:
    """One number for each combination of groups."""
    broad = np.broadcast_arrays(*codes)
    none = np.logical_or.reduce([c < 0 for c in broad])
    joint = (
        np.ravel_multi_index([np.where(none, 0, c) for c in broad], sizes) if min(sizes) else np.zeros_like(broad[0])
    )
    return np.where(none, -1, joint), sizes


def _on_one_axis(
    array: Array, codes: np.ndarray, first: int, axes: tuple[int, ...]
) -> tuple[Array, np.ndarray, int, list[int]]:
    """The array with its codes along one axis, and the axes that are reduced besides.

    Where codes vary along several axes, these become one, at the end.
    """
    vary = [first + k for k, n in enumerate(codes.shape) if n != 1]
    if not set(vary) <= set(axes):
        raise UnsupportedError("groupby: groups that also vary along dimensions that stay are not supported; use map()")
    if len(vary) <= 1:
        along = vary[0] if vary else axes[-1]
        codes = np.broadcast_to(codes.ravel(), (array.shape[along],))
        return array, codes, along, [a for a in axes if a != along]
    stay = [a for a in range(array.ndim) if a not in vary]
    array = moveaxis(array, vary, range(len(stay), array.ndim))
    array = array.reshape(*array.shape[: len(stay)], -1)
    return array, codes.ravel(), len(stay), [stay.index(a) for a in axes if a in stay]
