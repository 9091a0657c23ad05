"""The functions of whole blocks that lowering itself puts into programs. Small, picklable, free of the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilework.base.errors import StorageError
from tilework.base.scratch import ScratchFile, place, unreadable
from tilework.plan.blocks import AxisChunks
from tilework.plan.reductions import Reduction
from tilework.plan.sorting import cuts, windows
from tilework.plan.stages import BlockPlace


def identity(block: np.ndarray) -> np.ndarray:
    return block


@dataclass(frozen=True)
class AtOwnPlace:
    """A user's function that is told where its block lies, in a task whose grid has other axes than its node."""

    fn: Callable[..., Any]
    chunks: tuple[AxisChunks, ...]
    axes: tuple[int | None, ...]

    def __call__(self, *args: Any, block_place: BlockPlace, **kwargs: Any) -> Any:
        index = tuple(
            0 if axis is None or len(c) == 1 else block_place.index[axis]
            for c, axis in zip(self.chunks, self.axes, strict=True)
        )
        place = BlockPlace(index, tuple(map(len, self.chunks)), self.chunks)
        return self.fn(*args, block_place=place, **kwargs)


@dataclass(frozen=True)
class OpenScratch:
    """A new scratch file."""

    directory: str | None

    def __call__(self) -> ScratchFile:
        try:
            return ScratchFile(self.directory)
        except OSError as error:
            raise StorageError(
                f"cannot make scratch space in {place(self.directory)!r}: {error}. Set spill_directory to another "
                "directory, or raise memory=... so that it is not needed"
            ) from error


@dataclass(frozen=True)
class MergeRuns:
    """One block of a sorted array, from sorted runs that lie one after another in a scratch file."""

    runs: AxisChunks
    dtype: np.dtype[Any]
    key: str | None
    spacing: int

    def __call__(self, scratch: ScratchFile, ranked: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        (k,) = block_place.index
        first, stop = (self._cut(int(self.runs.bounds[j]), scratch, ranked) for j in (k, k + 1))
        merged = np.concatenate(self._read(scratch, first, stop))
        if self.key is None:
            merged.sort()
            return merged
        return merged[np.argsort(merged[self.key], kind="stable")]

    def _cut(self, rank: int, scratch: ScratchFile, ranked: np.ndarray) -> np.ndarray:
        first, stop = windows(rank, ranked, self.runs.sizes, self.spacing)
        values = self._read(scratch, first, stop)
        return cuts(rank, first, values if self.key is None else [v[self.key] for v in values])

    def _read(self, scratch: ScratchFile, first: np.ndarray, stop: np.ndarray) -> list[np.ndarray]:
        """The elements of each run from ``first`` to ``stop``."""
        buffer = np.empty(int((stop - first).sum()), self.dtype)
        pieces = np.split(buffer, np.cumsum(stop - first)[:-1])
        try:
            for piece, begin in zip(pieces, self.runs.bounds[:-1] + first, strict=True):
                scratch.read([piece.view(np.uint8).data], int(begin) * self.dtype.itemsize)
        except OSError as error:
            raise unreadable(buffer.nbytes, error) from error
        return pieces


@dataclass(frozen=True)
class ReshapeBlock:
    """The block reshaped to what the chunks say at its place."""

    chunks: tuple[AxisChunks, ...]

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        return block.reshape([c[k] for c, k in zip(self.chunks, block_place.index, strict=True)])


@dataclass(frozen=True)
class ViewBlock:
    """Axes of a block permuted, dropped, added and stretched, as a view.

    ``labels`` are the labels of the block's axes (from the number of output axes on: dropped); ``sizes`` gives the
    sizes of each output axis and the grid axis that picks one.
    """

    labels: tuple[int, ...]
    sizes: tuple[tuple[AxisChunks, int | None], ...]

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        ndim = len(self.sizes)
        kept = sorted((label, axis) for axis, label in enumerate(self.labels) if label < ndim)
        dropped = [axis for axis, label in enumerate(self.labels) if label >= ndim]
        view = block.transpose([axis for _, axis in kept] + dropped)
        have = dict(zip([label for label, _ in kept], view.shape, strict=False))
        view = view.reshape([have.get(k, 1) for k in range(ndim)]) if len(have) < ndim or dropped else view
        shape = []
        for k, (chunks, axis) in enumerate(self.sizes):
            size = chunks[0 if axis is None else block_place.index[axis]]
            shape.append(size if size == size else have[k])  # NaN: as the block has it
        return view if tuple(shape) == view.shape else np.broadcast_to(view, shape)


@dataclass(frozen=True)
class ReduceJoin:
    """One level of a tree reduction: joined partials to one partial."""

    reduction: Reduction
    axes: tuple[int, ...]

    def __call__(self, partial: Any) -> Any:
        return self.reduction.combine(partial, axis=self.axes)


@dataclass(frozen=True)
class ReduceEnd:
    """The last level: joined partials to the answer, reduced axes dropped unless they are kept."""

    reduction: Reduction
    axes: tuple[int, ...]
    keepdims: bool
    dtype: np.dtype[Any]
    combine: bool

    def __call__(self, partial: Any) -> np.ndarray:
        if self.combine:
            partial = self.reduction.combine(partial, axis=self.axes)
        out = np.asarray(self.reduction.finalize(partial))
        if out.dtype != self.dtype:
            out = out.astype(self.dtype)
        return out if self.keepdims else out.reshape([n for axis, n in enumerate(out.shape) if axis not in self.axes])


@dataclass(frozen=True)
class ScanStart:
    """The scan inside the block, and its total: nothing if it has no length, as many totals have no identity."""

    local: Callable[..., np.ndarray]
    total: Callable[..., np.ndarray] | None
    axis: int

    def __call__(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scanned = self.local(block, axis=self.axis)
        if self.total is not None and block.shape[self.axis]:
            return scanned, self.total(block, axis=self.axis)
        last = (slice(None),) * self.axis + (slice(-1, None),)
        return scanned, scanned[last].copy()


@dataclass(frozen=True)
class ScanOffset:
    """The total of all blocks so far, from the one before and this block's own."""

    join: Callable[..., Any]

    def __call__(self, before: list[Any], total: np.ndarray) -> np.ndarray:
        sofar = _only(before)
        if sofar is None or not sofar.size:
            return total
        return self.join(sofar, total) if total.size else sofar


@dataclass(frozen=True)
class ScanEnd:
    """The scan inside the block joined to what came before."""

    join: Callable[..., Any]

    def __call__(self, local: np.ndarray, before: list[Any]) -> np.ndarray:
        offset = _only(before)
        return local if offset is None or not offset.size else self.join(offset, local)


def _only(nested: Any) -> Any:
    """The one block of nested lists, or None if they are empty."""
    while isinstance(nested, list):
        if not nested:
            return None
        nested = nested[0]
    return nested
