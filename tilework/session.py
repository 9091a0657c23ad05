"""The one place that joins the steps: optimize → lower → task graph → engine → results, with whoever listens.

``prepare`` makes everything that can be known before running (a :class:`Prepared`), ``compute``, ``persist`` and
``submit`` run it, ``explain`` only looks at it. Array results are stores into memory: every block is written where it
belongs in the result, and the result counts against the budget from the start.

On a cluster the memory of results is shared: workers write into it. What only this process can write to (a file that
it has open, an array of its own, blocks whose places are not known) is not stored by tasks: the blocks come back, and
are written here, one after another. ``persist`` and ``submit`` do not wait: they leave futures in the plan's place.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from itertools import islice
from math import prod
from typing import Any

import numpy as np

from tilework.base import config
from tilework.base.errors import ConfigError, UnsupportedError
from tilework.base.tokens import unique_token
from tilework.diagnostics import listeners
from tilework.diagnostics.explain import Explanation
from tilework.diagnostics.progress import ProgressBar
from tilework.diagnostics.visualize import Drawing
from tilework.diagnostics.visualize import visualize as draw
from tilework.engine import taskgraph
from tilework.engine.local import budget as budgeting
from tilework.engine.local.sync import SyncEngine
from tilework.engine.local.threads import ThreadsEngine
from tilework.engine.protocol import Engine, RemoteEngine, RunOptions
from tilework.io.memory import BlockSink, BlockSource, MemorySink
from tilework.optimize import keeping
from tilework.optimize.lower import Lowered, lower
from tilework.optimize.pipeline import optimize as optimize_plan
from tilework.optimize.scatter import could_scatter, in_passes
from tilework.plan import build
from tilework.plan.collections import (
    Collection,
    Unpacked,
    is_collection,
    is_tilework_collection,
    register_container,
    unpack_all,
)
from tilework.plan.graph import topological
from tilework.plan.ops import ArrayNode, Call, HeldArray, HeldValue, Node, Slot, Store
from tilework.plan.protocols import Handle

HOLD_SHARE = 0.5
"""A rechunk or take may hold up to this share of the budget at one time; beyond, it goes through scratch space."""

LEAST_SHARE = 0.05
"""And up to this one where all of them together would take more than there is."""


# ---------------------------------------------------------------- before running


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A plan that is ready to run: all that is known before anything has started."""

    plan: tuple[Node, ...]
    lowered: Lowered
    graph: taskgraph.TaskGraph
    engine: Engine | RemoteEngine
    options: RunOptions
    again: Mapping[Node, keeping.IfKept]
    """What is made again by each stage that needs it, since keeping it would have taken too much."""

    def explanation(self) -> Explanation:
        """What it will do and cost."""
        return Explanation.of(self.plan, self.lowered, self.graph, self.options, self.again)


before_run: ContextVar[Callable[[Prepared], None] | None] = ContextVar("tilework-before-run", default=None)
"""Called with every plan right before it runs; may raise to keep it from running (``tilework explain script.py``)."""


def prepare(outputs: Sequence[Node], settings: config.Settings, optimize_graph: bool = True) -> Prepared:
    """Optimize and lower ``outputs``, choose the engine."""
    engine = _engine(settings)
    if isinstance(engine, RemoteEngine):
        workers, budget = engine.size()
    else:
        workers = 1 if settings.scheduler == "sync" else config.resolve_workers(settings)
        budget = config.resolve_memory(settings)
    plan = optimize_plan(outputs) if optimize_graph else tuple(outputs)
    divided = in_passes(plan, HOLD_SHARE * budget / (2 * workers))
    lowered, graph, again = _lower(divided, workers, budget, settings.spill_directory)
    options = RunOptions(workers, budget, settings.retries, settings.spill_directory)
    return Prepared(plan, lowered, graph, engine, options, again)


def _lower(
    plan: tuple[Node, ...], workers: int, budget: int, scratch_directory: str | None
) -> tuple[Lowered, taskgraph.TaskGraph, dict[Node, keeping.IfKept]]:
    """Stages and tasks that keep what is needed as far as it fits: ``optimize/keeping.py``, ``optimize/scatter.py``."""
    chosen: dict[Node, keeping.IfKept] = {}
    again: set[Node] = set()
    hold_bytes = HOLD_SHARE * budget
    movable = could_scatter(topological(plan), LEAST_SHARE * budget)
    while True:
        lowered = lower(plan, again, hold_bytes, scratch_directory)
        wanted = [place for places in lowered.outputs for place in places]
        graph = taskgraph.build(lowered.stages, wanted, lowered.stores, lowered.resident_bytes)
        if not movable and not keeping.worth_a_trial(lowered.shared, budget):
            break
        worst = budgeting.worst_moment(graph, 1)  # where it is tight further workers wait
        if worst.bytes <= budget:
            break
        cheap = keeping.repeatable(topological(plan))
        kept = [one for one in lowered.shared if one.node in cheap and one.node not in again]
        more = keeping.to_make_again(kept, worst.held, worst.bytes - budget)
        if not more and (not movable or hold_bytes == LEAST_SHARE * budget):
            break
        if not more:  # many rechunks or takes may be under way at a time, though each by itself would fit
            hold_bytes = LEAST_SHARE * budget
        for one in more:
            chosen[one.node] = keeping.IfKept(budgeting.most_held(graph, one.stage), worst.bytes)
            again |= keeping.with_inputs(one.node, cheap)
    return lowered, graph, chosen


def _engine(settings: config.Settings) -> Engine | RemoteEngine:
    """The engine that is set. What clusters need is imported when one is used, for it takes its time."""
    scheduler = settings.scheduler
    if scheduler == "threads":
        return ThreadsEngine()
    if scheduler == "sync":
        return SyncEngine()
    if scheduler == "processes":
        from tilework.engine.cluster.client.processes import processes

        return processes(config.resolve_workers(settings), config.resolve_memory(settings), settings.spill_directory)
    if isinstance(scheduler, str):
        from tilework.engine.cluster.client.engine import connected

        return connected(scheduler)
    offered = getattr(scheduler, "__tilework_engine__", None)  # of a Client, a LocalCluster
    return scheduler if offered is None else offered()


def _run(outputs: Sequence[Node], settings: config.Settings, optimize_graph: bool) -> list[Any]:
    """Run a plan; the values of the outputs that are no stores, in order."""
    remote = isinstance(_engine(settings), RemoteEngine)
    planned = [node.inputs[0] if remote and _only_here(node) else node for node in outputs]
    prepared = _ready(planned, settings, optimize_graph)
    graph, options = prepared.graph, prepared.options
    listener = listeners.for_run([ProgressBar()] if settings.progress else [])
    if not isinstance(prepared.engine, RemoteEngine):
        return prepared.engine.run(graph, options, listener)
    places = [place for node in outputs for place in _places(node)]
    values: list[Any] = []

    def receive(k: int, value: Any) -> None:
        if (place := places[k]) is None:
            values.append(value)
        else:
            _write(*place, value)

    prepared.engine.run(graph, options, listener, receive)
    return values


def _ready(outputs: Sequence[Node], settings: config.Settings, optimize_graph: bool) -> Prepared:
    """Prepared, and nobody objects."""
    prepared = prepare(outputs, settings, optimize_graph)
    hook = before_run.get()
    if hook is not None:
        hook(prepared)
    return prepared


# ---------------------------------------------------------------- what only this process can write


def _only_here(node: Node) -> bool:
    return isinstance(node, Store) and not node.sink.shared


def _places(node: Node) -> list[tuple[Store, tuple[int, ...]] | None]:
    """For each value that comes back for an output where it is to be written; None: it is the result."""
    if not isinstance(node, Store):
        return [None]
    return [(node, index) for index in np.ndindex(node.inputs[0].grid)] if _only_here(node) else []


def _write(store: Store, index: tuple[int, ...], block: np.ndarray) -> None:
    chunks = store.inputs[0].chunks
    region = None
    if all(axis.known for axis in chunks):
        bounds = [
            (axis.bounds[k : k + 2] + at).tolist() for axis, k, at in zip(chunks, index, store.offset, strict=True)
        ]
        region = tuple(slice(start, stop, 1) for start, stop in bounds)
    if region is None or block.size:
        store.sink.write(index, region, block)


# ---------------------------------------------------------------- what users call


def compute(*things: Any, traverse: bool = True, optimize_graph: bool = True, **options: Any) -> tuple[Any, ...]:
    """Compute any number of lazy things in one go.

    Shared work is done once, however the things are nested in lists, tuples, dicts, sets and dataclasses.

    Parameters
    ----------
    *things
        Lazy collections, containers of them, and anything else (which is returned as it is).
    traverse
        Whether to look into containers.
    optimize_graph
        Whether to optimize the plan first. For debugging.
    **options
        Settings for this computation: ``scheduler``, ``workers`` (or ``num_workers``), ``memory``, ``retries``,
        ``progress``, ``spill_directory``.

    Returns
    -------
    tuple
        One result for each thing.

    Raises
    ------
    MemoryBudgetError
        Before anything has run, if a task alone can never fit into the memory budget.

    Examples
    --------
    >>> import tilework as tw
    >>> import tilework.array as ta
    >>> x = ta.arange(10, chunks=5)
    >>> tw.compute(x.sum(), {"max": x.max()})
    (np.int64(45), {'max': np.int64(9)})
    """
    settings = _settings(options)
    found, rebuild = unpack_all(things, traverse)
    return tuple(rebuild(_values([c.node for c in found], settings, optimize_graph)))


def persist(*things: Any, traverse: bool = True, optimize_graph: bool = True, **options: Any) -> tuple[Any, ...]:
    """Compute, and keep the results in memory block by block, as lazy collections of the same shape.

    On a cluster it is the cluster's memory, and this returns at once: the blocks are futures (:func:`handles_of`).
    Parameters are those of :func:`compute`; there are also ``priority`` and ``only``, see :func:`submit`.
    """
    placing: dict[str, Any] = {name: options.pop(name) for name in ("priority", "only") if name in options}
    settings = _settings(options)
    found, rebuild = unpack_all(things, traverse)
    nodes = [c.node for c in found]
    distinct = list(dict.fromkeys(nodes))
    if isinstance(_engine(settings), RemoteEngine):
        kept = _held(distinct, settings, optimize_graph, placing)
    else:
        kept = _kept(distinct, settings, optimize_graph)
    return tuple(rebuild([c.__tilework_rebuild__(kept[node]) for c, node in zip(found, nodes, strict=True)]))


def _kept(distinct: Sequence[Node], settings: config.Settings, optimize_graph: bool) -> dict[Node, Node]:
    """Compute nodes; for each of them one that holds its value."""
    sinks = {node: BlockSink(node.chunks, node.dtype) for node in distinct if isinstance(node, ArrayNode)}
    outputs = [build.store(n, sinks[n]) if isinstance(n, ArrayNode) else n for n in distinct]
    values = iter(_run(outputs, settings, optimize_graph))
    kept: dict[Node, Node] = {}
    for node in distinct:
        if isinstance(node, ArrayNode):
            source = BlockSource(sinks[node].blocks, sinks[node].chunks, node.dtype)
            kept[node] = build.source(source, source.chunks, node.label)
        else:
            kept[node] = _known(node, None if isinstance(node, Store) else next(values))
    return kept


def _known(node: Node, value: Any) -> Call:
    """A call that gives the value of ``node``."""
    return Call(_value, (value,), {}, (), "persisted-" + node.token, node.label, True)


def _held(
    distinct: Sequence[Node], settings: config.Settings, optimize_graph: bool, placing: Mapping[str, Any]
) -> dict[Node, Node]:
    """Start to compute nodes on a cluster; for each of them one that stands for what is there, or will be."""
    if here := [node for node in distinct if _only_here(node)]:
        _run(here, settings, optimize_graph)
    kept: dict[Node, Node] = {node: _known(node, None) for node in here}
    kept |= {node: node for node in distinct if isinstance(node, HeldArray | HeldValue)}
    missing = [node for node in distinct if node not in kept]
    *handles, whole = _started(missing, settings, optimize_graph, placing)
    coming = iter(handles)
    for node in missing:
        if isinstance(node, ArrayNode):
            blocks = list(islice(coming, prod(node.grid)))
            kept[node] = build.held_array(blocks, node.chunks, node.dtype, node.label)
        else:
            kept[node] = build.held_value(whole if isinstance(node, Store) else next(coming), node.label)
    return kept


def submit(
    *things: Any,
    traverse: bool = True,
    optimize_graph: bool = True,
    priority: int = 0,
    only: Sequence[int | str] | None = None,
    **options: Any,
) -> tuple[Any, ...]:
    """Start to compute on a cluster, and return at once.

    Parameters
    ----------
    *things, traverse, optimize_graph, **options
        As of :func:`compute`. The scheduler must be a cluster.
    priority
        Higher goes first.
    only
        Names or numbers of the workers that may run it.

    Returns
    -------
    tuple
        For each thing the handle of one future: what :func:`compute` would return for it. A thing with nothing lazy in
        it is returned as it is.
    """
    settings = _settings(options)
    if not isinstance(_engine(settings), RemoteEngine):
        raise ConfigError(f"scheduler={settings.scheduler!r} has no futures; use a Client, or compute()")
    outputs: list[Node] = []
    place: dict[int, int] = {}  # of things with something lazy in them → of their outputs
    for k, thing in enumerate(things):
        found, rebuild = unpack_all([thing], traverse)
        if found:
            place[k] = len(outputs)
            outputs.append(_as_value(found, rebuild, is_collection(thing)))
            if _only_here(outputs[-1]):
                raise UnsupportedError(
                    f"{outputs[-1]!r} writes to what only this process can write to: compute() it, which waits"
                )
    placing = {"priority": priority, "only": None if only is None else tuple(only)}
    kept = _held(list(dict.fromkeys(outputs)), settings, optimize_graph, placing)
    futures = [kept[node] for node in outputs]
    return tuple(futures[place[k]].handle if k in place else thing for k, thing in enumerate(things))  # type: ignore[attr-defined]


def _as_value(found: Sequence[Collection], rebuild: Callable[[list[Any]], list[Any]], alone: bool) -> Node:
    """The node whose value is what ``compute`` gives for one thing, with collections ``found`` in it."""
    if alone and not isinstance(found[0].node, ArrayNode):
        return found[0].node
    inputs = [build.whole(c.node) if isinstance(c.node, ArrayNode) else c.node for c in found]
    stores = [node for node in inputs if isinstance(node, Store)]
    if stores:
        raise UnsupportedError(
            f"{stores[0]!r}: writes inside a container cannot be submitted; submit them by themselves"
        )
    slots = tuple(map(Slot, range(len(inputs))))
    return Call(_Rebuilt(rebuild), slots, {}, tuple(inputs), unique_token("result"), "result", True)


@dataclasses.dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A thing with values in the places of what was lazy in it."""

    rebuild: Callable[[list[Any]], list[Any]]

    def __call__(self, *values: Any) -> Any:
        return self.rebuild([v[()] if isinstance(v, np.ndarray) and not v.ndim else v for v in values])[0]


def _started(
    outputs: Sequence[Node], settings: config.Settings, optimize_graph: bool, placing: Mapping[str, Any]
) -> list[Handle]:
    """Handles of all blocks and values of the outputs, and one of the whole."""
    prepared = _ready(outputs, settings, optimize_graph)
    assert isinstance(prepared.engine, RemoteEngine)
    return list(prepared.engine.submit(prepared.graph, dataclasses.replace(prepared.options, **placing)))


def handles_of(*things: Any, traverse: bool = True) -> list[Handle]:
    """The futures that lazy things stand on: those of the blocks of what was persisted, each once."""
    found, _ = unpack_all(things, traverse)
    handles: dict[Handle, None] = {}
    for node in topological([c.node for c in found]):
        if isinstance(node, HeldArray):
            handles |= dict.fromkeys(node.handles)
        elif isinstance(node, HeldValue):
            handles[node.handle] = None
    return list(handles)


def optimize(*things: Any, traverse: bool = True) -> tuple[Any, ...]:
    """The same collections around optimized plans. ``compute`` does this anyway; here to look at."""
    found, rebuild = unpack_all(things, traverse)
    better = optimize_plan([c.node for c in found])
    return tuple(rebuild([c.__tilework_rebuild__(node) for c, node in zip(found, better, strict=True)]))


def explain(*things: Any, traverse: bool = True, **options: Any) -> Explanation:
    """Say what computing ``things`` would do and cost, without running anything.

    Parameters are those of :func:`compute`.

    Returns
    -------
    Explanation
        Prints as text, shows as HTML in notebooks: operations, tasks, bytes read and written, predicted peak memory
        against the budget, parallelism, and advice on chunks.
    """
    settings = _settings(options)
    found, _ = unpack_all(things, traverse)
    nodes = list(dict.fromkeys(c.node for c in found))
    return prepare([_as_result(node)[0] for node in nodes], settings).explanation()


def visualize(
    *things: Any,
    filename: str | os.PathLike[str] | None = "tilework",
    optimize_graph: bool = False,
    show_tasks: bool = False,
    traverse: bool = True,
    **options: Any,
) -> Drawing:
    """Draw the plan of lazy things: the operations as they were written, or what will really run.

    Parameters
    ----------
    *things
        Lazy collections, or containers of them.
    filename
        File to write, ``svg`` or ``png`` by its ending (png without one); None writes none.
    optimize_graph
        Draw the stages after optimizing and fusing instead of the operations.
    show_tasks
        Draw every single task. For small plans.
    **options
        ``format``, ``rankdir`` (``"TB"``, ``"LR"``) and Graphviz attributes.

    Returns
    -------
    Drawing
        Shows itself in notebooks.
    """
    found, _ = unpack_all(things, traverse)
    nodes = list(dict.fromkeys(c.node for c in found))
    graph = None
    if nodes and (optimize_graph or show_tasks):
        graph = prepare([_as_result(node)[0] for node in nodes], config.get()).graph
    return draw(nodes, graph, filename=filename, show_tasks=show_tasks, **options)


def run_stores(stores: Sequence[Store], **options: Any) -> None:
    """Run writes now."""
    _run(list(stores), _settings(options), True)


def _settings(options: Mapping[str, Any]) -> config.Settings:
    given = dict(options)
    if "num_workers" in given:
        given["workers"] = given.pop("num_workers")
    return config.get(**given)


def _value(value: Any) -> Any:
    return value


# ---------------------------------------------------------------- results


def _as_result(node: Node, engine: Engine | RemoteEngine | None = None) -> tuple[Node, MemorySink | BlockSink | None]:
    """What to run for a node's value, and where an array's value will be."""
    if not isinstance(node, ArrayNode):
        return node, None
    if all(axis.known for axis in node.chunks):
        sink: MemorySink | BlockSink = MemorySink(node.shape, node.dtype)
        if isinstance(engine, RemoteEngine) and sink.resident_bytes >= engine.inline and not node.dtype.hasobject:
            sink = MemorySink(node.shape, node.dtype, engine.empty)
    else:
        sink = BlockSink(node.chunks, node.dtype)
    return build.store(node, sink, label=node.label), sink


def _values(nodes: Sequence[Node], settings: config.Settings, optimize_graph: bool) -> list[Any]:
    """Values of nodes, each distinct one computed once."""
    distinct = list(dict.fromkeys(nodes))
    if not distinct:
        return []
    engine = _engine(settings)
    outputs, sinks = [], []
    for node in distinct:
        output, sink = _as_result(node, engine)
        outputs.append(output)
        sinks.append(sink)
    values = iter(_run(outputs, settings, optimize_graph))
    of: dict[Node, Any] = {}
    for node, sink in zip(distinct, sinks, strict=True):
        if isinstance(node, Store):
            of[node] = None
        else:
            of[node] = next(values) if sink is None else _array_result(sink)
    return [of[node] for node in nodes]


def _array_result(sink: MemorySink | BlockSink) -> Any:
    array = sink.array
    return array if array.ndim else array[()]  # NumPy gives scalars for results without axes, too


__all__ = [
    "Collection",
    "Prepared",
    "Unpacked",
    "before_run",
    "compute",
    "explain",
    "handles_of",
    "is_collection",
    "is_tilework_collection",
    "optimize",
    "persist",
    "prepare",
    "register_container",
    "run_stores",
    "submit",
    "visualize",
]
