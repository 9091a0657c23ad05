"""What runs tile by tile though NumPy has no ufunc for it.

Elementwise operations run as ``fn(*args, out=tile)``, as ufuncs do; the tile is never the memory of an argument. What
has parameters is a class whose instances are data, so that equal ones have equal tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilework.plan import build, tilefuncs
from tilework.plan.ops import ArrayNode


@dataclass(frozen=True, slots=True)
class Mapped:
    """A NumPy function that works element by element, with keywords."""

    function: Callable[..., Any]
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *args: Any, out: np.ndarray | None = None) -> Any:
        return _deliver(self.function(*args, **dict(self.keywords)), out)


@dataclass(frozen=True, slots=True)
class Part:
    """One result of a ufunc that has several."""

    ufunc: np.ufunc
    number: int

    def __call__(self, *args: Any, out: np.ndarray | None = None) -> Any:
        return _deliver(self.ufunc(*args)[self.number], out)


@dataclass(frozen=True, slots=True)
class Masked:
    """A ufunc with ``where=``, called as ``fn(base, mask, *args)``: ``base`` shows where the mask is false."""

    ufunc: np.ufunc

    def __call__(self, base: Any, mask: Any, *args: Any, out: np.ndarray | None = None) -> Any:
        shape = np.broadcast_shapes(*(np.shape(arg) for arg in (base, mask, *args)))
        result = np.array(np.broadcast_to(base, shape))
        self.ufunc(*args, out=result, where=mask)
        return _deliver(result, out)


def _deliver(result: Any, out: np.ndarray | None) -> Any:
    if out is None:
        return result
    np.copyto(out, result, casting="unsafe")
    return out


@dataclass(frozen=True, slots=True)
class Cast:
    """``astype``, without a check."""

    dtype: np.dtype[Any]

    def __call__(self, x: Any, *, out: np.ndarray | None = None) -> Any:
        return np.asarray(x).astype(self.dtype) if out is None else _deliver(x, out)


pick = tilefuncs.where


def cast(node: ArrayNode, dtype: Any) -> ArrayNode:
    """The node as another dtype."""
    dtype = np.empty(0, node.dtype).astype(dtype).dtype  # NumPy finds the length for "U"
    return node if node.dtype == dtype else build.elementwise(Cast(dtype), [node], dtype, "astype")
