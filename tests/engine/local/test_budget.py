from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import MemoryBudgetError
from tilework.engine.local.budget import predict_peak, refuse, task_bytes
from tilework.engine.local.state import Scheduler
from tilework.engine.local.states import Run

MiB = 2**20


def draw_graph(data: Any, dags: Any, graph_of: Any) -> Any:
    dag = data.draw(dags(16), label="dag")
    n = len(dag.deps)
    sizes = st.lists(st.integers(0, 100), min_size=n, max_size=n)
    out, work = data.draw(sizes, label="out"), data.draw(sizes, label="work")
    resident = data.draw(st.integers(0, 50), label="resident")
    return graph_of(dag.deps, outputs=dag.outputs, rank=dag.rank, out=out, work=work, resident=resident)


@given(data=st.data())
def test_bytes_of_a_task(data: Any, dags: Any, graph_of: Any) -> None:
    graph = draw_graph(data, dags, graph_of)
    for task, total in enumerate(task_bytes(graph)):
        inputs = set(graph.deps[graph.indptr[task] : graph.indptr[task + 1]].tolist())
        expected = sum(int(graph.out_bytes[b]) for b in inputs) + graph.out_bytes[task] + graph.work_bytes[task]
        assert total == expected + graph.resident_bytes


def test_refusals_name_the_operation_both_numbers_and_the_remedy(graph_of: Any, call: Any) -> None:
    calls = [call(abs, label="read"), call(abs, label="mean")]
    graph = graph_of([[], [0]], calls, [1], out=[3 * MiB, MiB], work=[0, 2 * MiB])
    refuse(graph, 6 * MiB)
    with pytest.raises(MemoryBudgetError) as caught:
        refuse(graph, 6 * MiB - 1)
    message = str(caught.value)
    for part in ("operation 'mean'", "needs 6.0 MiB", "1.0 MiB", "2.0 MiB to work in", "smaller chunks", "memory="):
        assert part in message


def test_the_block_is_named(graph_of: Any) -> None:
    graph = graph_of([[]] * 6, out=[1, 1, 1, 1, 9, 1])
    graph.stages[0].grid, graph.stages[0].label, graph.stages[0].work = (2, 3), "rechunk", None
    with pytest.raises(MemoryBudgetError, match=r"operation 'rechunk', block \(1, 1\) needs 9 B"):
        refuse(graph, 8)


def test_results_must_fit_together(graph_of: Any) -> None:
    graph = graph_of([[]] * 10, outputs=range(10), out=[MiB] * 10)
    refuse(graph, 10 * MiB)
    with pytest.raises(MemoryBudgetError, match=r"results need 10\.0 MiB.*budget is 9\.0 MiB"):
        refuse(graph, 9 * MiB)
    refuse(graph_of([[]] * 10, outputs=[0] * 10, out=[MiB] * 10), MiB)
    with pytest.raises(MemoryBudgetError, match=r"results need 2\.0 MiB"):
        refuse(graph_of([[]], resident=2 * MiB), MiB)


@given(data=st.data())
def test_one_worker_holds_exactly_what_was_predicted(data: Any, dags: Any, graph_of: Any) -> None:
    graph = draw_graph(data, dags, graph_of)
    s = Scheduler(10**9, 1)
    s.add(graph)
    while isinstance(run := s.next(0), Run):
        s.finished(0, [int(graph.out_bytes[task]) for task in run.tasks], 1.0)
    assert s.peak + graph.resident_bytes == predict_peak(graph, 1)


@given(data=st.data(), workers=st.integers(2, 5))
def test_more_workers_never_predict_less(data: Any, dags: Any, graph_of: Any, workers: int) -> None:
    graph = draw_graph(data, dags, graph_of)
    assert predict_peak(graph, 1) <= predict_peak(graph, workers) <= predict_peak(graph, workers + 1)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_what_several_workers_really_hold(graph_of: Any, workers: int) -> None:
    """Rows of (read, two operations), joined by eights: workers in lockstep stay below the prediction, but not far."""
    deps: list[list[int]] = []
    out, work = [], []
    joined = []
    for row in range(64):
        start = len(deps)
        deps += [[], [start], [start + 1]]
        out += [100, 100, 10]
        work += [50, 20, 0]
        joined.append(start + 2)
        if row % 8 == 7:
            deps.append(joined)
            out.append(10)
            work.append(10)
            joined = []
    graph = graph_of(deps, outputs=[t for t in range(len(deps)) if out[t] == 10 and work[t] == 10], out=out, work=work)
    s = Scheduler(10**9, workers)
    s.add(graph)
    while True:
        runs = {w: run for w in range(workers) if isinstance(run := s.next(w), Run)}
        if not runs:
            break
        for w, run in runs.items():
            s.finished(w, [out[task] for task in run.tasks], 1.0)
    predicted = predict_peak(graph, workers)
    assert predicted / 1.5 <= s.peak <= predicted


def test_an_empty_graph(graph_of: Any) -> None:
    graph = graph_of([[]])
    graph.offsets = np.zeros(1, np.int64)
    refuse(graph, 1)
    assert predict_peak(graph, 2) == 0
