"""Differences of neighbours as derivatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tilework.array.core import Array, in_memory
from tilework.array.creation import asarray
from tilework.base.errors import PlanError, UnknownChunksError, UnsupportedError
from tilework.base.tokens import tokenize
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Slot
from tilework.plan.stages import BlockPlace


def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Derivatives by central differences, one-sided at the ends. See :func:`numpy.gradient`.

    Parameters
    ----------
    f
        The array.
    *varargs
        Distances: nothing (they are 1), one number for all axes, or for each of ``axis`` a number or the coordinates
        along it. They must not be lazy.
    axis
        An axis or several; all by default.
    edge_order
        1 or 2: the accuracy at the ends.

    Returns
    -------
    Array or tuple of Array
        One for each axis; the array itself if ``axis`` is a number or there is only one.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.gradient(ta.arange(4, chunks=2) ** 2).compute()
    array([1., 2., 4., 5.])
    """
    f = asarray(f)
    axes = tuple(range(f.ndim)) if axis is None else np.lib.array_utils.normalize_axis_tuple(axis, f.ndim)
    spacing = [1.0] * len(axes) if not varargs else list(varargs) * (len(axes) if len(varargs) == 1 else 1)
    if len(spacing) != len(axes) or (len(varargs) == 1 < len(axes) and np.ndim(varargs[0])):
        raise PlanError(f"gradient: {len(varargs)} distances do not fit {len(axes)} axes; give one for each")
    if any(isinstance(h, Array) for h in spacing):
        raise UnsupportedError("gradient: coordinates must not be lazy; compute() them first")
    found = tuple(_along(f, k, h, edge_order) for k, h in zip(axes, spacing, strict=True))
    return found[0] if len(found) == 1 else found


def _along(f: Array, axis: int, spacing: Any, edge_order: int) -> Array:
    n, chunks = f.shape[axis], f.chunks[axis]
    if not chunks.known:
        raise UnknownChunksError(f"gradient: axis {axis} has unknown chunk sizes; call compute_chunk_sizes() first")
    if n < edge_order + 1:
        raise PlanError(f"gradient: axis {axis} of length {n} is too short; edge_order={edge_order} needs one more")
    spacing = np.asarray(in_memory(spacing, "gradient: a distance"))
    if spacing.ndim and spacing.shape != (n,):
        raise PlanError(f"gradient: coordinates of shape {spacing.shape} do not fit axis {axis} of length {n}")
    dtype = np.gradient(np.ones(3, f.dtype), *([np.arange(3, dtype=spacing.dtype)] if spacing.ndim else [])).dtype
    labels = range(f.ndim)
    node = build.overlap(f.node, [(edge_order, edge_order) if k == axis else (0, 0) for k in labels])
    function = BlockFunction(_Gradient(axis, spacing, edge_order, chunks), (Slot(0),), place=True, scratch=2.0)
    return Array(
        build.blockwise(
            function, labels, [(node, labels)], dtype, adjust_chunks={axis: tuple(chunks)}, label="gradient"
        )
    )


@dataclass(frozen=True)
class _Gradient:
    """``numpy.gradient`` of a block with as much of its neighbours as the ends need, which are cut off again."""

    axis: int
    spacing: np.ndarray
    edge_order: int
    chunks: AxisChunks

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        k = block_place.index[self.axis]
        lo, hi = int(self.chunks.bounds[k]), int(self.chunks.bounds[k + 1])
        first = max(0, lo - self.edge_order)
        spacing: Any = self.spacing[first : first + block.shape[self.axis]] if self.spacing.ndim else self.spacing[()]
        found: Any = np.gradient(block, spacing, axis=self.axis, edge_order=self.edge_order)  # type: ignore[call-overload]
        return np.asarray(found)[(slice(None),) * self.axis + (slice(lo - first, hi - first),)]

    def __tilework_token__(self) -> str:
        return tokenize(self.axis, self.spacing.tobytes(), self.edge_order, self.chunks)


__all__ = ["gradient"]
