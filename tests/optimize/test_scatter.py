from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest

import tilework.array as ta
from tilework.array import Array
from tilework.engine import taskgraph
from tilework.engine.local.sync import SyncEngine
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph
from tilework.io.memory import MemorySink
from tilework.optimize.lower import lower
from tilework.optimize.pipeline import optimize
from tilework.optimize.scatter import in_passes
from tilework.plan import build
from tilework.plan.spec import verify_stages
from tilework.plan.stages import Assembled, Gathered, Program, Stage

MIB = 2**20


def planned(*arrays: Array, hold_bytes: float) -> tuple[list[MemorySink], TaskGraph]:
    sinks = [MemorySink(x.shape, x.dtype) for x in arrays]
    plan = in_passes(optimize([build.store(x.node, s) for x, s in zip(arrays, sinks, strict=True)]), hold_bytes / 4)
    lowered = lower(plan, hold_bytes=hold_bytes)
    verify_stages(lowered.stages)
    return sinks, taskgraph.build(lowered.stages, [], lowered.stores, lowered.resident_bytes)


def run(*arrays: Array, hold_bytes: float = 0) -> list[np.ndarray]:
    sinks, graph = planned(*arrays, hold_bytes=hold_bytes)
    SyncEngine().run(graph, RunOptions(1, 100 * MIB))
    return [sink.array for sink in sinks]


def operands(stages: list[Stage], kind: type) -> int:
    return sum(isinstance(o, kind) for s in stages if isinstance(s.work, Program) for o in s.work.operands)


def drawn(shape: tuple[int, ...], chunks: Any) -> Array:
    """Something that is not free to read."""
    return ta.random.default_rng(0).integers(0, 100, shape, chunks=chunks)


def test_tasks_are_sources_plus_targets() -> None:
    x = drawn((1000, 1000), (10, 1000)).rechunk((1000, 10))
    _, graph = planned(x, hold_bytes=100_000)
    assert graph.n_tasks == 100 + 100 + 2
    assert len(graph.deps) < 3 * graph.n_tasks
    _, held = planned(x, hold_bytes=1e9)
    assert held.n_tasks == 200
    assert len(held.deps) == 100 * 100


def test_what_fits_is_held_and_what_does_not_goes_to_disk() -> None:
    x = drawn((100, 100), (10, 100)).rechunk((100, 10))
    needed = x.nbytes + 8 * 1000
    _, graph = planned(x, hold_bytes=needed)
    assert (operands(graph.stages, Assembled), operands(graph.stages, Gathered)) == (1, 0)
    _, graph = planned(x, hold_bytes=needed - 1)
    assert (operands(graph.stages, Assembled), operands(graph.stages, Gathered)) == (0, 1)
    assert sum(int(stage.scratch_bytes.sum()) for stage in graph.stages) == x.nbytes


def test_only_what_exchanges_pieces_is_held_together() -> None:
    """Ten rows at a time, in parts: no more than one part is ever needed."""
    x = drawn((1000, 100), (10, 100)).rechunk((10, 50))
    _, graph = planned(x, hold_bytes=2 * 8 * 1000)
    assert operands(graph.stages, Gathered) == 0


def test_parts_have_scratch_files_of_their_own() -> None:
    x = drawn((60, 60), (5, 30)).rechunk((20, 3))
    _, graph = planned(x, hold_bytes=100)
    (opened,) = [stage for stage in graph.stages if stage.label == "rechunk-scratch"]
    assert opened.grid == (3, 2)


@pytest.mark.parametrize(
    ("have", "want"),
    list(product([(7, 5, 3), (20, 1, 9), (1, 16, 2)], [(3, 16, 9), (20, 4, 1), ((0, 20), (5, 11), (4, 0, 5))])),
)
def test_values(have: Any, want: Any) -> None:
    x = drawn((20, 16, 9), have)
    y = x.rechunk(want)
    full = x.compute()
    got, negative = run(y, -y)
    np.testing.assert_array_equal(got, full)
    np.testing.assert_array_equal(negative, -full)


@pytest.mark.parametrize("dtype", ["M8[s]", "?", "c16", "S3", "U2", [("a", "i4"), ("b", "f8")]])
def test_dtypes(dtype: Any) -> None:
    plain = np.arange(24).astype("U2" if dtype == "U2" else "i8").astype(dtype).reshape(4, 6)
    x = ta.from_array(plain, chunks=(1, 6)).map_blocks(np.copy, dtype=plain.dtype).rechunk((4, 1))
    _, graph = planned(x, hold_bytes=0)
    assert operands(graph.stages, Gathered) == 1
    np.testing.assert_array_equal(run(x)[0], plain)


def test_objects_and_views_of_what_is_there_are_held() -> None:
    objects = ta.from_array(np.array([["a", 1], [None, 2.0]], dtype=object), chunks=1).map_blocks(np.copy, dtype=object)
    views = ta.from_array(np.arange(100), chunks=10)
    _, graph = planned(objects.rechunk(2), views[np.arange(99, -1, -1)], hold_bytes=0)
    assert operands(graph.stages, Gathered) == 0


def test_a_take_in_any_order() -> None:
    x = drawn((40, 6), (7, 4))
    order = np.random.default_rng(0).integers(0, 40, 100)
    y = x[order]
    _, graph = planned(y, hold_bytes=0)
    assert operands(graph.stages, Gathered) == 1
    np.testing.assert_array_equal(run(y)[0], x.compute()[order])


def test_what_is_read_back_twice_is_written_once() -> None:
    x = drawn((100, 100), (10, 100)).rechunk((100, 10))
    sinks, graph = planned(x - x.mean(), x.sum(axis=0), hold_bytes=100)
    assert sum(stage.label == "rechunk-scratch" for stage in graph.stages) == 1
    SyncEngine().run(graph, RunOptions(1, 100 * MIB))
    full = x.compute()
    np.testing.assert_allclose(sinks[0].array, full - full.mean())
    np.testing.assert_array_equal(sinks[1].array, full.sum(axis=0))


def test_tiny_pieces_take_several_passes() -> None:
    x = drawn((2000, 400), (1, 400))
    y = x.rechunk((2000, 1))
    _, graph = planned(y, hold_bytes=200_000)
    assert operands(graph.stages, Gathered) + operands(graph.stages, Assembled) >= 2
    assert len(graph.deps) < 10 * (2000 + 400)
    np.testing.assert_array_equal(run(y, hold_bytes=200_000)[0], x.compute())


def test_the_work_of_planning_does_not_grow_with_pairs() -> None:
    """10,000 blocks on either side: a hundred million pairs."""
    x = ta.zeros((10_000, 10_000), chunks=(1, 10_000)).map_blocks(np.copy, dtype="f8").rechunk((10_000, 1))
    _, graph = planned(x, hold_bytes=50 * MIB)
    assert graph.n_tasks < 50_000
    assert len(graph.deps) < 200_000
    assert prod(x.numblocks) == 10_000


def test_takes_that_are_all_under_way_at_a_time_go_to_disk() -> None:
    """Each by itself would be held; but columns of the result need all of them at a time."""
    x = drawn((2000, 2000), (100, 200))
    y = x[:, np.random.default_rng(0).permutation(2000)].max(axis=0)
    assert y.explain(memory="100MB").scratch_bytes == 0
    less = y.explain(memory="12MB")
    assert less.scratch_bytes == x.nbytes
    assert less.wanted_peak <= 12e6
    np.testing.assert_array_equal(y.compute(memory="12MB"), y.compute())
