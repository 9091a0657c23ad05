"""The task graph as arrays: a task is an integer.

Tasks are numbered stage by stage, blocks in C order of the stage's grid, producers before users. Everything that the
scheduler touches per task is an entry of a NumPy array; functions and arguments come from the stage when a task starts.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tilework.plan.stages import Stage


@dataclass(eq=False)
class TaskGraph:
    """Stages joined into one graph.

    Attributes
    ----------
    stages
        Producers before users.
    offsets
        int64, one longer than ``stages``: the tasks of stage ``s`` are ``offsets[s]:offsets[s + 1]``.
    indptr, deps
        int64, int32: task ``t`` needs ``deps[indptr[t]:indptr[t + 1]]``, in the order of its stage's inputs.
    out_bytes, work_bytes
        int64, one entry a task: what its block weighs, and what it needs on top while it runs.
    rank
        int32, a permutation: the depth-first position of each task. A valid order for one worker.
    outputs
        int32: tasks whose values are kept and returned.
    resident_bytes
        Memory that sinks hold during the whole run.
    """

    stages: list[Stage]
    offsets: np.ndarray
    indptr: np.ndarray
    deps: np.ndarray
    out_bytes: np.ndarray
    work_bytes: np.ndarray
    rank: np.ndarray
    outputs: np.ndarray
    resident_bytes: int = 0

    @property
    def n_tasks(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def order(self) -> np.ndarray:
        """Tasks by rank: the inverse permutation of ``rank``."""
        order = np.empty_like(self.rank)
        order[self.rank] = np.arange(len(self.rank), dtype=order.dtype)
        return order

    @cached_property
    def dependents(self) -> tuple[np.ndarray, np.ndarray]:
        """``(indptr, tasks)``: the users of each task, in ascending order; a task that is needed twice stands twice."""
        counts = np.bincount(self.deps, minlength=self.n_tasks)
        indptr = np.zeros(self.n_tasks + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        users = np.repeat(np.arange(self.n_tasks, dtype=np.int32), np.diff(self.indptr))
        return indptr, users[np.argsort(self.deps, kind="stable")]

    @cached_property
    def _offsets_list(self) -> list[int]:
        return self.offsets.tolist()

    def locate(self, task: int) -> tuple[int, Stage, int]:
        """The number of a task's stage, the stage, and the task's number within it."""
        s = bisect_right(self._offsets_list, task) - 1
        return s, self.stages[s], task - self._offsets_list[s]

    def index(self, task: int) -> tuple[int, ...]:
        """Where a task stands in its stage's grid."""
        _, stage, flat = self.locate(task)
        out = []
        for n in reversed(stage.grid):
            flat, k = divmod(flat, n)
            out.append(k)
        return tuple(reversed(out))
