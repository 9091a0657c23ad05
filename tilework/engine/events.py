"""What happens while a task graph runs, as facts for listeners: progress, history, report, dashboard.

Engines call ``listener(event)`` from any of their threads, one call at a time. Listeners must return quickly and
must not raise. Reports are per *batch* of tasks, never per task: a batch is a few microseconds to many seconds long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tilework.engine.taskgraph import TaskGraph


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The engine begins: ``workers`` tasks at a time inside ``budget`` bytes."""

    graph: TaskGraph
    engine: str
    workers: int
    budget: int
    time: float


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """A worker has run ``tasks`` (numbers in the graph), one after another, from ``start`` to ``stop`` (monotonic s).

    ``held`` and ``spilled`` are the bytes of finished blocks in memory and on disk after it.
    """

    worker: int
    tasks: tuple[int, ...]
    start: float
    stop: float
    held: int
    spilled: int


@dataclass(frozen=True, slots=True)
class TaskRetried:
    """A task raised ``error`` and will be tried again."""

    task: int
    attempt: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over; ``error`` is None if it succeeded.

    ``peak_held`` is the most that blocks, running tasks and sinks had or had reserved at once: what was predicted.
    """

    time: float
    peak_held: int
    spilled_total: int
    error: BaseException | None


RunEvent: TypeAlias = RunStarted | BatchFinished | TaskRetried | RunFinished
Listener: TypeAlias = Callable[[RunEvent], None]
