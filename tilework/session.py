"""The one place that joins the steps: optimize → lower → engine → results, with whoever listens."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from tilework.plan.ops import Node


@runtime_checkable
class Collection(Protocol):
    """What users hold: a wrapper around one plan node, and nothing else."""

    node: Node

    def __tilework_rebuild__(self, node: Node) -> Collection:
        """The same kind of collection around another node of the same shape (after persist or optimize)."""
        ...


def is_tilework_collection(x: object) -> bool:
    """Whether ``x`` is a lazy tilework object."""
    return hasattr(type(x), "__tilework_rebuild__")


def compute(*things: Any, **options: Any) -> tuple[Any, ...]:
    raise NotImplementedError


def persist(*things: Any, **options: Any) -> tuple[Any, ...]:
    raise NotImplementedError
