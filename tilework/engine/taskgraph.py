"""The task graph as arrays: a task is an integer.

Tasks are numbered stage by stage, blocks in C order of the stage's grid, producers before users; blocks that no output
needs are left out. Everything that the
scheduler touches per task is an entry of a NumPy array; functions and arguments come from the stage when a task starts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.dependencies import needed_blocks
from tilework.engine.ordering import depth_first_rank
from tilework.plan.protocols import Handle
from tilework.plan.stages import Calls, Dependence, GridMap, Held, Program, Stage


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
    kept
        For each stage the flat grid numbers of its tasks, ascending; None where the whole grid runs.
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
    kept: list[np.ndarray | None] = field(default_factory=list)

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
        return users_of(self.indptr, self.deps)

    @cached_property
    def held(self) -> dict[int, Handle]:
        """The tasks whose values are futures: they are there without being run, on the cluster that has them."""
        found: dict[int, Handle] = {}
        for s, stage in enumerate(self.stages):
            if isinstance(stage.work, Held):
                kept = self.kept[s] if self.kept else None
                handles = stage.work.handles if kept is None else [stage.work.handles[k] for k in kept.tolist()]
                found |= dict(enumerate(handles, self._offsets_list[s]))
        return found

    @cached_property
    def _offsets_list(self) -> list[int]:
        return self.offsets.tolist()

    def locate(self, task: int) -> tuple[int, Stage, int]:
        """The number of a task's stage, the stage, and the task's flat number in the stage's grid."""
        s = bisect_right(self._offsets_list, task) - 1
        flat = task - self._offsets_list[s]
        kept = self.kept[s] if self.kept else None
        return s, self.stages[s], flat if kept is None else int(kept[flat])

    def index(self, task: int) -> tuple[int, ...]:
        """Where a task stands in its stage's grid."""
        _, stage, flat = self.locate(task)
        out = []
        for n in reversed(stage.grid):
            flat, k = divmod(flat, n)
            out.append(k)
        return tuple(reversed(out))


def users_of(indptr: np.ndarray, deps: np.ndarray, base: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The edges turned round: which tasks need each, in ascending order; see ``TaskGraph.dependents``.

    Tasks are counted from 0; in ``deps`` they may be numbered from ``base`` on, and edges to what
    comes before are left out.
    """
    n = len(indptr) - 1
    users = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
    if base:
        inside = deps >= base
        users, deps = users[inside], deps[inside] - base
    turned = np.zeros(n + 1, np.int64)
    np.cumsum(np.bincount(deps, minlength=n), out=turned[1:])
    return turned, users[np.argsort(deps, kind="stable")]


def build(
    stages: Sequence[Stage], outputs: Sequence[tuple[int, int]], always: Sequence[int] = (), resident_bytes: int = 0
) -> TaskGraph:
    """Join stages into a graph.

    Parameters
    ----------
    stages
        Producers before users.
    outputs
        Stage number and flat block number of each value that is wanted.
    always
        Numbers of stages of which every task runs, wanted or not: those that write. What their sinks hold already is
        left out.
    resident_bytes
        Memory that sinks hold during the whole run.
    """
    needs = _needs(stages, outputs, always)
    kept = [None if need.all() else np.flatnonzero(need) for need in needs]
    counts = [stage.size if k is None else len(k) for stage, k in zip(stages, kept, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    number = _Numbering(offsets, kept, needs)
    parts = [_stage_dependencies(s, stage, stages, kept[s], number) for s, stage in enumerate(stages)]
    indptr = np.zeros(int(offsets[-1]) + 1, np.int64)
    if parts:
        np.cumsum(np.concatenate([c for c, _ in parts]), out=indptr[1:])
    deps = np.concatenate([d for _, d in parts]) if parts else np.zeros(0, np.int32)
    return TaskGraph(
        list(stages),
        offsets,
        indptr,
        deps,
        _per_task([stage.out_bytes for stage in stages], kept, counts),
        _per_task([stage.work_bytes for stage in stages], kept, counts),
        depth_first_rank(offsets, indptr, deps),
        np.array([number.task(s, block) for s, block in outputs], np.int32),
        resident_bytes,
        kept,
    )


def _needs(stages: Sequence[Stage], outputs: Sequence[tuple[int, int]], always: Sequence[int]) -> list[np.ndarray]:
    """For each stage which tasks of its grid must run, found from the outputs back."""
    needs = [np.full(stage.size, s in always or isinstance(stage.work, Calls)) for s, stage in enumerate(stages)]
    for s in always:
        needs[s] &= ~_finished(stages[s])
    for s, block in outputs:
        needs[s][block] = True
    for s in range(len(stages) - 1, -1, -1):
        stage, need = stages[s], needs[s]
        for i in stage.inputs:
            if i.producer == s:
                _need_before(i.blocks, need.reshape(stage.grid))
        if isinstance(stage.work, Calls):
            for producer in np.unique(stage.work.stages).tolist():
                if producer != s:
                    needs[producer][stage.work.blocks[stage.work.stages == producer]] = True
        whole = need.all()
        tasks = None if whole else np.flatnonzero(need)
        for i in stage.inputs:
            if i.producer > s:
                raise InternalError(f"stage {s} ({stage.label}) needs the later stage {i.producer}")
            if needs[i.producer].all():
                continue
            if whole and isinstance(i.blocks, GridMap):  # the product of what is needed along each axis
                mine: np.ndarray = np.ones((), bool)
                for m, n in zip(i.blocks.maps, stages[i.producer].grid, strict=False):
                    along = np.zeros(n, bool)
                    along[m.blocks] = True
                    mine = np.logical_and.outer(mine, along)
                needs[i.producer] |= mine.ravel()
            else:
                _, blocks = needed_blocks(i.blocks, stage.grid, stages[i.producer].grid, tasks)
                needs[i.producer][blocks] = True
    return needs


def _finished(stage: Stage) -> np.ndarray:
    """Which tasks of a stage would only write what its sinks hold already."""
    none = np.zeros(stage.size, bool)
    if not isinstance(stage.work, Program):
        return none
    found = [output.sink.finished() if output.sink is not None else None for output in stage.work.outputs]
    there = [blocks.reshape(-1) for blocks in found if blocks is not None]
    return np.logical_and.reduce(there) if there and len(there) == len(found) else none


def _need_before(blocks: Dependence, need: np.ndarray) -> None:
    """In a stage whose tasks need the one before them along an axis, what comes before a needed task is needed."""
    if not isinstance(blocks, GridMap):
        raise InternalError(f"a stage that depends on itself by {blocks!r}")
    (axis,) = (k for k, m in enumerate(blocks.maps) if len(m.blocks) < need.shape[k])
    backwards = np.flip(need, axis)
    np.logical_or.accumulate(backwards, axis, out=backwards)


class _Numbering:
    """Task numbers of blocks once unneeded ones are left out."""

    def __init__(self, offsets: np.ndarray, kept: list[np.ndarray | None], needs: list[np.ndarray]) -> None:
        self.offsets = offsets
        self.place = [None if k is None else np.cumsum(need) - 1 for k, need in zip(kept, needs, strict=True)]

    def task(self, stage: int, block: int) -> int:
        place = self.place[stage]
        return int(self.offsets[stage]) + (block if place is None else int(place[block]))

    def tasks(self, stage: int, blocks: np.ndarray) -> np.ndarray:
        place = self.place[stage]
        return ((blocks if place is None else place[blocks]) + self.offsets[stage]).astype(np.int32)


def _stage_dependencies(
    s: int, stage: Stage, stages: Sequence[Stage], tasks: np.ndarray | None, number: _Numbering
) -> tuple[np.ndarray, np.ndarray]:
    """How many tasks each task of a stage needs, and which, input by input."""
    n = stage.size if tasks is None else len(tasks)
    if isinstance(stage.work, Calls):
        work = stage.work
        deps = np.empty(len(work.blocks), np.int32)
        for producer in np.unique(work.stages).tolist():
            mine = work.stages == producer
            deps[mine] = number.tasks(producer, work.blocks[mine])
        return np.diff(work.indptr), deps
    found = [needed_blocks(i.blocks, stage.grid, stages[i.producer].grid, tasks) for i in stage.inputs]
    blocks = [number.tasks(i.producer, b) for i, (_, b) in zip(stage.inputs, found, strict=True)]
    if all(counts is None for counts, _ in found):
        return np.full(n, len(found), np.int64), np.stack(blocks, axis=1).reshape(-1) if blocks else np.zeros(
            0, np.int32
        )
    each = [np.ones(n, np.int64) if counts is None else counts for counts, _ in found]
    total = np.sum(each, axis=0)
    deps = np.empty(int(total.sum()), np.int32)
    first = np.cumsum(total) - total
    for counts, mine in zip(each, blocks, strict=True):
        within = np.arange(len(mine)) - np.repeat(np.cumsum(counts) - counts, counts)
        deps[np.repeat(first, counts) + within] = mine
        first = first + counts
    return total, deps


def _per_task(weights: list[np.ndarray], kept: list[np.ndarray | None], counts: list[int]) -> np.ndarray:
    parts = []
    for weight, tasks, n in zip(weights, kept, counts, strict=True):
        if len(weight) == 1:
            parts.append(np.full(n, weight[0], np.int64))
        else:
            parts.append(weight if tasks is None else weight[tasks])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
