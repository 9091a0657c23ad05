"""How a user's function is called for a block: its arguments, its result's type, its place in the grid.

Shared by all that takes functions of blocks. Lazy things among the arguments are replaced by Slots; what cannot travel
as a block (a delayed value, of any kind) travels in a box.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import nan
from typing import Any, TypeAlias

import numpy as np

from tilework.array.core import Array
from tilework.base.errors import DTypeError, UnsupportedError
from tilework.engine.kernels.whole import checked
from tilework.plan import build
from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.ops import ArrayNode, BlockFunction, Call, Slot
from tilework.plan.stages import BlockPlace
from tilework.session import is_collection

Labels: TypeAlias = Sequence[Hashable]


def name_of(func: Callable[..., Any]) -> str:
    """What a function is called in drawings and errors."""
    while isinstance(func, partial):
        func = func.func
    return str(getattr(func, "__name__", type(func).__name__)).strip("<>_") or "function"


def has_parameter(func: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(func).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return False


# ---------------------------------------------------------------- what a function returns


def infer(
    func: Callable[..., Any],
    stand_ins: Callable[[int], Sequence[Any]],
    kwargs: Mapping[str, Any],
    label: str,
    remedy: str = "dtype=",
) -> Any:
    """What ``func`` returns for ``stand_ins(0)``; if it raises, for ``stand_ins(1)``.

    Many functions (a maximum, an interpolation) have no answer for no elements, and few have none for one.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return func(*stand_ins(0), **kwargs)
        except Exception:
            try:
                return func(*stand_ins(1), **kwargs)
            except Exception as error:
                raise DTypeError(
                    f"{label}: the type of the result could not be found by running the function on empty blocks and "
                    f"on blocks of one element ({type(error).__name__}: {error}); pass {remedy} and it is not run"
                ) from error


def dtype_of(block: Any, label: str) -> np.dtype[Any]:
    """The dtype of what a function returned on trial: refused if no block could be made of it when it runs."""
    block = np.asarray(block) if isinstance(block, np.generic) else block
    return checked(block, None, None, f"{label}: its function").dtype


def stand_in(x: Array, size: int) -> np.ndarray:
    """An array of as many dimensions and the same dtype, of length ``size`` along each."""
    return np.ones((size,) * x.ndim, x.dtype)


def stand_ins(pairs: Sequence[tuple[Any, Labels | None]], out: Labels, concatenate: bool, size: int) -> list[Any]:
    """Arguments for :func:`infer`, blocks along contracted axes in lists if ``func`` gets them so."""
    args = []
    for arg, labels in pairs:
        if labels is None:
            args.append(stand_in(arg, size) if isinstance(arg, Array) else arg)
            continue
        block: Any = stand_in(arg, size)
        for label in labels:
            if label not in out and not concatenate:
                block = [block]
        args.append(block)
    return args


# ---------------------------------------------------------------- arguments


@dataclass(slots=True)
class BoundCall:
    """A call with arrays and delayed values replaced by Slots into ``inputs``."""

    func: Callable[..., Any]
    concatenate: bool
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: list[tuple[ArrayNode, Labels]] = field(default_factory=list)

    def function(self, placed: Placed | None = None) -> BlockFunction:
        func = placed or self.func
        return BlockFunction(func, self.args, self.kwargs, concatenate=self.concatenate, place=placed is not None)


def bind(
    func: Callable[..., Any],
    pairs: Sequence[tuple[Any, Labels | None]],
    kwargs: Mapping[str, Any],
    out: Labels,
    concatenate: bool,
    label: str,
) -> BoundCall:
    """The call of ``func`` for one block. Collections among the literals become inputs that arrive as a whole."""
    call = BoundCall(func, concatenate)
    contracts = any(name not in out for _, labels in pairs for name in labels or ())
    boxes = False

    def slot(node: ArrayNode, labels: Labels) -> Slot:
        if (node, labels) not in call.inputs:
            call.inputs.append((node, labels))
        return Slot(call.inputs.index((node, labels)))

    def literal(value: Any) -> Any:
        nonlocal boxes
        if isinstance(value, Array):
            if contracts and not concatenate:
                raise UnsupportedError(f"{label}: an array among the literals needs concatenate=True")
            call.concatenate = True
            node = value.node
            if all(axis.known for axis in node.chunks):  # joined once, not in every call
                node = build.rechunk(node, tuple(AxisChunks((axis.total,)) for axis in node.chunks))
            return slot(node, tuple((id(node), axis) for axis in range(node.ndim)))
        if is_collection(value):
            boxes = True
            boxed = Call(box, (Slot(0),), {}, (value.node,), "box-" + value.node.token, "box", True)
            return slot(build.from_value(boxed, (), object, "box"), ())
        if type(value) in (list, tuple):
            return type(value)(map(literal, value))
        if type(value) is dict:
            return {key: literal(item) for key, item in value.items()}
        return value

    call.args = tuple(literal(arg) if labels is None else slot(arg.node, tuple(labels)) for arg, labels in pairs)
    call.kwargs = {key: literal(value) for key, value in kwargs.items()}
    if boxes:
        call.func = _Unboxing(call.func)
    if contracts and not call.concatenate:
        contracted = (tuple(name not in out for name in labels or ()) for _, labels in pairs)
        call.func = _Listing(call.func, tuple(contracted))
    return call


class Box:
    """A value of any kind as the one element of an array, where NumPy would look inside a list."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def box(value: Any, ndim: int = 0) -> np.ndarray:
    out = np.empty((1,) * ndim, object)
    out[...] = Box(value)
    return out


def _unbox(value: Any) -> Any:
    if type(value) is np.ndarray and value.dtype == object and value.ndim == 0:
        inside: Any = value[()]
        return inside.value if type(inside) is Box else value
    if type(value) in (list, tuple):
        return type(value)(map(_unbox, value))
    if type(value) is dict:
        return {key: _unbox(item) for key, item in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class _Unboxing:
    """``func`` with delayed values taken out of their boxes."""

    func: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*map(_unbox, args), **_unbox(kwargs))


@dataclass(frozen=True, slots=True)
class _Listing:
    """``func`` with the blocks along contracted axes in nested lists, and along no others.

    Where there are several blocks to contract, they come in lists along every axis; where there is only one, it comes
    as it is.
    """

    func: Callable[..., Any]
    contracted: tuple[tuple[bool, ...], ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*map(_listed, args, self.contracted), **kwargs)


def _listed(value: Any, contracted: tuple[bool, ...]) -> Any:
    if not contracted:
        return value
    if not isinstance(value, list):
        inner = value
    elif contracted[0]:
        return [_listed(item, contracted[1:]) for item in value]
    else:
        return _listed(value[0], contracted[1:])
    for _ in range(sum(contracted)):
        inner = [inner]
    return inner


# ---------------------------------------------------------------- where a block lies


@dataclass(frozen=True, slots=True)
class InputPlace:
    """Argument ``number``: its chunks, and for each of its axes the result's axis (None: joined into one block)."""

    number: int
    chunks: Chunks
    axes: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """``func`` with ``block_id`` or ``block_info`` made from the block's place."""

    func: Callable[..., Any]
    wants: frozenset[str]
    inputs: tuple[InputPlace, ...]
    chunks: Chunks
    dtype: np.dtype[Any]

    def __call__(self, *args: Any, block_place: BlockPlace, **kwargs: Any) -> Any:
        index = block_place.index
        if "block_id" in self.wants:
            kwargs["block_id"] = index
        if "block_info" in self.wants:
            kwargs["block_info"] = self.info(index)
        return self.func(*args, **kwargs)

    def info(self, index: tuple[int, ...]) -> dict[int | None, dict[str, Any]]:
        info: dict[int | None, dict[str, Any]] = {}
        for place in self.inputs:
            chunks = tuple(
                AxisChunks((have.total,)) if axis is None else have
                for have, axis in zip(place.chunks, place.axes, strict=True)
            )
            where = (0 if axis is None else index[axis] for axis in place.axes)
            info[place.number] = _location(
                chunks, tuple(k if len(have) > 1 else 0 for k, have in zip(where, chunks, strict=True))
            )
        shape = tuple(have[k] for have, k in zip(self.chunks, index, strict=True))
        info[None] = {**_location(self.chunks, index), "chunk-shape": shape, "dtype": self.dtype}
        return info


def _location(chunks: Chunks, index: tuple[int, ...]) -> dict[str, Any]:
    return {
        "shape": tuple(axis.total for axis in chunks),
        "num-chunks": tuple(map(len, chunks)),
        "array-location": [
            (int(axis.bounds[k]), int(axis.bounds[k + 1])) if axis.known else (nan, nan)
            for axis, k in zip(chunks, index, strict=True)
        ],
        "chunk-location": index,
    }
