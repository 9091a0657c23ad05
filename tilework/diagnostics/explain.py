"""What a plan will do and cost, before it runs: stages, tasks, bytes, memory against the budget, parallelism, advice.

An :class:`Explanation` is made from the task graph that would run, so every number is of the very thing that is
started, not of a model of it. All of it is arithmetic on the graph's arrays: explaining a million tasks takes less
time than preparing them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import prod

import numpy as np
import psutil

from tilework.base.errors import MemoryBudgetError
from tilework.base.sizes import format_bytes, format_count
from tilework.engine.local import budget as budgeting
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph
from tilework.optimize.blockfuncs import ReduceEnd, ScanEnd, ScanStart, ViewBlock
from tilework.optimize.keeping import IfKept
from tilework.optimize.lower import Lowered
from tilework.optimize.weigh import array_bytes
from tilework.plan.blocks import AxisChunks, Chunks, normalize_chunks
from tilework.plan.graph import topological
from tilework.plan.ops import ArrayNode, Node, Source
from tilework.plan.stages import Assembled, BlockSegment, Held, Leaf, Program, TileSegment

MANY_TASKS = 10_000
"""Below this many tasks nobody notices what they cost to schedule."""

SMALL_BLOCK = 2**20
"""Blocks of fewer bytes are made in less time than it takes to schedule them."""

GOOD_BLOCK = 64 * 2**20
"""Bytes of a block that advice on blocks that are too small aims at, memory permitting."""

TASK_BYTES = 64 * 2**10
"""What starting a task costs, in the bytes that could be worked on in the meantime."""

MATTERS = 0.01
"""What is kept is mentioned if it takes more than this share of the budget."""

REREAD = 1.05
"""Storage chunks that are read more often than this, on average, are worth a line of advice."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage does. Bytes in total over its tasks, but for ``task_bytes``.

    Attributes
    ----------
    label
        What users call the operation.
    operations
        The operations that were fused into it.
    tasks
        How many of its blocks are needed.
    block
        Elements of its largest block along each axis; NaN where unknown, None for delayed calls.
    task_bytes
        The most memory that one of its tasks needs: inputs, result and scratch.
    made_bytes, read_bytes, write_bytes
        What its blocks weigh that are kept for others, what is read from and written to storage.
    """

    label: str
    operations: tuple[str, ...]
    tasks: int
    block: tuple[float, ...] | None
    task_bytes: int
    made_bytes: int
    read_bytes: int
    write_bytes: int


@dataclass(frozen=True, slots=True)
class SharedCost:
    """Something that several stages need: it is kept for all of them, or each of them makes it.

    Attributes
    ----------
    label
        What users call it.
    users
        How many stages need it.
    nbytes
        What all of it weighs.
    held_bytes
        The most of it that keeping it holds, or would hold, at a time.
    kept
        Whether it is kept.
    reason
        Why.
    """

    label: str
    users: int
    nbytes: int
    held_bytes: int
    kept: bool
    reason: str

    def __str__(self) -> str:
        return f"{self.label!r} for {self.users} stages: {self.reason}"


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that could be chunked better: what it is about, what is wrong with it, what to write instead."""

    about: str
    problem: str
    instead: str

    def __str__(self) -> str:
        return f"{self.about}: {self.problem}; {self.instead}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What computing something would do and cost. Prints as text, shows as HTML in notebooks.

    Attributes
    ----------
    stages
        What will run: one entry for each fused operation.
    n_operations
        Operations of the plan after optimizing.
    n_tasks
        Tasks: blocks of all stages together.
    read_bytes, write_bytes
        Bytes read from and written to storage.
    scratch_bytes
        What is on disk for a while, since memory does not hold it: rechunks and shuffles.
    budget, workers
        What it would run with.
    predicted_peak
        Bytes that blocks, scratch space and results take at the worst moment. Never more than ``budget``.
    wanted_peak
        The same without a budget. Where it is larger, workers wait for memory and blocks are spilled to disk.
    process_bytes
        What this process takes already, on top of which ``predicted_peak`` comes.
    shared
        What several stages need: whether it is kept for them or made again by each, and why.
    parallelism
        How many workers could be kept busy: all work divided by the work on the longest chain of tasks that need
        each other.
    refusal
        Why the plan would be refused; None if it can run.
    advice
        What could be chunked better.
    """

    stages: tuple[StageCost, ...]
    n_operations: int
    n_tasks: int
    read_bytes: int
    write_bytes: int
    scratch_bytes: int
    budget: int
    workers: int
    predicted_peak: int
    wanted_peak: int
    process_bytes: int
    shared: tuple[SharedCost, ...]
    parallelism: float
    refusal: str | None
    advice: tuple[Advice, ...]

    @classmethod
    def of(
        cls,
        plan: tuple[Node, ...],
        lowered: Lowered,
        graph: TaskGraph,
        options: RunOptions,
        again: Mapping[Node, IfKept],
    ) -> Explanation:
        """Explain an optimized plan, the stages and the task graph made from it, and what was made again for it."""
        need = budgeting.task_bytes(graph) - graph.resident_bytes
        stages = tuple(_stage_costs(graph, need))
        nodes = topological(plan)
        wanted = budgeting.predict_peak(graph, options.workers)
        try:
            budgeting.refuse(graph, options.budget)
            refusal = None
        except MemoryBudgetError as error:
            refusal = str(error)
        return cls(
            stages=stages,
            n_operations=len(nodes),
            n_tasks=graph.n_tasks - len(graph.held),
            read_bytes=sum(cost.read_bytes for cost in stages),
            write_bytes=sum(cost.write_bytes for cost in stages),
            scratch_bytes=sum(int(stage.scratch_bytes.sum()) for stage in graph.stages),
            budget=options.budget,
            workers=options.workers,
            predicted_peak=min(wanted, options.budget),
            wanted_peak=wanted,
            process_bytes=psutil.Process().memory_info().rss,
            shared=tuple(_shared(lowered, graph, options.budget, again)),
            parallelism=_parallelism(graph, graph.out_bytes + graph.work_bytes + TASK_BYTES),
            refusal=refusal,
            advice=tuple(dict.fromkeys(_consistent(_advise(nodes, graph, stages, options)))),
        )

    # ------------------------------------------------------------ as text

    def __str__(self) -> str:
        rows = _table(self.stages)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self._headline(), ""]
        for row in rows:
            cells = [
                cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "   ".join(cells).rstrip())
        lines.append("")
        lines += [f"  {name:<12} {text}" for name, text in self._facts()]
        if self.refusal:
            lines += ["", f"This plan will be refused: {self.refusal}"]
        if self.advice:
            lines += ["", "Advice", *(f"  - {advice}" for advice in self.advice)]
        return "\n".join(lines)

    __repr__ = __str__

    def _headline(self) -> str:
        return (
            f"{_count(self.n_operations, 'operation')} in {_count(len(self.stages), 'stage')}, "
            f"{_count(self.n_tasks, 'task')}"
        )

    def _facts(self) -> list[tuple[str, str]]:
        """Name and text of what holds for the plan as a whole."""
        memory = f"{format_bytes(self.predicted_peak)} at the peak, of {format_bytes(self.budget)}"
        if self.refusal:
            memory = (
                f"{format_bytes(self.wanted_peak)} at the peak, more than the {format_bytes(self.budget)} there are"
            )
        elif self.wanted_peak > self.budget:
            memory += f" ({format_bytes(self.wanted_peak)} without that limit: tasks will wait, blocks may go to disk)"
        busy = max(1, min(self.workers, round(self.parallelism)))
        return [
            ("read", format_bytes(self.read_bytes) if self.read_bytes else "nothing"),
            ("written", format_bytes(self.write_bytes) if self.write_bytes else "nothing"),
            *([("scratch", f"{format_bytes(self.scratch_bytes)} on disk for a while")] if self.scratch_bytes else []),
            ("memory", memory),
            ("", f"on top of the {format_bytes(self.process_bytes)} that this process takes already"),
            *_listed("kept", [one for one in self.shared if one.kept]),
            *_listed("made again", [one for one in self.shared if not one.kept]),
            (
                "parallelism",
                f"{format_count(max(1, round(self.parallelism)))} tasks at a time; "
                f"keeps {format_count(busy)} of {_count(self.workers, 'worker')} busy",
            ),
        ]

    # ------------------------------------------------------------ as HTML

    def _repr_html_(self) -> str:
        """As HTML for notebooks, in the colours of whatever is around it."""
        head, *body = _table(self.stages)
        header = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
        facts = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in self._facts())
        advice = "".join(
            f"<li><b>{escape(a.about)}</b>: {escape(a.problem)}; <b>{escape(a.instead)}</b></li>" for a in self.advice
        )
        share = min(100, 100 * self.predicted_peak / self.budget)
        refused = (
            f'<p class="tilework-refused">This plan will be refused: {escape(self.refusal)}</p>' if self.refusal else ""
        )
        return (
            f'<div class="tilework-explain">{_STYLE}<b>{self._headline()}</b>'
            f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
            f'<table class="tilework-facts">{facts}</table>'
            f'<div class="tilework-gauge" role="img" aria-label="{share:.0f} % of the memory budget">'
            f'<div style="width:{share:.1f}%"></div></div>'
            f"{refused}{f'<ul>{advice}</ul>' if advice else ''}</div>"
        )


_STYLE = """<style>
.tilework-explain table {border-collapse: collapse; margin: 0.5em 0; color: inherit; background: none}
.tilework-explain th, .tilework-explain td {text-align: right; padding: 0.2em 0.8em; color: inherit; background: none;
  border-bottom: 1px solid rgba(128, 128, 128, 0.35)}
.tilework-explain th:first-child, .tilework-explain td:first-child, .tilework-facts td {text-align: left !important}
.tilework-gauge {height: 0.5em; max-width: 24em; border-radius: 0.25em; background: rgba(128, 128, 128, 0.25)}
.tilework-gauge > div {height: 100%; border-radius: 0.25em; background: #2a9d8f}
.tilework-refused {border-left: 0.3em solid #e76f51; padding-left: 0.6em}
</style>"""


def _count(n: int, what: str) -> str:
    return f"{format_count(n)} {what}{'' if n == 1 else 's'}"


def _table(stages: Sequence[StageCost]) -> list[tuple[str, ...]]:
    """The stages as rows of text, the header first. Columns of which nothing is known are left out."""
    rows: list[tuple[str, ...]] = [("operation", "tasks", "block", "memory per task", "kept", "read", "written")]
    for cost in stages:
        fused = [name for name in cost.operations if name != cost.label]
        sizes = (cost.task_bytes, cost.made_bytes, cost.read_bytes, cost.write_bytes)
        rows.append(
            (
                cost.label + (f" ({_some(fused)})" if fused else ""),
                format_count(cost.tasks),
                "" if cost.block is None else " × ".join("?" if n != n else f"{int(n)}" for n in cost.block) or "1",
                *(format_bytes(size) if size else "" for size in sizes),
            )
        )
    used = [k for k in range(len(rows[0])) if k < 2 or any(row[k] for row in rows[1:])]
    return [tuple(row[k] for k in used) for row in rows]


def _listed(name: str, shared: Sequence[SharedCost], most: int = 5) -> list[tuple[str, str]]:
    lines = [str(one) for one in sorted(shared, key=lambda one: -one.held_bytes)]
    lines = lines[:most] + ([f"{len(lines) - most} more"] if len(lines) > most else [])
    return list(zip([name, *[""] * len(lines)], lines, strict=False))


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f", {len(names) - most} more" if len(names) > most else "")


# ---------------------------------------------------------------- what the stages cost


def _stage_costs(graph: TaskGraph, need: np.ndarray) -> Iterator[StageCost]:
    for stage, (a, b) in zip(graph.stages, pairwise(graph.offsets.tolist()), strict=True):
        if a == b or isinstance(stage.work, Held):
            continue
        share = (b - a) / stage.size  # of the grid that is needed
        yield StageCost(
            stage.label,
            stage.operations,
            b - a,
            tuple(axis.largest for axis in stage.work.chunks) if isinstance(stage.work, Program) else None,
            int(need[a:b].max()),
            int(graph.out_bytes[a:b].sum()),
            round(stage.read_bytes * share),
            round(stage.write_bytes * share),
        )


def _shared(lowered: Lowered, graph: TaskGraph, budget: int, again: Mapping[Node, IfKept]) -> Iterator[SharedCost]:
    """What is needed by several stages, but for what is too small to matter."""
    for one in lowered.shared:
        held = budgeting.most_held(graph, one.stage)
        if held >= MATTERS * budget:
            large = "more than fits, but making it again would cost more than the way to disk and back"
            reason = f"{format_bytes(held)} at a time, {'which fits' if held <= budget else large}"
            yield SharedCost(one.node.label, one.users, int(array_bytes(one.node)), held, True, reason)
    for node, kept in again.items():
        if isinstance(node, ArrayNode) and lowered.repeated[node] > 1:
            reason = (
                f"keeping it, {format_bytes(kept.held)} at a time, would take {format_bytes(kept.peak)} in all, "
                f"more than the budget of {format_bytes(budget)}"
            )
            users, size = lowered.repeated[node], int(array_bytes(node))
            yield SharedCost(node.label, users, size, kept.held, False, reason)


def _parallelism(graph: TaskGraph, work: np.ndarray) -> float:
    """All work divided by the work on the longest chain of tasks that need each other."""
    if not graph.n_tasks:
        return 1.0
    done = work.astype(np.float64)  # work on the longest chain that ends with each task
    for a, b in pairwise(graph.offsets.tolist()):
        lo, hi = int(graph.indptr[a]), int(graph.indptr[b])
        if lo == hi:
            continue
        if graph.deps[lo:hi].max() >= a:  # tasks of this stage need each other: those before them
            _chain(graph, a, b, done)
            continue
        needy = np.flatnonzero(np.diff(graph.indptr[a : b + 1])) + a
        done[needy] += np.maximum.reduceat(done[graph.deps[lo:hi]], graph.indptr[needy] - lo)
    return float(work.sum() / done.max())


def _chain(graph: TaskGraph, a: int, b: int, done: np.ndarray) -> None:
    longest = done[:b].tolist()
    bounds, deps = graph.indptr[a : b + 1].tolist(), graph.deps.tolist()
    for task, (lo, hi) in enumerate(pairwise(bounds), start=a):
        if lo < hi:
            longest[task] += max([longest[d] for d in deps[lo:hi]])
    done[a:b] = longest[a:]


# ---------------------------------------------------------------- advice


def _advise(
    nodes: Sequence[Node], graph: TaskGraph, stages: Sequence[StageCost], options: RunOptions
) -> Iterator[Advice]:
    names = {id(node.source): node.label for node in nodes if isinstance(node, Source)}
    running = [
        stage.work
        for stage, (a, b) in zip(graph.stages, pairwise(graph.offsets.tolist()), strict=True)
        if a < b and not isinstance(stage.work, Held)
    ]
    programs = [(cost, work) for cost, work in zip(stages, running, strict=True) if isinstance(work, Program)]
    room = max(0, options.budget - graph.resident_bytes)
    if programs:
        cost, work = max(programs, key=lambda pair: pair[0].task_bytes)
        yield from _too_large(cost, work, names, room, options.workers)
    if sum(cost.tasks for cost, _ in programs) > MANY_TASKS:
        cost, work = max(programs, key=lambda pair: pair[0].tasks)
        yield from _too_small(cost, work, names, room / options.workers)
    leaves = [operand for _, work in programs for operand in work.operands if isinstance(operand, Leaf)]
    yield from _misaligned(leaves, names)


def _consistent(advice: Iterator[Advice]) -> Iterator[Advice]:
    """Without advice to make something that earlier advice says how to make."""
    told: set[str] = set()
    for one in advice:
        if one.instead.startswith("make it with") and f"make {one.about} with" in told:
            continue
        told.add(one.instead.partition(" chunks=")[0])
        yield one


def _too_large(cost: StageCost, work: Program, names: dict[int, str], room: int, workers: int) -> Iterator[Advice]:
    if cost.task_bytes * min(workers, cost.tasks) <= room:
        return
    fit = room // cost.task_bytes
    can = f"only {fit} of {workers} workers can" if fit else "none can"
    block = _block_bytes(work)
    yield Advice(
        repr(cost.label),
        f"a task needs up to {format_bytes(cost.task_bytes)} of memory, so {can} run in {format_bytes(room)}",
        # a bit less than in proportion, since not all that a task needs shrinks with its block
        _write(work, _with_blocks_of(work, 0.8 * block * room / workers / cost.task_bytes), names)
        if block
        else "raise memory=..., or lower workers=...",
    )


def _too_small(cost: StageCost, work: Program, names: dict[int, str], share: float) -> Iterator[Advice]:
    block = _block_bytes(work)
    if not 0 < block < SMALL_BLOCK:
        return
    larger = _with_blocks_of(work, min(GOOD_BLOCK, share * block / max(1, cost.task_bytes)))
    if prod(map(len, larger)) < prod(map(len, work.chunks)):
        yield Advice(
            repr(cost.label),
            f"{format_count(cost.tasks)} tasks on blocks of {format_bytes(block)} cost more to schedule than to run",
            _write(work, larger, names),
        )


def _block_bytes(work: Program) -> float:
    """Bytes of an average block of the stage's domain; 0 if unknown."""
    kinds = [
        o.source.dtype if isinstance(o, Leaf) else o.dtype for o in work.operands if isinstance(o, Leaf | Assembled)
    ]
    for segment in work.segments:
        if isinstance(segment, TileSegment):
            kinds += [step.dtype for step in segment.steps]
        elif isinstance(segment, BlockSegment) and segment.dtype is not None:
            kinds.append(segment.dtype)
    size = float(max((kind.itemsize for kind in kinds), default=0))
    for axis in work.chunks:
        size *= axis.total / len(axis) if axis.known else 0
    return size


def _with_blocks_of(work: Program, limit: float) -> Chunks:
    """The stage's domain in blocks of about ``limit`` bytes, along the bounds of storage chunks where there are any.

    Functions of blocks may need axes that are in one block to stay so: others are divided, if there are any.
    """
    shape = [axis.total for axis in work.chunks]
    itemsize = max(1, round(_block_bytes(work) * prod(map(len, work.chunks)) / max(1, prod(shape))))
    previous: list[AxisChunks | int] = list(work.chunks)
    for leaf in (operand for operand in work.operands if isinstance(operand, Leaf)):
        for unit, axis in zip(leaf.source.storage_chunks or (), _axes(leaf, work), strict=False):
            if axis is not None:
                previous[axis] = unit
    calls = [s.function.fn for s in work.segments if isinstance(s, BlockSegment)]
    whole = not all(isinstance(fn, ReduceEnd | ScanEnd | ScanStart | ViewBlock) for fn in calls)
    divided = any(len(axis) > 1 and axis.largest > 1 for axis in work.chunks)
    entries = [-1 if whole and divided and len(axis) == 1 else "auto" for axis in work.chunks]
    return normalize_chunks(tuple(entries), shape, np.dtype((np.void, itemsize)), max(1, int(limit)), previous)


def _axes(leaf: Leaf, work: Program) -> list[int | None]:
    """The axis of the stage's domain that each source axis lies along, also where it is a single block."""
    free = [k for k, axis in enumerate(work.chunks) if len(axis) == 1 and k not in leaf.axes]
    found: list[int | None] = []
    for j, (axis, have) in enumerate(zip(leaf.axes, leaf.chunks, strict=True)):
        if axis is None and j not in leaf.drop:
            axis = next((k for k in free if work.chunks[k] == have), None)
            free = [k for k in free if k != axis]
        found.append(axis)
    return found


def _write(work: Program, chunks: Chunks, names: dict[int, str]) -> str:
    """What to write to get these chunks: where the array is read, if that suits its storage; else a rechunk."""
    for leaf in (operand for operand in work.operands if isinstance(operand, Leaf)):
        along = tuple(
            have if axis is None else chunks[axis] for have, axis in zip(leaf.chunks, _axes(leaf, work), strict=True)
        )
        if id(leaf.source) in names and _reads(leaf, along) <= REREAD:
            return f"make {names[id(leaf.source)]!r} with chunks={_sizes(along)}"
    return f"put .rechunk({_sizes(chunks)}) before it"


def _sizes(chunks: Sequence[AxisChunks]) -> str:
    """Chunks as a user would write them."""
    sizes = ["-1" if len(axis) == 1 else str(axis.largest) for axis in chunks]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _misaligned(leaves: Sequence[Leaf], names: dict[int, str]) -> Iterator[Advice]:
    for leaf in leaves:
        unit = leaf.source.storage_chunks
        if unit is None or (now := _reads(leaf, leaf.chunks)) <= REREAD:
            continue
        nearest = [
            max(1, round(float(np.median(have.sizes)) / stored)) * stored
            for have, stored in zip(leaf.chunks, unit, strict=True)
        ]
        shape = tuple(have.total for have in leaf.chunks)
        better = normalize_chunks(tuple(map(min, nearest, shape)), shape)
        most = max(prod(have.largest for have in leaf.chunks), prod(unit))
        if prod(have.largest for have in better) > 2 * most:
            better = normalize_chunks("auto", shape, leaf.source.dtype, most * leaf.source.dtype.itemsize, unit)
        if _reads(leaf, better) < now:
            yield Advice(
                repr(names.get(id(leaf.source), "array")),
                f"blocks of {_sizes(leaf.chunks)} cut across chunks of {unit} in storage, each of which is read "
                f"{now:.1f} times",
                f"make it with chunks={_sizes(better)}",
            )


def _reads(leaf: Leaf, chunks: Chunks) -> float:
    """How often a stored chunk is read, on average, if ``leaf`` is read in blocks of ``chunks``."""
    times = 1.0
    if leaf.source.storage_chunks is None:
        return times
    for have, region, unit in zip(chunks, leaf.region, leaf.source.storage_chunks, strict=True):
        bounds = have.bounds[np.append(True, have.sizes > 0)]
        if len(bounds) > 1:
            first = (region.start + bounds[:-1] * region.step) // unit
            last = (region.start + (bounds[1:] - 1) * region.step) // unit
            times *= float((last - first + 1).sum() / (last[-1] - first[0] + 1))
    return times
