"""A real worker process, with the test in the scheduler's place."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

import tilework.array as ta
from tests.engine.cluster.housing import Gate, House, Worker, house, soon
from tests.engine.local.conftest import call, graph_of
from tilework import session
from tilework.base import config
from tilework.base.errors import RemoteError, StorageError
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.values import Input, load_error
from tilework.engine.cluster.wire.messages import (
    Blocked,
    BlockTask,
    Failed,
    Finished,
    Forget,
    Forgotten,
    Free,
    Function,
    GiveBack,
    Leave,
    Loaded,
    OnDisk,
    Ran,
    Returned,
    RunOnWorker,
    SpillBlocks,
    Spilled,
    Stored,
    Unviewed,
)
from tilework.engine.cluster.workers import worker
from tilework.engine.cluster.workers.inputs import CACHED
from tilework.engine.kernels import Cancelled
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.ops import Slot

MB = 1 << 20


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    with house() as made:
        yield made


@pytest.fixture
def one(home: House) -> Worker:
    """A worker with one thread."""
    return home.spawn(slot=len(home.workers) % 15)


@pytest.fixture
def two(home: House) -> Worker:
    """A worker with two threads."""
    return home.spawn(threads=2, slot=len(home.workers) % 15)


def add(x: Any, y: Any) -> Any:
    return x + y


def fail(message: str) -> None:
    raise ValueError(message)


# ---------------------------------------------------------------- calls


def test_results_come_in_the_order_of_the_tasks(one: Worker) -> None:
    number = one.start(one.call(add, 1, 2), one.call(add, "a", y="b"), one.call(np.arange, 3))
    before = time.monotonic()
    finished = one.hear(Finished)
    assert finished.batch == number
    assert [one.house.load(value).tolist() if k == 2 else one.house.load(value) for k, value in
            enumerate(finished.results)] == [3, "ab", [0, 1, 2]]  # fmt: skip
    assert all(0 < size < 300 for size in finished.sizes)
    assert finished.start <= finished.stop
    assert abs(finished.stop - before) < 60


def test_large_results_lie_in_the_workers_slot(one: Worker) -> None:
    one.start(one.call(np.full, 100_000, 7.0))
    finished = one.hear(Finished)
    (stored,) = finished.results
    assert type(stored) is Stored
    assert {one.house.arena.slot_of(offset) for offset, _ in stored.extents} == {one.slot}
    assert finished.sizes[0] >= 800_000
    assert (one.house.load(stored) == 7.0).all()


def test_memory_that_is_free_again_is_used_again(one: Worker) -> None:
    seen = set()
    for _ in range(3):
        one.start(one.call(np.ones, MB))
        (stored,) = one.hear(Finished).results
        seen.add(stored.extents)
        one.say(Free([offset for offset, _ in stored.extents]))
    assert len(seen) == 1


def test_functions_of_main_and_lambdas(one: Worker) -> None:
    secret = 42
    assert one.run(lambda x: x + secret, 1) == 43


def test_a_functions_own_arrays_are_its_own(one: Worker) -> None:
    weights = np.ones(MB)

    def count() -> float:
        weights[0] += 1
        return float(weights.sum())

    blob = one.house.dump(count)
    assert isinstance(blob, Stored)
    one.say(Function(99, blob, "count"))
    task = one.call(abs, 1)._replace(function=99, args=one.house.dump(((), {})))
    assert one.results(task) == [MB + 1]
    for part in blob.parts:
        one.house.arena.view(*part)[:] = bytes(part[1])
    assert one.results(task) == [MB + 2]


def test_what_a_task_raises(one: Worker) -> None:
    number = one.start(one.call(add, 1, 1), one.call(fail, "oh"), one.call(add, 2, 2))
    failed = one.hear(Failed)
    assert (failed.batch, [one.house.load(v) for v in failed.results], len(failed.sizes)) == (number, [2], 1)
    error = load_error(failed.error)
    assert type(error) is ValueError
    assert str(error) == "oh"
    trace = error.__traceback__
    assert trace is not None
    assert trace.tb_frame.f_code.co_name == "fail", "the traceback begins in the user's code"
    assert one.run(add, 1, 1) == 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_nothing_that_is_raised_ends_the_worker(one: Worker, kind: type[BaseException]) -> None:
    def raises() -> None:
        raise kind(3)

    one.start(one.call(raises))
    assert isinstance(load_error(one.hear(Failed).error), kind)
    assert one.run(os.getpid) == one.pid


def test_a_result_that_cannot_be_pickled(one: Worker) -> None:
    one.start(one.call(threading.Lock))
    error = load_error(one.hear(Failed).error)
    assert isinstance(error, TypeError)
    assert "lock" in "".join(error.__notes__)
    assert one.run(add, 1, 1) == 2


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def test_an_exception_that_cannot_be_pickled(one: Worker) -> None:
    def raises() -> None:
        raise Unpicklable("reason")

    one.start(one.call(raises))
    error = load_error(one.hear(Failed).error)
    assert isinstance(error, RemoteError)
    assert "Unpicklable: reason" in str(error)


def test_a_module_that_the_worker_does_not_have(one: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_here.py").write_text("def f(): return 1")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    one.start(one.call(only_here.f))
    error = load_error(one.hear(Failed).error)
    assert isinstance(error, ModuleNotFoundError)
    assert error.name == "only_here"
    assert "function 'f'" in error.__notes__[0]


# ---------------------------------------------------------------- inputs


def test_inputs_of_all_kinds(one: Worker, tmp_path: Path) -> None:
    home = one.house
    large, spilled = home.dump(np.arange(MB)), home.dump(np.ones(MB))
    assert isinstance(spilled, Stored)
    on_disk = values.write_spill(home.arena, home.arena.spill, spilled, 0)
    several = {"list": [Input(0), (Input(1),)], "disk": Input(2)}

    def total(several: dict[str, Any], *, plus: int) -> list[float]:
        (small, (large,)), disk = several["list"], several["disk"]
        return [small, large.sum(), disk.sum(), plus]

    number = one.start(
        one.call(total, several, inputs=(1, 2, 3), plus=Input(0)), tasks=[4],
        inputs={1: home.dump(5), 2: large, 3: on_disk},
    )  # fmt: skip
    loaded = one.hear(Loaded)
    assert loaded.batch == number
    assert {home.arena.slot_of(offset) for offset, _ in loaded.values[3].extents} == {one.slot}
    assert (home.load(loaded.values[3]) == 1).all()
    assert home.load(one.hear(Finished).results[0]) == [5, MB * (MB - 1) / 2, MB, 5]


def test_what_cannot_be_read_back_fails_the_batch(one: Worker) -> None:
    nothing = OnDisk(1 << 50, (10, 100))
    one.start(one.call(add, Input(0), 1, inputs=(1,)), inputs={1: nothing})
    failed = one.hear(Failed)
    assert failed.results == []
    assert isinstance(load_error(failed.error), StorageError)


def test_inputs_are_views_and_read_only(one: Worker) -> None:
    def write(x: np.ndarray) -> None:
        x[0] = 1

    def same(x: np.ndarray) -> np.ndarray:
        return x[10:]

    value = one.house.dump(np.zeros(MB))
    assert isinstance(value, Stored)
    one.start(one.call(write, Input(0), inputs=(1,)), inputs={1: value})
    assert "read-only" in str(load_error(one.hear(Failed).error))
    one.start(one.call(same, Input(0), inputs=(1,)), inputs={1: value})
    (result,) = one.hear(Finished).results
    assert (result.extents, result.borrowed) == ((), value.extents), "no byte was copied"


def test_a_task_reads_what_an_earlier_one_of_its_batch_has_made(one: Worker) -> None:
    work = one.call(np.ones, MB), one.call(add, Input(0), 1, inputs=(100,)), one.call(np.sum, Input(0), inputs=(101,))
    ones, twos, total = one.results(*work)
    assert (ones == 1).all()
    assert (twos == 2).all()
    assert total == 2 * MB


kept: list[Any] = []


def keep(x: Any) -> None:
    kept.append(x)


def drop() -> None:
    kept.clear()


def test_memory_that_is_still_looked_at_is_reported(one: Worker) -> None:
    value = one.house.dump(np.zeros(MB))
    one.start(one.call(np.sum, Input(0), inputs=(7,)), inputs={7: value})
    assert one.hear(Finished).viewed == ()
    one.start(one.call(keep, Input(0), inputs=(7,)), one.call(keep, np.ones(MB)), inputs={7: value}, tasks=[8, 9])
    assert sorted(one.hear(Finished).viewed) == [~9, 7], "an input, and an argument"
    one.start(one.call(drop))
    assert one.hear(Finished).viewed == ()
    assert sorted(one.hear(Unviewed).tasks) == [~9, 7]


def test_errors_do_not_keep_memory(one: Worker) -> None:
    def raises(x: np.ndarray) -> None:
        raise ValueError("with x in its frame")

    one.start(one.call(raises, Input(0), inputs=(7,)), inputs={7: one.house.dump(np.zeros(MB))})
    assert one.hear(Failed).viewed == ()


class Model:
    """Large, and slow to unpickle."""

    loads = 0

    def __init__(self) -> None:
        self.weights, self.table = np.ones(MB), list(range(10_000))

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).loads += 1
        self.__dict__ = state


def count_loads(model: Model) -> int:
    return type(model).loads


def test_a_large_object_is_unpickled_once(one: Worker) -> None:
    value = one.house.dump(Model())
    for _ in range(3):
        one.start(one.call(count_loads, Input(0), inputs=(7,)), inputs={7: value})
        finished = one.hear(Finished)
        assert one.house.load(finished.results[0]) == 1
        assert finished.viewed == (7,)
    others = {k: one.house.dump(list(range(10_000))) for k in range(20, 20 + CACHED)}
    one.start(one.call(len, Input(0), inputs=tuple(others)), *[one.call(len, Input(0), inputs=(k,)) for k in others],
              inputs=others)  # fmt: skip
    assert one.hear(Finished).viewed == ()
    assert one.hear(Unviewed).tasks == (7,), "others have taken its place"


def test_a_worker_at_rest_forgets_them(one: Worker) -> None:
    one.start(one.call(count_loads, Input(0), inputs=(7,)), inputs={7: one.house.dump(Model())})
    assert one.hear(Finished).viewed == (7,)
    assert one.hear(Unviewed).tasks == (7,)


def waste() -> int:
    """Heaps of small things."""
    return len([bytes(1000) for _ in range(200_000)])


def test_a_worker_at_rest_gives_memory_back(one: Worker) -> None:
    def own() -> int:
        return int(Path(f"/proc/{one.pid}/smaps_rollup").read_text().partition("Private_Dirty:")[2].split()[0])

    one.run(add, 1, 1)
    before = own()
    one.run(waste)
    soon(lambda: own() - before < 20_000)  # kB, of 200,000


# ---------------------------------------------------------------- inner values


def test_inner_values_stay_objects(one: Worker) -> None:
    work = one.call(threading.Lock), one.call(repr, Input(0), inputs=(1,)), one.call(repr, Input(0), inputs=(1,))
    one.start(*work, tasks=[1, 2, 3], inner={1: 2})
    finished = one.hear(Finished)
    assert finished.results[0] is None
    first, second = map(one.house.load, finished.results[1:])
    assert first == second
    assert "lock" in first
    assert len(finished.sizes) == 3


class Counted:
    alive = 0

    def __init__(self, *args: Any) -> None:
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1

    @staticmethod
    def count(*args: Any) -> int:
        return Counted.alive


def test_inner_values_are_dropped_after_their_last_use(one: Worker) -> None:
    work = [
        one.call(Counted), one.call(Counted, Input(0), inputs=(1,)), one.call(Counted.count, Input(0), inputs=(2,)),
        one.call(Counted.count),
    ]  # fmt: skip
    one.start(*work, tasks=[1, 2, 3, 4], inner={1: 1, 2: 1})
    results = one.hear(Finished).results
    assert results[:2] == [None, None]
    assert [one.house.load(value) for value in results[2:]] == [1, 0]


def test_an_inner_value_whose_users_did_not_run_is_stored(one: Worker) -> None:
    work = one.call(np.ones, MB), one.call(fail, "no"), one.call(np.sum, Input(0), inputs=(1,))
    one.start(*work, tasks=[1, 2, 3], inner={1: 1})
    failed = one.hear(Failed)
    assert (one.house.load(failed.results[0]) == 1).all()
    assert failed.sizes[0] >= 8 * MB


def test_an_inner_value_that_must_be_stored_but_cannot(one: Worker) -> None:
    work = (
        one.call(add, 1, 1),
        one.call(threading.Lock),
        one.call(np.ones, MB),
        one.call(fail, "no"),
        one.call(repr, Input(0), inputs=(2,)),
    )
    one.start(*work, tasks=[1, 2, 3, 4, 5], inner={2: 1})
    failed = one.hear(Failed)
    assert [one.house.load(value) for value in failed.results] == [2], "the task that failed is the one without value"
    assert isinstance(load_error(failed.error), TypeError)
    assert one.run(add, 1, 1) == 2


# ---------------------------------------------------------------- taken back


def test_results_that_weigh_more_than_allowed(one: Worker) -> None:
    number = one.start(*[one.call(np.ones, MB)] * 5, allowance=17 * MB)
    assert one.hear(Returned) == (number, 2)
    assert len(one.hear(Finished).results) == 3


def test_what_is_not_started_can_be_taken_back(one: Worker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    running = one.start(one.call(add, 1, 1), one.call(gate.wait), one.call(add, 2, 2), one.call(add, 3, 3))
    queued = one.start(one.call(add, 4, 4), one.call(add, 5, 5))
    gate.reached()
    one.say(GiveBack((running, queued, 999)))
    assert [one.hear(Returned) for _ in range(3)] == [(running, 2), (queued, 2), (999, 0)]
    one.say(GiveBack((running,)))
    assert one.hear(Returned) == (running, 0)
    gate.open()
    finished = one.hear(Finished)
    assert finished.batch == running
    assert [one.house.load(value) for value in finished.results] == [2, None]
    assert one.run(add, 1, 1) == 2, "nothing is heard of the one that was taken back whole"


def test_inner_values_are_stored_when_their_users_are_taken_back(one: Worker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    number = one.start(
        one.call(add, 1, 1), one.call(gate.wait), one.call(add, Input(0), 1, inputs=(1,)), tasks=[1, 2, 3], inner={1: 1}
    )
    gate.reached()
    one.say(GiveBack((number,)))
    assert one.hear(Returned) == (number, 1)
    gate.open()
    assert [one.house.load(value) for value in one.hear(Finished).results] == [2, None]


def test_the_board_tells_what_runs(two: Worker, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, str(k)) for k in range(2)]
    for k, gate in enumerate(gates):
        two.start(two.call(add, 1, 1), two.call(gate.wait), tasks=[10 * k, 10 * k + 1])
    for gate in gates:
        gate.reached()
    assert sorted(two.house.arena.marks(two.slot))[-2:] == [1, 11]
    for gate in gates:
        gate.open()
    for _ in gates:
        two.hear(Finished)
    assert set(two.house.arena.marks(two.slot)) == {-1}


# ---------------------------------------------------------------- graphs


def prepared(x: Any) -> TaskGraph:
    return session.prepare([x.node], config.get()).graph


def test_blocks_of_arrays(one: Worker) -> None:
    x = ta.ones((400, 400), chunks=(200, 400))
    graph = prepared((x + 1).sum(axis=0))
    one.define(graph, 0, base=1000)
    tasks = sorted(range(graph.n_tasks), key=graph.rank.__getitem__)
    results = one.results(*[BlockTask(0, t) for t in tasks], tasks=[1000 + t for t in tasks])
    (output,) = graph.outputs.tolist()
    assert (results[tasks.index(output)] == 800).all()


def test_inner_blocks(one: Worker) -> None:
    graph = prepared((ta.ones((400, 400), chunks=(200, 400)) + 1).sum(axis=0))
    one.define(graph, 0, base=1000)
    tasks = sorted(range(graph.n_tasks), key=graph.rank.__getitem__)
    inner = {1000 + t: 1 for t in tasks[:-1]}
    results = one.results(*[BlockTask(0, t) for t in tasks], tasks=[1000 + t for t in tasks], inner=inner)
    assert results[:-1] == [None] * (len(tasks) - 1)
    assert (results[-1] == 800).all()


def test_blocks_are_made_in_the_arena(one: Worker) -> None:
    graph = prepared(ta.ones((1000, 1000), chunks=(1000, 1000)) + 1)
    one.define(graph, 0, base=0)
    one.start(BlockTask(0, 0), tasks=[0])
    (result,) = one.hear(Finished).results
    assert (one.house.load(result) == 2).all()
    assert len(result.parts) == len(result.extents) == 1
    assert result.parts[0][0] == result.extents[0][0], "the block begins where the extent does: it was not copied"


def test_tasks_of_several_graphs_and_blocks_of_others(one: Worker) -> None:
    one.define(graph_of([[], [0]], [call(add, 1, 2), call(add, Slot(0), 10)], [1]), 0, base=100)
    one.define(graph_of([[], [0]], [call(fail, "never run"), call(add, Slot(0), 100)], [1]), 1, base=200, held={0: 101})
    one.define(graph_of([[], [0]], [call(fail, "never run"), call(add, Slot(0), 7)], [1]), 2, base=300, held={0: 50})
    work = BlockTask(0, 0), BlockTask(0, 1), BlockTask(1, 1), one.call(add, Input(0), 1000, inputs=(201,))
    results = one.results(
        *work, BlockTask(2, 1), tasks=[100, 101, 201, 400, 301], inputs={50: one.house.dump(1)}, inner={100: 1, 101: 1}
    )
    assert results == [None, None, 113, 1113, 8]


def test_errors_name_the_operation(one: Worker) -> None:
    one.define(graph_of([[]], [call(fail, "oh", label="failing")], [0]), 0, base=0)
    one.start(BlockTask(0, 0), tasks=[0])
    error = load_error(one.hear(Failed).error)
    assert str(error) == "oh"
    assert error.__notes__ == ["in operation 'failing'"]


def test_a_cancelled_graph_is_given_up_between_tiles(one: Worker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)

    def wait(block: np.ndarray) -> np.ndarray:
        gate.wait()
        return block

    x = ta.map_blocks(wait, ta.ones((2000, 2000), chunks=(2000, 2000)), dtype=float) + 1
    one.define(prepared(x), 0, base=0)
    one.start(BlockTask(0, 0), tasks=[0])
    gate.reached()
    one.say(Forget((), (0,)))
    one.say(RunOnWorker(1, cloudpickle.dumps(os.getpid)))
    assert one.hear(Forgotten).graph == 0
    one.hear(Ran)
    gate.open()
    assert isinstance(load_error(one.hear(Failed).error), Cancelled)
    assert one.run(add, 1, 1) == 2


# ---------------------------------------------------------------- beside tasks


class SetUp:
    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def __call__(self) -> None:
        kept.append(self.weights)


def sum_of_kept() -> float:
    return sum(float(x.sum()) for x in kept)


def test_a_function_is_run_beside_tasks(one: Worker, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    one.start(one.call(gate.wait))
    gate.reached()
    one.say(RunOnWorker(5, cloudpickle.dumps(lambda: os.getpid())))
    ran = one.hear(Ran)
    assert (ran.request, one.house.load(ran.value), ran.error) == (5, one.pid, None)
    one.say(RunOnWorker(6, cloudpickle.dumps(lambda: fail("here"))))
    ran = one.hear(Ran)
    assert (ran.request, ran.value, str(load_error(ran.error))) == (6, None, "here")
    gate.open()
    one.hear(Finished)


def test_what_is_set_up_on_a_worker_stays_as_it_is(one: Worker) -> None:
    blob = one.house.dump(SetUp(np.ones(MB)))
    assert isinstance(blob, Stored)
    assert blob.parts
    one.say(RunOnWorker(1, blob))
    assert one.hear(Ran).error is None
    for part in blob.parts:  # the scheduler sees no reason to keep it
        one.house.arena.view(*part)[:] = bytes(part[1])
    assert one.run(sum_of_kept) == MB


def test_blocks_go_to_disk(one: Worker) -> None:
    home = one.house
    blocks = [home.dump(np.full(MB, k)) for k in range(2)]
    one.say(SpillBlocks([(k, value, 1000 + k * 10 * MB) for k, value in enumerate(blocks)]))  # type: ignore[misc]
    done, kept, error = one.hear(Spilled)
    assert (kept, error) == ([], None)
    for k, (task, place) in enumerate(done):
        assert (task, place.offset) == (k, 1000 + k * 10 * MB)
        assert (home.load(values.read_spill(home.arena.spill, place, home.slot)) == k).all()


def test_a_full_disk(one: Worker) -> None:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * MB, 10 * MB))

    one.run(limit)
    blocks = [one.house.dump(np.full(MB // 2, k)) for k in range(3)]
    one.say(SpillBlocks([(k, value, k * 6 * MB) for k, value in enumerate(blocks)]))  # type: ignore[misc]
    done, kept, error = one.hear(Spilled)
    assert [task for task, _ in done] == [0]
    assert kept == [1, 2]
    assert "File too large" in error


def test_two_threads_run_two_batches(two: Worker, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, str(k)) for k in range(3)]
    for gate in gates:
        two.start(two.call(gate.wait))
    gates[0].reached()
    gates[1].reached()
    gates[1].open()
    gates[2].reached()
    gates[0].open()
    gates[2].open()
    assert sorted(two.hear(Finished).batch for _ in gates) == [1, 2, 3]


# ---------------------------------------------------------------- tasks that wait for tasks


def test_while_a_task_waits_another_one_runs(one: Worker, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, str(k)) for k in range(2)]

    def wait(k: int) -> None:
        with worker.waiting():
            gates[k].wait()

    first = one.start(one.call(wait, 0), one.call(add, 1, 1))
    assert one.hear(Returned) == (first, 1), "it may be what the task waits for"
    assert one.hear(Blocked).delta == 1
    gates[0].reached()
    assert one.results(one.call(add, 1, 1)) == [2]
    second = one.start(one.call(wait, 1))
    assert one.hear(Blocked).delta == 1
    gates[1].reached()
    assert one.results(one.call(add, 2, 2)) == [4]
    for gate, batch in zip(gates, [first, second], strict=True):
        gate.open()
        assert one.hear(Blocked).delta == -1
        assert one.hear(Finished).batch == batch
    for _ in range(3):  # threads that are too many end when they have run something
        assert one.run(add, 1, 1) == 2
    soon(lambda: len(os.listdir(f"/proc/{one.pid}/task")) == 2)


def test_a_task_knows_where_it_is(one: Worker) -> None:
    def where() -> Any:
        here = worker.current()
        assert here is not None
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(worker.current()))
        thread.start()
        thread.join()
        return tuple(here), tuple(found[0])

    one.start(one.call(where), tasks=[123])
    here, in_thread = one.house.load(one.hear(Finished).results[0])
    assert here == (one.number, 123, "", b"")
    assert in_thread == (one.number, None, "", b"")
    assert worker.current() is None
    with worker.waiting():  # in no worker: nothing
        pass


def test_computing_in_a_task_is_sync(one: Worker) -> None:
    assert one.run(lambda: config.get().scheduler) == "sync"
    assert one.run(lambda: float(ta.ones(10).sum())) == 10


# ---------------------------------------------------------------- words


def test_warnings_and_errors_are_logged(capfd: pytest.CaptureFixture[str]) -> None:
    def talk() -> None:
        logging.basicConfig(format="mine %(message)s", level=logging.INFO)
        logging.getLogger("some").info("unheard")
        logging.getLogger("some").warning("of %d", 1)
        try:
            fail("deep")
        except ValueError:
            logging.getLogger("some").exception("kept")
        logging.getLogger("some").error("%d", "no number")
        warnings.warn("careful", stacklevel=1)

    with house() as home:
        home.start_anew()
        worker = home.spawn()
        worker.run(talk)
        logs = worker.logs
    assert [log.level for log in logs] == [logging.WARNING, logging.ERROR, logging.ERROR, logging.WARNING]
    texts = [log.text for log in logs]
    assert texts[0] == "some: of 1"
    assert texts[1].startswith("some: kept\nTraceback")
    assert texts[1].endswith("ValueError: deep")
    assert texts[2] == "some: %d"
    assert "UserWarning: careful" in texts[3]
    errors = capfd.readouterr().err
    assert "mine unheard\nmine of 1\n" in errors, "what the user has configured goes on as it would"
    assert "UserWarning: careful" in errors


def test_output_appears_at_once(tmp_path: Path) -> None:
    """As it does in a terminal, also where it goes to a file."""
    script = """
import sys
from tests.engine.cluster import housing
from tilework.engine.cluster.start import boot
boot.leave_stdin()
with housing.house() as house:
    worker = house.spawn()
    worker.run(print, "a line")
    print(open(sys.argv[1]).read() == "a line\\n", file=sys.stderr)
"""
    output = tmp_path / "output"
    with output.open("w") as file:
        done = subprocess.run([sys.executable, "-c", script, str(output)], stdout=file, stderr=subprocess.PIPE,
                              text=True, cwd=Path.cwd(), check=True)  # fmt: skip
    assert done.stderr == "True\n"


# ---------------------------------------------------------------- the end


def test_a_worker_leaves_when_its_tasks_are_done(home: House, tmp_path: Path) -> None:
    gates = [Gate(tmp_path, str(k)) for k in range(2)]
    worker = home.spawn(threads=2, slot=3)
    running = worker.start(worker.call(gates[0].wait), worker.call(add, 1, 1))
    other = worker.start(worker.call(gates[1].wait))
    for gate in gates:
        gate.reached()
    queued = worker.start(worker.call(add, 1, 1))
    worker.say(Leave())
    returned = {tuple(worker.hear(Returned)) for _ in range(3)}
    assert returned == {(running, 1), (other, 0), (queued, 1)}
    for gate in gates:
        gate.open()
    assert {worker.hear(Finished).batch for _ in gates} == {running, other}
    assert home.exits() == [(worker.number, worker.pid, 0)]


def test_an_idle_worker_leaves(home: House) -> None:
    worker = home.spawn(threads=3, slot=4)
    worker.say(Leave())
    assert home.exits() == [(worker.number, worker.pid, 0)]


def test_a_worker_ends_when_nobody_listens(home: House) -> None:
    worker = home.spawn(slot=5)
    worker.channel.close()
    assert [end.number for end in home.exits()] == [worker.number]


def test_a_batch_is_a_few_bytes_a_task(one: Worker) -> None:
    """What must not happen: that a task carries its function."""
    task = one.call(add, 1, 1)
    assert len(pickle.dumps(task, 5)) < 150
