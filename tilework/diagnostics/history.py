"""What happened in computations: a record of each run, from its events, in fixed space.

A record's size depends on the number of stages, never on the number of tasks. Its timeline has a fixed number of bins;
when a run outlasts them, neighbours are joined and every bin covers twice the time.

Bytes are counted in two ways: *read* and *written* are what storage is asked for; *made* is what finished blocks weigh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tilework.base.machine import MemoryMeter
from tilework.diagnostics.listeners import Observer
from tilework.engine.events import BatchFinished, Listener, RunEvent, RunFinished, RunStarted, TaskRetried
from tilework.engine.local.budget import predict_peak
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.stages import Held

BINS = 256
"""Bins of a timeline."""


@dataclass(slots=True)
class StageRecord:
    """What one stage has done so far. ``busy`` is in seconds, added up over workers."""

    label: str
    total: int
    read_bytes: int
    write_bytes: int
    done: int = 0
    made_bytes: int = 0
    busy: float = 0.0


class Timeline:
    """Workers' busy seconds, and the most bytes held, in equal bins of time from the start of a run.

    Attributes
    ----------
    width
        Seconds a bin covers; doubles as often as needed.
    busy, held
        One entry a bin.
    """

    def __init__(self, width: float = 1e-3) -> None:
        self.width = width
        self.busy = [0.0] * BINS
        self.held = [0] * BINS

    def add(self, start: float, stop: float, held: int) -> None:
        """A worker was busy from ``start`` to ``stop``, seconds from the start; then ``held`` bytes were held."""
        while stop >= BINS * self.width:
            self._fold()
        first, last = int(max(0.0, start) / self.width), int(stop / self.width)
        for k in range(first, last + 1):
            self.busy[k] += max(0.0, min(stop, (k + 1) * self.width) - max(start, k * self.width))
        self.held[last] = max(self.held[last], held)

    def _fold(self) -> None:
        half = BINS // 2
        self.busy = [a + b for a, b in zip(self.busy[::2], self.busy[1::2], strict=True)] + [0.0] * half
        self.held = [max(a, b) for a, b in zip(self.held[::2], self.held[1::2], strict=True)] + [0] * half
        self.width *= 2


@dataclass(slots=True, eq=False)
class RunRecord:
    """One run of one task graph. A listener: call it with the run's events, in order.

    Attributes
    ----------
    engine, workers, budget
        As the run was started; ``budget`` in bytes.
    started, finished
        Monotonic seconds; ``finished`` is the last event's time while the run goes on.
    stages
        One record a stage.
    held, spilled
        Bytes of finished blocks in memory and on disk, now.
    peak_held, spilled_total
        Over the whole run; known when it is over.
    predicted, grown
        The peak that was predicted, and by how many bytes the process really grew at most; None unless asked for.
    retries
        Attempts that failed and were repeated.
    over, error
        Whether the run is over, and what ended it if it failed.
    """

    engine: str = ""
    workers: int = 1
    budget: int = 0
    started: float = 0.0
    finished: float = 0.0
    stages: list[StageRecord] = field(default_factory=list)
    held: int = 0
    spilled: int = 0
    peak_held: int = 0
    spilled_total: int = 0
    predicted: int | None = None
    grown: int | None = None
    retries: int = 0
    over: bool = False
    error: str | None = None
    timeline: Timeline = field(default_factory=Timeline)
    _graph: TaskGraph | None = None
    _offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    def __call__(self, event: RunEvent) -> None:
        match event:
            case BatchFinished():
                self._batch(event)
            case TaskRetried():
                self.retries += 1
            case RunStarted():
                self._start(event)
            case RunFinished():
                self.finished, self.peak_held = event.time, max(self.peak_held, event.peak_held)
                self.spilled_total, self.over = event.spilled_total, True
                self.error = None if event.error is None else f"{type(event.error).__name__}: {event.error}"
                self._graph = None  # it may weigh as much as the results

    def _start(self, event: RunStarted) -> None:
        self.engine, self.workers, self.budget = event.engine, event.workers, event.budget
        self.started = self.finished = event.time
        self._graph, self._offsets = event.graph, event.graph.offsets
        self.stages = []
        for s, n in zip(event.graph.stages, np.diff(self._offsets).tolist(), strict=True):
            tasks = 0 if isinstance(s.work, Held) else n
            self.stages.append(StageRecord(s.label, tasks, s.read_bytes * n // s.size, s.write_bytes * n // s.size))

    def _batch(self, event: BatchFinished) -> None:
        tasks = np.array(event.tasks, np.int64)
        assert self._graph is not None, "the run has not started"
        stages = np.searchsorted(self._offsets, tasks, "right") - 1
        each = (event.stop - event.start) / len(tasks)
        made = self._graph.out_bytes[tasks]
        first = int(stages[0])
        if (stages == first).all():
            self._count(first, len(tasks), int(made.sum()), each)
        else:
            for s in np.unique(stages):
                mine = stages == s
                self._count(int(s), int(mine.sum()), int(made[mine].sum()), each)
        self.held, self.spilled, self.finished = event.held, event.spilled, event.stop
        self.peak_held = max(self.peak_held, event.held)
        self.timeline.add(event.start - self.started, event.stop - self.started, event.held)

    def _count(self, stage: int, tasks: int, made: int, each: float) -> None:
        record = self.stages[stage]
        if not record.total:  # futures: nothing is done for them, or they are fetched
            return
        record.done += tasks
        record.made_bytes += made
        record.busy += tasks * each

    @property
    def tasks(self) -> int:
        """Tasks of the graph."""
        return sum(s.total for s in self.stages)

    @property
    def done(self) -> int:
        """Tasks that are finished."""
        return sum(s.done for s in self.stages)

    @property
    def bytes_done(self) -> int:
        """Bytes read, as a stage's share of finished tasks, plus bytes made."""
        return sum(s.made_bytes + s.read_bytes * s.done // s.total for s in self.stages if s.total)

    @property
    def read_bytes(self) -> int:
        """Bytes that finished tasks have read from storage."""
        return sum(s.read_bytes * s.done // s.total for s in self.stages if s.total)

    @property
    def written_bytes(self) -> int:
        """Bytes that finished tasks have written to storage."""
        return sum(s.write_bytes * s.done // s.total for s in self.stages if s.total)

    @property
    def busy(self) -> float:
        """Seconds that workers ran tasks, added up."""
        return sum(s.busy for s in self.stages)

    @property
    def wall(self) -> float:
        """Seconds from the start to the end, or to the last event so far."""
        return self.finished - self.started

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that was spent in tasks, 0 to 1."""
        available = self.wall * self.workers
        return min(1.0, self.busy / available) if available > 0 else 0.0


class History(Observer):
    """Records every run, oldest first, in :attr:`runs`.

    Parameters
    ----------
    memory
        Whether to compare the predicted peak of each run with what the process really takes. Costs a thread while the
        run goes on.

    Examples
    --------
    >>> with History() as history:
    ...     pass  # compute something here
    >>> len(history.runs)
    0
    """

    def __init__(self, memory: bool = False) -> None:
        self.runs: list[RunRecord] = []
        self.memory = memory

    def start_run(self) -> Listener:
        record = RunRecord()
        self.runs.append(record)
        return _Measured(record) if self.memory else record


class _Measured:
    """Passes the events of one run on to its record, and compares memory as predicted and as it is."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._meter = MemoryMeter(children=False)  # what a cluster takes is its own business

    def __call__(self, event: RunEvent) -> None:
        self._record(event)
        if isinstance(event, RunStarted):
            self._record.predicted = min(predict_peak(event.graph, event.workers), event.budget)
            self._meter.__enter__()
        elif isinstance(event, RunFinished):
            self._meter.__exit__(None, None, None)
            self._record.grown = self._meter.peak - self._meter.start


def covered_seconds(runs: Iterable[RunRecord]) -> float:
    """Seconds in which at least one of the runs went on."""
    spans = sorted((run.started, run.finished) for run in runs)
    covered, reached = 0.0, -np.inf
    for start, stop in spans:
        covered += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return covered
