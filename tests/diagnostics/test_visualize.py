from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework import session
from tilework.base.errors import PlanError, StorageError, UnsupportedError
from tilework.delayed import Delayed, delayed
from tilework.diagnostics import visualize as module
from tilework.diagnostics.visualize import MOST_BOXES, Drawing, visualize
from tilework.io.memory import ArraySource
from tilework.plan import build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, Node

PNG = b"\x89PNG\r\n\x1a\n"


class Array:
    """A collection of an array node."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def __tilework_rebuild__(self, node: Node) -> Array:
        return Array(node)


def inc(x: int) -> int:
    return x + 1


def total(xs: list[int]) -> int:
    return sum(xs)


def increments(n: int) -> Delayed:
    return delayed(total)([delayed(inc)(i) for i in range(n)])


def array(shape: tuple[int, ...] = (6, 4), chunks: tuple[tuple[int, ...], ...] = ((2, 2, 2), (4,))) -> ArrayNode:
    data = np.zeros(shape, np.float32)
    return build.source(ArraySource(data), tuple(map(AxisChunks, chunks)), "measured")


def boxes(drawing: Drawing) -> list[str]:
    """The text of each box, lines separated by slashes."""
    labels = re.findall(r"label=<(.*)>, fillcolor", drawing.dot)
    return ["/".join(re.sub("<[^>]*>", "", line) for line in label.split("<br/>")) for label in labels]


def edges(drawing: Drawing) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in re.findall(r"n(\d+) -> n(\d+);", drawing.dot)}


# ---------------------------------------------------------------- what is drawn


def test_calls_with_their_constants() -> None:
    drawing = visualize([(increments(2) + 5).node], filename=None)
    assert boxes(drawing) == ["inc/0", "inc/1", "total", "add/·, 5"]
    assert edges(drawing) == {(0, 2), (1, 2), (2, 3)}


def test_arguments_are_short_and_never_computed_or_printed() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("printed")

    lazy = delayed(inc)(Loud(), np.zeros(10**6), "a" * 1000, *range(100), key=[delayed(1)])
    (box,) = [b for b in boxes(visualize([lazy.node], filename=None)) if b.startswith("inc")]
    assert box.startswith("inc/Loud, ndarray, &#x27;aaa")
    assert len(box) < 80


def test_arrays_with_shape_and_blocks() -> None:
    x = array()
    added = build.elementwise(np.add, (x, 1.0))
    moved = build.rearrange(added, (1, 0))
    drawing = visualize([moved], filename=None)
    assert boxes(drawing) == [
        "measured/6 × 4 float32/3 blocks of 2 × 4/32 B each",
        "add/6 × 4 float32/3 blocks of 2 × 4/32 B each",
        "transpose/4 × 6 float32/3 blocks of 4 × 2/32 B each",
    ]
    fills = re.findall(r'fillcolor="(#\w+)"', drawing.dot)
    assert len(set(fills)) == 3  # a read, work, and a mere move look different


def test_arrays_of_one_block_of_no_axes_and_of_unknown_size() -> None:
    one = array((3,), ((3,),))
    scalar = array((), ())
    value = delayed(inc)(1).node
    unknown = build.from_value(value, (float("nan"),), np.int64)  # type: ignore[arg-type]
    assert boxes(visualize([one, scalar, unknown], filename=None)) == [
        "measured/3 float32/1 block, 12 B",
        "measured/scalar float32/1 block, 4 B",
        "inc/1",
        "from-value/? int64/1 block, unknown size",
    ]


def test_an_array_as_an_argument() -> None:
    drawing = visualize([delayed(np.linalg.norm)(Array(array())).node], filename=None)
    assert [text.split("/")[0] for text in boxes(drawing)] == ["measured", "rechunk", "norm"]
    assert edges(drawing) == {(0, 1), (1, 2)}


def test_equal_calls_are_drawn_together_in_large_plans() -> None:
    drawing = visualize([increments(1000).node], filename=None)
    assert boxes(drawing) == ["inc/1,000 calls", "total"]
    assert edges(drawing) == {(0, 1)}


def test_calls_are_not_mixed_with_those_that_are_wanted() -> None:
    calls = [delayed(inc)(i) for i in range(200)]
    drawing = visualize([calls[0].node, delayed(total)(calls).node], filename=None)
    assert sorted(boxes(drawing)) == ["inc/0", "inc/199 calls", "total"]


def test_outputs_have_a_thicker_border() -> None:
    widths = re.findall(r"penwidth=([\d.]+), tooltip", visualize([increments(2).node], filename=None).dot)
    assert widths == ["1", "1", "2.4"]


def test_stages() -> None:
    x = build.elementwise(np.add, (array(), 1.0))
    y = build.elementwise(np.multiply, (x, 2.0))
    drawing = session.visualize(Array(y), increments(3), filename=None, optimize_graph=True)
    stages = boxes(drawing)
    assert len(stages) == 2
    assert "multiply/measured · add · multiply/3 tasks" in stages
    assert "calls/3 inc · total/4 tasks" in stages
    assert re.findall(r"penwidth=([\d.]+), tooltip", drawing.dot) == ["2.4", "2.4"]


def test_tasks() -> None:
    y = build.elementwise(np.add, (array(), 1.0))
    drawing = session.visualize(Array(y), increments(3), filename=None, show_tasks=True)
    texts = boxes(drawing)
    assert len(texts) == 3 + 4
    assert [t.split("/")[0] for t in texts if t[0].isdigit()] == ["0, 0", "1, 0", "2, 0"]
    assert sum(t.startswith("inc/") for t in texts) == 3
    assert len(edges(drawing)) == 3
    assert drawing.dot.count("subgraph") == 1


# ---------------------------------------------------------------- limits and bad input


@pytest.mark.parametrize("options", [{}, {"show_tasks": True}])
def test_too_much_to_read(options: dict[str, Any]) -> None:
    lazy = delayed(0)
    for _ in range(MOST_BOXES + 5):
        lazy = lazy + 1
    with pytest.raises(PlanError, match=r"1,00\d boxes"):
        session.visualize(lazy, filename=None, **options)


def test_nothing_to_draw() -> None:
    with pytest.raises(PlanError, match="nothing to draw"):
        session.visualize(1, [2], filename=None)


def test_unknown_direction() -> None:
    with pytest.raises(PlanError, match=r"'up'.*TB"):
        delayed(1).visualize(None, rankdir="up")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("filename", "format", "written"),
    [
        ("plan.svg", None, "plan.svg"),
        ("plan.PNG", None, "plan.PNG"),
        ("plan", None, "plan.png"),
        ("plan", "svg", "plan.svg"),
        ("plan.v2", None, "plan.v2.png"),
        ("plan.svg", "png", "plan.svg.png"),
        ("plan.dot", None, "plan.dot"),
    ],
)
def test_files(tmp_path: Path, filename: str, format: str | None, written: str) -> None:
    drawing = increments(2).visualize(tmp_path / filename, format=format)
    assert [p.name for p in tmp_path.iterdir()] == [written]
    contents = (tmp_path / written).read_bytes()
    if written.lower().endswith("png"):
        assert contents.startswith(PNG)
    elif written.endswith("svg"):
        assert ET.fromstring(contents).tag.endswith("svg")
    else:
        assert contents.decode() == drawing.dot


def test_default_name_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    increments(1).visualize(None)
    assert list(tmp_path.iterdir()) == []
    increments(1).visualize()
    assert [p.name for p in tmp_path.iterdir()] == ["tilework.png"]


def test_direction_and_attributes() -> None:
    wide = increments(9).visualize(None)
    flat = increments(9).visualize(None, rankdir="LR", label='a "label"')
    sizes = [ET.fromstring(d._repr_svg_()).attrib for d in (wide, flat)]
    wide_size, flat_size = [[float(s[k].removesuffix("pt")) for k in ("width", "height")] for s in sizes]
    assert wide_size[0] > wide_size[1]
    assert flat_size[0] < flat_size[1]
    assert 'a "label"' in "".join(ET.fromstring(flat._repr_svg_()).itertext())


@pytest.mark.parametrize("name", ["<b>&\"'\\", "a\nb\x00c", "größe Δ 数", "x" * 500, 'n"]; evil ['])
def test_strange_names(name: str) -> None:
    node = delayed(1, name=name).node
    node.label = name
    text = "".join(ET.fromstring(visualize([node], filename=None)._repr_svg_()).itertext())
    assert re.sub(r"[^\w<>&]", "", name) in re.sub(r"[^\w<>&]", "", text)


def test_notebooks_and_repr() -> None:
    drawing = increments(2).visualize(None)
    assert drawing._repr_svg_().rstrip().endswith("</svg>")
    assert "3 boxes" in repr(drawing)


def test_unwritable_file(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "plan.png"
    with pytest.raises(StorageError, match=re.escape(repr(str(path)))):
        increments(2).visualize(path)


def test_unknown_format() -> None:
    with pytest.raises(UnsupportedError, match=r"'bmp3'.*svg"):
        increments(2).visualize("plan", format="bmp3")


def which_only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = shutil.which
    monkeypatch.setattr(
        module.shutil, "which", lambda name, path=None: real(name, path=path) if name in names else None
    )


def test_no_program_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    which_only(monkeypatch)
    with pytest.raises(UnsupportedError, match=r"pip install 'tilework\[visualize\]'"):
        increments(2).visualize(tmp_path / "plan.png")
    increments(2).visualize(tmp_path / "plan.dot")  # needs none
    assert [p.name for p in tmp_path.iterdir()] == ["plan.dot"]


def test_pdf_needs_graphviz_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    which_only(monkeypatch, "graphviz-pure")
    with pytest.raises(UnsupportedError, match=r"dot.*not installed"):
        increments(2).visualize("plan.pdf")
