"""NumPy's functions, looked up for lazy arrays: ``numpy.mean(x)`` is ``tilework.array.mean(x)``.

The package registers every function that has a namesake in NumPy. What NumPy has and tilework has not is refused, with
the nearest alternative; nothing is ever computed behind the user's back.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from types import MethodType
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.base.errors import UnsupportedError

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""By NumPy function or generalized ufunc: the function of ``tilework.array`` that stands for it."""

_NEAREST = {
    "convolve": "use map_overlap with a depth of the kernel's length",
    "copyto": "use where(mask, new, old); into a NumPy array, copy what compute() returns",
    "correlate": "use map_overlap with a depth of the kernel's length",
    "cross": "use linalg.cross",
    "fill_diagonal": "use where(eye(n, dtype=bool), value, x)",
    "interp": "use map_blocks(numpy.interp, x, xp=..., fp=..., dtype=float)",
    "linalg": "use apply_gufunc with numpy.linalg's function on axes of one block",
    "place": "use where(mask, value, x)",
    "polyfit": "use apply_gufunc, or sums of powers",
    "put": "use x[index] = value",
    "put_along_axis": "use where() with a mask",
    "putmask": "use where(mask, value, x)",
    "save": "use to_zarr() or to_npy_stack()",
    "savez": "use to_zarr()",
}


class Lookup:
    """``Array.__array_function__``. NumPy looks it up on the class, xarray on the array that it is given.

    That is the moment to load tilework's plug-in for xarray: operations that come before xarray asks for its chunk
    manager must find it loaded.
    """

    def __get__(self, array: Array | None, owner: type | None = None) -> Callable[..., Any]:
        if array is None:
            return array_function
        if "xarray" in sys.modules:
            _load_plugin()
        return MethodType(array_function, array)


@cache
def _load_plugin() -> None:
    from importlib.metadata import entry_points  # takes longer than all of tilework

    for plugin in entry_points(group="xarray.chunkmanagers", name="tilework"):
        plugin.load()


def array_function(
    self: Array, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``Array.__array_function__``."""
    if not all(issubclass(t, Array | np.ndarray | np.generic) for t in types):
        return NotImplemented
    if func not in FUNCTIONS and getattr(func, "__module__", None) in ("numpy.fft", "numpy.linalg"):
        import_module(func.__module__.replace("numpy", "tilework.array"))  # registers its functions
    found = FUNCTIONS.get(func)
    name = _name(func)
    if found is None:
        raise UnsupportedError(f"{name} does not work on lazy arrays; {_nearest(func)}")
    try:
        inspect.signature(found).bind(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedError(f"{name} on lazy arrays: {error}; see help(tilework.array.{func.__name__})") from None
    return found(*args, **kwargs)


def _name(func: Callable[..., Any]) -> str:
    return f"{getattr(func, '__module__', None) or 'numpy'}.{func.__name__}"


def _nearest(func: Callable[..., Any]) -> str:
    module = (getattr(func, "__module__", None) or "numpy").rpartition(".")[2]
    hint = _NEAREST.get(func.__name__) or _NEAREST.get(module)
    return (
        hint
        or f"use map_blocks where blocks are independent, or {_name(func)}(x.compute()) if the array fits into memory"
    )


def register(namespace: dict[str, Any], names: Iterable[str], module: Any = np) -> None:
    """Let the functions of a namespace stand for their namesakes in a module of NumPy's."""
    for name in names:
        theirs = getattr(module, name, None)
        if callable(theirs) and not isinstance(theirs, type) and theirs is not namespace[name]:
            FUNCTIONS[theirs] = namespace[name]
