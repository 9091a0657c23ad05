"""The two engines of one process: they keep to the suite; what threads, memory and events do; what is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilework.base.errors import InternalError, StorageError
from tilework.engine.events import BatchFinished, RunFinished, RunStarted, TaskRetried
from tilework.engine.local.sync import SyncEngine
from tilework.engine.local.threads import ThreadsEngine
from tilework.engine.protocol import RunOptions
from tilework.testing.engines import EngineSuite, Mine, S, block_of, identity, inner

ROOT = Path(__file__).parents[3]


class TestSync(EngineSuite):
    workers = 1

    @pytest.fixture
    def engine(self) -> SyncEngine:
        return SyncEngine()


class TestThreads(EngineSuite):
    @pytest.fixture
    def engine(self) -> ThreadsEngine:
        return ThreadsEngine()


@pytest.fixture(params=[SyncEngine, ThreadsEngine], ids=["sync", "threads"])
def engine(request: pytest.FixtureRequest) -> Any:
    return request.param()


def options(workers: int = 2, budget: int = 10**9, **more: Any) -> RunOptions:
    return RunOptions(workers, budget, **more)


# ---------------------------------------------------------------- values


@given(data=st.data())
@settings(max_examples=60)
def test_any_graph_gives_what_it_gives_one_by_one(data: Any, dags: Any, graph_of: Any, call: Any) -> None:
    dag = data.draw(dags(25), label="dag")
    n = len(dag.deps)
    weights = data.draw(st.lists(st.integers(0, 20), min_size=n, max_size=n), label="kB")
    calls = [call(block_of, t, weights[t], *S[: len(dag.deps[t])]) for t in range(n)]
    announced = data.draw(st.booleans(), label="sizes announced")
    out = [1024 * w + 8 for w in weights] if announced else None
    graph = graph_of(dag.deps, calls, dag.outputs, out=out, rank=dag.rank)
    expected: list[np.ndarray] = []
    for t in range(n):
        expected.append(block_of(t, weights[t], *[expected[d] for d in dag.deps[t]]))
    for engine, workers in ((SyncEngine(), 1), (ThreadsEngine(), data.draw(st.integers(1, 3), label="workers"))):
        budget = data.draw(st.sampled_from([110_000, 150_000, 10**9]), label="budget")
        results = engine.run(graph, options(workers, budget))
        assert len(results) == len(dag.outputs)
        for t, value in zip(dag.outputs, results, strict=True):
            np.testing.assert_array_equal(value, expected[t])


# ---------------------------------------------------------------- errors and retries


def test_an_error_ends_the_run_and_later_tasks_do_not_start(engine: Any, graph_of: Any, call: Any) -> None:
    ran = []
    calls = [call(ran.append, 0), call(inner, 1), *[call(lambda x, i: ran.append(i), S[0], i) for i in range(50)]]
    with pytest.raises(Mine):
        engine.run(graph_of([[], []] + [[1]] * 50, calls, range(52)), options())
    assert ran in ([0], [])


def test_errors_are_not_kept_alive(engine: Any, graph_of: Any, call: Any) -> None:
    class Big:
        pass

    big = Big()
    seen = weakref.ref(big)
    with contextlib.suppress(Mine):
        engine.run(graph_of([[], [0]], [call(identity, big), call(lambda x: inner(1), S[0])], [1]), options())
    del big
    gc.collect()
    assert seen() is None


@pytest.mark.parametrize(("in_options", "in_call"), [(2, 0), (0, 2), (2, 1)])
def test_retries(engine: Any, graph_of: Any, call: Any, in_options: int, in_call: int) -> None:
    calls = [call(identity, 1), call(identity, 2), call(identity, 3)]

    def shaky(x: int) -> int:
        attempts.append(x)
        if len(attempts) <= 2:
            raise OSError("try again")
        return x * 10

    attempts: list[int] = []
    flaky = call(shaky, S[0])
    flaky.retries = in_call
    events: list[Any] = []
    graph = graph_of([[], [], [], [1]], [*calls, flaky], [0, 3, 2])
    assert engine.run(graph, options(retries=in_options), events.append) == [1, 20, 3]
    assert attempts == [2, 2, 2]
    retried = [(e.task, e.attempt, str(e.error)) for e in events if isinstance(e, TaskRetried)]
    assert retried == [(3, 1, "try again"), (3, 2, "try again")]


def test_system_exit_in_a_task_is_not_retried(engine: Any, graph_of: Any, call: Any) -> None:
    attempts: list[int] = []

    def leave() -> None:
        attempts.append(1)
        sys.exit(3)

    with pytest.raises(SystemExit):
        engine.run(graph_of([[], []], [call(leave), call(identity, 1)], [0, 1]), options(retries=3))
    assert attempts == [1]


def test_a_bug_in_the_scheduler_surfaces(engine: Any, graph_of: Any) -> None:
    with pytest.raises(InternalError, match="cyclic"):
        engine.run(graph_of([[1], [0]]), options())


# ---------------------------------------------------------------- memory


def test_the_budget_holds(engine: Any, graph_of: Any, call: Any, tmp_path: Path) -> None:
    """Four groups of blocks are made, and needed again in the end: nine tenths must go to disk."""
    size, many = 2**20, 40
    make = [call(np.full, size // 8, float(i)) for i in range(many)]
    join = [call(lambda x, y: np.add(x, y, out=np.empty(len(x))), S[0], S[1]) for _ in range(many // 2)]
    last = [call(lambda *x: sum(float(v[0]) for v in x), *S[:1]) for _ in range(many // 2)]
    deps = [[]] * many + [[i, many - 1 - i] for i in range(many // 2)] + [[many + i] for i in range(many // 2)]
    graph = graph_of(
        deps,
        make + join + last,
        range(many + many // 2, 2 * many),
        out=[size] * (many + many // 2) + [24] * (many // 2),
    )
    events: list[Any] = []
    budget = 6 * size
    tracemalloc.start()
    try:
        results = engine.run(graph, options(2, budget, spill_directory=str(tmp_path)), events.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert results == [float(many - 1)] * (many // 2)
    assert events[-1].spilled_total >= (many - 6) * size
    assert 4 * size <= events[-1].peak_held <= budget
    assert 4 * size <= peak <= budget + size // 2, "measured, with what Python itself needs"
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_nobody_announced_are_noticed(engine: Any, graph_of: Any, call: Any) -> None:
    size = 2**20
    graph = graph_of(
        [[]] * 20 + [list(range(6 * i, 6 * i + 6)) for i in range(3)],
        [call(np.full, size // 8, float(i)) for i in range(20)] + [call(lambda *x: float(x[-1][0]), *S)] * 3,
        range(20, 23),
    )
    events: list[Any] = []
    assert engine.run(graph, options(2, 8 * size), events.append) == [5.0, 11.0, 17.0]
    assert events[-1].spilled_total > 0
    assert events[-1].peak_held <= 11 * size, "the budget, six inputs of one task that are loaded at once ..."


def test_results_come_back_from_disk(engine: Any, graph_of: Any, call: Any) -> None:
    size = 2**20
    graph = graph_of([[]] * 6, [call(np.full, size // 8, i) for i in range(6)], range(6))
    for i, value in enumerate(engine.run(graph, options(2, 3 * size))):
        np.testing.assert_array_equal(value, np.full(size // 8, i))


def test_values_that_cannot_be_pickled_stay_in_memory(engine: Any, graph_of: Any, call: Any) -> None:
    class Locked:
        def __init__(self, i: int) -> None:
            self.i, self.lock, self.nbytes = i, threading.Lock(), 1000

    graph = graph_of(
        [[]] * 5 + [list(range(5))],
        [call(Locked, i) for i in range(5)] + [call(lambda *x: [v.i for v in x], *S[:5])],
        [5],
    )
    assert engine.run(graph, options(2, 2500)) == [[0, 1, 2, 3, 4]]


def test_spilling_to_a_place_that_is_not_there(engine: Any, graph_of: Any, call: Any) -> None:
    graph = graph_of([[]] * 6, [call(np.ones, 1000)] * 6, range(6))
    with pytest.raises(StorageError, match=r"(?s)7\.9 KiB.*'/not/there'.*spill_directory.*memory="):
        engine.run(graph, options(2, 20_000, spill_directory="/not/there"))


def test_a_disk_that_does_not_give_back(engine: Any, graph_of: Any, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    deps = [[]] * 6 + [[i] for i in range(6)]
    graph = graph_of(deps, [call(np.ones, 1000)] * 6 + [call(np.sum, S[0])] * 6, range(6, 12))
    with pytest.raises(StorageError, match=r"cannot read a spilled block .*Input/output error"):
        engine.run(graph, options(2, 20_000))


FULL_DISK = """
import resource, sys
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.path.insert(0, sys.argv[1])
import conftest
from tilework.base.errors import StorageError
from tilework.engine.local.sync import SyncEngine
from tilework.engine.local.threads import ThreadsEngine
from tilework.engine.protocol import RunOptions
engine = {"sync": SyncEngine, "threads": ThreadsEngine}[sys.argv[2]]()
graph = conftest.graph_of([[]] * 9, [conftest.call(np.ones, 10_000) for _ in range(9)], range(9))
try:
    engine.run(graph, RunOptions(2, 200_000))
except StorageError as error:
    print("StorageError", error)
"""


def test_a_full_disk_while_spilling(engine: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), engine.name],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"StorageError cannot spill a block of 78.2 KiB to '{tmp_path}'"), done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- threads


@pytest.fixture
def hasty_switching() -> Iterator[None]:
    """Threads hand over the interpreter lock as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(12))
def test_workers_do_not_get_into_each_others_way(graph_of: Any, call: Any, hasty_switching: None, seed: int) -> None:
    """Some hundred tasks of all kinds: quick and slow, small and large, failing once, with and without spilling."""
    random = Random(seed)
    n = 300
    deps = [random.sample(range(t), min(t, random.choice([0, 1, 2, 3]))) for t in range(n)]
    weights = [random.choice([0, 1, 5, 20]) for _ in range(n)]
    spins = [random.choice([0] * 9 + [3000]) for _ in range(n)]
    fail = set(random.sample(range(n), 5))
    expected: list[np.ndarray] = []
    for t in range(n):
        expected.append(block_of(t, weights[t], *[expected[d] for d in deps[t]]))

    def task(t: int, *inputs: np.ndarray) -> np.ndarray:
        if t in fail:
            fail.discard(t)
            raise Mine(t, text="once")
        sum(range(spins[t]))
        return block_of(t, weights[t], *inputs)

    outputs = random.sample(range(n), 3)
    calls = [call(task, t, *S[: len(deps[t])]) for t in range(n)]
    out = [1024 * w + 8 for w in weights] if seed % 2 else None
    budget = (100_000, 200_000, 10**9)[seed % 3]
    events: list[Any] = []
    results = ThreadsEngine().run(graph_of(deps, calls, outputs, out=out), options(4, budget, retries=1), events.append)
    for t, value in zip(outputs, results, strict=True):
        np.testing.assert_array_equal(value, expected[t])
    assert sorted(t for e in events if isinstance(e, BatchFinished) for t in e.tasks) == list(range(n))
    assert (events[-1].spilled_total > 0) == (budget < 10**9)


def test_workers_have_the_callers_context(engine: Any, graph_of: Any, call: Any) -> None:
    calls = [call(lambda: float(np.divide(np.ones(1), 0)[0]))] * 2
    with np.errstate(all="ignore"):
        assert engine.run(graph_of([[], []], calls, [0, 1]), options()) == [np.inf, np.inf]
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        engine.run(graph_of([[], []], calls, [0, 1]), options())


def test_tasks_run_at_the_same_time_and_threads_end(graph_of: Any, call: Any) -> None:
    meet = threading.Barrier(3, timeout=30)
    names = ThreadsEngine().run(
        graph_of([[]] * 3, [call(lambda: (meet.wait(), threading.current_thread().name)[1])] * 3, range(3)), options(3)
    )
    assert sorted(names) == ["tilework-0", "tilework-1", "tilework-2"]
    assert not [t for t in threading.enumerate() if t.name.startswith("tilework-")]


def test_one_worker_runs_in_the_callers_thread(engine: Any, graph_of: Any, call: Any) -> None:
    me = threading.get_ident()
    assert engine.run(graph_of([[]], [call(threading.get_ident)], [0]), options(4)) == [me]
    assert engine.run(graph_of([[]] * 3, [call(threading.get_ident)] * 3, range(3)), options(1)) == [me] * 3


def test_a_task_that_takes_long_does_not_hold_up_those_behind_it(graph_of: Any, call: Any) -> None:
    """Tasks start so quickly that many are in one batch; then one in the middle waits for one behind it."""
    set_ = threading.Event()
    calls = [call(identity, i) for i in range(300)]
    calls += [call(set_.wait, 60), *[call(identity, 1) for _ in range(20)], call(set_.set)]
    results = ThreadsEngine().run(graph_of([[]] * len(calls), calls, [300]), options())
    assert results == [True]


def test_ctrl_c_in_the_callers_own_thread(engine: Any, graph_of: Any, call: Any) -> None:
    ran: list[int] = []
    calls = [call(signal.raise_signal, signal.SIGINT), *[call(ran.append, i) for i in range(9)]]
    with pytest.raises(KeyboardInterrupt):
        engine.run(graph_of([[]] * 10, calls, range(10)), options(1, retries=5))
    assert ran == []


@pytest.mark.parametrize("caught", [False, True])
def test_ctrl_c_leaves_a_stuck_worker_behind(graph_of: Any, call: Any, caught: bool) -> None:
    """A real signal to the main thread, while one worker hangs in a call that cannot be interrupted."""
    release, stuck = threading.Event(), threading.Event()
    dropped = threading.Event()
    ran: list[int] = []

    def hang() -> np.ndarray:
        stuck.set()
        release.wait(60)
        value = np.ones(10)
        weakref.finalize(value, dropped.set)
        return value

    def interrupt() -> None:
        stuck.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        release.wait(60) if caught else None

    calls = [call(hang), call(interrupt), *[call(lambda x, i: ran.append(i), S[0], i) for i in range(9)]]
    graph = graph_of([[], []] + [[0]] * 9, calls, range(11))
    events: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        ThreadsEngine().run(graph, options(), events.append)
    assert isinstance(events[-1], RunFinished)
    assert isinstance(events[-1].error, KeyboardInterrupt)
    left = [t for t in threading.enumerate() if t.name.startswith("tilework-")]
    release.set()
    for thread in left:
        thread.join(60)
        assert not thread.is_alive()
    assert ran == [], "nothing starts after Ctrl-C"
    assert dropped.is_set(), "the late result is dropped"


CTRL_C = """
import os, sys, threading
import numpy as np
sys.path.insert(0, sys.argv[1])
import conftest
from tilework.engine.local.threads import ThreadsEngine
from tilework.engine.protocol import RunOptions
def hang(*blocks):
    names = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
    print("stuck", any(name.startswith(os.environ["TMPDIR"]) for name in names), flush=True)
    threading.Event().wait()
blocks = [conftest.call(np.ones, 100_000) for _ in range(9)]
graph = conftest.graph_of([[]] * 9 + [[8]], [*blocks, conftest.call(hang, *conftest.slots(1))], range(10))
try:
    ThreadsEngine().run(graph, RunOptions(2, 2_000_000))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_the_process(tmp_path: Path) -> None:
    """The interpreter must not wait for the stuck worker either, and spilled blocks are gone."""
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(Path(__file__).parent)],
        stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck True\n", "something was spilled before"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "interrupted\n"
        assert process.returncode == 0
    finally:
        process.kill()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- events


def test_listeners_hear_of_every_task_once(engine: Any, graph_of: Any, call: Any) -> None:
    n = 500
    graph = graph_of([[]] * n, [call(identity, i) for i in range(n)], range(n))
    events: list[Any] = []
    busy = threading.Lock()

    def listener(event: Any) -> None:
        assert busy.acquire(blocking=False), "two calls at a time"
        events.append(event)
        busy.release()

    engine.run(graph, options(3, 10**6), listener)
    workers = 1 if engine.name == "sync" else 3
    first, *batches, last = events
    assert isinstance(first, RunStarted)
    assert (first.graph, first.engine, first.workers, first.budget) == (graph, engine.name, workers, 10**6)
    assert sorted(t for batch in batches for t in batch.tasks) == list(range(n))
    assert all(first.time <= b.start <= b.stop <= last.time and 0 <= b.worker < workers for b in batches)
    assert len(batches) < n / 2, "reports are per batch"
    assert isinstance(last, RunFinished)
    assert last.error is None
    assert last.peak_held == 32 * n, "an int weighs 32 bytes"
