"""A rule as data: what it matches, what it makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tilework.plan.ops import ArrayNode


@dataclass(frozen=True, slots=True)
class Rule:
    """``user`` over ``below`` (node kinds) becomes ``rewrite(user_node, below_node)``, or stays if that gives None."""

    name: str
    user: type[ArrayNode]
    below: type[ArrayNode]
    rewrite: Callable[[Any, Any], ArrayNode | None]
