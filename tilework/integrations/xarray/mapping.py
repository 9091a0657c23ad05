"""``xr.map_blocks`` for tilework: a function of xarray objects, called once for each block.

xarray's own builds a graph of Dask's, task by task, and calls the function on the whole object if that is not Dask's.
Here it is one operation whose blocks are what the function returns, and for each variable one that picks it out of
them. The rules are xarray's: arguments are aligned exactly and chunked alike, one block gives one block, and what
cannot be told by calling the function on an empty object has to be told by a template.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from xarray import DataArray, Dataset, Variable
from xarray.core import parallel

from tilework import session
from tilework.array import Array
from tilework.array.binding import name_of
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.stages import BlockPlace

Chunks = dict[Hashable, AxisChunks]


def map_blocks(
    theirs: Callable[..., Any],
    func: Callable[..., Any],
    obj: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    template: Any = None,
) -> Any:
    """``xarray.map_blocks``; ``theirs`` does what holds no tilework array."""
    if not session.is_tilework_collection(obj):
        return theirs(func, obj, args=args, kwargs=kwargs, template=template)
    options = _checked(args, kwargs, template)
    everything = [obj, *args]
    places = [k for k, arg in enumerate(everything) if isinstance(arg, DataArray | Dataset)]
    aligned = xr.align(*(everything[k] for k in places), join="exact")
    with xr.set_options(chunk_manager="tilework"):
        inputs = [ds.chunk(ds.chunksizes) for ds in map(_dataset, aligned)]
    chunks: Chunks = {}
    for ds in inputs:
        parallel.assert_chunks_compatible(inputs[0], ds)
        chunks |= {dim: AxisChunks(sizes) for dim, sizes in ds.chunks.items()}
    shared = xr.merge([arg.coords for arg in aligned], join="exact", compat="override").coords
    if template is None:
        for k, arg in zip(places, aligned, strict=True):
            everything[k] = arg
        template = _inferred(func, everything, options)
        coords = _coordinates(template, shared)
        out = {dim: chunks[dim] for dim in template.dims if dim in chunks}
    else:
        coords, out = template.coords, {dim: AxisChunks(sizes) for dim, sizes in template.chunksizes.items()}
    _check_chunks(chunks, out)
    wanted = template if isinstance(template, Dataset) else template._to_temp_dataset()
    for k, ds, arg in zip(places, inputs, aligned, strict=True):
        everything[k] = _Argument(ds, isinstance(arg, DataArray))
    changed = {k: index for k, index in coords.xindexes.items() if not index.equals(shared.xindexes.get(k, None))}
    data_vars = None if isinstance(template, DataArray) else set(wanted.data_vars)
    call = _Call(func, tuple(everything), options, chunks, out, changed, set(wanted.coords), data_vars)
    made = _called(call, inputs, chunks)
    result = Dataset(coords=coords, attrs=wanted.attrs)
    for name, v in wanted.variables.items():
        if name in coords.xindexes:
            result[name].attrs, result[name].encoding = v.attrs, v.encoding
        else:
            sizes = {dim: out.get(dim, AxisChunks((result.sizes.get(dim, n),))) for dim, n in v.sizes.items()}
            result[name] = (v.dims, _picked(made, name, v, chunks, sizes), v.attrs)
            result[name].encoding = v.encoding
    result = result.set_coords(wanted._coord_names)
    return result if isinstance(template, Dataset) else template._from_temp_dataset(result)


# ---------------------------------------------------------------- what is asked for


def _checked(args: Any, kwargs: Any, template: Any) -> dict[str, Any]:
    """Keyword arguments, if all is as it should be."""
    if template is not None and not isinstance(template, DataArray | Dataset):
        raise TypeError(f"template must be a DataArray or Dataset. Received {type(template).__name__} instead.")
    if not isinstance(args, Sequence):
        raise TypeError("args must be a sequence (for example, a list or tuple).")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError("kwargs must be a mapping (for example, a dict)")
    for name, value in (kwargs or {}).items():
        if session.is_tilework_collection(value):
            raise TypeError(f"Cannot pass lazy objects in kwargs ({name!r}): pass them in args, or load() them before.")
    return dict(kwargs or {})


def _check_chunks(chunks: Chunks, out: Chunks) -> None:
    if not out and chunks:
        raise ValueError("Provided template has no chunked arrays. Please construct a template with chunked arrays.")
    for dim, sizes in out.items():
        if dim in chunks and len(chunks[dim]) != len(sizes):
            raise ValueError(
                "map_blocks requires that one block of the input maps to one block of output. Expected number of "
                f"output chunks along dimension {dim!r} to be {len(chunks[dim])}. Received {len(sizes)} instead. "
                "Please provide template if not provided, or fix the provided template."
            )


def _dataset(arg: DataArray | Dataset) -> Dataset:
    return parallel.dataarray_to_dataset(arg) if isinstance(arg, DataArray) else arg


def _inferred(func: Callable[..., Any], everything: Sequence[Any], options: dict[str, Any]) -> DataArray | Dataset:
    """What the function makes of empty objects."""
    try:
        template = func(*map(_emptied, everything), **options)
    except Exception as error:
        raise Exception(
            "Cannot infer object returned from running user provided function. Please supply the 'template' kwarg to "
            "map_blocks."
        ) from error
    if not isinstance(template, DataArray | Dataset):
        raise TypeError(f"Function must return an xarray DataArray or Dataset. Instead it returned {type(template)}")
    return template


def _emptied(arg: Any) -> Any:
    if not isinstance(arg, DataArray | Dataset):
        return arg
    ds = _dataset(arg)
    empty = {name: Variable(v.dims, np.empty((0,) * v.ndim, v.dtype), v.attrs) for name, v in ds.variables.items()}
    made = Dataset(empty, attrs=ds.attrs).set_coords(ds.coords)
    return parallel.dataset_to_dataarray(made) if isinstance(arg, DataArray) else made


def _coordinates(template: DataArray | Dataset, shared: Any) -> Any:
    """Coordinates of the result: those of the arguments that the function kept, and new ones."""
    kept = shared.to_dataset()[set(template.coords) & set(shared)]
    kept = kept.drop_vars([name for name in kept.variables if name not in template.coords])
    new = template.coords.to_dataset()[set(template.coords) - set(shared)]
    return xr.merge((kept, new), join="outer", compat="override").coords


# ---------------------------------------------------------------- what runs


class _Argument:
    """An object, taken apart: its lazy variables become blocks, the others are cut by each call."""

    def __init__(self, ds: Dataset, is_array: bool) -> None:
        self.lazy = {name: (v.dims, v.attrs) for name, v in ds.variables.items() if isinstance(v._data, Array)}
        self.others = {name: v for name, v in ds.variables.items() if name not in self.lazy}
        self.coords, self.attrs, self.is_array = set(ds.coords), ds.attrs, is_array

    def block(self, blocks: Sequence[np.ndarray], where: Mapping[Hashable, slice]) -> Dataset:
        """Its part for one call."""
        parts = {k: (dims, b, attrs) for (k, (dims, attrs)), b in zip(self.lazy.items(), blocks, strict=True)}
        parts |= {k: v.isel({d: where[d] for d in v.dims if d in where}) for k, v in self.others.items()}
        coords = {name: part for name, part in parts.items() if name in self.coords}
        return Dataset({name: part for name, part in parts.items() if name not in coords}, coords, self.attrs)


@dataclass(frozen=True)
class _Call:
    """The user's function for one block; its answer as a dict of variables.

    ``chunks`` and ``out`` are sizes by dimension before and after; ``indexes`` those that the arguments have not;
    ``coords`` and ``data_vars`` what has to come back (None: an array).
    """

    func: Callable[..., Any]
    arguments: tuple[Any, ...]
    kwargs: dict[str, Any]
    chunks: Chunks
    out: Chunks
    indexes: dict[Hashable, Any]
    coords: set[Hashable]
    data_vars: set[Hashable] | None

    def __call__(self, *blocks: np.ndarray, block_place: BlockPlace) -> dict[Hashable, Variable]:
        number = dict(zip(self.chunks, block_place.index, strict=True))
        where = {dim: _slice(sizes, number[dim]) for dim, sizes in self.chunks.items()}
        given, rest = [], list(blocks)
        for argument in self.arguments:
            if isinstance(argument, _Argument):
                mine, rest = rest[: len(argument.lazy)], rest[len(argument.lazy) :]
                ds = argument.block(mine, where)
                given.append(parallel.dataset_to_dataarray(ds) if argument.is_array else ds)
            else:
                given.append(argument)
        result = self.func(*given, **self.kwargs)
        self._check(result, given, number)
        made = result if isinstance(result, Dataset) else result._to_temp_dataset()
        return {name: v.load() for name, v in made.variables.items()}

    def _check(self, result: Any, given: Sequence[Any], number: Mapping[Hashable, int]) -> None:
        lengths = {dim: sizes[number[dim]] for dim, sizes in self.out.items() if dim in number}
        if missing := set(lengths) - set(result.sizes):
            raise ValueError(f"Dimensions {missing} missing on returned object.")
        coords = xr.merge(
            [a.coords for a in given if isinstance(a, DataArray | Dataset)], join="exact", compat="override"
        ).coords
        for name, index in result.xindexes.items():
            if name in lengths and result.sizes[name] != lengths[name]:
                raise ValueError(
                    f"Received dimension {name!r} of length {result.sizes[name]}. Expected length {lengths[name]}."
                )
            expected = self.indexes.get(name, coords.xindexes.get(name))
            if name in self.indexes and name in number and name in self.out:
                expected = expected[_slice(self.out[name], number[name])]
            if expected is not None and not index.equals(expected):
                raise ValueError(f"Expected index {name!r} to be {expected!r}. Received {index!r} instead.")
        parallel.check_result_variables(result, {"coords": self.coords}, "coords")
        if isinstance(result, Dataset) and self.data_vars is not None:
            parallel.check_result_variables(result, {"data_vars": self.data_vars}, "data_vars")


def _slice(sizes: AxisChunks, k: int) -> slice:
    return slice(int(sizes.bounds[k]), int(sizes.bounds[k + 1]))


def _called(call: _Call, inputs: Sequence[Dataset], chunks: Chunks) -> ArrayNode:
    """All calls: a block for each, which holds all that the function returned."""
    lazy = [v for ds in inputs for v in ds.variables.values() if isinstance(v._data, Array)]
    function = BlockFunction(call, tuple(map(Slot, range(len(lazy)))), place=True, check=False)
    return build.blockwise(
        function, tuple(chunks), [(v._data.node, v.dims) for v in lazy], object, label=name_of(call.func)
    )


def _picked(made: ArrayNode, name: Hashable, v: Variable, chunks: Chunks, sizes: Chunks) -> Array:
    """One variable of what was returned. Where it lacks a dimension all blocks along that have it: the last counts."""
    lacking = [dim for dim in chunks if dim not in v.dims]
    adjust: dict[Hashable, Any] = {dim: tuple(map(int, sizes[dim])) for dim in v.dims if dim in chunks}
    picked = build.blockwise(
        BlockFunction(_Pick(name, v.dims, len(lacking)), (Slot(0),), scratch=0.0),
        (*v.dims, *lacking), [(made, tuple(chunks))], v.dtype,
        new_axes={dim: tuple(sizes[dim]) for dim in v.dims if dim not in chunks},
        adjust_chunks=adjust | dict.fromkeys(lacking, 1), label=str(name),
    )  # fmt: skip
    return Array(picked)[(slice(None),) * v.ndim + (-1,) * len(lacking)]


@dataclass(frozen=True)
class _Pick:
    """A variable of those that a block is, with axes of length one for dimensions that it lacks."""

    name: Hashable
    dims: tuple[Hashable, ...]
    lacking: int

    def __call__(self, block: dict[Hashable, Variable]) -> np.ndarray:
        values = np.asarray(block[self.name].transpose(*self.dims).data)
        return values.reshape(values.shape + (1,) * self.lacking)
