"""Arrays from values and from rules.

Values that NumPy holds already are not copied: an array made by :func:`from_array` reads the original when it is
computed, so do not change that before. Constants and ranges hold no values at all; they are made where they are used.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from math import isnan, prod
from typing import Any

import numpy as np

from tilework.array.core import Array
from tilework.array.elementwise import Mapped, cast
from tilework.base import config
from tilework.base.errors import DTypeError, PlanError, UnknownChunksError, UnsupportedError
from tilework.io import hdf5, memory
from tilework.io.zarr import ZarrSource, is_zarr_array
from tilework.plan import blocks, build
from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.protocols import Source


def normalize(chunks: Any, shape: Sequence[Any], dtype: Any, previous: Any = None) -> Chunks:
    """Chunks from what a user wrote, with the block size that is configured for ``"auto"``."""
    return blocks.normalize_chunks(chunks, shape, dtype, config.get().chunk_size, previous)


def shape_of(shape: Any, signed: bool = False) -> tuple[int, ...]:
    """A shape from what a user wrote: an int, or a sequence of ints, not negative unless ``signed``."""
    if not np.iterable(shape):
        shape = (shape,)
    shape = tuple(shape)
    if any(isinstance(n, float) and isnan(n) for n in shape):
        raise UnknownChunksError(f"shape {shape} has an unknown length; call compute_chunk_sizes() first")
    lengths = tuple(map(operator.index, shape))
    if not signed and any(n < 0 for n in lengths):
        raise PlanError(f"shape {lengths} has a negative length; lengths are zero or more")
    return lengths


# ---------------------------------------------------------------- from what exists


def from_array(
    x: Any,
    chunks: Any = "auto",
    name: str | bool | None = None,
    lock: Any = False,
    asarray: bool | None = None,
    fancy: bool = True,
    getitem: Callable[..., Any] | None = None,
    meta: Any = None,
    inline_array: bool = False,
) -> Array:
    """An array from anything that looks like a NumPy array.

    Parameters
    ----------
    x
        A NumPy array (or what converts to one: lists, numbers), or an object with ``shape``, ``dtype`` and slicing,
        such as an HDF5 data set. It is read when the array is computed, from several threads.
    chunks
        A block size for all axes, a sequence with one value per axis, or a dict from axis to value. A value is a block
        size, a sequence of sizes, -1 for the whole axis, ``"auto"`` or a byte size such as ``"64MiB"``. ``"auto"``
        follows ``x.chunks``, the chunks in storage, if there are any.
    name
        A name that promises equal contents: arrays of one name are read once. False makes a name of its own.
    lock
        A lock to hold while reading, or True for a new one, for objects that cannot be read from several threads.
    asarray, fancy, meta, inline_array
        Without effect; for programs written for Dask.
    getitem
        Must be None: how ``x`` is read is not configurable.

    Raises
    ------
    ChunkError
        If the chunks do not fit the shape.
    DTypeError
        If chunks are to be found for elements without a size (dtype object).
    UnsupportedError
        For masked and sparse arrays: blocks are NumPy arrays.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> ta.from_array(np.arange(10), chunks=4)
    tilework.array<array, shape=(10,), dtype=int64, chunksize=(4,)>
    """
    if isinstance(x, Array):
        raise PlanError("from_array: this is a tilework array already; use rechunk() for other chunks, or asarray()")
    if getitem is not None:
        raise UnsupportedError("from_array: getitem= is not supported; wrap x in an object with its own __getitem__")
    _refuse_foreign(x)
    if isinstance(x, np.ndarray | np.generic) or not all(hasattr(x, a) for a in ("shape", "dtype", "__getitem__")):
        x = np.asarray(x)
    stored = getattr(x, "chunks", None)
    previous = stored if isinstance(stored, tuple) and len(stored) == len(x.shape) else None
    sizes = normalize(chunks, x.shape, x.dtype, previous)
    source, label = _source_of(x, name, lock)
    return Array(build.stored(source, sizes, label))


def _source_of(x: Any, name: str | bool | None, lock: Any) -> tuple[Source, str]:
    """The source that reads ``x`` with the least ado, and what its reads are called."""
    if is_zarr_array(x) and name is not False and not lock:
        return ZarrSource(x, name if isinstance(name, str) else None), "zarr"
    dataset = hdf5.of_dataset(x, name, lock)
    return (memory.ArraySource(x, name, lock), "array") if dataset is None else (dataset, "hdf5")


def _refuse_foreign(x: Any) -> None:
    """Blocks are NumPy arrays; what has values of another kind must be converted by someone who knows how."""
    if isinstance(x, np.ma.MaskedArray):
        raise UnsupportedError("masked arrays are not supported; use x.filled(numpy.nan) and the nan-functions")
    name = f"{type(x).__module__}.{type(x).__name__}"
    foreign = hasattr(type(x), "__array_function__") and not isinstance(x, np.ndarray | np.generic)
    if foreign or name.startswith("scipy.sparse."):
        raise UnsupportedError(
            f"{name} cannot be used as blocks, which are NumPy arrays; convert it first "
            "(a sparse array: x.toarray() or x.todense())"
        )
    try:
        np.dtype(getattr(x, "dtype", None))
    except TypeError:
        raise DTypeError(f"{name} has dtype {x.dtype}, which NumPy has not; convert it first: x.to_numpy()") from None


def asarray(
    a: Any,
    dtype: Any = None,
    order: str | None = None,
    *,
    chunks: Any = None,
    copy: bool | None = None,
    device: Any = None,
    like: Any = None,
    allow_unknown_chunksizes: bool = False,
    inline_array: bool = False,
) -> Array:
    """Convert to an array; arrays are passed through.

    Parameters
    ----------
    a
        An array, a NumPy array, an xarray object that holds an array, nested lists of numbers or arrays, a number.
    dtype
        The type to convert to.
    chunks
        As for :func:`from_array`, if ``a`` is no array yet. Default: automatic.
    copy
        Make a new array, that keeps its values when ``a`` is assigned to. By default there is no copy where there need
        not be one.
    order, device, like, allow_unknown_chunksizes, inline_array
        Without effect; for programs written for NumPy or Dask.
    """
    check_device(device)
    if isinstance(a, Array):
        x = Array(a.node) if copy else a
    elif not isinstance(a, np.ndarray | np.generic) and isinstance(getattr(a, "data", None), Array):
        x = a.data
    elif isinstance(a, list | tuple) and _holds_arrays(a):
        x = Array(stack_nodes([asarray(item).node for item in a], 0))
    else:
        _refuse_foreign(a)
        if isinstance(a, np.ndarray | np.generic) or not (hasattr(a, "shape") and hasattr(a, "dtype")):
            a = np.array(a, dtype) if copy else np.asarray(a, dtype)
        if chunks is None:
            chunks = -1 if np.dtype(a.dtype).hasobject else "auto"
        x = from_array(a, chunks)
    node = x.node if dtype is None else cast(x.node, dtype)
    return x if node is x.node else Array(node)


def check_device(device: Any) -> None:
    """Refuse any ``device=`` but the one there is."""
    if device not in (None, "cpu"):
        raise UnsupportedError(f"device={device!r} is not supported: arrays live on the 'cpu'")


asanyarray = asarray


def array(
    x: Any, dtype: Any = None, *, copy: bool = True, ndmin: int = 0, chunks: Any = None, like: Any = None
) -> Array:
    """As :func:`asarray`, but always a new object, with at least ``ndmin`` axes.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.array([1, 2, 3], ndmin=2).shape
    (1, 3)
    """
    x = asarray(x, dtype, chunks=chunks, copy=copy)
    missing = max(0, ndmin - x.ndim)
    return Array(build.rearrange(x.node, [None] * missing + list(range(x.ndim)), label="array"))


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Array:
    """An array from an object of another library that speaks DLPack."""
    check_device(device)
    return x if isinstance(x, Array) else from_array(np.from_dlpack(x))


def copy(a: Any, order: str = "C", subok: bool = False) -> Array:
    """A new object with the same values: assigning to one does not change the other. Nothing is copied."""
    return Array(asarray(a).node)


def _holds_arrays(nested: Any) -> bool:
    return any(isinstance(a, Array) or (isinstance(a, list | tuple) and _holds_arrays(a)) for a in nested)


def stack_nodes(nodes: Sequence[ArrayNode], axis: int) -> ArrayNode:
    """Nodes of one shape joined along a new axis (not negative)."""
    dtype = np.result_type(*(node.dtype for node in nodes))
    axes = [*range(axis), None, *range(axis, nodes[0].ndim)]
    return build.concatenate([build.rearrange(cast(node, dtype), axes, label="stack") for node in nodes], axis)


def operand(x: Any, like: Sequence[Any] = ()) -> Any:
    """What an elementwise node takes: a node for what has axes, anything else as it is.

    Large NumPy arrays are cut as the arrays among ``like`` are, so that blocks need not be cut again.
    """
    if isinstance(x, Array):
        return x.node
    if isinstance(x, bool | int | float | complex | np.generic | str | bytes) or x is None:
        return x
    if not isinstance(x, np.ndarray):
        return asarray(x).node if np.iterable(x) or hasattr(x, "shape") else np.asarray(x)[()]
    if x.ndim == 0:
        return x[()]
    _refuse_foreign(x)
    entries: list[Any] = [-1 if x.dtype.hasobject else "auto"] * x.ndim
    for other in like:
        if isinstance(other, Array):
            for back in range(1, min(x.ndim, other.ndim) + 1):
                if x.shape[-back] == other.shape[-back]:
                    entries[-back] = other.chunks[-back]
    return from_array(x, tuple(entries)).node


# ---------------------------------------------------------------- constants


def full(
    shape: Any,
    fill_value: Any,
    dtype: Any = None,
    order: str = "C",
    *,
    chunks: Any = "auto",
    name: Any = None,
    device: Any = None,
    like: Any = None,
) -> Array:
    """An array of one value everywhere, which takes no memory until it is used.

    Parameters
    ----------
    shape
        Lengths of the axes.
    fill_value
        The value.
    dtype
        Default: that of the value.
    chunks
        As for :func:`from_array`.
    name
        What :attr:`Array.name` is to say.
    order, device, like
        Without effect; for programs written for NumPy or Dask.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.full((2, 3), 7).compute()
    array([[7, 7, 7],
           [7, 7, 7]])
    """
    check_device(device)
    return _constant(shape, _scalar(fill_value, dtype, "full"), chunks, "full", name)


def _scalar(value: Any, dtype: Any, label: str) -> np.ndarray:
    if isinstance(value, Array) or np.ndim(value):
        raise PlanError(f"{label}: fill_value must be scalar, not {value!r}; use broadcast_to(fill_value, shape)")
    found = np.asarray(value)
    return found if dtype is None else found.astype(dtype)


def _constant(shape: Any, value: np.ndarray, chunks: Any, label: str, name: str | None) -> Array:
    shape = shape_of(shape)
    if isinstance(chunks, str) and chunks == "auto" and value.dtype.hasobject:
        chunks = -1
    source = memory.ConstantSource(value[()], shape, value.dtype)
    return Array(build.source(source, normalize(chunks, shape, value.dtype), label), name)


def zeros(
    shape: Any, dtype: Any = float, order: str = "C", *, chunks: Any = "auto", name: Any = None, device: Any = None,
    like: Any = None,
) -> Array:  # fmt: skip
    """An array of zeros. Parameters are those of :func:`full`."""
    check_device(device)
    return _constant(shape, np.zeros((), dtype), chunks, "zeros", name)


def ones(
    shape: Any, dtype: Any = float, order: str = "C", *, chunks: Any = "auto", name: Any = None, device: Any = None,
    like: Any = None,
) -> Array:  # fmt: skip
    """An array of ones. Parameters are those of :func:`full`."""
    check_device(device)
    return _constant(shape, np.ones((), dtype), chunks, "ones", name)


def empty(
    shape: Any, dtype: Any = float, order: str = "C", *, chunks: Any = "auto", name: Any = None, device: Any = None,
    like: Any = None,
) -> Array:  # fmt: skip
    """An array of values that do not matter (zeros). Parameters are those of :func:`full`."""
    check_device(device)
    return _constant(shape, np.zeros((), dtype), chunks, "empty", name)


def full_like(
    a: Any,
    fill_value: Any,
    dtype: Any = None,
    order: str = "C",
    subok: bool = False,
    shape: Any = None,
    *,
    chunks: Any = None,
    name: Any = None,
    device: Any = None,
) -> Array:
    """An array of one value, with the shape, dtype and chunks of another.

    Parameters
    ----------
    a
        The array to be like.
    fill_value
        The value.
    dtype, shape, chunks
        To differ from ``a`` in these. Chunks are those of ``a`` if the shape is.
    name
        What :attr:`Array.name` is to say.
    order, subok, device
        Without effect; for programs written for NumPy or Dask.
    """
    return _like(
        a, lambda dtype: _scalar(fill_value, dtype, "full_like"), dtype, shape, chunks, device, "full_like", name
    )


def _like(
    a: Any,
    value_of: Callable[[np.dtype[Any]], np.ndarray],
    dtype: Any,
    shape: Any,
    chunks: Any,
    device: Any,
    label: str,
    name: str | None,
) -> Array:
    """An array of ``value_of(dtype)`` everywhere, like ``a`` but for what is given."""
    check_device(device)
    a = asarray(a)
    value = value_of(a.dtype if dtype is None else np.dtype(dtype))
    if shape is None and not all(axis.known for axis in a.chunks):
        fill = Mapped(np.full_like, (("fill_value", value[()]), ("dtype", value.dtype)))
        return Array(build.elementwise(fill, [a.node], value.dtype, label), name)
    if chunks is None:
        chunks = a.chunks if shape is None else "auto"
    return _constant(a.shape if shape is None else shape, value, chunks, label, name)


def zeros_like(
    a: Any, /, dtype: Any = None, order: str = "C", subok: bool = False, shape: Any = None, *, chunks: Any = None,
    name: Any = None, device: Any = None,
) -> Array:  # fmt: skip
    """Zeros, with the shape, dtype and chunks of another array; see :func:`full_like`."""
    return _like(a, partial(np.zeros, ()), dtype, shape, chunks, device, "zeros_like", name)


def ones_like(
    a: Any, /, dtype: Any = None, order: str = "C", subok: bool = False, shape: Any = None, *, chunks: Any = None,
    name: Any = None, device: Any = None,
) -> Array:  # fmt: skip
    """Ones, with the shape, dtype and chunks of another array; see :func:`full_like`."""
    return _like(a, partial(np.ones, ()), dtype, shape, chunks, device, "ones_like", name)


def empty_like(
    a: Any, /, dtype: Any = None, order: str = "C", subok: bool = False, shape: Any = None, *, chunks: Any = None,
    name: Any = None, device: Any = None,
) -> Array:  # fmt: skip
    """Values that do not matter (zeros), with the shape, dtype and chunks of another array; see :func:`full_like`."""
    return _like(a, partial(np.zeros, ()), dtype, shape, chunks, device, "empty_like", name)


# ---------------------------------------------------------------- ranges


def arange(
    start: Any, /, stop: Any = None, step: Any = 1, *, chunks: Any = "auto", dtype: Any = None, device: Any = None,
    like: Any = None,
) -> Array:  # fmt: skip
    """Evenly spaced values from ``start`` (default 0) to before ``stop``. See :func:`numpy.arange`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.arange(1, 10, 3, chunks=2).compute()
    array([1, 4, 7])
    """
    check_device(device)
    if stop is None:
        start, stop = 0, start
    if np.asarray(start).dtype.kind in "mMSU" or np.asarray(stop).dtype.kind in "mMSU":  # dates: few, and made by NumPy
        return from_array(np.arange(start, stop, step, dtype), chunks)  # type: ignore[call-overload]
    source = memory.RangeSource(start, stop, step, dtype)
    return Array(build.source(source, normalize(chunks, source.shape, source.dtype), "arange"))


def linspace(
    start: Any, stop: Any, /, num: int = 50, endpoint: bool = True, retstep: bool = False, chunks: Any = "auto",
    dtype: Any = None, *, device: Any = None,
) -> Any:  # fmt: skip
    """``num`` evenly spaced values from ``start`` to ``stop``, which comes last if ``endpoint``.

    With ``retstep`` returns the distance as well. See :func:`numpy.linspace`.
    """
    check_device(device)
    if np.ndim(start) or np.ndim(stop):
        raise UnsupportedError(
            "linspace: start and stop must be numbers; for arrays use start + (stop - start) * linspace(0, 1)"
        )
    (num,) = shape_of(num)
    source = memory.LinspaceSource(start, stop, num, endpoint, dtype)
    x = Array(build.source(source, normalize(chunks, source.shape, source.dtype), "linspace"))
    return (x, source.step) if retstep else x


def axis_index(chunks: AxisChunks) -> ArrayNode:
    """The numbers 0, 1, 2... along an axis with these chunks."""
    if not chunks.known:
        raise UnknownChunksError("positions along an axis of unknown length; call compute_chunk_sizes() first")
    return build.source(memory.RangeSource(0, chunks.total), (chunks,), "arange")


def eye(
    N: int, M: int | None = None, k: int = 0, dtype: Any = float, chunks: Any = "auto", *, device: Any = None,
    like: Any = None,
) -> Array:  # fmt: skip
    """Ones on a diagonal, zeros elsewhere.

    Parameters
    ----------
    N, M
        Numbers of rows and columns; as many columns as rows by default.
    k
        Which diagonal: 0 is the main one, positive ones lie above it.
    dtype, chunks
        As for :func:`full`.
    device, like
        Without effect.
    """
    check_device(device)
    rows, columns = shape_of((N, N if M is None else M))
    k = max(-rows, min(int(k), columns))  # beyond the corners there is nothing, however far
    source = memory.EyeSource(rows, columns, k, dtype)
    return Array(build.source(source, normalize(chunks, source.shape, source.dtype), "eye"))


def tri(
    N: int, M: int | None = None, k: int = 0, dtype: Any = float, chunks: Any = "auto", *, like: Any = None
) -> Array:
    """Ones at and below a diagonal, zeros elsewhere. Parameters are those of :func:`eye`."""
    sizes = normalize(chunks, shape_of((N, N if M is None else M)), dtype)
    return Array(cast(at_and_below(sizes, k), dtype))


def at_and_below(chunks: Chunks, k: int) -> ArrayNode:
    """Where ``column <= row + k`` along the last two axes."""
    rows, columns = axis_index(chunks[-2]), axis_index(chunks[-1])
    bound = build.elementwise(np.add, [build.rearrange(rows, [0, None]), int(k)])
    return build.elementwise(np.greater_equal, [bound, columns], label="tri")


def indices(dimensions: Any, dtype: Any = int, chunks: Any = "auto", sparse: bool = False) -> Any:
    """The index of each element along each axis, as ``numpy.indices``: one array, or with ``sparse`` one per axis."""
    shape = shape_of(dimensions)
    axes = normalize(chunks, shape, dtype)
    each = [_along(cast(axis_index(axis), dtype), k, len(axes)) for k, axis in enumerate(axes)]
    if sparse:
        return tuple(map(Array, each))
    if not each:
        return zeros((0,), dtype)
    return Array(stack_nodes([_stretched(node, axes) for node in each], 0))


def _along(node: ArrayNode, axis: int, ndim: int) -> ArrayNode:
    """A one-dimensional node as an array of ``ndim`` axes that varies along ``axis``."""
    return build.rearrange(node, [0 if k == axis else None for k in range(ndim)])


def _stretched(node: ArrayNode, chunks: Chunks) -> ArrayNode:
    new = {k: axis for k, axis in enumerate(chunks) if node.shape[k] == 1 and axis.total != 1}
    return build.rearrange(node, range(node.ndim), new, label="broadcast_to")


def meshgrid(*xi: Any, sparse: bool = False, indexing: str = "xy", copy: bool = True) -> tuple[Array, ...]:
    """Coordinate arrays from coordinate vectors. See :func:`numpy.meshgrid`."""
    if indexing not in ("xy", "ij"):
        raise PlanError(f"meshgrid: indexing={indexing!r} must be 'xy' or 'ij'")
    vectors = [asarray(x).node for x in xi]
    vectors = [build.rearrange(v, [None]) if not v.ndim else v for v in vectors]
    vectors = [build.reshape(v, (prod(v.shape),)) if v.ndim > 1 else v for v in vectors]
    places = list(range(len(vectors)))
    if indexing == "xy" and len(places) > 1:
        places[:2] = 1, 0
    axes = tuple(vectors[places[k]].chunks[0] for k in range(len(vectors)))
    grids = [_along(node, place, len(vectors)) for node, place in zip(vectors, places, strict=True)]
    return tuple(Array(node if sparse else _stretched(node, axes)) for node in grids)


def fromfunction(
    func: Callable[..., Any], shape: Any = None, *, chunks: Any = "auto", dtype: Any = float, **kwargs: Any
) -> Array:
    """Values of a function of the indices; called once per block, with one index array per axis.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.fromfunction(lambda i, j: 10 * i + j, shape=(2, 3), dtype=int, chunks=2).compute()
    array([[ 0,  1,  2],
           [10, 11, 12]])
    """
    if shape is None:
        raise PlanError("fromfunction: give the shape of the result")
    grids = indices(shape, dtype, chunks, sparse=True)
    nodes = [_stretched(x.node, tuple(g.chunks[k] for k, g in enumerate(grids))) for x in grids]
    empty_indices = [np.empty((0,) * len(nodes), dtype) for _ in nodes]
    out_dtype = np.asarray(func(*empty_indices, **kwargs)).dtype
    labels = tuple(range(len(nodes)))
    function = BlockFunction(partial(_of_indices, func), tuple(map(Slot, labels)), kwargs)
    return Array(build.blockwise(function, labels, [(node, labels) for node in nodes], out_dtype, label="fromfunction"))


def _of_indices(func: Callable[..., Any], *args: np.ndarray, **kwargs: Any) -> np.ndarray:
    return np.array(np.broadcast_to(func(*args, **kwargs), args[0].shape))
