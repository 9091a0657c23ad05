"""Arrays from storage and into storage, and arrays from delayed values.

Whatever can be known to fail is refused before anything runs: arrays that do not fit, regions that overlap, elements
that storage cannot hold, targets that the plan reads or that cannot be written to. Blocks that would write to one
storage chunk are joined first. A new array takes the place of an old one only when it is complete (see
:mod:`tilework.io.zarr_create`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tilework import session
from tilework.array.core import Array
from tilework.array.creation import asarray, from_array, normalize
from tilework.base.errors import ChunkError, DTypeError, PlanError, StorageError, UnknownChunksError, UnsupportedError
from tilework.base.tokens import tokenize
from tilework.delayed import Delayed, delayed
from tilework.io.memory import ArrayLikeSink
from tilework.io.regions import format_region, regular
from tilework.io.zarr import (
    ZarrSink,
    ZarrSource,
    begin_resumable,
    is_zarr_array,
    open_zarr_array,
    place_token,
    storage_chunks,
)
from tilework.io.zarr_create import create_zarr_array, local_place, replacing, resuming
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.graph import topological
from tilework.plan.ops import ArrayNode, Blockwise, Source, Store
from tilework.plan.protocols import Sink

# ---------------------------------------------------------------- arrays from elsewhere


def from_zarr(
    url: Any,
    component: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    chunks: Any = None,
    name: str | None = None,
    inline_array: bool = False,
    **kwargs: Any,
) -> Array:
    """An array that is read from Zarr when it is computed.

    Parameters
    ----------
    url
        A path, a URL, a Zarr store or a ``zarr.Array``.
    component
        The array's path within ``url``.
    storage_options
        Passed on to the file system of a URL.
    chunks
        As for :func:`from_array`. Default: the chunks in storage, of arrays with shards several of those in one shard.
        ``"auto"`` joins several of them in any case.
    name
        A name that promises equal contents.
    inline_array
        Without effect; for programs written for Dask.
    **kwargs
        ``zarr_format`` and more of ``zarr.open``.

    Raises
    ------
    StorageError
        If there is no such array.
    """
    array = open_zarr_array(url, component, storage_options, **kwargs)
    source = ZarrSource(array, name)
    if chunks is None:
        chunks = array.chunks
        if array.shards:  # whose chunks are small, and each of which has an index to be read
            several = normalize("auto", source.shape, source.dtype, array.chunks)
            chunks = tuple(max(1, min(axis.largest, size)) for axis, size in zip(several, array.shards, strict=True))
    return Array(build.stored(source, normalize(chunks, source.shape, source.dtype, storage_chunks(array)), "zarr"))


def from_delayed(
    value: Any, shape: Sequence[Any], dtype: Any = None, meta: Any = None, name: str | None = None
) -> Array:
    """An array of one block, which is what a delayed call returns.

    Parameters
    ----------
    value
        A :class:`~tilework.delayed.Delayed` of an array of this shape and dtype; what comes is compared with that.
    shape
        NaN for lengths that are not known.
    dtype
        Type of the elements; this or ``meta`` is needed.
    meta
        An array of that dtype.
    name
        What the operation is called in drawings and errors.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework as tw
    >>> import tilework.array as ta
    >>> rows = [ta.from_delayed(tw.delayed(np.full)(3, k), shape=(3,), dtype=int) for k in range(2)]
    >>> ta.stack(rows).compute()
    array([[0, 0, 0],
           [1, 1, 1]])
    """
    if dtype is None and meta is None:
        raise DTypeError("from_delayed: what the value will be is not known; pass dtype=")
    if isinstance(value, Array):
        raise PlanError("from_delayed: the value is an array already; use it as it is")
    node = (value if session.is_collection(value) else delayed(value)).node
    return Array(build.from_value(node, tuple(shape), dtype if dtype is not None else meta.dtype, name or "from-value"))


# ---------------------------------------------------------------- into storage


def store(
    sources: Any,
    targets: Any,
    lock: Any = True,
    regions: Any = None,
    compute: bool = True,
    return_stored: bool = False,
    flush: bool = False,
    load_stored: bool | None = None,
    resume: bool = False,
    **options: Any,
) -> Any:
    """Write arrays into array-like objects, block by block.

    Parameters
    ----------
    sources
        An array, or several.
    targets
        As many objects with NumPy's assignment: NumPy, Zarr and HDF5 arrays. Blocks that would write to one chunk (or
        shard) of a Zarr array are rechunked to whole chunks.
    lock
        True: one lock for each target; False: none; or a lock for all of them. Zarr and NumPy arrays need none.
    regions
        For each array a tuple of slices, where in the target it goes; one tuple if all go to the same place.
    compute
        Write now. Otherwise a Delayed is returned, for several arrays a tuple of them.
    return_stored
        Return arrays that read what was written.
    flush
        Without effect; for programs written for Dask.
    load_stored
        With ``return_stored``: the arrays that are returned hold their values in memory.
    resume
        For Zarr arrays: leave out what an earlier run of this program has written, see :func:`to_zarr`. Regions must
        then be of whole chunks.
    **options
        Settings of the computation: see :func:`tilework.compute`.

    Raises
    ------
    ChunkError
        If an array does not fit into its region.
    DTypeError
        If a Zarr array cannot hold elements of that kind.
    PlanError
        If numbers of arrays, targets and regions differ, regions overlap, or an array is made from what it would
        replace, other than block by block.
    StorageError
        If a Zarr array is open for reading only.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> target = np.zeros(6, int)
    >>> ta.store(ta.arange(4, chunks=2), target, regions=(slice(1, 5),))
    >>> target
    array([0, 0, 1, 2, 3, 0])
    """
    if isinstance(sources, Array):
        sources, targets = [sources], [targets]
        regions = regions if regions is None or isinstance(regions, tuple) else list(regions)
    arrays, targets = list(sources), list(targets)
    if not all(isinstance(x, Array) for x in arrays):
        raise PlanError("store: all sources must be tilework arrays; make them with from_array()")
    places = [regions] * len(arrays) if regions is None or isinstance(regions, tuple) else list(regions)
    if not len(arrays) == len(targets) == len(places):
        raise PlanError(f"store: {len(arrays)} sources, {len(targets)} targets and {len(places)} regions do not match")
    starts = [_start(x, target, region) for x, target, region in zip(arrays, targets, places, strict=True)]
    _check_apart(arrays, targets, starts)
    locks: dict[int, Sink] = {}
    stores = []
    for x, target, start in zip(arrays, targets, starts, strict=True):
        if is_zarr_array(target):
            stores.append(_into_zarr(x, target, start, resume))
            continue
        if resume:
            raise UnsupportedError(f"store: resume=True is for Zarr arrays, not for {type(target).__name__}")
        no_need = lock is True and isinstance(target, np.ndarray)
        sink = locks.setdefault(id(target), ArrayLikeSink(target, False if no_need else lock))
        stores.append(build.store(x.node, sink, start))
    if not compute:
        if return_stored:
            raise UnsupportedError(
                "store: return_stored needs compute=True; an array cannot be read before it is written"
            )
        return _later(stores)
    session.run_stores(stores, **options)
    if not return_stored:
        return None
    stored = tuple(_stored(x, target, start) for x, target, start in zip(arrays, targets, starts, strict=True))
    if load_stored:
        stored = session.persist(*stored, **options)
    return stored[0] if len(stored) == 1 else stored


def to_zarr(
    arr: Any,
    url: Any,
    component: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    region: Any = None,
    compute: bool = True,
    return_stored: bool = False,
    mode: str | None = None,
    resume: bool = False,
    **kwargs: Any,
) -> Any:
    """Write an array to Zarr.

    Parameters
    ----------
    arr
        The array. If its blocks would share storage chunks, it is rechunked first.
    url
        A path, a URL or a Zarr store, where a new array is made; or a ``zarr.Array`` to write into.
    component
        The array's path within ``url``.
    storage_options
        Passed on to the file system of a URL.
    overwrite
        Replace an array that is there. In a local directory the old one goes when the new one is complete.
    region
        A tuple of slices of an array that exists: where to write.
    compute
        Write now. Otherwise the (empty) array is made now and a Delayed is returned.
    return_stored
        Return an array that reads what was written.
    mode
        ``"w"`` means ``overwrite=True``; ``"a"``, ``"w-"`` and None make a new array; ``"r+"`` writes into one that
        exists.
    resume
        Leave out what an earlier run of this program has written before it was interrupted, however it was. A run that
        finds everything written does nothing. Needs a store whose writes are whole or not at all: a local directory or
        an object store. Programs are told apart by their plan: what is read, what is done, and the layout; files are
        known by their place, large arrays in memory by the name that they are given (``from_array(name=...)``).
    **kwargs
        ``chunks``, ``shards``, ``compressors``, ``fill_value`` and more of ``zarr.create_array``. Chunks in storage
        are by default the array's blocks. ``name`` is another name for ``component``.

    Raises
    ------
    StorageError
        If something is there already and may not be replaced.
    ChunkError
        If the array does not fit into the region.
    DTypeError
        If elements are Python objects, or of another kind than those of the array that exists.
    PlanError
        If the array is made from what it would replace. (In a local directory ``overwrite=True`` can do that.)

    Examples
    --------
    >>> import tempfile
    >>> import tilework.array as ta
    >>> path = tempfile.mkdtemp() + "/x.zarr"
    >>> ta.to_zarr(ta.arange(10, chunks=4), path, resume=True)
    >>> ta.to_zarr(ta.arange(10, chunks=4), path, resume=True)  # all done
    >>> ta.from_zarr(path).chunks
    ((4, 4, 2),)
    """
    x, component = asarray(arr), component or kwargs.pop("name", None)
    if x.dtype.hasobject:
        raise DTypeError(f"to_zarr: Zarr cannot hold Python objects (dtype {x.dtype}); convert with astype() first")
    if not all(axis.known for axis in x.chunks):
        raise UnknownChunksError("to_zarr: the array has unknown chunk sizes; call compute_chunk_sizes() first")
    if mode not in (None, "a", "w", "w-", "r+"):
        raise PlanError(f'to_zarr: mode={mode!r} cannot write; use "w", "w-", "a" or "r+"')
    if is_zarr_array(url) or region is not None or mode == "r+":
        if kwargs:
            raise TypeError(
                f"to_zarr: {', '.join(map(repr, kwargs))}: layouts are for new arrays, and this one exists; "
                "settings such as memory go to tilework.config.set"
            )
        target = open_zarr_array(url, component, storage_options, "r+")
        start = _start(x, target, region)
        place = None if region is None else tuple(slice(a, a + n) for a, n in zip(start, x.shape, strict=True))
        return store(x, target, regions=place, compute=compute, return_stored=return_stored, resume=resume)
    x, layout = _layout(x, kwargs)
    overwrite = overwrite or mode == "w"
    if overwrite and (not compute or local_place(url, component) is None):
        _check_not_read(x, url, component, storage_options)
    if compute:
        _write_new(x, url, component, overwrite, storage_options, layout, resume)
        return from_zarr(url, component, storage_options) if return_stored else None
    if resume:
        raise UnsupportedError(
            "to_zarr: resume=True needs compute=True, for what is finished is found out when it runs"
        )
    try:
        target = create_zarr_array(url, component, storage_options=storage_options, **layout)
    except StorageError as error:
        if overwrite:
            error.add_note(
                "compute=False replaces nothing, for the old array would be gone before the new one is there"
            )
        raise
    return store(x, target, compute=False, return_stored=return_stored)


def _write_new(
    x: Array, url: Any, component: str | None, overwrite: bool, options: Any, layout: dict[str, Any], resume: bool
) -> None:
    """Make an array in storage, and write it."""
    if not resume:
        with replacing(url, component, overwrite=overwrite, storage_options=options, **layout) as target:
            session.run_stores([build.store(x.node, ZarrSink(target, x.chunks))])
        return
    plan = tokenize("resume", x.node.token, layout)
    with resuming(url, component, plan, overwrite=overwrite, storage_options=options, **layout) as target:
        if target is not None:
            session.run_stores([build.store(x.node, ZarrSink(target, x.chunks, plan=plan))])


def _into_zarr(x: Array, target: Any, start: tuple[int, ...], resume: bool) -> Store:
    """The write of an array into a Zarr array that exists."""
    if target.read_only:
        raise StorageError(f'zarr array {target.store_path} is open for reading only; open it with mode="r+"')
    if not np.can_cast(x.dtype, target.dtype, "same_kind"):
        raise DTypeError(
            f"zarr array {target.store_path} of {target.dtype} cannot hold {x.dtype}; convert with astype() first"
        )
    x = _in_whole_chunks(x, storage_chunks(target), start)
    _check_read_in_step(x, target, start)
    if not resume:
        return build.store(x.node, ZarrSink(target, x.chunks, start), start)
    plan = tokenize("resume", x.node.token, start)
    begin_resumable(target, start, x.shape, plan)
    return build.store(x.node, ZarrSink(target, x.chunks, start, plan), start)


# ---------------------------------------------------------------- what is read and replaced


def _check_not_read(x: Array, url: Any, component: str | None, storage_options: Any) -> None:
    """Raise if ``x`` is made from the array that it would replace."""
    try:
        place = place_token(open_zarr_array(url, component, storage_options))
    except StorageError:
        return
    if _reads_of(x.node, place):
        raise PlanError(
            f"to_zarr: the array is made from what it would replace ({url}) and what would be gone before; "
            "write it to another place"
        )


def _reads_of(node: ArrayNode, place: str) -> list[Source]:
    """The reads of a Zarr array that a plan does."""
    reads = [found for found in topological([node]) if isinstance(found, Source)]
    return [read for read in reads if isinstance(read.source, ZarrSource) and read.source.place == place]


def _check_read_in_step(x: Array, target: Any, start: tuple[int, ...]) -> None:
    """Raise if a block of ``x`` is made from elements of ``target`` that another block of it replaces."""
    place, unit = place_token(target), storage_chunks(target)
    if not _reads_of(x.node, place):
        return
    (plan,) = session.optimize(x)  # where selections have become reads
    in_step = _reads_in_step(plan.node, start)
    box = [(a // u * u, -(-(a + n) // u) * u) for a, n, u in zip(start, x.shape, unit, strict=True)]
    for read in _reads_of(plan.node, place):
        apart = any(s.start >= last or s.stop <= first for s, (first, last) in zip(read.region, box, strict=True))
        if not apart and read not in in_step:
            raise PlanError(
                f"store: the array is made from elements of zarr array {target.store_path} that it would replace, and "
                "not block by block in the same chunks, so that some might be replaced before they are read; write it "
                "to another place"
            )


def _reads_in_step(x: ArrayNode, start: tuple[int, ...]) -> set[Source]:
    """Reads of which each block serves the block at the same place only, and so is read before that is written."""
    reached: dict[ArrayNode, bool] = {x: True}
    for node in reversed([found for found in topological([x]) if isinstance(found, ArrayNode)]):
        labels: Sequence[Any] = (
            node.axes if isinstance(node, Blockwise) and reached[node] else [None] * len(node.inputs)
        )
        for i, axes in zip(node.inputs, labels, strict=True):
            if isinstance(i, ArrayNode):
                reached[i] = reached.get(i, True) and axes == tuple(range(x.ndim)) and i.chunks == x.chunks
    return {
        node
        for node, same in reached.items()
        if same
        and isinstance(node, Source)
        and node.region == tuple(slice(a, a + n, 1) for a, n in zip(start, x.shape, strict=True))
    }


# ---------------------------------------------------------------- where it goes


def _start(x: Array, target: Any, region: Any) -> tuple[int, ...]:
    """Where in ``target`` the first element of ``x`` goes. Raises if ``x`` does not fill the region exactly."""
    shape = getattr(target, "shape", None)
    if region is None or region is Ellipsis:
        region = ()
    entries = list(region) if isinstance(region, Iterable) else [region]
    if Ellipsis in entries:
        k = entries.index(Ellipsis)
        entries[k : k + 1] = [slice(None)] * (x.ndim - len(entries) + 1)
    entries += [slice(None)] * (x.ndim - len(entries))
    if len(entries) != x.ndim or (shape is not None and len(shape) != x.ndim):
        raise ChunkError(f"store: an array of shape {x.shape} does not fit into region {region!r} of shape {shape}")
    start = []
    for axis, (entry, n) in enumerate(zip(entries, x.shape, strict=True)):
        if not isinstance(entry, slice) or entry.step not in (None, 1):
            raise UnsupportedError(f"store: region {entry!r} of axis {axis} is no slice of step 1")
        length = shape[axis] if shape is not None else (entry.stop if entry.stop is not None else n)
        first, last, _ = entry.indices(length)
        if n == n and max(0, last - first) != n:
            raise ChunkError(
                f"store: axis {axis} of the array has length {n}, but its place in the target "
                f"({first}:{last} of {length}) has length {max(0, last - first)}"
            )
        start.append(first)
    return tuple(start)


def _check_apart(arrays: Sequence[Array], targets: Sequence[Any], starts: Sequence[tuple[int, ...]]) -> None:
    """Raise if two arrays would write to one element, or to one chunk of a Zarr array."""
    boxes: dict[Any, list[tuple[tuple[int, int], ...]]] = {}
    for x, target, start in zip(arrays, targets, starts, strict=True):
        unit = storage_chunks(target) if is_zarr_array(target) else (1,) * x.ndim
        box = tuple((a // u * u, -(-(a + n) // u) * u) for a, n, u in zip(start, x.shape, unit, strict=True) if n == n)
        boxes.setdefault(str(target.store_path) if is_zarr_array(target) else id(target), []).append(box)
    for same in boxes.values():
        for one, other in combinations(same, 2):
            if all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True)):
                shown = " and ".join(format_region(tuple(slice(a, b, 1) for a, b in box)) for box in (one, other))
                raise PlanError(
                    "store: two arrays would write to the same elements or storage chunks of one target: with whole "
                    f"chunks they take up {shown}"
                )


def _later(stores: Sequence[Store]) -> Any:
    writes = tuple(Delayed(node) for node in stores)
    return writes[0] if len(writes) == 1 else writes


def _stored(x: Array, target: Any, start: tuple[int, ...]) -> Array:
    """What was written, read from ``target`` in the blocks of ``x``."""
    whole = from_zarr(target) if is_zarr_array(target) else from_array(target, -1, name=False)
    index = tuple(slice(a, a + n, 1) for a, n in zip(start, x.shape, strict=True))
    return Array(build.rechunk(build.slice_(whole.node, index), x.chunks))


# ---------------------------------------------------------------- chunks in storage


def _layout(x: Array, kwargs: Mapping[str, Any]) -> tuple[Array, dict[str, Any]]:
    """The array in blocks that can be written at once, and the arguments that make a Zarr array for them."""
    layout = {"shape": x.shape, "dtype": x.dtype, **kwargs}
    if layout["shape"] != x.shape:
        raise PlanError(f"to_zarr: shape={layout['shape']} differs from the array's {x.shape}; write a region instead")
    unit = kwargs.get("shards") or kwargs.get("chunks")
    if unit is None or unit == "auto":
        # Zarr's chunks are all of one size, which those of the array need not be.
        unit = regular(x.chunks) or tuple(max(1, axis.largest) for axis in x.chunks)
        layout["chunks"] = unit
    unit = (unit,) * x.ndim if isinstance(unit, int) else tuple(unit)
    return _in_whole_chunks(x, unit, (0,) * x.ndim), layout


def _in_whole_chunks(x: Array, unit: Sequence[int], start: Sequence[int]) -> Array:
    """``x`` with the bounds of its blocks moved up to the next bound of a storage chunk."""
    chunks = []
    for axis, size, first in zip(x.chunks, unit, start, strict=True):
        inner = (axis.bounds[1:-1] + first + size - 1) // size * size - first
        cuts = np.unique(np.concatenate([[0], inner[inner < axis.total], [axis.total]]))
        chunks.append(AxisChunks(np.diff(cuts).tolist() or (0,)))
    return Array(build.rechunk(x.node, tuple(chunks)))


__all__ = ["from_delayed", "from_zarr", "store", "to_zarr"]
