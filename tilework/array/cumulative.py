"""Cumulative operations from a user's own functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.plan import build


def cumreduction(
    func: Callable[..., Any],
    binop: Callable[[Any, Any], Any],
    ident: Any,
    x: Any,
    axis: int | None = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Array:
    """A cumulative operation along an axis, from a function of blocks and one that joins two results.

    Parameters
    ----------
    func
        ``func(block, axis=axis, **kwargs)``, the operation inside a block, such as ``np.cumsum``.
    binop
        ``binop(before, block)`` joins the last element of what came before with a later result, such as ``np.add``.
    ident
        The value that changes nothing. Not needed, as the first block has nothing before it; here for Dask's signature.
    x
        Array.
    axis
        Axis to go along; None for the flattened array.
    dtype
        Data type of the result; that of ``x`` by default.
    **kwargs
        Passed to ``func``.

    Returns
    -------
    Array
        Lazy, of the shape and chunks of ``x``.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> ta.cumreduction(np.cumsum, np.add, 0, ta.ones(4, chunks=2), axis=0).compute()
    array([1., 2., 3., 4.])
    """
    array = asarray(x)
    if axis is None:
        array, axis = array.reshape(-1), 0
    local = partial(func, **kwargs) if kwargs else func
    label = getattr(func, "__name__", "cumreduction").strip("_")
    return Array(build.scan(array.node, axis, (local, None, binop), np.dtype(dtype or array.dtype), label))
