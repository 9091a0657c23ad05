from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilework as tw
from tilework.diagnostics.history import BINS, History, RunRecord, Timeline, covered_seconds
from tilework.engine.events import BatchFinished, RunStarted, TaskRetried
from tilework.engine.taskgraph import TaskGraph

MIB = 2**20


def test_a_whole_run(graph: TaskGraph, played: Callable[..., None]) -> None:
    record = RunRecord()
    played(record, graph)
    assert (record.engine, record.workers, record.budget) == ("threads", 2, 1000 * MIB)
    assert (record.tasks, record.done, record.over, record.error) == (8, 8, True, None)
    assert [(s.label, s.total, s.done, s.made_bytes, s.busy) for s in record.stages] == [
        ("load", 6, 6, 6 * MIB, 6.0),
        ("mean", 2, 2, 2 * MIB, 2.0),
    ]
    assert (record.read_bytes, record.written_bytes, record.bytes_done) == (600 * MIB, 10 * MIB, 608 * MIB)
    assert (record.wall, record.busy, record.efficiency) == (4.0, 8.0, 1.0)
    assert (record.held, record.peak_held) == (8 * MIB, 8 * MIB)


def test_a_run_that_fails_half_way(graph: TaskGraph, played: Callable[..., None]) -> None:
    record = RunRecord()
    played(record, graph, 3, ValueError("no"))
    assert (record.tasks, record.done, record.over) == (8, 3, True)
    assert record.error == "ValueError: no"
    assert record.read_bytes == 300 * MIB  # as much as the finished tasks have read
    assert record.efficiency == 0.75


def test_a_batch_over_several_stages_is_shared_out_by_tasks(graph: TaskGraph) -> None:
    record = RunRecord()
    record(RunStarted(graph, "sync", 1, MIB, 0.0))
    record(BatchFinished(0, (6, 0, 7, 1), 0.0, 4.0, 0, 0))
    assert [(s.done, s.busy, s.made_bytes) for s in record.stages] == [(2, 2.0, 2 * MIB), (2, 2.0, 2 * MIB)]


def test_retries_are_counted(graph: TaskGraph) -> None:
    record = RunRecord()
    record(RunStarted(graph, "sync", 1, MIB, 0.0))
    record(TaskRetried(0, 1, ValueError()))
    record(TaskRetried(0, 2, ValueError()))
    assert record.retries == 2


def test_nothing_of_the_graph_is_kept_when_the_run_is_over(graph: TaskGraph, played: Callable[..., None]) -> None:
    record = RunRecord()
    played(record, graph)
    assert record._graph is None


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e3)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_timeline_keeps_the_sums_whatever_the_duration(spans: list[tuple[float, float]], rng: random.Random) -> None:
    timeline = Timeline(width=0.01)
    held = [rng.randrange(1000) for _ in spans]
    for (start, length), n in zip(spans, held, strict=True):
        timeline.add(start, start + length, n)
    assert len(timeline.busy) == len(timeline.held) == BINS
    assert sum(timeline.busy) == pytest.approx(sum(length for _, length in spans), rel=1e-6, abs=1e-6)
    assert max(timeline.held) == max(held, default=0)
    for start, length in spans:
        assert (start + length) / timeline.width < BINS


def test_timeline_places_what_happened() -> None:
    timeline = Timeline(width=1.0)
    timeline.add(0.5, 2.25, 10)
    timeline.add(300.0, 300.5, 20)  # beyond the last bin: each bin now covers two seconds
    assert timeline.width == 2.0
    assert (timeline.busy[0], timeline.busy[1], timeline.busy[150]) == (1.5, 0.25, 0.5)
    assert (timeline.held[1], timeline.held[150]) == (10, 20)


def test_covered_seconds_counts_overlaps_once() -> None:
    runs = [RunRecord(started=a, finished=b) for a, b in [(0.0, 2.0), (1.0, 3.0), (1.5, 1.6), (5.0, 6.0)]]
    assert covered_seconds(runs) == 4.0
    assert covered_seconds([]) == 0.0


# ---------------------------------------------------------------- real runs


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_history_of_real_runs(scheduler: str) -> None:
    calls = [tw.delayed(np.ones)(1000) for _ in range(20)]
    with History() as history:
        tw.compute(*calls, scheduler=scheduler, workers=2)
        tw.compute(calls[0], scheduler=scheduler)
    first, second = history.runs
    assert (first.tasks, first.done, first.engine, first.error) == (20, 20, scheduler, None)
    assert (second.tasks, second.done) == (1, 1)
    assert first.busy > 0
    assert 0 < first.efficiency <= 1


def test_history_of_a_real_run_that_fails() -> None:
    def fail() -> None:
        raise ValueError("no")

    with History() as history, pytest.raises(ValueError, match="no"):
        tw.compute(tw.delayed(fail)())
    assert history.runs[0].over
    assert history.runs[0].error == "ValueError: no"


GROWING = """
import tilework as tw
from tilework.diagnostics.history import History

def grow():
    return len(bytearray(64 << 20))  # touches every page

with History(memory=True) as history:
    tw.compute(tw.delayed(grow)())
assert history.runs[0].predicted is not None
print(history.runs[0].grown)
"""


def test_memory_of_a_real_run() -> None:
    # In a process of its own: the kernel tells exactly only what is above all that a process ever held.
    done = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 50 * MIB
