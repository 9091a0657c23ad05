"""Generalized ufuncs: functions of core dimensions, looped over blocks of all the others.

Several outputs come from one call a block. A node has one value, so that call's blocks are structured: one record for
each element of the loop dimensions, with a field (of the core shape) for each output. The outputs are the fields. So
the function runs once a block however many outputs are used, and the blocks weigh exactly what their dtype says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any

import numpy as np

from tilework.array.binding import bind, infer, name_of, stand_in
from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.base.errors import BlockResultError, ChunkError, DTypeError, PlanError, UnknownChunksError
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot

Core = tuple[str, ...]

_DIMS = r"\(\s*(?:\w+\s*(?:,\s*\w+\s*)*,?\s*)?\)"
_SIGNATURE = re.compile(rf"\s*((?:{_DIMS}\s*(?:,\s*{_DIMS}\s*)*,?)?)\s*->\s*({_DIMS}\s*(?:,\s*{_DIMS}\s*)*(,?))\s*")


def apply_gufunc(
    func: Callable[..., Any],
    signature: str,
    *args: Any,
    axes: Sequence[Any] | None = None,
    axis: int | None = None,
    keepdims: bool = False,
    output_dtypes: Any = None,
    output_sizes: Mapping[str, int] | None = None,
    vectorize: bool | None = None,
    allow_rechunk: bool = False,
    meta: Any = None,
    **kwargs: Any,
) -> Any:
    """Apply a function of core dimensions over all other dimensions, block by block.

    Parameters
    ----------
    func
        Called with one block of each array, core dimensions last and whole; loops (broadcasts) over the others itself
        unless ``vectorize``. Returns an array, or a tuple of arrays.
    signature
        Core dimensions as NumPy writes them: ``"(i,j),(j,k)->(i,k)"``.
    *args
        The arrays.
    axes
        For each input and output a tuple of the axes where its core dimensions are.
    axis
        The axis of the one core dimension that all inputs share.
    keepdims
        Leave core dimensions that the outputs lack as axes of length one.
    output_dtypes
        Type of the result, or a list with one for each. Otherwise the function is run on empty blocks to see.
    output_sizes
        Lengths of core dimensions that only outputs have, or that are others in outputs than in inputs.
    vectorize
        Call ``func`` for single elements of the loop dimensions, as :class:`numpy.vectorize` does.
    allow_rechunk
        Join blocks along core dimensions. Otherwise these must be one block.
    meta
        An array of the result's dtype, or a tuple of them, in place of ``output_dtypes``.
    **kwargs
        More arguments of ``func``.

    Returns
    -------
    Array or tuple of Array
        A tuple if the signature has several outputs or ends with a comma.

    Raises
    ------
    ChunkError
        If a core dimension has several blocks and ``allow_rechunk`` is not set, or chunks do not match.
    PlanError
        If signature, axes and arrays do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> def stats(x):
    ...     return x.mean(axis=-1), x.max(axis=-1)
    >>> mean, highest = ta.apply_gufunc(stats, "(i)->(),()", ta.arange(6, chunks=6).reshape(2, 3))
    >>> mean.compute(), highest.compute()
    (array([1., 4.]), array([2, 5]))
    """
    ins, outs, several = parse_signature(signature)
    arrays = [asarray(arg) for arg in args]
    label = name_of(func)
    where = f"apply_gufunc({label}, {signature!r})"
    if len(arrays) != len(ins):
        raise PlanError(f"{where}: the signature has {len(ins)} inputs, but {len(arrays)} arrays are given")
    for k, (array, core) in enumerate(zip(arrays, ins, strict=True)):
        if array.ndim < len(core):
            raise PlanError(f"{where}: input {k} has {array.ndim} dimensions, fewer than its core dimensions {core}")
    in_axes, out_axes = _core_axes(axes, axis, keepdims, ins, outs, where)
    arrays = [_core_last(array, at) for array, at in zip(arrays, in_axes, strict=True)]
    labels = _labels(arrays, ins)
    loops = max((names[: len(names) - len(core)] for names, core in zip(labels, ins, strict=True)), key=len, default=())
    sizes = _check_sizes(arrays, labels, {d for core in ins for d in core}, allow_rechunk, where)
    changed = {d for d, n in (output_sizes or {}).items() if d in sizes and sizes[d] != n}
    sizes.update(output_sizes or {})
    for core in outs:
        for dim in core:
            if dim not in sizes:
                raise PlanError(f"{where}: dimension {dim!r} stands in no input; give its length in output_sizes")
    dtypes = _dtypes(func, signature, arrays, kwargs, vectorize, output_dtypes, meta, len(outs), several, where)
    if vectorize:
        func = np.vectorize(func, signature=signature, otypes=dtypes)
    if allow_rechunk:
        arrays = [_whole_core(array, len(core)) for array, core in zip(arrays, ins, strict=True)]
    fields = [(dtype, tuple(sizes[d] for d in core)) for dtype, core in zip(dtypes, outs, strict=True)]
    pairs = list(zip(arrays, map(_distinct, labels), strict=True))
    named = [_distinct([("changed", d) if d in changed else d for d in core]) for core in outs]
    nodes = _outputs(func, pairs, kwargs, loops, list(zip(named, fields, strict=True)), several, label)
    results = tuple(
        Array(_place_core(node, len(core), at, keepdims)) for node, core, at in zip(nodes, outs, out_axes, strict=True)
    )
    return results if several else results[0]


def as_gufunc(signature: str | None = None, **options: Any) -> Callable[[Callable[..., Any]], gufunc]:
    """Decorator form of :class:`gufunc`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> @ta.as_gufunc("(i)->()", output_dtypes=float)
    ... def spread(x):
    ...     return x.max(axis=-1) - x.min(axis=-1)
    >>> spread(ta.ones((4, 3), chunks=(2, 3))).compute()
    array([0., 0., 0., 0.])
    """
    return lambda func: gufunc(func, signature=signature, **options)


class gufunc:
    """A function together with the signature and options that :func:`apply_gufunc` calls it with.

    Parameters
    ----------
    pyfunc
        The function.
    signature
        Core dimensions as NumPy writes them.
    **options
        Other keywords of :func:`apply_gufunc`; those given in a call come first.

    Examples
    --------
    >>> import tilework.array as ta
    >>> total = ta.gufunc(lambda x: x.sum(axis=-1), signature="(i)->()", output_dtypes=float)
    >>> total(ta.ones((4, 3), chunks=(2, 3))).compute()
    array([3., 3., 3., 3.])
    """

    def __init__(self, pyfunc: Callable[..., Any], *, signature: str | None = None, **options: Any) -> None:
        if signature is None:
            raise PlanError(f"gufunc({name_of(pyfunc)}): the signature is missing; give it as signature='(i)->()'")
        parse_signature(signature)
        self.pyfunc = pyfunc
        self.signature = signature
        self.options = options
        self.__doc__ = pyfunc.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return apply_gufunc(self.pyfunc, self.signature, *args, **{**self.options, **kwargs})


def parse_signature(signature: str) -> tuple[list[Core], list[Core], bool]:
    """Core dimensions of inputs and of outputs, and whether the result is a tuple.

    Examples
    --------
    >>> parse_signature("(i,j),(j)->(i)")
    ([('i', 'j'), ('j',)], [('i',)], False)
    """
    if not isinstance(signature, str):
        raise TypeError(f"a gufunc signature is a string such as '(i),(j)->(i,j)', not {signature!r}")
    match = _SIGNATURE.fullmatch(signature)
    if match is None:
        raise PlanError(f"{signature!r} is no gufunc signature; write one such as '(i),(j)->(i,j)'")
    ins, outs = ([tuple(re.findall(r"\w+", dims)) for dims in re.findall(_DIMS, part)] for part in match.group(1, 2))
    return ins, outs, len(outs) > 1 or bool(match[3])


# ---------------------------------------------------------------- axes


def _core_axes(
    axes: Sequence[Any] | None, axis: int | None, keepdims: bool, ins: list[Core], outs: list[Core], where: str
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """For each input and output the axes of its core dimensions (after keepdims, of what they leave)."""
    if axes is not None and axis is not None:
        raise PlanError(f"{where}: give axis or axes, not both")
    if axes is not None and not isinstance(axes, list | tuple):
        raise PlanError(f"{where}: axes={axes!r} must be a list with a tuple for each input and output")
    with_core = [core for core in ins if core]
    if keepdims:
        if any(outs):
            raise PlanError(f"{where}: keepdims is possible only if no output has core dimensions")
        if not with_core or any(len(core) != len(ins[0]) for core in ins):
            raise PlanError(f"{where}: keepdims needs inputs with equally many core dimensions")
    if axis is not None and any(len(core) != 1 or core != with_core[0] for core in with_core):
        raise PlanError(f"{where}: axis={axis} needs one core dimension that all inputs share; use axes")
    kept = [with_core[0]] * len(outs) if keepdims else outs
    if axes is None:
        given: list[Any] = [((axis,) if axis is not None and len(core) == 1 else tuple(range(-len(core), 0)))
                            for core in [*ins, *kept]]  # fmt: skip
    else:
        given = [(a,) if isinstance(a, int | np.integer) else tuple(a) for a in axes]
        if len(given) == len(ins) and not any(outs):
            given += [given[0] if keepdims else ()] * len(outs)
    if len(given) != len(ins) + len(outs):
        raise PlanError(f"{where}: axes has {len(given)} entries for {len(ins)} inputs and {len(outs)} outputs")
    for k, (at, core) in enumerate(zip(given, [*ins, *kept], strict=True)):
        if len(at) != len(core):
            raise PlanError(f"{where}: axes[{k}]={at} names {len(at)} axes for the core dimensions {core}")
    return given[: len(ins)], given[len(ins) :]


def _core_last(x: Array, axes: tuple[int, ...]) -> Array:
    """The axes moved to the end, in their order."""
    core = np.lib.array_utils.normalize_axis_tuple(axes, x.ndim)
    return Array(build.rearrange(x.node, [a for a in range(x.ndim) if a not in core] + list(core)))


def _place_core(node: ArrayNode, ncore: int, axes: tuple[int, ...], keepdims: bool) -> ArrayNode:
    """The last ``ncore`` axes (with keepdims: new ones of length one) moved to ``axes``."""
    loops = iter(range(node.ndim - ncore))
    ndim = node.ndim + (len(axes) if keepdims else 0)
    core = np.lib.array_utils.normalize_axis_tuple(axes, ndim)
    order = [
        (None if keepdims else node.ndim - ncore + core.index(a)) if a in core else next(loops) for a in range(ndim)
    ]
    return build.rearrange(node, order)


# ---------------------------------------------------------------- sizes, chunks, dtypes


def _labels(arrays: Sequence[Array], ins: Sequence[Core]) -> list[tuple[Any, ...]]:
    """Names of the axes: loop dimensions are numbered from the last one, core dimensions have their names."""
    return [(*range(array.ndim - len(core) - 1, -1, -1), *core) for array, core in zip(arrays, ins, strict=True)]


def _distinct(names: Sequence[Any]) -> tuple[Any, ...]:
    """Names of which none occurs twice: the second axis of square matrices ``(n,n)`` gets one of its own."""
    return tuple((name, k) if (k := list(names[:at]).count(name)) else name for at, name in enumerate(names))


def _check_sizes(
    arrays: Sequence[Array], labels: Sequence[tuple[Any, ...]], core: set[str], allow_rechunk: bool, where: str
) -> dict[Any, Any]:
    """Length of each dimension. Lengths must agree or be one; so must chunks unless they may be changed."""
    along: dict[Any, list[AxisChunks]] = {}
    for array, names in zip(arrays, labels, strict=True):
        for name, chunks in zip(names, array.chunks, strict=True):
            along.setdefault(name, []).append(chunks)
    sizes: dict[Any, Any] = {}
    for name, candidates in along.items():
        what = f"core dimension {name!r}" if name in core else f"loop dimension {-1 - name}"
        distinct = list(dict.fromkeys(c for c in candidates if c.total != 1)) or [candidates[0]]
        lengths = list(dict.fromkeys(c.total for c in distinct))
        if len({str(n) for n in lengths}) > 1:
            raise PlanError(
                f"{where}: {what} has different lengths in arrays: {' and '.join(map(str, lengths))}; they must agree"
            )
        sizes[name] = lengths[0]
        if not allow_rechunk and name in core and any(len(c) > 1 for c in distinct):
            raise ChunkError(
                f"{where}: {what} consists of multiple chunks, {len(distinct[0])} of them; rechunk it to one (-1), or "
                "pass allow_rechunk=True if blocks of that size fit into memory"
            )
        if not allow_rechunk and len(distinct) > 1:
            raise ChunkError(
                f"{where}: {what} with different chunksize present in its inputs; rechunk, or pass allow_rechunk=True"
            )
    return sizes


def _whole_core(x: Array, ncore: int) -> Array:
    """Core dimensions as one block each."""
    loops = x.ndim - ncore
    whole = (AxisChunks((axis.total,)) if len(axis) > 1 else axis for axis in x.chunks[loops:])
    return Array(build.rechunk(x.node, (*x.chunks[:loops], *whole)))


def _dtypes(
    func: Callable[..., Any], signature: str, arrays: Sequence[Array], kwargs: Mapping[str, Any],
    vectorize: bool | None, output_dtypes: Any, meta: Any, nout: int, several: bool, where: str,
) -> list[np.dtype[Any]]:  # fmt: skip
    """Types of the outputs, as given or by running the function on empty blocks."""
    if meta is not None and output_dtypes is not None:
        raise PlanError(f"{where}: give meta or output_dtypes, not both")
    given = meta if meta is not None else output_dtypes
    if given is None:
        trial = np.vectorize(func, signature=signature) if vectorize else func
        given = infer(trial, lambda n: [stand_in(array, n) for array in arrays], kwargs, where, "output_dtypes=")
        if several != isinstance(given, tuple | list):
            raise DTypeError(f"{where}: the function returned {type(given).__name__}, the signature has {nout} outputs")
        given = [np.asarray(result).dtype for result in given] if several else np.asarray(given).dtype
    if not isinstance(given, list | tuple):
        given = [given]
    if len(given) != nout:
        raise PlanError(f"{where}: {len(given)} output types are given for {nout} outputs; give one for each")
    return [np.dtype(entry if isinstance(entry, type) else getattr(entry, "dtype", entry)) for entry in given]


# ---------------------------------------------------------------- the call


Field = tuple[np.dtype[Any], tuple[Any, ...]]


def _outputs(
    func: Callable[..., Any],
    pairs: Sequence[tuple[Array, tuple[Any, ...]]],
    kwargs: Mapping[str, Any],
    loops: tuple[Any, ...],
    outs: Sequence[tuple[tuple[Any, ...], Field]],
    several: bool,
    label: str,
) -> list[ArrayNode]:
    """A node for each output, loop dimensions first."""
    if len(outs) == 1:
        ((core, (dtype, shape)),) = outs
        call = bind(partial(_only, func) if several else func, pairs, kwargs, (*loops, *core), True, label)
        new: dict[Hashable, Any] = {
            d: n for d, n in zip(core, shape, strict=True) if not any(d in names for _, names in pairs)
        }
        return [build.blockwise(call.function(), (*loops, *core), call.inputs, dtype, new_axes=new, label=label)]
    if any(isnan(n) for _, (_, shape) in outs for n in shape):
        raise UnknownChunksError(
            f"{label}: core dimensions of several outputs must have known lengths; call compute_chunk_sizes() first"
        )
    record = np.dtype([(f"f{k}", dtype, shape) for k, (_, (dtype, shape)) in enumerate(outs)])
    call = bind(_Records(func, record), pairs, kwargs, loops, True, label)
    records = build.blockwise(call.function(), loops, call.inputs, record, label=label)
    nodes: list[ArrayNode] = []
    for k, (_, (dtype, shape)) in enumerate(outs):
        names: tuple[Hashable, ...] = tuple(f"core{a}" for a in range(len(shape)))
        pick = BlockFunction(_field, (Slot(0), f"f{k}"), scratch=0.0)
        new = dict(zip(names, shape, strict=True))
        nodes.append(build.blockwise(pick, (*loops, *names), [(records, loops)], dtype, new_axes=new, label=label))
    return nodes


def _only(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The one output of a function that returns a tuple of one."""
    (result,) = func(*args, **kwargs)
    return result


def _field(records: np.ndarray, name: str) -> np.ndarray:
    return np.array(records[name])  # a view would keep the other fields in memory


@dataclass(frozen=True, slots=True)
class _Records:
    """``func``'s outputs as one structured array."""

    func: Callable[..., Any]
    record: np.dtype[Any]

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        results = self.func(*args, **kwargs)
        names = self.record.names or ()
        if not isinstance(results, tuple | list) or len(results) != len(names):
            got = f"{len(results)} values" if isinstance(results, tuple | list) else type(results).__name__
            raise BlockResultError(f"the function returned {got}; the signature announces {len(names)} outputs")
        blocks = [np.asarray(result) for result in results]
        core = [self.record[name].ndim for name in names]
        loops = blocks[0].shape[: blocks[0].ndim - core[0]]
        out = np.empty(loops, self.record)
        for k, (name, block) in enumerate(zip(names, blocks, strict=True)):
            part = out[name]
            if (block.shape, block.dtype) != (part.shape, part.dtype):
                raise BlockResultError(
                    f"output {k} of the function has shape {block.shape} and dtype {block.dtype}; "
                    f"announced are {part.shape} and {part.dtype}"
                )
            part[...] = block
        return out


__all__ = ["apply_gufunc", "as_gufunc", "gufunc"]
