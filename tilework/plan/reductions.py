"""What a reduction is: how one block is reduced, how partial results join, how the last one becomes the answer.

A *partial* is an ndarray, or a tuple of ndarrays (count and mean, value and place), each with the reduced axes kept
at length one. Partials of several blocks are concatenated along the reduced axes, component by component, before
``combine`` sees them: a combine is therefore again a plain reduction over axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

Partial: TypeAlias = np.ndarray | tuple[np.ndarray, ...]


class Accumulator(Protocol):
    """Takes a block tile by tile, so that the block itself need never exist. One per block and thread."""

    def update(self, tile: np.ndarray, where: tuple[slice, ...], owned: bool, shared: dict[Any, Any]) -> None:
        """Take one tile.

        Parameters
        ----------
        tile
            Not empty.
        where
            Its region of the kept-dims result. The regions of two tiles are the same or disjoint.
        owned
            Whether ``tile`` may be overwritten.
        shared
            What accumulators that take the same tile have found out about it, for each other; empty for the first.
        """
        ...

    def result(self) -> Partial:
        """The partial of the tiles so far. Called once, at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Reduction:
    """A tree reduction, as data.

    Attributes
    ----------
    name
        What users call it: ``"sum"``.
    partial
        ``partial(block, axis)`` → Partial with kept dims; ``axis`` is a tuple.
        If ``place`` is set, called with ``block_place=BlockPlace`` as well (arg-reductions need the block's offset).
        Where there is no answer for an empty block (``min``), its partial has length zero along the reduced axes.
    combine
        ``combine(partial, axis)`` → Partial with kept dims.
    finalize
        ``finalize(partial)`` → ndarray, with the reduced axes still at length one.
    accumulator
        ``accumulator(shape, axis, dtype)`` → Accumulator for blocks of that shape and dtype, or None where tiles do
        not serve. It must agree with ``partial`` up to rounding.
    partial_itemsize
        Bytes per element of the partial (all components), for the memory contract.
    dtype
        Of the answer; None where whoever made the reduction keeps it elsewhere.
    """

    name: str
    partial: Callable[..., Partial]
    combine: Callable[..., Partial]
    finalize: Callable[[Any], np.ndarray]
    accumulator: Callable[[tuple[int, ...], tuple[int, ...], np.dtype[Any]], Accumulator] | None = None
    partial_itemsize: int = 8
    place: bool = False
    dtype: np.dtype[Any] | None = None
