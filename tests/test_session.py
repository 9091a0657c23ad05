"""The session: any mix and nesting of lazy things, settings for one computation, and what reaches the user."""

from __future__ import annotations

import sys
import traceback
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import h5py
import numpy as np
import pytest
import zarr

import tilework as tw
import tilework.array as ta
from tilework import session
from tilework.array.core import Array
from tilework.base import config
from tilework.base.errors import BlockResultError, ConfigError, MemoryBudgetError, UnsupportedError
from tilework.engine.cluster.client.processes import close
from tilework.engine.local.sync import SyncEngine
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph
from tilework.io.memory import ArrayLikeSink
from tilework.plan import build, collections, ops
from tilework.testing import assert_eq


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    """Worker processes cannot import this module, and end with it."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    yield
    cloudpickle.unregister_pickle_by_value(here)
    close()


@pytest.fixture(params=["sync", "threads", "processes"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    with config.set(scheduler=request.param, workers=3):
        yield request.param


class Recorder(SyncEngine):
    """An engine that notes what it is asked to run."""

    name = "recorder"

    def __init__(self) -> None:
        self.runs: list[tuple[TaskGraph, RunOptions]] = []

    def run(self, graph: TaskGraph, options: RunOptions, listener: Any = None) -> list[Any]:
        self.runs.append((graph, options))
        return super().run(graph, options, listener)


def x() -> Array:
    return ta.arange(24, chunks=5).reshape(4, 6)


NUMPY = np.arange(24).reshape(4, 6)


def inc(value: Any) -> Any:
    return value + 1


# ---------------------------------------------------------------- mixes and nestings


@dataclass(frozen=True)
class Pair:
    left: Any
    right: Any


@dataclass
class Derived:
    value: Any
    name: str = "derived"
    double: Any = field(init=False)

    def __post_init__(self) -> None:
        self.double = [self.value, self.value]


Point = namedtuple("Point", ["x", "y"])

NESTINGS: dict[str, Callable[[Any, Any], Any]] = {
    "alone": lambda a, b: a,
    "list": lambda a, b: [a, 1, b],
    "tuple": lambda a, b: (a, "text", b),
    "dict": lambda a, b: {"a": a, 2: {"b": b}, "none": None},
    "named tuple": lambda a, b: Point(a, [b]),
    "dataclass": lambda a, b: Pair(a, (b, a)),
    "deep": lambda a, b: [[[[{"k": (a, [b, [b]])}]]]],
    "empty": lambda a, b: [[], (), {}],
}


@pytest.mark.parametrize("name", NESTINGS)
def test_nestings_keep_their_form(name: str, scheduler: str) -> None:
    nest = NESTINGS[name]
    (result,) = tw.compute(nest(tw.delayed(inc)(1), x().sum()))
    expected = nest(2, NUMPY.sum())
    assert result == expected
    assert type(result) is type(expected)


def test_sets_and_computed_fields() -> None:
    assert tw.compute({tw.delayed(inc)(1), tw.delayed(inc)(2)}) == ({2, 3},)
    assert tw.compute(frozenset([tw.delayed(inc)(1)])) == (frozenset([2]),)
    (derived,) = tw.compute(Derived(tw.delayed(inc)(1)))
    assert (derived.value, derived.name, derived.double) == (2, "derived", [2, 2])


def test_the_users_own_containers_are_left_as_they_are() -> None:
    mine = Pair([tw.delayed(inc)(1)], 0)
    tw.compute(mine)
    assert isinstance(mine.left, list)
    assert tw.is_tilework_collection(mine.left[0])


def test_anything_else_is_returned_as_it_is(scheduler: str) -> None:
    plain = object()
    assert tw.compute(plain, 1, None, x) == (plain, 1, None, x)
    assert tw.compute() == ()


def test_traverse_false_looks_at_the_top_only() -> None:
    lazy = tw.delayed(inc)(1)
    result = tw.compute([lazy], lazy, traverse=False)
    assert result[0][0] is lazy
    assert result[1] == 2


def test_arrays_and_calls_feed_each_other(scheduler: str) -> None:
    total = tw.delayed(float)(x().sum())
    scaled = ta.from_delayed(tw.delayed(np.full)((3,), total), (3,), "f8") + 1
    last = tw.delayed(max)(scaled.max(), total)
    results = tw.compute(scaled, {"last": last, "mean": (x() * 2).mean()}, x()[1])
    assert_eq(results[0], np.full(3, 277.0))
    assert results[1] == {"last": 277.0, "mean": 23.0}
    assert_eq(results[2], NUMPY[1])


def test_other_libraries_containers_can_be_taught() -> None:
    class Box:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

    def unpack(thing: Any) -> Any:
        return ([thing.inner], lambda values: Box(values[0])) if isinstance(thing, Box) else None

    session.register_container(unpack)
    try:
        (box,) = tw.compute(Box([x().sum()]))
        assert box.inner == [276]
        (box,) = tw.persist(Box(x()))
        assert isinstance(box.inner, Array)
    finally:
        collections._unpackers.remove(unpack)


# ---------------------------------------------------------------- results


def test_the_same_thing_is_computed_once_and_returned_everywhere() -> None:
    calls = []

    def once(value: int) -> list[int]:
        calls.append(value)
        return [value]

    lazy = tw.delayed(once)(5)
    first, second, (third,) = tw.compute(lazy, lazy, [lazy])
    assert first is second is third
    assert calls == [5]
    a, b = tw.compute(y := x() + 1, y)
    assert a is b


class Counter:
    """Counts calls in whatever process: a byte each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def __call__(self, value: Any) -> Any:
        with self.path.open("ab", buffering=0) as file:
            file.write(b".")
        return value * 2

    def __len__(self) -> int:
        return len(self.path.read_bytes())

    def clear(self) -> None:
        self.path.write_bytes(b"")


@pytest.fixture
def count(tmp_path: Path) -> Counter:
    return Counter(tmp_path / "calls")


def test_shared_work_is_done_once(scheduler: str, count: Counter) -> None:
    shared = ta.ones((4, 4), chunks=2).map_blocks(count, dtype="f8")
    count.clear()
    tw.compute(shared + 1, {"sum": shared.sum()}, tw.delayed(np.mean)(shared))
    assert len(count) == 4


@pytest.mark.parametrize(
    ("lazy", "expected"),
    [
        (lambda: x().sum(), np.int64(276)),
        (lambda: x()[1, 2], np.int64(8)),
        (lambda: (x() > 3).all(), np.False_),
        (lambda: ta.asarray(np.datetime64("2000-01-01")), np.datetime64("2000-01-01")),
    ],
)
def test_results_without_axes_are_scalars(lazy: Callable[[], Array], expected: Any, scheduler: str) -> None:
    result = lazy().compute()
    assert type(result) is type(expected)
    assert result == expected


def test_results_with_axes_are_arrays_of_ones_own(scheduler: str) -> None:
    values = np.arange(6.0)
    result = ta.from_array(values, chunks=3).compute()
    assert type(result) is np.ndarray
    result[:] = 0
    assert values.sum() == 15


def test_empty_arrays(scheduler: str) -> None:
    assert_eq(ta.zeros((0, 3), chunks=2) + 1, np.zeros((0, 3)))
    assert x()[:0].sum().compute() == 0


def test_unknown_chunk_sizes(scheduler: str) -> None:
    y = x().reshape(24)
    positive = y[y > 5] * 2
    assert np.isnan(positive.shape[0])
    assert_eq(positive.compute(), np.arange(6, 24) * 2)
    a, b = tw.compute(positive, positive.sum())
    assert a.sum() == b


def test_unoptimized_plans_give_the_same() -> None:
    y = (x() + 1).T[2:4].sum(axis=0)
    assert np.array_equal(tw.compute(y, optimize_graph=False)[0], y.compute())


# ---------------------------------------------------------------- writing


def targets(path: Path) -> dict[str, Any]:
    """What only this process can write to, and what all can."""
    file = h5py.File(path / "targets.h5", "w")
    return {
        "array": np.zeros((4, 6), "i8"),
        "part of an array": np.zeros((9, 9), "i8")[2:6, 1:7],
        "hdf5": file.create_dataset("x", (4, 6), "i8"),
        "zarr in memory": zarr.create_array(zarr.storage.MemoryStore(), shape=(4, 6), dtype="i8", chunks=(1, 3)),
        "zarr": zarr.create_array(str(path / "targets.zarr"), shape=(4, 6), dtype="i8", chunks=(1, 3)),
    }


@pytest.mark.parametrize("name", ["array", "part of an array", "hdf5", "zarr in memory", "zarr"])
def test_storing(scheduler: str, tmp_path: Path, name: str) -> None:
    target = targets(tmp_path)[name]
    before, after = tw.compute(x().max(), ta.store(x() * 2, target, compute=False))
    assert (before, after) == (23, None)
    np.testing.assert_array_equal(target[...], NUMPY * 2)
    ta.store([x()[:2] + 1], [target], regions=(slice(1, 3), slice(None)))
    np.testing.assert_array_equal(target[...], np.concatenate([NUMPY[:1] * 2, NUMPY[:2] + 1, NUMPY[3:] * 2]))


def breaks_at_the_end(block: np.ndarray, count: Counter, fixed: Path, block_id: Any = None) -> np.ndarray:
    if block_id == (9, 9) and not fixed.exists():
        raise OSError("not yet")
    return count(block)


def test_a_write_is_resumed(scheduler: str, tmp_path: Path, count: Counter) -> None:
    fixed, path = tmp_path / "fixed", str(tmp_path / "resumed.zarr")
    y = ta.ones((20, 20), chunks=2).map_blocks(breaks_at_the_end, count, fixed, dtype="f8")
    count.clear()
    with pytest.raises(OSError, match="not yet"):
        y.to_zarr(path, resume=True)
    done = len(count)
    assert 0 < done < 100
    fixed.touch()
    y.to_zarr(path, resume=True)
    assert len(count) == 100, "each block once"
    np.testing.assert_array_equal(zarr.open_array(path)[...], np.full((20, 20), 2.0))


# ---------------------------------------------------------------- submit


def test_submitting_gives_a_future_of_what_compute_gives() -> None:
    with config.set(scheduler="processes", workers=3):
        things = [
            x() * 2,
            x().sum(),
            tw.delayed(inc)(1),
            {"a": [x().T, 5]},
            Pair(tw.delayed(inc)(2), "b"),
            "plain",
            x(),
        ]
        found = session.submit(*things, priority=1)
        assert found[5] == "plain"
        values = [thing if isinstance(thing, str) else thing.result() for thing in found]
        expected = tw.compute(*things)
        np.testing.assert_array_equal(values[0], expected[0])
        np.testing.assert_array_equal(values[3]["a"][0], NUMPY.T)
        assert values[3]["a"][1] == 5
        assert values[1:3] + values[4:6] == list(expected[1:3] + expected[4:6])
        assert [type(value) for value in values] == [type(value) for value in expected]


def test_what_cannot_be_submitted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scheduler='threads' has no futures; use a Client, or compute\(\)"):
        session.submit(x())
    with config.set(scheduler="processes", workers=3):
        with pytest.raises(UnsupportedError, match="only this process can write to"):
            session.submit(x().store(np.zeros((4, 6)), compute=False))
        to_zarr = x().to_zarr(str(tmp_path / "x.zarr"), compute=False)
        with pytest.raises(UnsupportedError, match="submit them by themselves"):
            session.submit([to_zarr, x()])
        (written,) = session.submit(to_zarr)
        assert written.result() is None
        np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "x.zarr"))[...], NUMPY)


# ---------------------------------------------------------------- persist, optimize


def test_persisted_things_are_computed_and_stay_lazy(scheduler: str, count: Counter) -> None:
    y = x().map_blocks(count, dtype="i8")
    count.clear()
    kept, nested = tw.persist(y, {"call": tw.delayed(count)(3), "plain": 1})
    assert isinstance(kept, Array)
    assert kept.chunks == y.chunks
    assert nested["call"].compute() == 6
    assert nested["plain"] == 1
    assert_eq(kept + 1, NUMPY * 2 + 1)
    assert_eq(kept[1:3, 2], NUMPY[1:3, 2] * 2)
    again, call = tw.persist(kept, nested["call"])
    assert_eq(again, NUMPY * 2)
    assert call.compute() == 6
    assert len(count) == y.npartitions + 1


def test_what_was_persisted_on_a_cluster_stands_on_futures() -> None:
    y = x() + 1
    with config.set(scheduler="processes", workers=3):
        kept, one, stored = tw.persist(y, tw.delayed(inc)(1), y.store(np.zeros((4, 6)), compute=False))
        handles = session.handles_of(kept * 2, [one, kept])
        assert len(handles) == y.npartitions + 1
        assert np.concatenate([np.ravel(handle.result()) for handle in handles]).sum() == y.sum().compute() + 2
        assert stored.compute() is None
        assert_eq(kept.sum(axis=0), (NUMPY + 1).sum(axis=0))
    assert_eq(kept.compute(scheduler="threads"), NUMPY + 1)
    with pytest.raises(ZeroDivisionError):
        tw.persist(tw.delayed(divmod)(1, 0), scheduler="processes", workers=3)[0].compute()


def test_persisting_finds_unknown_sizes() -> None:
    y = x().reshape(24)
    kept = y[y % 3 == 0].persist()
    assert kept.shape == (8,)
    assert_eq(kept[2:4], np.array([6, 9]))


def test_one_thing_persisted_twice_is_one() -> None:
    y = x() + 1
    a, b = tw.persist(y, y)
    assert a.node is b.node


def test_persisting_nothing() -> None:
    assert tw.persist() == ()
    assert tw.persist(1, [2]) == (1, [2])


def test_optimize_shows_better_plans_of_the_same_values() -> None:
    y = (ta.from_array(NUMPY, chunks=2) + 1)[2]
    better, nested = tw.optimize(y, [tw.delayed(inc)(y)])
    assert not any(isinstance(n, ops.Slice) for n in (better.node, *better.node.inputs))
    assert_eq(better, NUMPY[2] + 1)
    assert_eq(nested[0].compute(), NUMPY[2] + 2)


def test_writes_have_no_value() -> None:
    target = np.zeros((4, 6), int)
    write = build.store(x().node, ArrayLikeSink(target))
    session.run_stores([write])
    assert np.array_equal(target, NUMPY)


# ---------------------------------------------------------------- settings


def test_settings_hold_for_one_computation() -> None:
    engine = Recorder()
    x().sum().compute(scheduler=engine, workers=3, memory="200MB", retries=2, spill_directory="/tmp")
    ((_, options),) = engine.runs
    assert options == RunOptions(3, 200 * 10**6, 2, "/tmp")
    x().sum().compute(scheduler=engine, num_workers=2)
    assert engine.runs[1][1].workers == 2
    assert engine.runs[1][1].budget == config.resolve_memory(config.get())


def test_settings_of_the_context_hold_too() -> None:
    engine = Recorder()
    with config.set(scheduler=engine, memory="150MB"):
        tw.compute(x().sum(), memory="160MB")
        tw.persist(x())
    assert [options.budget for _, options in engine.runs] == [160 * 10**6, 150 * 10**6]


@pytest.mark.parametrize("name", ["sync", "single-threaded", "synchronous", "threads", "threading"])
def test_names_of_schedulers(name: str) -> None:
    assert x().sum().compute(scheduler=name) == 276


@pytest.mark.parametrize("run", [tw.compute, tw.persist, tw.explain])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "thraeds"}, "scheduler='thraeds' is no scheduler; did you mean 'threads'"),
        ({"scheduler": 7}, "scheduler=7 is no scheduler"),
        ({"memroy": "1GB"}, "there is no setting 'memroy'; did you mean 'memory'"),
        ({"memory": "much"}, "memory='much' is not a byte size"),
        ({"memory": -1}, "not a positive size"),
        ({"workers": 0}, "workers=0 is too small"),
    ],
)
def test_settings_that_make_no_sense(run: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(x(), **options)


# ---------------------------------------------------------------- before running


def test_the_hook_sees_every_plan_before_it_runs() -> None:
    seen: list[session.Prepared] = []
    token = session.before_run.set(seen.append)
    try:
        x().sum().compute()
        tw.persist(x())
        tw.explain(x())
    finally:
        session.before_run.reset(token)
    x().compute()
    assert [p.graph.n_tasks for p in seen] == [tw.explain(x().sum()).n_tasks, tw.explain(x()).n_tasks]
    assert seen[0].explanation().n_tasks == seen[0].graph.n_tasks
    assert seen[0].engine.name == "threads"


def test_the_hook_can_keep_a_plan_from_running() -> None:
    class Stop(BaseException):
        pass

    def refuse(prepared: session.Prepared) -> None:
        raise Stop

    ran = []
    token = session.before_run.set(refuse)
    try:
        with pytest.raises(Stop):
            tw.delayed(ran.append)(1).compute()
    finally:
        session.before_run.reset(token)
    assert not ran


# ---------------------------------------------------------------- errors


def fails(block: np.ndarray) -> np.ndarray:
    raise KeyError("mine")


def test_a_users_exception_comes_as_it_is_and_says_where(scheduler: str) -> None:
    y = ta.ones((4, 6), chunks=3).map_blocks(fails, dtype="f8", name="broken") + 1
    with pytest.raises(KeyError, match="mine") as caught:
        y.compute()
    notes = "\n".join(caught.value.__notes__)
    assert "in operation" in notes
    assert "block (" in notes
    assert "fails" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_a_calls_exception_names_the_call(scheduler: str) -> None:
    with pytest.raises(KeyError) as caught:
        tw.compute(tw.delayed(fails)(1), x())
    assert "in operation 'fails'" in "\n".join(caught.value.__notes__)


def test_a_function_that_breaks_its_word(scheduler: str) -> None:
    with pytest.raises(BlockResultError, match=r"returned shape \(3, 1\)"):
        ta.ones((6, 4), chunks=(3, 4)).map_blocks(lambda b: b[:, :1], dtype="f8").compute()


def test_what_cannot_fit_is_refused_before_anything_runs(scheduler: str) -> None:
    ran = []

    def run(block: np.ndarray) -> np.ndarray:
        ran.append(1)
        return block

    y = ta.ones((2000, 1000), chunks=1000).map_blocks(run, dtype="f8")
    ran.clear()
    with pytest.raises(MemoryBudgetError, match="use smaller chunks"):
        y.rechunk(-1).map_blocks(np.sort, dtype="f8").sum().compute(memory="20MB")
    with pytest.raises(MemoryBudgetError, match="the results need"):
        y.compute(memory="10MB")
    assert not ran


def test_a_failed_computation_can_be_repeated() -> None:
    left = [2]

    def shaky(value: int) -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("not yet")
        return value

    lazy = tw.delayed(shaky)(7)
    with pytest.raises(OSError, match="not yet"):
        lazy.compute()
    assert lazy.compute(retries=1) == 7
