"""The methods of :class:`Array`: nearly all are functions of the namespace, whose first argument is the array.

Bound here and not in the class body, because the functions' modules need the class first.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tilework.array import (
    creation,
    dispatch,
    extremes,
    files,
    manipulation,
    mapping,
    overlap,
    products,
    rechunking,
    reductions,
    searching,
    shapes,
    shuffling,
    statistics,
    storage,
    ufuncs,
)
from tilework.array.assignment import setitem
from tilework.array.core import Array
from tilework.array.elementwise import Mapped
from tilework.array.html import array_html, array_svg
from tilework.array.indexing import BlockIndexer, PointIndexer, getitem
from tilework.base.errors import DTypeError, PlanError, UnknownChunksError
from tilework.delayed import delayed
from tilework.plan import build
from tilework.plan.ops import BlockFunction, Slot

# ---------------------------------------------------------------- methods that differ from the functions


def _reshape(self: Array, *shape: Any, order: str = "C", **options: Any) -> Array:
    """The same elements in another shape, given as a tuple or as arguments. See :func:`tilework.array.reshape`."""
    return shapes.reshape(self, shape[0] if len(shape) == 1 else shape, order, **options)


def _transpose(self: Array, *axes: Any) -> Array:
    """Axes in another order, given as a tuple or as arguments; reversed by default."""
    given = axes[0] if len(axes) == 1 and not isinstance(axes[0], int | np.integer) else axes or None
    return shapes.transpose(self, given)


def _conjugate(self: Array) -> Array:
    """Complex conjugates."""
    return np.conjugate(self)  # type: ignore[return-value]


def _map_blocks(self: Array, func: Any, *args: Any, **kwargs: Any) -> Array:
    """Apply a function to every block. See :func:`tilework.array.map_blocks`."""
    return mapping.map_blocks(func, self, *args, **kwargs)


def _map_overlap(self: Array, func: Any, depth: Any, boundary: Any = None, trim: bool = True, **kwargs: Any) -> Array:
    """Apply a function to blocks with a border of their neighbours. See :func:`tilework.array.map_overlap`."""
    return overlap.map_overlap(func, self, depth=depth, boundary=boundary, trim=trim, **kwargs)


def _to_device(self: Array, device: Any, /, *, stream: Any = None) -> Array:
    """The array itself, for the array API: there is one device."""
    creation.check_device(device)
    return self


_API_VERSIONS = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")


def _namespace(self: Array, /, *, api_version: str | None = None) -> Any:
    """The module :mod:`tilework.array`, for the array API."""
    if api_version not in (None, *_API_VERSIONS):
        raise PlanError(f"api_version={api_version!r} is none of {', '.join(_API_VERSIONS)}")
    return sys.modules["tilework.array"]


def _view(self: Array, dtype: Any = None, order: str = "C") -> Array:
    """The bytes of the elements read as another type.

    If that has another size, the last axis gets another length; for ``order="F"`` the first axis.
    """
    dtype = self.dtype if dtype is None else np.dtype(dtype)
    if order not in ("C", "F"):
        raise PlanError(f"view: order={order!r} must be 'C' or 'F', for another length of the last or the first axis")
    if order == "F":
        return shapes.transpose(_view(shapes.transpose(self), dtype))
    if self.dtype.hasobject or dtype.hasobject:
        raise DTypeError(f"view: elements of dtype {self.dtype} cannot be read as {dtype}; objects have no bytes")
    old, new = self.dtype.itemsize, dtype.itemsize
    if old == new:
        return Array(build.elementwise(Mapped(_view_block, (("dtype", dtype),)), [self.node], dtype, "view"))
    if not self.ndim or any(size * old % new for size in self.chunks[-1]):
        raise PlanError(
            f"view: blocks of {self.chunks[-1] if self.ndim else 1} elements of {old} bytes along the last axis are no "
            f"whole elements of {new} bytes; rechunk first"
        )
    labels = range(self.ndim)
    function = BlockFunction(_view_block, (Slot(0),), {"dtype": dtype})
    sizes = [size * old // new for size in self.chunks[-1]]
    node = build.blockwise(
        function, labels, [(self.node, labels)], dtype, adjust_chunks={self.ndim - 1: sizes}, label="view"
    )
    return Array(node)


def _view_block(block: np.ndarray, *, dtype: np.dtype[Any]) -> np.ndarray:
    return np.ascontiguousarray(block).view(dtype) if block.ndim else block.reshape(1).view(dtype).reshape(())


def _compute_chunk_sizes(self: Array) -> Array:
    """Find out unknown chunk sizes by computing the array once; its shape and chunks are known afterwards.

    Returns
    -------
    Array
        This array.
    """
    unknown = [axis for axis, chunks in enumerate(self.chunks) if not chunks.known]
    if unknown:
        labels = tuple(range(self.ndim))
        measure = BlockFunction(_measure, (Slot(0),))
        sizes = build.blockwise(
            measure, (*labels, "size"), [(self.node, labels)], np.int64, new_axes={"size": self.ndim},
            adjust_chunks=dict.fromkeys(labels, 1), label="compute_chunk_sizes",
        )  # fmt: skip
        found = Array(sizes).compute()
        chunks: dict[Any, Any] = {axis: _along(found[..., axis], axis) for axis in unknown}
        known = BlockFunction(_same, (Slot(0),), scratch=0.0)  # opaque: what is known above it is not known below
        self.node = build.blockwise(
            known, labels, [(self.node, labels)], self.dtype, adjust_chunks=chunks, label=self.node.label
        )
    return self


def _along(sizes: np.ndarray, axis: int) -> tuple[int, ...]:
    """Sizes along one axis, from the first block of each row: that all agree is checked when the blocks come."""
    return tuple(np.moveaxis(sizes, axis, -1).reshape(-1, sizes.shape[axis])[0].tolist())


def _same(block: np.ndarray) -> np.ndarray:
    return block


def _measure(block: np.ndarray) -> np.ndarray:
    return np.array(block.shape, np.int64).reshape((1,) * block.ndim + (-1,))


def _to_delayed(self: Array, optimize_graph: bool = True) -> np.ndarray:
    """The blocks as delayed values, in an object array with one element per block."""
    if not all(axis.known for axis in self.chunks):
        raise UnknownChunksError("to_delayed needs known chunk sizes; call compute_chunk_sizes() first")
    out = np.empty(self.numblocks, object)
    for index in np.ndindex(self.numblocks):
        out[index] = delayed(BlockIndexer(self)[index])
    return out


def _html(self: Array) -> str:
    """The array's facts and a picture of its chunks, for notebooks."""
    return array_html(self.node.label, self.shape, self.dtype, self.chunks, self.chunksize, self.nbytes)


def _svg(self: Array, size: int = 500) -> str:
    """A picture of the array's chunks, ``size`` pixels wide, as SVG."""
    return array_svg(self.chunks, size)


def _to_hdf5(self: Array, filename: Any, datapath: str, **kwargs: Any) -> None:
    """Write the array into an HDF5 file. See :func:`tilework.array.to_hdf5`."""
    files.to_hdf5(filename, datapath, self, **kwargs)


# ---------------------------------------------------------------- binding

_SAME = {
    creation: "copy",
    extremes: "argtopk topk",
    manipulation: "compress diagonal repeat take",
    products: "dot",
    rechunking: "rechunk",
    reductions: "all any argmax argmin cumprod cumsum max mean min prod ptp std sum trace var",
    searching: "argsort nonzero searchsorted",
    shapes: "ravel squeeze swapaxes",
    shuffling: "shuffle",
    statistics: "moment",
    storage: "store to_zarr",
    ufuncs: "astype choose clip round",
}
"""Functions that are methods as they are."""

_OTHER = {
    "__array_function__": dispatch.Lookup(),
    "__array_namespace__": _namespace,
    "__array_ufunc__": ufuncs.array_ufunc,
    "__getitem__": getitem,
    "__setitem__": setitem,
    "_repr_html_": _html,
    "compute_chunk_sizes": _compute_chunk_sizes,
    "conj": _conjugate,
    "conjugate": _conjugate,
    "flatten": shapes.ravel,
    "map_blocks": _map_blocks,
    "map_overlap": _map_overlap,
    "reshape": _reshape,
    "to_delayed": _to_delayed,
    "to_device": _to_device,
    "to_hdf5": _to_hdf5,
    "to_svg": _svg,
    "transpose": _transpose,
    "view": _view,
    "T": property(shapes.transpose, doc="Axes in reversed order."),
    "mT": property(shapes.matrix_transpose, doc="The last two axes exchanged."),
    "real": property(ufuncs.real, doc="Real parts."),
    "imag": property(ufuncs.imag, doc="Imaginary parts."),
    "blocks": property(BlockIndexer, doc="Indexing by whole blocks: ``x.blocks[0, 1:]``."),
    "partitions": property(BlockIndexer, doc="Indexing by whole blocks: ``x.partitions[0, 1:]``."),
    "vindex": property(PointIndexer, doc="Indexing by points: ``x.vindex[[0, 1], [2, 3]]`` has two elements."),
}


def bind() -> None:
    """Give the class its methods. Done once, by the package."""
    for module, names in _SAME.items():
        for name in names.split():
            setattr(Array, name, getattr(module, name))
    for name, attribute in _OTHER.items():
        setattr(Array, name, attribute)
