"""What an array looks like in a notebook: its facts beside a picture of its chunks.

Lines and text have the colour of the text around them, so that the picture is right on light and dark pages; blocks
are tinted by the same translucent orange on both. Nothing needs a script or a style sheet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from math import isnan, prod
from typing import Any

import numpy as np

from tilework.base.sizes import format_bytes, format_count
from tilework.plan.blocks import AxisChunks, Chunks

LONGEST = 140.0
"""Pixels along the longest axis."""
FLATTEST = 0.14
"""How short the shortest axis is drawn, relative to the longest."""
MOST_LINES = 60
"""An axis of more blocks is drawn without lines between them, but in a deeper tint."""

Point = tuple[float, float]


def array_html(
    label: str, shape: Sequence[Any], dtype: np.dtype[Any], chunks: Chunks, chunksize: Sequence[Any], nbytes: Any
) -> str:
    """A table of facts, and the picture."""
    blocks = prod(map(len, chunks))
    block_bytes = prod(chunksize) * dtype.itemsize
    rows = [
        ("", "Array", "Block"),
        ("Bytes", _size(nbytes), _size(block_bytes)),
        ("Shape", _tuple(shape), _tuple(chunksize)),
        ("Blocks", f"{format_count(blocks)} of {escape(label)}", _tuple(map(len, chunks))),
        ("Type", escape(str(dtype)), "numpy.ndarray"),
    ]
    cells = "".join(
        "<tr>" + "".join(f"<{tag} style='text-align:left;padding:2px 8px'>{cell}</{tag}>" for cell in row) + "</tr>"
        for row, tag in zip(rows, ("th", "td", "td", "td", "td"), strict=True)
    )
    pictures = "".join(picture(part) for part in _panels(chunks))
    return (
        "<div style='display:flex;flex-wrap:wrap;align-items:center;gap:24px'>"
        f"<table style='border-collapse:collapse'>{cells}</table>{pictures}</div>"
    )


def array_svg(chunks: Chunks, size: int) -> str:
    """The picture alone, as a document ``size`` pixels wide."""
    panels = [picture(part) for part in _panels(chunks)]
    width, height = 2.4 * LONGEST, 1.7 * LONGEST  # enough for any of them
    inner = "".join(panel.replace("<svg ", f"<svg x='{k * width:.0f}' ", 1) for k, panel in enumerate(panels))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{size}' "
        f"viewBox='0 0 {max(1, len(panels)) * width:.0f} {height:.0f}'>{inner}</svg>"
    )


def _size(nbytes: Any) -> str:
    return "unknown" if isnan(nbytes) else format_bytes(nbytes)


def _tuple(lengths: Iterable[Any]) -> str:
    items = ["?" if n != n else str(n) for n in lengths]
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _panels(chunks: Chunks) -> list[Chunks]:
    """At most three axes to a picture; the last axes together."""
    first = len(chunks) % 3
    cuts = [chunks[:first]] + [chunks[k : k + 3] for k in range(first, len(chunks), 3)]
    return [part for part in cuts if part]


# ---------------------------------------------------------------- drawing


def picture(chunks: Chunks) -> str:
    """SVG of the blocks of an array of one, two or three axes."""
    lengths = _lengths(chunks)
    cuts = [_cuts(axis, length) for axis, length in zip(chunks, lengths, strict=True)]
    if len(chunks) == 1:
        faces = [((0.0, 0.0), (1.0, 0.0), cuts[0], (0.0, 1.0), [0.0, LONGEST * FLATTEST], 0)]
        width, height = lengths[0], LONGEST * FLATTEST
        texts = [((width / 2, height + 16), _name(chunks[0]), "middle")]
    elif len(chunks) == 2:
        faces = [((0.0, 0.0), (1.0, 0.0), cuts[1], (0.0, 1.0), cuts[0], 0)]
        width, height = lengths[1], lengths[0]
        texts = [
            ((width / 2, height + 16), _name(chunks[1]), "middle"),
            ((width + 6, height / 2 + 4), _name(chunks[0]), "start"),
        ]
    else:
        depth, back = lengths[0], (0.6, 0.45)  # the first axis runs into the depth, down to the right
        width, height = depth * back[0] + lengths[2], depth * back[1] + lengths[1]
        corner = (depth * back[0], depth * back[1])
        faces = [
            ((0.0, 0.0), (1.0, 0.0), cuts[2], back, cuts[0], 2),
            ((0.0, 0.0), (0.0, 1.0), cuts[1], back, cuts[0], 1),
            (corner, (1.0, 0.0), cuts[2], (0.0, 1.0), cuts[1], 0),
        ]
        texts = [
            ((corner[0] + lengths[2] / 2, height + 16), _name(chunks[2]), "middle"),
            ((width + 6, corner[1] + lengths[1] / 2 + 4), _name(chunks[1]), "start"),
            ((corner[0] / 2 - 6, lengths[1] + corner[1] / 2 + 14), _name(chunks[0]), "end"),
        ]
    dense = max(map(len, chunks)) > MOST_LINES
    body = "".join(_face(*face, dense=dense) for face in faces)
    body += "".join(
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='currentColor' stroke='none'>{text}</text>"
        for (x, y), text, anchor in texts
    )
    left, right = (50 if len(chunks) == 3 else 4), 60
    return (
        f"<svg width='{width + left + right:.0f}' height='{height + 28:.0f}' role='img' "
        f"viewBox='{-left} -4 {width + left + right:.0f} {height + 28:.0f}' stroke='currentColor' fill='#e8883a' "
        "style='font:12px sans-serif'>"
        f"<title>chunks {escape(' x '.join(str(len(axis)) for axis in chunks))}</title>{body}</svg>"
    )


def _lengths(chunks: Chunks) -> list[float]:
    """Pixels along each axis: long and short axes are brought nearer to each other."""
    totals = [float(axis.total) if axis.known else float(len(axis)) for axis in chunks]
    longest = max(1.0, *totals)
    return [LONGEST * max(FLATTEST, (n / longest) ** 0.5) for n in totals]


def _cuts(axis: AxisChunks, length: float) -> list[float]:
    """Where the lines between blocks are."""
    if len(axis) > MOST_LINES or not axis.total:
        return [0.0, length]
    if not axis.known:
        return np.linspace(0, length, len(axis) + 1).tolist()
    return (axis.bounds * (length / axis.total)).tolist()


def _name(axis: AxisChunks) -> str:
    return str(axis.total) if axis.known else "?"


def _face(
    origin: Point, right: Point, across: Sequence[float], down: Point, along: Sequence[float], shade: int, dense: bool
) -> str:
    """A parallelogram of blocks: lines at distances ``across`` in one direction and ``along`` in the other."""

    def at(a: float, b: float) -> str:
        x = origin[0] + a * right[0] + b * down[0]
        y = origin[1] + a * right[1] + b * down[1]
        return f"{x:.1f},{y:.1f}"

    outline = " ".join((at(0, 0), at(across[-1], 0), at(across[-1], along[-1]), at(0, along[-1])))
    lines = [f"M{at(a, 0)}L{at(a, along[-1])}" for a in across[1:-1]]
    lines += [f"M{at(0, b)}L{at(across[-1], b)}" for b in along[1:-1]]
    opacity = (0.45, 0.6, 0.3)[shade] + (0.25 if dense else 0)
    return (
        f"<polygon points='{outline}' fill-opacity='{opacity:.2f}' stroke-width='1.5'/>"
        f"<path d='{''.join(lines)}' fill='none' stroke-width='0.7' stroke-opacity='0.7'/>"
    )
