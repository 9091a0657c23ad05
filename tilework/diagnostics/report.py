"""What computations cost, once they are over: a closing summary as text, and a report as HTML or JSON.

The HTML is one file without scripts or anything from elsewhere. It follows the reader's light or dark setting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from tilework.base.errors import ConfigError
from tilework.base.sizes import format_bytes, format_count, format_time
from tilework.diagnostics.history import BINS, RunRecord, covered_seconds


@dataclass(frozen=True, slots=True)
class StageSummary:
    """All that stages of one label did. ``busy`` is in seconds, added up over workers."""

    label: str
    tasks: int
    busy: float
    read_bytes: int
    made_bytes: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a number of computations cost together.

    Attributes
    ----------
    computations, failed
        How many were run, and how many of them ended in an error.
    tasks, retries
        Tasks finished, and attempts that were repeated.
    read_bytes, written_bytes, made_bytes
        From and to storage; and what all finished blocks weighed.
    wall
        Seconds in which at least one computation went on.
    busy
        Seconds that workers ran tasks, added up.
    workers
        The most that any computation had.
    efficiency
        Share of the workers' time spent in tasks, 0 to 1.
    budget
        The smallest memory budget of any computation.
    predicted
        The highest peak that was predicted for any of them, or None where nobody asked.
    held
        The most that blocks weighed at once.
    measured
        By how many bytes the process grew at most in any computation, or None where nobody measured.
    spilled_bytes
        Bytes of blocks that went to disk.
    stages
        Most expensive first.
    """

    computations: int
    failed: int
    tasks: int
    retries: int
    read_bytes: int
    written_bytes: int
    made_bytes: int
    wall: float
    busy: float
    workers: int
    efficiency: float
    budget: int
    predicted: int | None
    held: int
    measured: int | None
    spilled_bytes: int
    stages: tuple[StageSummary, ...]

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> Summary:
        """Sum up records of runs."""
        available = sum(run.wall * run.workers for run in runs)
        busy = sum(run.busy for run in runs)
        return cls(
            computations=len(runs),
            failed=sum(run.error is not None for run in runs),
            tasks=sum(run.done for run in runs),
            retries=sum(run.retries for run in runs),
            read_bytes=sum(run.read_bytes for run in runs),
            written_bytes=sum(run.written_bytes for run in runs),
            made_bytes=sum(stage.made_bytes for run in runs for stage in run.stages),
            wall=covered_seconds(runs),
            busy=busy,
            workers=max((run.workers for run in runs), default=0),
            efficiency=min(1.0, busy / available) if available else 0.0,
            budget=min((run.budget for run in runs), default=0),
            predicted=max((run.predicted for run in runs if run.predicted is not None), default=None),
            held=max((run.peak_held for run in runs), default=0),
            measured=max((run.grown for run in runs if run.grown is not None), default=None),
            spilled_bytes=sum(run.spilled_total for run in runs),
            stages=_stages(runs),
        )

    def rows(self) -> list[tuple[str, str]]:
        """What to tell, as pairs of a name and a value."""
        if not self.computations:
            return [("computations", "none")]
        tasks = format_count(self.tasks) + (f", {self.retries} retried" if self.retries else "")
        work = f"{format_time(self.busy)} of work on {self.workers} worker{'s' * (self.workers != 1)}"
        memory = [f"predicted {format_bytes(self.predicted)}"] if self.predicted else []  # 0: only delayed calls
        memory += [] if self.measured is None else [f"measured {format_bytes(self.measured)}"]
        memory += [f"blocks {format_bytes(self.held)}", f"budget {format_bytes(self.budget)}"]
        rows = [
            ("computations", f"{self.computations}" + (f", {self.failed} failed" if self.failed else "")),
            ("tasks", tasks),
            (
                "bytes",
                f"{format_bytes(self.read_bytes)} read, {format_bytes(self.written_bytes)} written, "
                f"{format_bytes(self.made_bytes)} made in between",
            ),
            ("wall time", format_time(self.wall)),
            ("parallel efficiency", f"{self.efficiency:.0%} ({work})"),
            ("peak memory", ", ".join(memory)),
        ]
        if self.spilled_bytes:
            rows.append(("spilled to disk", format_bytes(self.spilled_bytes)))
        return rows

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())


def _stages(runs: Sequence[RunRecord]) -> tuple[StageSummary, ...]:
    of: dict[str, list[Any]] = {}
    for run in runs:
        for stage in run.stages:
            sums = of.setdefault(stage.label, [0, 0.0, 0, 0])
            read = stage.read_bytes * stage.done // stage.total if stage.total else 0
            for k, value in enumerate((stage.done, stage.busy, read, stage.made_bytes)):
                sums[k] += value
    stages = [StageSummary(label, *sums) for label, sums in of.items()]
    return tuple(sorted(stages, key=lambda s: -s.busy))


def write_report(path: str | os.PathLike[str], summary: Summary, runs: Sequence[RunRecord], title: str) -> None:
    """Write a report; the ending says how.

    Parameters
    ----------
    path
        ``.html`` or ``.json``. An existing file is replaced.
    summary, runs
        What to report.
    title
        What the computations were for: a script's name.

    Raises
    ------
    ConfigError
        If the ending is another.
    """
    checked = check_report_path(path)
    text = (_json if checked.suffix.lower() == ".json" else _html)(summary, runs, title)
    checked.write_text(text, encoding="utf-8")


def check_report_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a report that can be written there. To be called before the work, not after it."""
    checked = Path(path)
    if checked.suffix.lower() not in (".html", ".htm", ".json"):
        raise ConfigError(f"report {os.fspath(path)!r} must end in .html or .json")
    if not checked.absolute().parent.is_dir():
        raise ConfigError(f"report {os.fspath(path)!r} is in a directory that does not exist; make it first")
    return checked


def _json(summary: Summary, runs: Sequence[RunRecord], title: str) -> str:
    detail = [
        {
            "engine": run.engine,
            "workers": run.workers,
            "budget": run.budget,
            "wall": run.wall,
            "tasks": run.tasks,
            "done": run.done,
            "peak_held": run.peak_held,
            "error": run.error,
            "stages": [asdict(stage) for stage in run.stages],
        }
        for run in runs
    ]
    return json.dumps({"title": title, "summary": asdict(summary), "runs": detail}, indent=1)


# ---------------------------------------------------------------- HTML

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --soft: #5d6b78; --line: #d9dfe5; --page: #fff; --bar: #2a78b8;
        --area: #8cbde0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --soft: #9aa7b3; --line: #37424d; --page: #14191e;
        --bar: #5aa7e0; --area: #2f6894; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); font-weight: normal; }
th { color: var(--soft); } .n { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 30%; } td.bar div { background: var(--bar); height: .7rem; border-radius: 2px; min-width: 1px; }
svg { width: 100%; height: 7rem; display: block; border-bottom: 1px solid var(--line); fill: var(--area); }
figcaption, p { color: var(--soft); } figcaption { margin-bottom: 1rem; } figure { margin: 1rem 0 2rem; }
"""


def _html(summary: Summary, runs: Sequence[RunRecord], title: str) -> str:
    facts = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in summary.rows())
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - tilework</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><table>{facts}</table>"
        f"<h2>Where the time went</h2>{_stage_table(summary)}"
        f"<h2>Computations</h2>{''.join(map(_run_figures, runs)) or '<p>There were none.</p>'}</body></html>\n"
    )


def _stage_table(summary: Summary) -> str:
    most = max((stage.busy for stage in summary.stages), default=0.0) or 1.0
    rows = "".join(
        f'<tr><td>{escape(s.label)}</td><td class="n">{format_count(s.tasks)}</td>'
        f'<td class="n">{format_time(s.busy)}</td>'
        f'<td class="n">{format_bytes(s.read_bytes)}</td><td class="n">{format_bytes(s.made_bytes)}</td>'
        f'<td class="bar"><div style="width:{100 * s.busy / most:.1f}%"></div></td></tr>'
        for s in summary.stages
    )
    head = "".join(f'<th class="n">{name}</th>' for name in ("tasks", "work", "read", "made"))
    return f"<table><tr><th>stage</th>{head}<th></th></tr>{rows}</table>"


def _run_figures(run: RunRecord) -> str:
    if not run.done:
        return ""
    line = run.timeline
    end = min(BINS, int(run.wall / line.width) + 1)
    held = list(line.held[:end])
    for k in range(1, end):  # a bin in which nothing finished holds what the one before it held
        if line.busy[k] and not held[k]:
            held[k] = held[k - 1]
    busy = [seconds / line.width for seconds in line.busy[:end]]
    ended = f", {run.error}" if run.error else ""
    caption = f"{run.engine}, {format_count(run.done)} tasks in {format_time(run.wall)}{ended}"
    return (
        f"<figure>{_area(busy, run.workers)}<figcaption>busy workers, of {run.workers}: {escape(caption)}</figcaption>"
        f"{_area(held, max(held))}"
        f"<figcaption>blocks held, up to {format_bytes(run.peak_held)}</figcaption></figure>"
    )


def _area(values: Sequence[float], top: float) -> str:
    """Values as a filled curve, from 0 to ``top``."""
    top = top or 1
    points = "0,100 "
    for k, value in enumerate(values):
        y = 100 - 100 * min(value / top, 1)
        points += f"{k},{y:.1f} {k + 1},{y:.1f} "
    return (
        f'<svg viewBox="0 0 {len(values)} 100" preserveAspectRatio="none" role="img">'
        f'<polygon points="{points}{len(values)},100"/></svg>'
    )
