"""Drawings of plans: operations as the user wrote them, the stages they become, or every single task.

A drawing is DOT text, made here, and laid out by ``graphviz-pure`` (extra ``visualize``: a self-contained program that
comes as a wheel for every platform), or by Graphviz's own ``dot`` where that is installed.

Colours say the kind of work and are readable on light and on dark ground, which stays transparent.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

from tilework.base.errors import PlanError, StorageError, UnsupportedError
from tilework.base.sizes import format_bytes, format_count
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.graph import topological
from tilework.plan.ops import (
    ArrayNode,
    Blockwise,
    Call,
    FromValue,
    HeldArray,
    HeldValue,
    Node,
    Reduce,
    Scan,
    Slot,
    Source,
    Store,
    Whole,
)
from tilework.plan.stages import Calls, Held, Program, Stage

MOST_CALLS = 100
"""Plans of more delayed calls are drawn with equal ones together."""

MOST_BOXES = 1000
"""Nobody can read more, and the layout takes minutes."""

_PURE_FORMATS = frozenset({"svg", "png", "jpg", "jpeg"})
_FORMATS = _PURE_FORMATS | {"pdf", "dot"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawing of a plan. Notebooks show it; :meth:`save` writes it to a file.

    Attributes
    ----------
    dot
        The drawing as text in Graphviz's language, for other programs.
    """

    dot: str

    def render(self, format: str) -> bytes:
        """Return the drawing as the contents of an image file.

        Parameters
        ----------
        format
            ``"svg"``, ``"png"``, ``"jpg"``, ``"dot"``; ``"pdf"`` where Graphviz is installed.

        Raises
        ------
        UnsupportedError
            If no program for drawing is installed, or it does not know the format.
        """
        if format == "dot":
            return self.dot.encode()
        options = [] if format in ("svg", "pdf") else ["-Gdpi=144"]
        program = _program(format)
        done = subprocess.run([program, f"-T{format}", *options], input=self.dot.encode(), capture_output=True)
        if done.returncode or not done.stdout:
            complaint = (done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}").splitlines()[0]
            raise UnsupportedError(f"{program} cannot draw format={format!r}: {complaint}; use svg or png")
        return done.stdout

    def save(self, filename: str | os.PathLike[str], format: str | None = None) -> str:
        """Write the drawing to a file and return its path.

        Parameters
        ----------
        filename
            Its ending decides the format. Without one that is known, ``format`` (default: png) is appended.
        format
            See :meth:`render`.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        path = os.fspath(filename)
        ending = os.path.splitext(path)[1].lower().removeprefix(".")
        if ending not in _FORMATS or (format is not None and format != ending):
            ending = format or "png"
            path = f"{path}.{ending}"
        image = self.render(ending)
        try:
            with open(path, "wb") as file:
                file.write(image)
        except OSError as error:
            raise StorageError(f"the drawing cannot be written to {path!r}: {error.strerror or error}") from error
        return path

    def _repr_svg_(self) -> str:
        return self.render("svg").decode()

    def __repr__(self) -> str:
        boxes = len(re.findall(r"^ *n\d+ \[", self.dot, re.MULTILINE))
        return f"<Drawing of {boxes} boxes; save(filename) writes it, notebooks show it>"


def visualize(
    nodes: Sequence[Node],
    graph: TaskGraph | None = None,
    *,
    filename: str | os.PathLike[str] | None = "tilework",
    format: str | None = None,
    rankdir: str = "TB",
    show_tasks: bool = False,
    **attributes: Any,
) -> Drawing:
    """Draw a plan, or what was made of it.

    Parameters
    ----------
    nodes
        The outputs of the plan. Its operations are drawn as they were written, unless there is a graph.
    graph
        The task graph of the plan. Its stages are drawn: what will really run.
    filename
        File to write; its ending decides the format (``svg`` or ``png``; png without one). None writes no file.
    format
        Format of the file, if its name does not say.
    rankdir
        Direction of the flow: ``"TB"`` (top to bottom), ``"LR"``, ``"BT"`` or ``"RL"``.
    show_tasks
        Draw every single task of the graph. For small plans.
    **attributes
        Further Graphviz attributes of the graph, such as ``label="My plan"`` or ``bgcolor="white"``.

    Returns
    -------
    Drawing
        Shows itself in notebooks.

    Raises
    ------
    PlanError
        If there is nothing to draw, or too much to be readable.
    UnsupportedError
        If no program for drawing is installed.
    StorageError
        If the file cannot be written.
    """
    if not nodes:
        raise PlanError("there is nothing to draw: none of the arguments is lazy")
    if rankdir not in ("TB", "LR", "BT", "RL"):
        raise PlanError(f'rankdir={rankdir!r} is not a direction; use "TB", "LR", "BT" or "RL"')
    if graph is None:
        boxes, edges = _operations(nodes)
    elif show_tasks:
        boxes, edges = _tasks(graph)
    else:
        boxes, edges = _stages(graph)
    if len(boxes) > MOST_BOXES:
        advice = "leave out show_tasks" if show_tasks else "draw a part of the plan"
        raise PlanError(
            f"a drawing of {format_count(len(boxes))} boxes cannot be read ({MOST_BOXES} are the limit); {advice}"
        )
    drawing = Drawing(_dot(boxes, edges, {"rankdir": rankdir, **attributes}))
    if filename is not None:
        drawing.save(filename, format)
    return drawing


# ---------------------------------------------------------------- what is drawn


@dataclass(frozen=True, slots=True)
class _Box:
    title: str
    details: tuple[str, ...]
    kind: str
    tooltip: str = ""
    output: bool = False
    frame: str = ""
    """Boxes of one frame, which follow each other, are drawn inside it."""


_Edges = Iterable[tuple[int, int]]


def _operations(outputs: Sequence[Node]) -> tuple[list[_Box], _Edges]:
    """The plan as it was written: one box an operation, or one for all calls of the same make in a large plan."""
    nodes = topological(outputs)
    together = sum(isinstance(node, Call) for node in nodes) > MOST_CALLS
    wanted = set(outputs)
    box_of: dict[Node, int] = {}
    known: dict[Any, int] = {}
    members: list[list[Node]] = []
    for node in nodes:
        if isinstance(node, Whole):  # its input has one block already
            box_of[node] = box_of[node.inputs[0]]
            continue
        inputs = frozenset(box_of[i] for i in node.inputs)
        same = (node.label, inputs, node in wanted) if together and isinstance(node, Call) else node
        number = known.setdefault(same, len(members))
        if number == len(members):
            members.append([])
        members[number].append(node)
        box_of[node] = number
    boxes = [_operation_box(some, some[0] in wanted) for some in members]
    return boxes, {(box_of[i], box_of[node]) for node in nodes for i in node.inputs if box_of[i] != box_of[node]}


def _operation_box(nodes: Sequence[Node], output: bool) -> _Box:
    node = nodes[0]
    if isinstance(node, Call):
        if len(nodes) > 1:
            return _Box(node.label, (f"{format_count(len(nodes))} calls",), "call", output=output)
        return _Box(node.label, (_arguments(node),), "call", node.token, output)
    if isinstance(node, ArrayNode):
        return _Box(node.label, _array_details(node), _kind(node), node.token, output)
    if isinstance(node, Store):
        return _Box(node.label, (type(node.sink).__name__,), "store", node.token, output)
    if isinstance(node, HeldValue):
        return _Box(node.label, (node.handle.key,), "source", node.token, output)
    return _Box(node.label, (), "move", node.token, output)


def _kind(node: ArrayNode) -> str:
    if isinstance(node, Source | HeldArray):
        return "source"
    if isinstance(node, Reduce | Scan):
        return "reduce"
    if isinstance(node, FromValue):
        return "call"
    # A change of axes only, and whatever else moves values without touching them.
    if not isinstance(node, Blockwise) or (node.elementwise and node.op.fn is None):
        return "move"
    return "work"


def _array_details(node: ArrayNode) -> tuple[str, ...]:
    shape = _tuple(node.shape)
    blocks = 1
    for n in node.grid:
        blocks *= n
    largest = tuple(axis.largest for axis in node.chunks)
    if blocks == 1:
        return f"{shape} {node.dtype}", f"1 block, {_size(node)}"
    return (
        f"{shape} {node.dtype}",
        f"{format_count(blocks)} blocks of {_tuple(largest)}",
        _size(node, largest) + " each",
    )


def _tuple(sizes: Sequence[Any]) -> str:
    return " × ".join("?" if n != n else format_count(n) for n in sizes) or "scalar"


def _size(node: ArrayNode, shape: Sequence[Any] | None = None) -> str:
    total: float = node.dtype.itemsize
    for n in node.shape if shape is None else shape:
        total *= n
    return format_bytes(total) if total == total else "unknown size"


def _arguments(call: Call) -> str:
    """What a call was given, with a dot for each input; nothing if inputs are all it has."""
    given = [(_argument(value), value) for value in call.args]
    given += [(f"{name}={_argument(value)}", value) for name, value in call.kwargs.items()]
    if all(isinstance(value, Slot) or text == _SEVERAL for text, value in given):
        return ""
    text = ", ".join(text for text, _ in given)
    return text if len(text) <= 40 else f"{text[:38]} …"


_SEVERAL = "[···]"


def _argument(value: Any) -> str:
    if isinstance(value, Slot):
        return "·"
    if isinstance(value, bool | int | float | complex | str | None):
        text = repr(value)
        return text if len(text) <= 16 else f"{text[:14]} …"
    if isinstance(value, list | tuple) and any(isinstance(part, Slot) for part in value):
        return _SEVERAL
    return getattr(value, "__name__", None) or type(value).__name__


def _stages(graph: TaskGraph) -> tuple[list[_Box], _Edges]:
    """What will run: one box a stage."""
    wanted = {graph.locate(task)[0] for task in graph.outputs.tolist()}
    boxes = [_stage_box(graph, number, number in wanted) for number in range(len(graph.stages))]
    edges = {(user.producer, number) for number, stage in enumerate(graph.stages) for user in stage.inputs}
    for number, stage in enumerate(graph.stages):
        if isinstance(stage.work, Calls):
            edges |= {(producer, number) for producer in set(stage.work.stages.tolist())}
    return boxes, {(a, b) for a, b in edges if a != b}


def _stage_box(graph: TaskGraph, number: int, output: bool) -> _Box:
    stage = graph.stages[number]
    start, stop = graph.offsets[number : number + 2].tolist()
    largest = int(graph.out_bytes[start:stop].max(initial=0))
    if isinstance(stage.work, Calls):
        counts = Counter(call.label for call in stage.work.calls).most_common()
        names = [f"{format_count(n)} {label}" if n > 1 else label for label, n in counts]
    else:
        names = list(stage.operations)
    details = [] if names == [stage.label] else [" · ".join(names[i : i + 4]) for i in range(0, len(names), 4)]
    if len(details) > 4:
        details[4:] = ["…"]
    tasks = "1 task" if stop - start == 1 else f"{format_count(stop - start)} tasks"
    details.append(tasks + (f", {format_bytes(largest)} each" if largest else ""))
    if stage.read_bytes:
        details.append(f"reads {format_bytes(stage.read_bytes)}")
    if stage.write_bytes:
        details.append(f"writes {format_bytes(stage.write_bytes)}")
    return _Box(stage.label, tuple(details), _stage_kind(stage), output=output or _writes(stage))


def _writes(stage: Stage) -> bool:
    """Whether results of the plan come from here: into memory or storage."""
    return isinstance(stage.work, Program) and any(output.sink is not None for output in stage.work.outputs)


def _stage_kind(stage: Stage) -> str:
    if isinstance(stage.work, Calls):
        return "call"
    if isinstance(stage.work, Held):
        return "source"
    if stage.write_bytes:
        return "store"
    return "source" if stage.read_bytes else "work"


def _tasks(graph: TaskGraph) -> tuple[list[_Box], _Edges]:
    """Every task, framed by stage."""
    if graph.n_tasks > MOST_BOXES:  # do not make boxes that nobody will see
        return [_Box("", (), "work")] * graph.n_tasks, ()
    wanted = set(graph.outputs.tolist())
    boxes = []
    for task in range(graph.n_tasks):
        number, stage, flat = graph.locate(task)
        kind, output = _stage_kind(stage), task in wanted
        if isinstance(stage.work, Calls):
            call = stage.work.calls[flat]
            boxes.append(_Box(call.label, (_arguments(call),), kind, call.token, output))
        else:
            title = ", ".join(map(str, graph.index(task))) or stage.label
            size = int(graph.out_bytes[task])
            details = (format_bytes(size),) if size else ()
            output = output or _writes(stage)
            boxes.append(_Box(title, details, kind, stage.label, output, f"{number}: {stage.label}"))
    starts = graph.indptr.tolist()
    return boxes, {(d, t) for t in range(graph.n_tasks) for d in graph.deps[starts[t] : starts[t + 1]].tolist()}


# ---------------------------------------------------------------- DOT

_COLOURS = {  # fill and border
    "source": ("#dbeafe", "#3b82f6"),
    "work": ("#dcfce7", "#22a355"),
    "reduce": ("#fef3c7", "#d97706"),
    "move": ("#e9ebef", "#8b93a1"),
    "call": ("#ede9fe", "#8b5cf6"),
    "store": ("#ffe4e6", "#f43f5e"),
}
_GREY = "#838b99"  # is seen on white and on black

_HEAD = f"""\
digraph tilework {{
  bgcolor=transparent; fontname=Helvetica; fontcolor="{_GREY}"; fontsize=11; nodesep=0.3; ranksep=0.4;
  node [shape=box, style="rounded,filled", fontname=Helvetica, fontcolor="#111827", margin="0.26,0.09", height=0.3];
  edge [color="{_GREY}", arrowsize=0.7, penwidth=1.1];
"""


def _dot(boxes: Sequence[_Box], edges: _Edges, attributes: dict[str, Any]) -> str:
    lines = [f"  {name}={_quoted(value)};" for name, value in attributes.items()]
    for frame, some in groupby(enumerate(boxes), key=lambda item: item[1].frame):
        inside = [f"  {_dot_box(number, box)}" for number, box in some]
        if frame:
            inside = [f"  subgraph {_quoted('cluster' + frame)} {{", f"  label={_quoted(frame)}; labeljust=l;",
                      f'  style="rounded,dashed"; color="{_GREY}";', *inside, "  }"]  # fmt: skip
        lines += inside
    lines += [f"  n{a} -> n{b};" for a, b in sorted(edges)]
    return _HEAD + "\n".join(lines) + "\n}\n"


def _dot_box(number: int, box: _Box) -> str:
    fill, border = _COLOURS[box.kind]
    text = f"<b>{_escaped(box.title)}</b>"
    for detail in box.details:
        if detail:
            text += f'<br/><font point-size="10" color="#4b5563">{_escaped(detail)}</font>'
    width = 2.4 if box.output else 1
    return (
        f'n{number} [label=<{text}>, fillcolor="{fill}", color="{border}", '
        f"penwidth={width}, tooltip={_quoted(box.tooltip or box.title)}];"
    )


def _escaped(text: str) -> str:
    return escape(_printable(text))


def _quoted(value: Any) -> str:
    text = _printable(str(value)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _program(format: str) -> str:
    """Path of a program that draws."""
    names = ["graphviz-pure", "dot"] if format in _PURE_FORMATS else ["dot"]
    beside = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]  # a venv need not be on the search path
    for name in names:
        found = shutil.which(name, path=os.pathsep.join(beside)) or shutil.which(name)
        if found is not None:
            return found
    if format in _PURE_FORMATS:
        raise UnsupportedError("no program for drawing is installed; pip install 'tilework[visualize]'")
    raise UnsupportedError(
        f"format={format!r} needs Graphviz itself (its program dot), which is not installed; use svg"
    )
