"""Lazy things, and containers of them: found, and replaced by what becomes of them.

Lists, tuples, sets, dicts and dataclasses are looked into; other libraries teach theirs (:func:`register_container`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from typing import Any, Protocol, runtime_checkable

from tilework.plan.ops import Node


@runtime_checkable
class Collection(Protocol):
    """What users hold: a wrapper around one plan node, and nothing else."""

    node: Node

    def __tilework_rebuild__(self, node: Node) -> Collection:
        """The same kind of collection around another node of the same shape (after persist or optimize)."""
        ...


Unpacked = tuple[list[Any], Callable[[list[Any]], Any]]
_unpackers: list[Callable[[Any], Unpacked | None]] = []


def register_container(unpack: Callable[[Any], Unpacked | None]) -> None:
    """Teach ``compute`` and its kin about a kind of object that holds collections (an xarray Dataset).

    ``unpack(x)`` returns the things inside and a function that rebuilds ``x`` from their replacements, or None if
    ``x`` is not of that kind.
    """
    _unpackers.append(unpack)


def is_collection(x: object) -> bool:
    """Whether ``x`` itself is a collection: it has a ``node``."""
    return hasattr(type(x), "__tilework_rebuild__")


def is_tilework_collection(x: object) -> bool:
    """Whether ``x`` is a lazy tilework object, or an xarray object that holds one.

    Examples
    --------
    >>> import tilework as tw
    >>> tw.is_tilework_collection(tw.delayed(1)), tw.is_tilework_collection(1)
    (True, False)
    """
    return is_collection(x) or any(map(is_collection, _contents(x)))


def _contents(x: object) -> list[Any]:
    """What is in ``x`` if it is of a kind that was registered."""
    return next((found[0] for found in (unpack(x) for unpack in _unpackers) if found is not None), [])


def unpack_all(things: Iterable[Any], traverse: bool) -> tuple[list[Any], Callable[[list[Any]], list[Any]]]:
    """The collections inside ``things``, and a function that puts their replacements in their places."""
    found: list[Any] = []
    plans = [_plan(thing, traverse, found, top=True) for thing in things]
    return found, lambda values: [plan(values) if callable(plan) else values[plan] for plan in plans]


_Plan = int | Callable[[list[Any]], Any]
"""Where a thing's replacement is: a number in the list of values, or a function of that list."""


def _plan(thing: Any, traverse: bool, found: list[Any], top: bool = False) -> _Plan:
    if is_collection(thing):
        found.append(thing)
        return len(found) - 1
    if traverse or top:
        for unpack in _unpackers:
            unpacked = unpack(thing)
            if unpacked is not None:
                inner, rebuild = unpacked
                return _all(inner, traverse, found, rebuild)
    if traverse:
        kind = type(thing)
        if kind in (list, tuple, set, frozenset):
            return _all(list(thing), traverse, found, kind)
        if kind is dict:
            keys = list(thing)
            return _all(list(thing.values()), traverse, found, lambda values: dict(zip(keys, values, strict=True)))
        if isinstance(thing, tuple) and hasattr(thing, "_fields"):
            return _all(list(thing), traverse, found, lambda values: kind(*values))
        if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
            names = [f.name for f in dataclasses.fields(thing) if hasattr(thing, f.name)]
            fields = [getattr(thing, name) for name in names]
            return _all(
                fields, traverse, found, lambda values: _copy_with(thing, dict(zip(names, values, strict=True)))
            )
    return lambda values: thing


def _copy_with(thing: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a dataclass instance, frozen or not. Its ``__init__`` may want other things than its fields."""
    new = copy(thing)
    for name, value in fields.items():
        object.__setattr__(new, name, value)
    return new


def _all(inner: Sequence[Any], traverse: bool, found: list[Any], rebuild: Callable[[list[Any]], Any]) -> _Plan:
    plans = [_plan(thing, traverse, found) for thing in inner]
    return lambda values: rebuild([plan(values) if callable(plan) else values[plan] for plan in plans])


__all__ = [
    "Collection",
    "Unpacked",
    "is_collection",
    "is_tilework_collection",
    "register_container",
    "unpack_all",
]
