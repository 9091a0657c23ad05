"""What a benchmark is: one piece of work, done by several peers, whose answers must agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Work = Callable[[], Any]


@dataclass(frozen=True)
class Told:
    """An answer, and figures that the work has measured itself.

    Attributes
    ----------
    answer
        What the work gives, as if it had measured nothing.
    figures
        Seconds as ``"wall"``, in the place of what is measured from outside. Anything else is bytes, and shown in a
        column of that name.
    """

    answer: Any
    figures: dict[str, float]


@dataclass(frozen=True)
class Case:
    """One row of the results.

    Attributes
    ----------
    name
        Short, for the command line.
    title
        What is done, as the results show it.
    peers
        For each peer a function that sets up (not measured) and returns the work (measured), which returns the
        answer. The first peer is tilework.
    goals
        What to reach, in words, as the results show them.
    target
        Peer and measure that the ratio is taken against: ``("hand-tiled", "cpu")``.
    per
        Number of things that the work does, for figures per task; 1 shows seconds.
    warm
        Whether the work is done once before it is measured.
    rounds
        How often each peer is measured, in turns with the others.
    rtol
        How closely answers agree.
    """

    name: str
    title: str
    peers: dict[str, Callable[[], Work]]
    goals: str
    target: tuple[str, str] | None = None
    per: int = 1
    warm: bool = True
    rounds: int = 3
    rtol: float = 1e-6
    skip_rounds: dict[str, int] = field(default_factory=dict)

    def agree(self, answers: dict[str, Any]) -> bool:
        """Whether all peers gave the same answer."""
        first, *others = [np.asarray(a, dtype=float) for a in answers.values() if a is not None]
        return all(np.allclose(first, other, rtol=self.rtol, atol=1e-12, equal_nan=True) for other in others)
