"""Engines that run plans in other processes: they keep to the suite, results are written once, futures are inputs."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import cloudpickle
import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework import session
from tilework.base.errors import MemoryBudgetError, PlanError
from tilework.engine.cluster.client import engine as engines
from tilework.engine.cluster.client import processes
from tilework.engine.cluster.client.engine import Block, ClusterEngine
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.client.processes import ProcessesEngine
from tilework.engine.cluster.start.launch import ClusterConfig, launch
from tilework.engine.events import BatchFinished
from tilework.plan import build
from tilework.plan.blocks import normalize_chunks
from tilework.testing import assert_eq
from tilework.testing.engines import EngineSuite, Mine, call, graph_of, identity, inner

ROOT = Path(__file__).parents[3]
MEMORY = 1 << 28


def config(**more: Any) -> ClusterConfig:
    return ClusterConfig(
        **{"n_workers": 2, "threads": 1, "memory_limit": 1 << 30, "memory": MEMORY, "dashboard_port": None, **more}
    )


@pytest.fixture(scope="module", autouse=True)
def functions_travel() -> Iterator[None]:
    """Workers cannot import this module."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    yield
    cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    launched = launch(config())
    link = Link.connect(launched.address, secret=launched.secret)
    yield link
    link.close()
    launched.close()


@pytest.fixture(scope="module")
def cluster(link: Link) -> ClusterEngine:
    return ClusterEngine(link)


@pytest.fixture(scope="module")
def private() -> Iterator[ProcessesEngine]:
    engine = ProcessesEngine(2, MEMORY)
    yield engine
    engine.close()


class TestCluster(EngineSuite):
    @pytest.fixture
    def engine(self, cluster: ClusterEngine) -> ClusterEngine:
        return cluster


class TestProcesses(EngineSuite):
    @pytest.fixture
    def engine(self, private: ProcessesEngine) -> ProcessesEngine:
        return private


# ---------------------------------------------------------------- results


def drawn(shape: tuple[int, ...] = (600, 400), chunks: Any = 200, seed: int = 0) -> tuple[np.ndarray, Any]:
    array = np.random.default_rng(seed).random(shape)
    return array, ta.from_array(array, chunks=chunks)


def test_a_result_is_written_once_where_the_user_has_it(cluster: ClusterEngine, link: Link) -> None:
    array, x = drawn((1000, 1000))
    before = link.slot.used_bytes
    result = (x + 1).compute(scheduler=cluster)
    np.testing.assert_array_equal(result, array + 1)
    assert link.arena.find(result.__array_interface__["data"][0]) is not None, "the memory that workers wrote to"
    result += 1  # an ordinary array
    np.testing.assert_array_equal(result, array + 2)
    del result
    assert link.slot.used_bytes <= before + 2 * array.nbytes, "only what is on its way back"


def test_a_result_outlives_its_cluster() -> None:
    engine = ProcessesEngine(1, MEMORY)
    array, x = drawn()
    result = (x * 2).compute(scheduler=engine)
    engine.close()
    np.testing.assert_array_equal(result, array * 2)
    result[:] = 0
    assert not result.any()


RESULTS: dict[str, Callable[[Any], Any]] = {
    "large": lambda x: x * 2,
    "part": lambda x: x[37:, ::3],
    "transposed": lambda x: x.T,
    "scalar": lambda x: x.sum(),
    "small": lambda x: x.mean(axis=0),
    "empty": lambda x: x[:0],
    "unknown sizes": lambda x: x[x > 0.5],
    "objects": lambda x: (x > 0.5).astype(object),
    "times": lambda x: (x * 1e6).astype("int64").astype("M8[s]"),
    "a record": lambda x: x.map_blocks(as_records, dtype=[("a", "f8"), ("b", "i4")]),
    "through scratch space": lambda x: x.rechunk((600, 1)),
    "cumulative": lambda x: x.cumsum(axis=0),
    "sorted": lambda x: ta.sort(x[:, 0]),
    "several": lambda x: ta.percentile(x[:, 0], [5, 50, 95]),
}


def as_records(block: np.ndarray) -> np.ndarray:
    out = np.zeros(block.shape, [("a", "f8"), ("b", "i4")])
    out["a"] = block
    return out


@pytest.mark.parametrize("name", RESULTS)
def test_arrays_of_all_kinds(cluster: ClusterEngine, name: str) -> None:
    _, x = drawn()
    lazy = RESULTS[name](x)
    expected = lazy.compute(scheduler="sync")
    result = lazy.compute(scheduler=cluster)
    np.testing.assert_array_equal(result, expected)
    assert type(result) is type(expected)
    assert result.dtype == expected.dtype
    assert not isinstance(result, np.ndarray) or result.flags.writeable


def test_several_results_of_one_plan(cluster: ClusterEngine) -> None:
    array, x = drawn()
    total, doubled, same, (least, text) = tw.compute(
        x.sum(), x * 2, x * 2, [x.min(), tw.delayed(str)(x.max())], scheduler=cluster
    )
    assert total == pytest.approx(array.sum())
    np.testing.assert_array_equal(doubled, array * 2)
    np.testing.assert_array_equal(same, doubled)
    assert (least, text) == (array.min(), str(array.max()))


def test_scratch_space_is_shared(cluster: ClusterEngine) -> None:
    x = ta.random.default_rng(0).random((2000, 2000), chunks=(100, 2000))
    moved = x.rechunk((2000, 100))
    array = x.compute(scheduler="sync")
    engine = Narrow(cluster, 12 << 20)
    assert moved.sum().explain(scheduler=engine).scratch_bytes == array.nbytes
    np.testing.assert_allclose(moved.sum(axis=0).compute(scheduler=engine), array.sum(axis=0))


class Narrow:
    """A cluster of which only so much may be used by a plan."""

    name, inline = "narrow", ClusterEngine.inline

    def __init__(self, engine: ClusterEngine, memory: int) -> None:
        self.engine, self.memory = engine, memory
        self.empty, self.run, self.submit = engine.empty, engine.run, engine.submit

    def size(self) -> tuple[int, int]:
        return self.engine.size()[0], self.memory


def test_what_the_cluster_has_is_what_a_plan_is_made_for(cluster: ClusterEngine) -> None:
    assert cluster.size() == (2, MEMORY)
    _, x = drawn()
    explanation = x.sum().explain(scheduler=cluster, memory="1 KB", workers=77)
    assert (explanation.workers, explanation.budget) == (2, MEMORY)
    with pytest.raises(MemoryBudgetError, match=r"256\.0 MiB"):
        ta.ones((1 << 15, 1 << 15), chunks=1 << 15).compute(scheduler=cluster)


# ---------------------------------------------------------------- futures in plans


def handles(cluster: ClusterEngine, n: int) -> list[Block]:
    graph = graph_of([[]] * n, [call(np.full, (10, 10), float(k)) for k in range(n)], range(n))
    return cluster.submit(graph, EngineSuite().options())[:-1]


def test_blocks_that_are_futures(cluster: ClusterEngine) -> None:
    chunks = normalize_chunks(10, (20, 30))
    x = ta.Array(build.held_array(handles(cluster, 6), chunks, "f8"))
    expected = np.repeat(np.repeat(np.arange(6.0).reshape(2, 3), 10, 0), 10, 1)
    for scheduler in (cluster, "threads"):
        np.testing.assert_array_equal(x.compute(scheduler=scheduler), expected)
        np.testing.assert_array_equal((x[5:25, 12:] * 2).compute(scheduler=scheduler), expected[5:25, 12:] * 2)
        assert x.sum().compute(scheduler=scheduler) == expected.sum()


def test_outputs_that_are_futures_already(cluster: ClusterEngine) -> None:
    first, second = handles(cluster, 2)
    node = build.held_value(first)
    (block,) = session.persist(tw.delayed(1), scheduler=cluster)
    assert block.compute(scheduler=cluster) == 1
    (again,) = session.submit(type(block)(node), scheduler=cluster)
    assert again is first
    total = type(block)(build.held_value(second)).sum()
    assert total.compute(scheduler=cluster) == 100.0


def test_futures_that_failed_fail_those_who_use_them(cluster: ClusterEngine) -> None:
    graph = graph_of([[]], [call(inner, 3, label="inner")], [0])
    failed, whole = cluster.submit(graph, EngineSuite().options())
    later = tw.delayed(identity)(tw.delayed(0))
    later = type(later)(build.held_value(failed)) + 1
    for scheduler in (cluster, "threads"):
        with pytest.raises(Mine, match="broken") as caught:
            later.compute(scheduler=scheduler)
        assert "in operation 'inner'" in caught.value.__notes__
    with pytest.raises(Mine):
        whole.result()


def test_futures_of_another_cluster_are_refused(cluster: ClusterEngine) -> None:
    (one,) = handles(cluster, 1)
    lazy = ta.Array(build.held_array([one], normalize_chunks(10, (10, 10)), "f8")) + 1
    other = ProcessesEngine(1, MEMORY)
    try:
        with pytest.raises(PlanError, match=r"cannot be used on the one at tcp.*compute\(\) it first"):
            lazy.compute(scheduler=other)
    finally:
        other.close()


def test_a_handle_can_be_pickled_and_keeps_its_block(cluster: ClusterEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines._engines, cluster.link.welcome.address, cluster)
    (one,) = handles(cluster, 1)
    two = pickle.loads(pickle.dumps(one))
    number = one.number
    del one
    assert two.number == number
    np.testing.assert_array_equal(two.result(), np.zeros((10, 10)))


# ---------------------------------------------------------------- interrupts


def wait_for(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        threading.Event().wait(0.01)
    raise TimeoutError(path)


def hang(path: Path) -> None:
    path.touch()
    threading.Event().wait(60)


def test_ctrl_c_ends_the_run_and_the_cluster_goes_on(tmp_path: Path) -> None:
    engine = ProcessesEngine(2, MEMORY)
    try:
        started = tmp_path / "started"
        graph = graph_of([[]] * 9, [call(hang, started), *[call(identity, i) for i in range(8)]], range(9))

        def interrupt() -> None:
            wait_for(started)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

        thread = threading.Thread(target=interrupt)
        thread.start()
        before = monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine.run(graph, EngineSuite().options())
        assert monotonic() - before < 30, "it does not wait for the task"
        thread.join()
        quick = graph_of([[]] * 9, [call(identity, i) for i in range(9)], range(9))
        assert engine.run(quick, EngineSuite().options()) == list(range(9)), "the other worker is there"
    finally:
        engine.close()


def after(block: np.ndarray, started: Path, go: Path) -> np.ndarray:
    started.touch()
    wait_for(go)
    return block


def test_the_memory_of_a_result_is_kept_while_a_task_may_write_to_it(
    cluster: ClusterEngine, link: Link, tmp_path: Path
) -> None:
    started, go = tmp_path / "started", tmp_path / "go"
    array, x = drawn()
    lazy = x.map_blocks(after, started, go, dtype="f8") + 1
    started.unlink(missing_ok=True)

    def interrupt() -> None:
        wait_for(started)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    before = link.slot.used_bytes
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        lazy.compute(scheduler=cluster)
    thread.join()
    gc.collect()
    assert link.slot.used_bytes >= before + array.nbytes
    go.touch()
    for _ in range(5000):
        assert tw.delayed(identity)(1).compute(scheduler=cluster) == 1
        if link.slot.used_bytes <= before:
            break
    assert link.slot.used_bytes <= before
    np.testing.assert_array_equal(lazy.compute(scheduler=cluster), array + 1)


def test_several_threads_compute_at_the_same_time(private: ProcessesEngine) -> None:
    array, x = drawn()

    def total(k: int) -> Any:
        return (x * k).compute(scheduler=private).sum(), (x * k).sum().compute(scheduler=private)

    with ThreadPoolExecutor(4) as pool:
        for k, (first, second) in enumerate(pool.map(total, range(12))):
            assert first == pytest.approx(k * array.sum())
            assert second == pytest.approx(k * array.sum())


# ---------------------------------------------------------------- scheduler="processes"


def test_one_cluster_for_the_same_settings() -> None:
    one = processes.processes(1, MEMORY)
    assert processes.processes(1, MEMORY) is one
    assert processes.processes(1, MEMORY, "/tmp") is not one
    pids = set()
    for _ in range(3):
        pids.add(tw.delayed(os.getpid)().compute(scheduler=one))
    assert len(pids) == 1
    other = processes.processes(1, MEMORY + 1)
    assert tw.delayed(os.getpid)().compute(scheduler=other) not in pids
    assert one._engine is None, "it gave way to the one with other settings"
    other.close()


def test_an_idle_cluster_ends_unless_somebody_has_its_futures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.1)
    engine = ProcessesEngine(1, MEMORY)
    _, x = drawn()
    (held,) = tw.persist(x, scheduler=engine)
    timer = engine._timer
    assert timer is not None
    timer.join(30)
    assert engine._engine is not None
    assert_eq(held[:1].compute(scheduler=engine), x[:1].compute(scheduler="sync"))
    del held
    while (timer := engine._timer) is not None:
        timer.join(30)
    assert engine._engine is None


FORKED = """
import os, sys
import tilework as tw, tilework.array as ta
x = ta.ones(1000, chunks=100)
assert x.sum().compute(scheduler="processes", workers=1, memory="100MB") == 1000
pid = os.fork()
assert x.sum().compute(scheduler="processes", workers=1, memory="100MB") == 1000
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_process_has_a_cluster_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_by_name_and_by_environment() -> None:
    script = """
import os
import tilework as tw, tilework.array as ta
assert tw.compute(tw.delayed(os.getpid)())[0] != os.getpid()
assert ta.arange(100, chunks=10).sum().compute() == 4950
"""
    variables = {"TILEWORK_SCHEDULER": "processes", "TILEWORK_WORKERS": "2", "TILEWORK_MEMORY": "100MB"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, **variables},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_events_tell_of_futures_nothing(cluster: ClusterEngine) -> None:
    events: list[Any] = []
    x = ta.Array(build.held_array(handles(cluster, 6), normalize_chunks(10, (20, 30)), "f8"))
    graph = session.prepare([(x + 1).sum().node], tw.config.get(scheduler=cluster)).graph
    cluster.run(graph, EngineSuite().options(), events.append)
    ran = [task for event in events if isinstance(event, BatchFinished) for task in event.tasks]
    assert sorted(ran) == [task for task in range(graph.n_tasks) if task not in graph.held]
