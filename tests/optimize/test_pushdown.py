"""Selections move to the reads: what a recording source is asked for, and what is never done twice."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

from tilework import session
from tilework.array.core import Array
from tilework.io.memory import ArraySource
from tilework.io.regions import region_shape
from tilework.optimize.pipeline import optimize
from tilework.plan import build, ops
from tilework.plan.blocks import AxisChunks, normalize_chunks
from tilework.plan.graph import topological
from tilework.plan.indexing import normalize_index
from tilework.plan.ops import ArrayNode, BlockFunction, Elementwise, Node, Slot
from tilework.plan.protocols import Region
from tilework.plan.reductions import Reduction
from tilework.plan.spec import verify


class Recording(ArraySource):
    """Notes every element that is read."""

    def __init__(self, array: np.ndarray, free: bool = False, storage_chunks: tuple[int, ...] | None = None) -> None:
        super().__init__(array)
        self.free, self.storage_chunks = free, storage_chunks
        self.regions: list[Region] = []

    @property
    def elements(self) -> int:
        return sum(prod(region_shape(region)) for region in self.regions)

    def read(self, region: Region) -> np.ndarray:
        self.regions.append(region)
        return super().read(region)


VALUES = np.arange(240).reshape(12, 20)


def recorded(chunks: Any = 5, **options: Any) -> tuple[Recording, ops.Source]:
    source = Recording(VALUES, **options)
    return source, build.source(source, normalize_chunks(chunks, (12, 20)))


def _sum(block: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.sum(block, axis=axis, keepdims=True)


SUM = Reduction("sum", _sum, _sum, np.asarray)


def reduce(x: ArrayNode, axis: Any, **options: Any) -> ArrayNode:
    return build.reduce(x, SUM, axis, "i8", **options)


def add(*args: Any) -> ArrayNode:
    return build.elementwise(np.add, args)


def cut(x: ArrayNode, index: Any) -> ArrayNode:
    return build.slice_(x, normalize_index(index, x.shape))


def kinds(*outputs: Node) -> list[str]:
    return [type(node).__name__ for node in topological(outputs)]


INDEX = (slice(2, 9, 3), slice(7, 8))

PROGRAMS: dict[str, tuple[Callable[[ArrayNode], ArrayNode], Callable[[np.ndarray], np.ndarray], int]] = {
    "read": (lambda x: cut(x, INDEX), lambda a: a[INDEX], 3),
    "slices of slices": (lambda x: cut(cut(x, np.s_[1:, ::2]), np.s_[2:4, 3]), lambda a: a[1:, ::2][2:4, 3], 2),
    "elementwise": (lambda x: cut(add(add(x, 1), x), INDEX), lambda a: (a + 1 + a)[INDEX], 3),
    "transpose": (lambda x: cut(build.rearrange(x, (1, 0)), np.s_[3, 2:4]), lambda a: a.T[3, 2:4], 2),
    "new axis": (lambda x: cut(build.rearrange(x, (0, None, 1)), np.s_[3, 0, 2:4]), lambda a: a[:, None][3, 0, 2:4], 2),
    "broadcast": (
        lambda x: cut(build.rearrange(x, (None, 0, 1), {0: AxisChunks((2, 2))}), np.s_[3, :2, 5]),
        lambda a: np.broadcast_to(a, (4, 12, 20))[3, :2, 5],
        2,
    ),
    "broadcast operand": (
        lambda x: cut(add(x, cut(x, np.s_[:1])), np.s_[3:5, 7]),
        lambda a: (a + a[:1])[3:5, 7],
        3,
    ),
    "concatenate": (
        lambda x: cut(build.concatenate([x, x], 0), np.s_[13, :4]),
        lambda a: np.concatenate([a, a])[13, :4],
        4,
    ),
    "concatenate, over the seam": (
        lambda x: cut(build.concatenate([x, x], 1), np.s_[0, 19:21]),
        lambda a: np.concatenate([a, a], 1)[0, 19:21],
        2,
    ),
    "reduction": (lambda x: cut(reduce(x, 0), np.s_[4:6]), lambda a: a.sum(0)[4:6], 24),
    "reduction, one element": (lambda x: cut(reduce(x, 1), np.s_[4]), lambda a: a.sum(1)[4], 20),
    "reduction, axes kept": (
        lambda x: cut(reduce(x, 0, keepdims=True), np.s_[0, 4:6]),
        lambda a: a.sum(0, keepdims=True)[0, 4:6],
        24,
    ),
    "scan": (
        lambda x: cut(build.scan(x, 0, (np.cumsum, _total, np.add), "i8", "cumsum"), np.s_[:, 2:4]),
        lambda a: a.cumsum(0)[:, 2:4],
        24,
    ),
    "rechunk": (
        lambda x: cut(build.rechunk(x, normalize_chunks(7, (12, 20))), INDEX),
        lambda a: a[INDEX],
        3,
    ),
    "everything": (
        lambda x: cut(
            build.rearrange(reduce(build.concatenate([add(x, 1), x], 0), 0, keepdims=True), (1, 0)), np.s_[3:5, 0]
        ),
        lambda a: np.concatenate([a + 1, a]).sum(0, keepdims=True).T[3:5, 0],
        24,
    ),
}  # fmt: skip


def _total(block: np.ndarray, axis: int) -> np.ndarray:
    return np.sum(block, axis=axis, keepdims=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_only_what_is_selected_is_read(name: str) -> None:
    program, numpy, elements = PROGRAMS[name]
    source, x = recorded()
    result = Array(program(x)).compute(scheduler="sync")
    assert np.array_equal(result, numpy(VALUES))
    assert source.elements == elements
    source.regions.clear()
    (unoptimized,) = session.compute(Array(program(x)), scheduler="sync", optimize_graph=False)
    assert np.array_equal(unoptimized, result)
    assert source.elements > elements


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_left_to_push(name: str) -> None:
    plan = optimize([PROGRAMS[name][0](recorded()[1])])
    verify(plan, "optimized")
    assert "Slice" not in kinds(*plan)


def test_a_slice_that_reverses_stays_above_the_read() -> None:
    _source, x = recorded()
    result = Array(cut(add(x, 1), np.s_[8:2:-3, 5])).compute(scheduler="sync")
    assert np.array_equal(result, (VALUES + 1)[8:2:-3, 5])


# ---------------------------------------------------------------- nothing twice


def test_a_slice_of_what_others_use_stays_where_it_is() -> None:
    source, x = recorded()
    y = add(x, 1)
    first, total = (Array(node) for node in (cut(y, np.s_[0]), reduce(y, None)))
    plan = optimize([first.node, total.node])
    assert [type(node.inputs[0]) for node in topological(plan) if isinstance(node, ops.Slice)] == [ops.Blockwise]
    results = session.compute(first, total, scheduler="sync")
    assert np.array_equal(results[0], VALUES[0] + 1)
    assert results[1] == VALUES.sum() + VALUES.size
    assert source.elements == VALUES.size  # every element once


def test_an_output_is_a_user() -> None:
    y = add(recorded()[1], 1)
    plan = optimize([y, cut(y, np.s_[:6])])
    assert plan[1].inputs == (plan[0],)


def test_slices_that_overlap_do_not_pull_the_work_apart() -> None:
    source, x = recorded()
    y = add(x, 1)
    result = Array(build.elementwise(np.subtract, [cut(y, np.s_[1:]), cut(y, np.s_[:-1])]))
    assert np.array_equal(result.compute(scheduler="sync"), np.diff(VALUES, axis=0))
    assert source.elements == VALUES.size


def test_slices_that_need_only_parts_are_all_pushed() -> None:
    source, x = recorded()
    y = add(x, 1)
    result = Array(build.elementwise(np.subtract, [cut(y, np.s_[7]), cut(y, np.s_[2])]))
    assert np.array_equal(result.compute(scheduler="sync"), VALUES[7] - VALUES[2])
    assert source.elements == 40


def test_a_free_source_is_sliced_for_each_user() -> None:
    _, x = recorded(free=True)
    plan = optimize([cut(x, np.s_[0]), reduce(x, None)])
    assert "Slice" not in kinds(*plan)


def test_equal_reads_are_one_whatever_way_they_came() -> None:
    _, x = recorded()
    ways = [
        cut(x, np.s_[2:4]),
        cut(cut(x, np.s_[1:6]), np.s_[1:3]),
        cut(build.concatenate([x, x], 0), np.s_[2:4]),
        cut(build.rearrange(build.rearrange(x, (1, 0)), (1, 0)), np.s_[2:4]),
    ]
    (read,) = (node for node in topological(optimize(ways)) if isinstance(node, ops.Source))
    assert read.shape == (2, 20)


def test_slices_in_a_row_are_one() -> None:
    _, x = recorded()
    assert cut(cut(cut(x, np.s_[1:6, 3]), np.s_[::-1]), np.s_[1:3]).token == cut(x, np.s_[4:2:-1, 3]).token


def test_slices_through_shared_work_do_not_multiply() -> None:
    _, x = recorded()
    y: ArrayNode = x
    for k in range(60):  # every operand twice: 2**60 ways from the slice to the read
        y = build.elementwise(np.add, [build.elementwise(np.multiply, [y, k]), y])
    plan = optimize([cut(y, np.s_[3:5])])
    assert len(topological(plan)) == 121
    assert "Slice" not in kinds(*plan)


# ---------------------------------------------------------------- rechunks


@pytest.mark.parametrize(
    ("unit", "free", "wanted", "fused"),
    [
        (None, False, 4, True),
        ((2, 4), False, 4, True),
        ((12, 20), False, (12, -1), True),
        ((5, 5), False, 4, False),
        ((5, 5), False, 10, True),
        ((5, 5), True, 4, True),
    ],
)
def test_reads_come_in_the_wanted_blocks_if_no_stored_chunk_is_read_twice(
    unit: Any, free: bool, wanted: Any, fused: bool
) -> None:
    _source, x = recorded((5, 5), storage_chunks=unit, free=free)
    node = build.rechunk(x, normalize_chunks(wanted, (12, 20)))
    (plan,) = optimize([node])
    assert isinstance(plan, ops.Source) == fused
    assert plan.chunks == node.chunks
    assert np.array_equal(Array(node).compute(scheduler="sync"), VALUES)


def test_a_sliced_read_is_aligned_by_its_place_in_storage() -> None:
    _, x = recorded((5, 5), storage_chunks=(5, 5))
    inner = cut(x, np.s_[3:, :])
    (aligned,) = optimize([build.rechunk(inner, (AxisChunks((2, 5, 2)), AxisChunks((20,))))])
    assert isinstance(aligned, ops.Source)
    (misaligned,) = optimize([build.rechunk(inner, (AxisChunks((5, 4)), AxisChunks((20,))))])
    assert isinstance(misaligned, ops.Rechunk)


def test_a_rechunk_waits_for_the_slice_below_it() -> None:
    _, x = recorded((5, 5), storage_chunks=(1, 1))
    node = cut(
        build.rechunk(add(build.rechunk(x, normalize_chunks(3, (12, 20))), 1), normalize_chunks(6, (12, 20))), np.s_[:6]
    )
    (plan,) = optimize([node])
    assert kinds(plan) == ["Source", "Blockwise"] or kinds(plan) == ["Source", "Blockwise", "Rechunk"]
    assert plan.chunks == node.chunks


# ---------------------------------------------------------------- the walk itself


def test_functions_of_blocks_are_left_alone() -> None:
    _, x = recorded()
    y = build.blockwise(BlockFunction(np.sort, (Slot(0),)), "ij", [(x, "ij")], "i8")
    (plan,) = optimize([cut(y, np.s_[0])])
    assert kinds(plan) == ["Source", "Blockwise", "Slice"]


@pytest.mark.parametrize("n", [1, 300])
def test_work_is_linear_in_the_plan(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    constructor = ops.Blockwise.__init__

    def counting(self: ops.Blockwise, *args: Any) -> None:
        made.append(self)
        constructor(self, *args)

    y: ArrayNode = recorded()[1]
    for k in range(n):
        y = build.elementwise(np.add, [y, k])
    monkeypatch.setattr(ops.Blockwise, "__init__", counting)
    (plan,) = optimize([cut(y, np.s_[3])])
    assert len(made) == n
    assert isinstance(plan, ops.Blockwise)
    assert isinstance(plan.op, Elementwise)
