"""Other chunks for the same array. The rules for writing chunks are those of :mod:`tilework.plan.blocks`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.base import config
from tilework.base.errors import ChunkError, PlanError, UnsupportedError
from tilework.plan import blocks, build
from tilework.plan.blocks import AxisChunks


def rechunk(
    x: Array,
    chunks: Any = "auto",
    threshold: Any = None,
    block_size_limit: int | str | None = None,
    balance: bool = False,
    method: str | None = None,
) -> Array:
    """The same array in other chunks.

    Parameters
    ----------
    x
        The array.
    chunks
        One value for all axes, a sequence with one value per axis, or a dict from axis to value (other axes keep their
        chunks). A value is a block size, a sequence of block sizes, -1 for the whole axis, None for the chunks that
        the axis has, ``"auto"``, or a byte size such as ``"64MiB"``.
    threshold
        Without effect: there is one way to rechunk, and its work grows with the number of blocks, not with its square.
    block_size_limit
        Bytes of an ``"auto"`` block at most. Default: the setting ``chunk_size``.
    balance
        Make the blocks along each axis nearly equal, without a small one at the end.
    method
        ``"tasks"``, ``"p2p"`` and None are understood and mean the same.

    Raises
    ------
    ChunkError
        If the chunks do not fit the shape.
    UnknownChunksError
        If an axis with unknown chunk sizes would have to be divided.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.ones((1000, 1000), chunks=(100, 100))
    >>> ta.rechunk(x, {0: 400}).chunks[0]
    (400, 400, 200)
    >>> ta.rechunk(x, (400, -1), balance=True).chunks
    ((500, 500), (1000,))
    """
    if method not in (None, "tasks", "p2p"):
        raise UnsupportedError(f'rechunk: there is no method {method!r}; leave it out, or use "tasks" or "p2p"')
    limit = config.get().chunk_size if block_size_limit is None else block_size_limit
    return Array(build.rechunk(x.node, blocks.rechunk_target(chunks, x.chunks, x.dtype, limit, balance)))


def unify_chunks(*args: Any, warn: bool = True) -> tuple[dict[Any, AxisChunks], list[Any]]:
    """Rechunk arrays so that they have the same chunks along axes of the same name.

    Parameters
    ----------
    *args
        Arrays and the names of their axes in turn: ``x, "ij", y, "jk"``. What is paired with None is passed through.
    warn
        Without effect; for programs written for Dask.

    Returns
    -------
    dict
        The chunks by axis name.
    list
        The arrays, rechunked where necessary.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x, y = ta.ones(10, chunks=((5, 2, 3),)), ta.ones(10, chunks=((2, 3, 5),))
    >>> chunks, arrays = ta.unify_chunks(x, "i", y, "i")
    >>> chunks
    {'i': (2, 3, 2, 3)}
    """
    things = [thing if names is None else asarray(thing) for thing, names in _pairs(args)]
    along: dict[Hashable, list[AxisChunks]] = {}
    for thing, (_, names) in zip(things, _pairs(args), strict=True):
        if names is not None and len(names) != thing.ndim:
            raise PlanError(f"unify_chunks: {names!r} names {len(names)} axes of an array of {thing.ndim} dimensions")
        for name, axis in zip(names or (), () if names is None else thing.chunks, strict=True):
            along.setdefault(name, []).append(axis)
    common = {name: _unified(name, candidates) for name, candidates in along.items()}
    return common, [
        thing if names is None else _follow(thing, [common[name] for name in names])
        for thing, (_, names) in zip(things, _pairs(args), strict=True)
    ]


def _pairs(args: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    if len(args) % 2:
        raise PlanError(f"unify_chunks: {len(args)} arguments; give arrays and the names of their axes in turn")
    return list(zip(args[::2], args[1::2], strict=True))


def _unified(name: Hashable, candidates: list[AxisChunks]) -> AxisChunks:
    try:
        return blocks.unify(candidates)
    except ChunkError as error:
        raise type(error)(f"unify_chunks: along axis {name!r}: {error}") from None


def _follow(x: Array, wanted: Iterable[AxisChunks]) -> Array:
    """Rechunk to ``wanted``, but leave axes of length one that broadcast."""
    chunks = tuple(have if have.total == 1 else want for have, want in zip(x.chunks, wanted, strict=True))
    return Array(build.rechunk(x.node, chunks))


__all__ = ["rechunk", "unify_chunks"]
