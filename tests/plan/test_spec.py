"""The spec finds what is wrong: every rule is broken once, on an otherwise sound plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tilework.base.errors import InternalError
from tilework.io.memory import ArraySource, MemorySink
from tilework.optimize.lower import lower
from tilework.plan import build, ops
from tilework.plan.blocks import AxisChunks, normalize_chunks
from tilework.plan.ops import BlockFunction, Elementwise, Node, Slot
from tilework.plan.reductions import Reduction
from tilework.plan.spec import verify, verify_stages
from tilework.plan.stages import AxisMap, ExplicitMap, GridMap, Held, LinearMap, Stage, StageInput

SUM = Reduction("sum", np.sum, np.sum, np.asarray)


def array(shape: tuple[int, ...] = (4, 6), chunks: Any = 2, seed: int = 0) -> ops.Source:
    values = np.random.default_rng(seed).random(shape)
    return build.source(ArraySource(values), normalize_chunks(chunks, shape))


def broken(node: Node, **fields: Any) -> Node:
    """A copy of a node with other fields, which nobody checks."""
    copy = node.replace_inputs(node.inputs)
    for name, value in fields.items():
        setattr(copy, name, value)
    return copy


X = array()
CALL = ops.Call(print, (Slot(0), [1]), {}, (ops.Call(int, (), {}, (), "c", "c", True),), "call", "call", True)
NAN = AxisChunks((float("nan"),) * 2)
ONE = np.ones(1, np.int64)


class Present:
    """A future that is done."""

    number, key, cluster = 1, "future-1", None

    def result(self) -> Any:
        return np.zeros((2, 2))


SOUND: dict[str, Node] = {
    "source": X,
    "slice of a source": build.source_region(
        X.source, (slice(1, 2, 1), slice(0, 6, 2)), (0,), (AxisChunks((3,)),), "x"
    ),
    "elementwise": build.elementwise(np.add, [X, array((6,), 2)]),
    "identity": build.rearrange(X, (1, 0)),
    "function": build.blockwise(BlockFunction(np.matmul, (Slot(0), Slot(1))), "ik", [(X, "ij"), (X, "kj")], "f8"),
    "reduce": build.reduce(X, SUM, 0, "f8"),
    "reduce, kept": build.reduce(X, SUM, 0, "f8", keepdims=True),
    "scan": build.scan(X, 0, (np.cumsum, np.sum, np.add), "f8", "cumsum"),
    "slice": build.slice_(X, [1, slice(5, 0, -2)]),
    "take": build.take(X, np.array([1, 2]), 0),
    "points": build.points(X, [0, 1], [np.array([1, 2]), np.array([0, 0])]),
    "rechunk": build.rechunk(X, normalize_chunks(3, (4, 6))),
    "concatenate": build.concatenate([X, X], 0),
    "overlap": build.overlap(X, [(1, 0), (0, 0)]),
    "reshape": build.reshape(X, (24,)),
    "value": build.from_value(CALL, (2,), "f8"),
    "held": build.held_array([Present()] * 6, X.chunks, "f8"),
    "held value": build.held_value(Present()),
    "held value as array": build.from_value(build.held_value(Present()), (2, 2), "f8"),
    "whole": build.whole(X),
    "store": build.store(X, MemorySink((4, 6), "f8")),
    "call": CALL,
}

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("source", {"token": ""}),
    ("source", {"inputs": []}),
    ("source", {"dtype": float}),
    ("source", {"chunks": ((2, 2), (6,))}),
    ("source", {"chunks": (AxisChunks(()), AxisChunks((6,)))}),
    ("source", {"chunks": (AxisChunks((-2, 6)), AxisChunks((6,)))}),
    ("source", {"chunks": normalize_chunks(2, (4, 5))}),
    ("source", {"dtype": np.dtype("f4")}),
    ("source", {"region": (slice(0, 4, 1),)}),
    ("slice of a source", {"region": (slice(4, 5, 1), slice(0, 6, 2))}),
    ("slice of a source", {"region": (slice(1, 2, 1), slice(5, -1, -2))}),
    ("slice of a source", {"drop": (1,)}),
    ("elementwise", {"axes": ((0, 1),)}),
    ("elementwise", {"axes": ((0, 1), (0,))}),
    ("elementwise", {"axes": ((0, 0), (1,))}),
    ("elementwise", {"axes": ((0, 2), (1,))}),
    ("elementwise", {"chunks": normalize_chunks(3, (4, 6))}),
    ("elementwise", {"inputs": (X, CALL)}),
    ("elementwise", {"op": Elementwise(np.add, (Slot(0), Slot(2)))}),
    ("elementwise", {"op": Elementwise(np.add, (Slot(0), Slot(0)))}),
    ("elementwise", {"op": Elementwise(np.add, (Slot(0), Slot(1), X))}),
    ("identity", {"dtype": np.dtype("f4")}),
    ("identity", {"op": Elementwise(None, (Slot(0), Slot(0)))}),
    ("function", {"axes": ((0, 2), (1,))}),
    ("function", {"inputs": (X, array((4, 9), 2))}),
    ("function", {"chunks": normalize_chunks(1, (4, 4))}),
    ("function", {"op": BlockFunction(np.matmul, (Slot(0),), {"b": [Slot(3)]})}),
    ("reduce", {"axes": (2,)}),
    ("reduce", {"axes": (1,)}),
    ("reduce", {"split_every": (1,)}),
    ("reduce", {"split_every": (2, 2)}),
    ("reduce", {"keepdims": True}),
    ("reduce, kept", {"chunks": normalize_chunks((1, 3), (1, 6))}),
    ("reduce, kept", {"chunks": normalize_chunks((1, 2), (2, 6))}),
    ("scan", {"axis": 2}),
    ("scan", {"chunks": normalize_chunks(1, (4, 6))}),
    ("slice", {"index": (1,)}),
    ("slice", {"index": (4, slice(5, 0, -2))}),
    ("slice", {"index": (1, slice(None, None, -2))}),
    ("slice", {"index": (1, slice(7, 2, -2))}),
    ("slice", {"chunks": (AxisChunks((3,)),)}),
    ("slice", {"dtype": np.dtype("f4")}),
    ("take", {"axis": 2}),
    ("take", {"indices": np.array([1, 4])}),
    ("take", {"indices": np.array([[1, 2]])}),
    ("take", {"indices": np.array([1])}),
    ("take", {"chunks": normalize_chunks(2, (2, 5))}),
    ("points", {"axes": (0,)}),
    ("points", {"positions": (np.array([1, 2]), np.array([0, 6]))}),
    ("points", {"chunks": (AxisChunks((1,)),)}),
    ("rechunk", {"chunks": normalize_chunks(3, (4, 5))}),
    ("rechunk", {"chunks": (NAN, X.chunks[1])}),
    ("concatenate", {"axis": 1}),
    ("concatenate", {"inputs": (X, array((4, 6), 3))}),
    ("concatenate", {"chunks": (AxisChunks((8,)), X.chunks[1])}),
    ("overlap", {"depth": ((1, 1), (0, 0))}),
    ("overlap", {"depth": ((1, 0),)}),
    ("overlap", {"depth": ((1, 0), (1, 0))}),
    ("reshape", {"chunks": (AxisChunks((24,)),)}),
    ("value", {"chunks": (AxisChunks((1, 1)),)}),
    ("value", {"inputs": (X,)}),
    ("held", {"inputs": (X,)}),
    ("held", {"handles": (Present(),)}),
    ("held value", {"inputs": (CALL,)}),
    ("whole", {"inputs": (X,)}),
    ("store", {"offset": (0,)}),
    ("call", {"inputs": (X,)}),
    ("call", {"args": (Slot(1),)}),
    ("call", {"args": ([Slot(0)],)}),
    ("call", {"kwargs": {"sep": ""}}),
]


def test_sound_plans_pass() -> None:
    for node in SOUND.values():
        verify([node], "program")
        verify([node], "optimized") if node is not SOUND["slice"] else None


@pytest.mark.parametrize(("name", "fields"), WRONG, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_a_node_that_breaks_a_rule_is_named(name: str, fields: dict[str, Any]) -> None:
    node = broken(SOUND[name], **fields)
    if "token" in fields or isinstance(fields.get("inputs"), list):
        match = type(node).__name__
    else:
        match = f"{type(node).__name__} {node.label}"
    with pytest.raises(InternalError, match=match):
        verify([node], "program")


def test_foreign_nodes_are_refused() -> None:
    class Mystery(ops.Node):
        __slots__ = ()

    node = Mystery()
    node.inputs, node.token, node.label = (), "t", "mystery"
    with pytest.raises(InternalError, match="of no kind"):
        verify([node], "program")


def test_optimized_plans_hold_equal_work_once() -> None:
    one, two = build.elementwise(np.add, [X, 1]), build.elementwise(np.add, [X, 1])
    verify([one, two], "program")
    with pytest.raises(InternalError, match="equal work"):
        verify([one, two], "optimized")


@pytest.mark.parametrize(
    "below", [X, build.elementwise(np.add, [X, 1]), build.rearrange(X, (1, 0)), SOUND["rechunk"], SOUND["overlap"]]
)
def test_optimized_plans_have_no_slice_that_could_be_pushed(below: Any) -> None:
    node = build.slice_(below, [0, slice(None)])
    if below is SOUND["overlap"]:
        verify([node], "optimized")
        return
    with pytest.raises(InternalError, match="could be pushed"):
        verify([node], "optimized")
    verify([node, build.elementwise(np.negative, [below])], "optimized")  # somebody else needs all of it


# ---------------------------------------------------------------- stages


def stages() -> list[Stage]:
    """A read that is kept, a tree, a scan, assembled blocks, tiles over two levels, several results of one stage."""
    x = array((4, 6))
    x.source.free = False
    y = build.elementwise(np.subtract, [x, build.reduce(x, SUM, 0, "f8", split_every=2)])
    tiled = Reduction("tiled", np.sum, np.sum, np.asarray, accumulator=lambda *a: None)  # type: ignore[arg-type]
    call = ops.Call(print, (Slot(0),), {}, (build.whole(y),), "call", "call", True)
    more = ops.Call(print, (Slot(0), Slot(1)), {}, (call, call), "more", "more", True)
    z = array((4, 6), seed=1)
    outputs = [
        build.reduce(z, tiled, 1, "f8"),
        build.reduce(build.elementwise(np.add, [z, 1]), tiled, 1, "f8"),
        build.store(build.take(y, np.array([3, 0]), 0), MemorySink((2, 6), "f8")),
        build.reduce(x, tiled, 1, "f8"),
        build.reduce(build.elementwise(np.add, [x, 1]), tiled, 1, "f8"),
        build.scan(x, 1, (np.cumsum, np.sum, np.add), "f8", "cumsum"),
        build.blockwise(BlockFunction(np.matmul, (Slot(0), Slot(1))), "ik", [(x, "ij"), (y, "kj")], "f8"),
        build.points(x, [0], [np.array([0, 3])]),
        build.reshape(x, (24,)),
        build.elementwise(np.multiply, [x, 2]),
        more,
    ]
    return lower(outputs).stages


def find(lowered: list[Stage], what: Callable[[Stage], Any]) -> int:
    return next(number for number, stage in enumerate(lowered) if what(stage))


def first(items: Any, kind: str) -> Any:
    return next((item for item in items if type(item).__name__ == kind), None)


def with_program(lowered: list[Stage], kind: str, part: str, **fields: Any) -> list[Stage]:
    """Stages in which the first operand or segment of a kind has other fields."""
    number = find(lowered, lambda s: hasattr(s.work, "operands") and first(getattr(s.work, part), kind))
    stage = lowered[number]
    items = tuple(
        replace(item, **{k: v(item) for k, v in fields.items()})
        if item is first(getattr(stage.work, part), kind)
        else item
        for item in getattr(stage.work, part)
    )
    return with_stage(lowered, number, work=replace(stage.work, **{part: items}))


def with_stage(lowered: list[Stage], number: int, **fields: Any) -> list[Stage]:
    return [*lowered[:number], replace(lowered[number], **fields), *lowered[number + 1 :]]


def with_input(lowered: list[Stage], kind: type, change: Callable[[StageInput], StageInput]) -> list[Stage]:
    number = find(lowered, lambda s: any(isinstance(i.blocks, kind) for i in s.inputs))
    inputs = list(lowered[number].inputs)
    k = next(k for k, i in enumerate(inputs) if isinstance(i.blocks, kind))
    inputs[k] = change(inputs[k])
    return with_stage(lowered, number, inputs=tuple(inputs))


def short_map(i: StageInput) -> StageInput:
    m = i.blocks.maps[0]  # type: ignore[union-attr]
    return replace(i, blocks=GridMap((AxisMap(m.axis, m.indptr[:-1], m.blocks), *i.blocks.maps[1:])))  # type: ignore[union-attr]


def far_map(i: StageInput) -> StageInput:
    m = i.blocks.maps[0]  # type: ignore[union-attr]
    return replace(i, blocks=GridMap((AxisMap(m.axis, m.indptr, m.blocks + 99), *i.blocks.maps[1:])))  # type: ignore[union-attr]


WRONG_STAGES: dict[str, Callable[[list[Stage]], list[Stage]]] = {
    "weights of another length": lambda s: with_stage(s, 0, out_bytes=np.zeros(7, np.int64)),
    "weights that are no int64": lambda s: with_stage(s, 0, work_bytes=np.zeros(1)),
    "weights below zero": lambda s: with_stage(s, 0, out_bytes=np.full(1, -1)),
    "bytes read below zero": lambda s: with_stage(s, 0, read_bytes=-1),
    "futures for another grid": lambda s: with_stage(s, 0, work=Held((Present(),) * 2), grid=(3,), out_bytes=ONE),
    "another grid": lambda s: with_stage(s, 0, grid=(9, 9)),
    "users before producers": lambda s: s[::-1],
    "an output too many picked": lambda s: with_input(
        s, GridMap, lambda i: replace(i, producer=find(s, several), pick=9)
    ),
    "no output picked": lambda s: with_input(s, GridMap, lambda i: replace(i, producer=find(s, several), pick=None)),
    "an axis map for another grid": lambda s: with_input(s, GridMap, short_map),
    "blocks that do not exist": lambda s: with_input(s, GridMap, far_map),
    "a map for each of too many axes": lambda s: with_input(
        s,
        GridMap,
        lambda i: replace(i, blocks=GridMap((*i.blocks.maps, AxisMap.all(1)))),  # type: ignore[union-attr]
    ),
    "an explicit map beyond the grid": lambda s: with_input(
        s, ExplicitMap, lambda i: replace(i, blocks=ExplicitMap(np.arange(99), np.zeros(98, np.int64)))
    ),
    "a linear map over another number of blocks": lambda s: with_input(
        s, LinearMap, lambda i: replace(i, producer=find(s, lambda t: t.size == 1))
    ),
    "a single block that is none": lambda s: with_program(s, "Grouped", "operands", input=lambda o: 99),
    "an input that nobody uses": lambda s: with_stage(
        s, find(s, lambda t: t.inputs), inputs=s[find(s, lambda t: t.inputs)].inputs * 2
    ),
    "a leaf of another region": lambda s: with_program(s, "Leaf", "operands", region=lambda o: o.region[:1]),
    "a leaf along another axis": lambda s: with_program(s, "Leaf", "operands", axes=lambda o: (None, None)),
    "pieces of other blocks": lambda s: with_program(
        s, "Assembled", "operands", pieces=lambda o: (tuple(replace(t, blocks=t.blocks.copy()) for t in o.pieces[0]),)
    ),
    "pieces for some inputs": lambda s: with_program(s, "Assembled", "operands", pieces=lambda o: ()),
    "tiles of values to come": lambda s: with_program(s, "TileSegment", "segments", inputs=lambda t: ((99, ()),)),
    "tiles along no axis": lambda s: with_program(s, "TileSegment", "segments", axes=lambda t: (7, *t.axes[1:])),
    "tiles of other chunks": lambda s: with_program(
        s, "TileSegment", "segments", chunks=lambda t: tuple(AxisChunks((1,) * 9) for _ in t.chunks)
    ),
    "a step of values to come": lambda s: with_program(
        s, "TileSegment", "segments", steps=lambda t: tuple(replace(p, args=(Slot(9),)) for p in t.steps) or (1,)
    ),
    "a result along other axes": lambda s: with_program(
        s, "TileSegment", "segments", results=lambda t: tuple(replace(r, axes=()) for r in t.results)
    ),
    "a result reduced along no axis": lambda s: with_program(
        s, "TileSegment", "segments", results=lambda t: tuple(replace(r, reduce_axes=(5,)) for r in t.results)
    ),
    "a function of values to come": lambda s: with_program(s, "BlockSegment", "segments", inputs=lambda t: (99,)),
    "a function with loose Slots": lambda s: with_program(
        s, "BlockSegment", "segments", function=lambda t: BlockFunction(print, (Slot(9),))
    ),
    "an output of values to come": lambda s: with_program(s, "Output", "outputs", value=lambda o: 99),
    "calls of blocks to come": lambda s: with_calls(s, stages=lambda w: np.full_like(w.stages, 99)),
    "calls of calls to come": lambda s: with_calls(
        s, stages=lambda w: np.full_like(w.stages, calls(s)), blocks=lambda w: np.full_like(w.blocks, 5)
    ),
    "calls with other inputs": lambda s: with_calls(s, indptr=lambda w: np.array([0, 2, 3])),
}


def several(stage: Stage) -> bool:
    return len(getattr(stage.work, "outputs", ())) > 1


def calls(lowered: list[Stage]) -> int:
    return find(lowered, lambda s: hasattr(s.work, "calls"))


def with_calls(lowered: list[Stage], **fields: Any) -> list[Stage]:
    work = lowered[calls(lowered)].work
    return with_stage(lowered, calls(lowered), work=replace(work, **{k: v(work) for k, v in fields.items()}))


def test_sound_stages_pass() -> None:
    verify_stages(stages())


@pytest.mark.parametrize("name", WRONG_STAGES)
def test_stages_that_break_a_rule_are_named(name: str) -> None:
    wrong = WRONG_STAGES[name](stages())
    with pytest.raises(InternalError, match=r"^stage \d+ \("):
        verify_stages(wrong)
