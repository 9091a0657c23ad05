"""Lazy things inside arguments: found, replaced by Slots, and handed to the call as its inputs.

The template of a :class:`~tilework.plan.ops.Call` has Slots at its top level and inside plain lists, tuples and dicts
(as keys, too). Lazy things in any other container (sets, slices, named tuples, dataclasses) become a call of their
own, which makes the container. Iterators over lists, tuples and sets become lists, as they can be read only once.
Subclasses of lists and dicts, generators and foreign objects are passed on unopened.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np

from tilework.base.tokens import tokenize
from tilework.plan import build
from tilework.plan.ops import ArrayNode, Call, Node, Slot
from tilework.session import is_collection

NO_KWARGS: dict[str, Any] = {}
"""Shared by all calls without keywords: nobody changes a node's fields."""

SLOTS = tuple(Slot(i) for i in range(64))
"""Slots are values, so that the first ones need to be made only once."""

ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, range, type, type(...), np.ndarray, np.bool_}
    | {np.float32, np.float64, np.int32, np.int64, FunctionType, BuiltinFunctionType, np.ufunc}
)
"""Common types that are never lazy and have nothing lazy inside: no need to look closer."""


def template(value: Any, inputs: list[Node]) -> Any:
    """Return ``value`` with a Slot for each lazy thing in it and add their nodes to ``inputs``; else ``value`` itself.

    Tilework arrays arrive as one NumPy array each.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    inside = _CONTAINERS.get(kind)
    if inside is not None:
        return inside(value, inputs)
    if is_collection(value):
        node = value.node
        return _slot(build.whole(node) if isinstance(node, ArrayNode) else node, inputs)
    if hasattr(kind, "__dataclass_fields__"):
        return _in_dataclass(value, inputs)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _made_from(kind, tuple(value), value, inputs)
    return value


def pure_call(
    fn: Callable[..., Any], label: str, args: tuple[Any, ...], inputs: list[Node], token: str | None = None
) -> Call:
    """Return the call of ``fn`` with a template for arguments; equal calls have equal tokens."""
    token = token or pure_token(label, fn, args, NO_KWARGS, inputs)
    flat = not inputs or not any(type(arg) in (list, tuple, dict) for arg in args)
    return Call(fn, args, NO_KWARGS, tuple(inputs), token, label, flat)


def pure_token(label: str, described: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Node]) -> str:
    """Return the token of a pure call. Slots at the top level count as a pattern: describing a text is cheap."""
    pattern = "".join(["s" if type(arg) is Slot else "-" for arg in args])
    constants = [arg for arg in args if type(arg) is not Slot]
    return f"{label}-{tokenize(described, pattern, kwargs or None, *constants, *[node.token for node in inputs])}"


def _slot(node: Node, inputs: list[Node]) -> Slot:
    n = len(inputs)
    inputs.append(node)
    return SLOTS[n] if n < 64 else Slot(n)


def _in_list(value: list[Any], inputs: list[Node]) -> Any:
    before = len(inputs)
    new = [template(v, inputs) for v in value]
    return new if len(inputs) > before else value


def _in_tuple(value: tuple[Any, ...], inputs: list[Node]) -> Any:
    before = len(inputs)
    new = tuple([template(v, inputs) for v in value])
    return new if len(inputs) > before else value


def _in_dict(value: dict[Any, Any], inputs: list[Node]) -> Any:
    before = len(inputs)
    new = {template(k, inputs): template(v, inputs) for k, v in value.items()}
    return new if len(inputs) > before else value


def _in_set(value: set[Any] | frozenset[Any], inputs: list[Node]) -> Any:
    return _made_from(type(value), (list(value),), value, inputs)


def _in_slice(value: slice, inputs: list[Node]) -> Any:
    return _made_from(slice, (value.start, value.stop, value.step), value, inputs)


def _in_dataclass(value: Any, inputs: list[Node]) -> Any:
    """Fill in a copy, which needs no call of ``__init__``: that may have any signature, or compute further fields."""
    lazy = {}
    parts: list[Node] = []
    for name in type(value).__dataclass_fields__:
        if hasattr(value, name):  # a field with init=False may not be there
            before = len(parts)
            new = template(getattr(value, name), parts)
            if len(parts) > before:
                lazy[name] = new
    if not lazy:
        return value
    return _slot(
        pure_call(with_fields, type(value).__name__, (with_fields(value, dict.fromkeys(lazy)), lazy), parts), inputs
    )


def with_fields(value: Any, fields: dict[str, Any]) -> Any:
    """Return a copy of a dataclass instance, frozen or not, with other values in some fields."""
    new = copy(value)
    for name, field in fields.items():
        object.__setattr__(new, name, field)
    return new


def _made_from(kind: type, args: tuple[Any, ...], value: Any, inputs: list[Node]) -> Any:
    """Return a Slot for the call ``kind(*args)``, or ``value`` itself if nothing in ``args`` is lazy."""
    parts: list[Node] = []
    lazy_args = _in_tuple(args, parts)
    return _slot(pure_call(kind, kind.__name__, lazy_args, parts), inputs) if parts else value


_CONTAINERS: dict[type, Callable[[Any, list[Node]], Any]] = {
    list: _in_list,
    tuple: _in_tuple,
    dict: _in_dict,
    set: _in_set,
    frozenset: _in_set,
    slice: _in_slice,
    **dict.fromkeys(
        (type(iter([])), type(iter(())), type(iter(set()))), lambda value, inputs: _in_list([*value], inputs)
    ),
}
