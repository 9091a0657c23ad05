"""What clients have defined: functions, and task graphs; and how far their tasks are."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from tilework.engine.cluster.wire.messages import Value


@dataclass(slots=True, eq=False)
class Function:
    """A client's function. ``number`` is also its stage in the core, whose tasks cost about the same."""

    number: int
    blob: Value
    name: str
    left: int = 0  # calls of it that may run, now or when they are tried again
    retired: bool = False  # there will be no more


@dataclass(slots=True, eq=False)
class Graph:
    """A client's task graph."""

    number: int
    client: int
    first: int  # its first future
    payload: Value
    base: int  # the core's number of its task 0
    stage: int  # and of its stage 0
    n_tasks: int
    held: dict[int, int]  # its task → block
    scratch: dict[int, int]
    labels: tuple[str, ...]
    offsets: list[int]
    resident_bytes: int
    watched: bool
    retries: int
    left: int  # tasks that have not ended in some way
    futures: int  # of its own that somebody holds, the last one only until it is done
    failed: int = 0  # tasks that failed, and might be tried again

    @property
    def last(self) -> int:
        """What stands for the task of its last future."""
        return ~self.number

    def label(self, task: int) -> str:
        """The name of the operation that a task belongs to."""
        return self.labels[bisect_right(self.offsets, task - self.base) - 1]


@dataclass(slots=True)
class Operation:
    """How far the tasks of a function, or of a stage of a graph, are."""

    label: str
    total: int = 0
    done: int = 0
    failed: int = 0
