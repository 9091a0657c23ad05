"""The largest or smallest elements along an axis, as tree reductions: no axis is sorted or gathered as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.array.shapes import ravel
from tilework.base.errors import PlanError
from tilework.plan import build
from tilework.plan.reductions import Reduction
from tilework.plan.stages import BlockPlace

Parts = tuple[np.ndarray, np.ndarray]


def topk(a: Any, k: int, axis: int | None = -1, split_every: Any = None) -> Array:
    """The ``k`` largest elements along an axis, largest first; for negative ``k`` the smallest, smallest first.

    Parameters
    ----------
    a
        The array.
    k
        How many. If there are fewer along the axis, all are returned.
    axis
        The axis. None: of all elements in a row.
    split_every
        How many partial results to join at a time.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.from_array([5, 1, 3, 6], chunks=2)
    >>> ta.topk(x, 2).compute(), ta.topk(x, -2).compute()
    (array([6, 5]), array([1, 3]))
    """
    x, best = _arguments(a, k, axis, "topk")
    size = abs(best.k) * x.dtype.itemsize
    reduction = Reduction("topk", best.values, best.values, best.ordered, partial_itemsize=size, dtype=x.dtype)
    return best.reduce(x, reduction, split_every)


def argtopk(a: Any, k: int, axis: int | None = -1, split_every: Any = None) -> Array:
    """Positions of the elements that :func:`topk` returns, with the same parameters.

    Of equal elements any may be taken.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.argtopk(ta.from_array([5, 1, 3, 6], chunks=2), 2).compute()
    array([3, 0])
    """
    x, best = _arguments(a, k, axis, "argtopk")
    size = abs(best.k) * (x.dtype.itemsize + 8)
    reduction = Reduction(
        "argtopk", best.first_parts, best.parts, best.ordered_places, partial_itemsize=size, place=True,
        dtype=np.dtype(np.intp),
    )  # fmt: skip
    return best.reduce(x, reduction, split_every)


def _arguments(a: Any, k: int, axis: int | None, label: str) -> tuple[Array, Best]:
    x = asarray(a)
    if not isinstance(k, int | np.integer) or k == 0:
        raise PlanError(f"{label}: k={k!r} must be a whole number, above zero for the largest, below for the smallest")
    if axis is None:
        x, axis = ravel(x), 0
    return x, Best(int(k), normalize_axis_index(axis, x.ndim))


@dataclass(frozen=True, slots=True)
class Best:
    """Selects the ``k`` largest (for negative ``k`` smallest) along ``axis``, in no order until the end."""

    k: int
    axis: int

    def reduce(self, x: Array, reduction: Reduction, split_every: Any) -> Array:
        """The reduction, whose partials are up to ``k`` long."""
        n = x.shape[self.axis]
        length = n if n != n else min(abs(self.k), n)
        return Array(
            build.reduce(
                x.node,
                reduction,
                self.axis,
                reduction.dtype,
                keepdims=True,
                split_every=split_every,
                out_sizes={self.axis: length},
            )
        )

    def _slice(self, n: int) -> tuple[slice, ...]:
        return (slice(None),) * self.axis + (slice(n - self.k, None) if self.k > 0 else slice(0, -self.k),)

    def _pivot(self, n: int) -> int:
        return n - self.k if self.k > 0 else -self.k - 1

    def values(self, x: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
        n = x.shape[self.axis]
        return x if n <= abs(self.k) else np.partition(x, self._pivot(n), self.axis)[self._slice(n)]

    def ordered(self, x: np.ndarray) -> np.ndarray:
        x = np.sort(x, axis=self.axis)
        return np.flip(x, self.axis) if self.k > 0 else x

    def first_parts(self, x: np.ndarray, axis: tuple[int, ...], block_place: BlockPlace) -> Parts:
        places = np.arange(x.shape[self.axis]) + block_place.offset(self.axis)
        along = [-1 if k == self.axis else 1 for k in range(x.ndim)]
        return self.parts((x, np.broadcast_to(places.reshape(along), x.shape)), axis)

    def parts(self, parts: Parts, axis: tuple[int, ...]) -> Parts:
        x, places = parts
        n = x.shape[self.axis]
        if n <= abs(self.k):
            return x, places
        chosen = np.argpartition(x, self._pivot(n), self.axis)[self._slice(n)]
        return np.take_along_axis(x, chosen, self.axis), np.take_along_axis(places, chosen, self.axis)

    def ordered_places(self, parts: Parts) -> np.ndarray:
        x, places = parts
        order = np.argsort(x, axis=self.axis, kind="stable")
        places = np.take_along_axis(places, order, self.axis)
        return np.flip(places, self.axis) if self.k > 0 else places


__all__ = ["argtopk", "topk"]
