"""Block segments: one function of whole values, its arguments filled in and its result checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tilework.base.errors import BlockResultError
from tilework.plan.ops import Slot
from tilework.plan.stages import BlockPlace, BlockSegment


def run_function(segment: BlockSegment, place: BlockPlace, values: Sequence[Any]) -> Any:
    """Call the function of a segment; ``values`` are those that ``segment.inputs`` name."""
    function = segment.function
    args, kwargs = _fill(function.args, values), _fill(function.kwargs, values)
    if function.place:
        kwargs["block_place"] = place
    result = function.fn(*args, **kwargs)
    if isinstance(result, np.generic):
        result = np.asarray(result)
    if segment.dtype is None and segment.expected is None:
        return result
    shape = None
    if segment.expected is not None:
        shape = tuple(chunks[0 if axis is None else place.index[axis]] for chunks, axis in segment.expected)
    return checked(result, shape, segment.dtype, f"operation {segment.label!r}, block {place.index}: its function")


def _fill(template: Any, values: Sequence[Any]) -> Any:
    """The template with values in place of Slots, at any depth of lists, tuples and dicts."""
    if isinstance(template, Slot):
        return values[template.index]
    if type(template) in (list, tuple):
        return type(template)(_fill(item, values) for item in template)
    if type(template) is dict:
        return {key: _fill(item, values) for key, item in template.items()}
    return template


def checked(result: Any, shape: tuple[Any, ...] | None, dtype: np.dtype[Any] | None, who: str) -> np.ndarray:
    """``result`` as a plain ndarray of the announced shape (NaN: any size) and dtype.

    Raises
    ------
    BlockResultError
        If it is none; ``who`` begins the message.
    """
    if isinstance(result, np.memmap | int | float | complex):
        result = np.asarray(result)
    if type(result) is not np.ndarray and dtype is not None and dtype.kind == "O" and shape == ():
        boxed = np.empty((), object)  # NumPy unpacks an array of one object
        boxed[()], result = result, boxed
    if type(result) is not np.ndarray:
        kind = f"{type(result).__module__}.{type(result).__qualname__}"
        raise BlockResultError(
            f"{who} returned a {kind}. Blocks are plain numpy.ndarray: convert it inside the function "
            "(np.asarray, .to_numpy(), .filled(), .todense()), or use tilework.delayed for other kinds of value"
        )
    if dtype is not None and result.dtype != dtype:
        if result.dtype.newbyteorder("=") != dtype.newbyteorder("="):
            raise BlockResultError(
                f"{who} returned dtype {result.dtype}, but {dtype} was announced: pass dtype={str(result.dtype)!r} "
                "where the operation is made, or convert inside the function"
            )
        result = result.astype(dtype)
    if shape is not None and not _fits(result.shape, shape):
        raise BlockResultError(
            f"{who} returned shape {result.shape}, but {shape} was announced: say with chunks=... what it returns "
            "(drop_axis=, new_axis= if the number of dimensions changes)"
        )
    return result


def _fits(have: tuple[int, ...], announced: tuple[Any, ...]) -> bool:
    return have == announced or (
        len(have) == len(announced) and all(a == b or b != b for a, b in zip(have, announced, strict=True))
    )
