from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tilework.base.errors import ConfigError
from tilework.diagnostics.history import RunRecord
from tilework.diagnostics.report import Summary, check_report_path, write_report
from tilework.engine.taskgraph import TaskGraph

MIB = 2**20


@pytest.fixture
def runs(graph: TaskGraph, played: Callable[..., None]) -> list[RunRecord]:
    good, bad = RunRecord(), RunRecord()
    played(good, graph)
    played(bad, graph, 3, ValueError("<no>"))
    good.predicted, good.grown, good.retries, good.spilled_total = 9 * MIB, 10 * MIB, 2, 5 * MIB
    return [good, bad]


def test_summary_adds_up(runs: list[RunRecord]) -> None:
    summary = Summary.of(runs)
    assert (summary.computations, summary.failed, summary.tasks, summary.retries) == (2, 1, 11, 2)
    assert (summary.read_bytes, summary.written_bytes, summary.made_bytes) == (900 * MIB, 10 * MIB, 11 * MIB)
    assert (summary.wall, summary.busy, summary.workers) == (4.0, 11.0, 2)  # they overlap in time
    assert summary.efficiency == pytest.approx(11 / 12)
    assert (summary.budget, summary.predicted, summary.held, summary.measured) == (
        1000 * MIB,
        9 * MIB,
        8 * MIB,
        10 * MIB,
    )
    assert summary.spilled_bytes == 5 * MIB
    assert [(s.label, s.tasks, s.busy) for s in summary.stages] == [("load", 9, 9.0), ("mean", 2, 2.0)]


def test_summary_as_text(runs: list[RunRecord]) -> None:
    text = str(Summary.of(runs))
    for part in [
        "2, 1 failed",
        "11, 2 retried",
        "900.0 MiB read, 10.0 MiB written, 11.0 MiB made in between",
        "4 s",
        "92% (11 s of work on 2 workers)",
        "predicted 9.0 MiB, measured 10.0 MiB, blocks 8.0 MiB, budget 1000.0 MiB",
        "spilled to disk      5.0 MiB",
    ]:
        assert part in text


def test_summary_of_nothing() -> None:
    assert str(Summary.of([])) == "computations  none"


def test_what_is_not_known_is_not_said(runs: list[RunRecord]) -> None:
    text = str(Summary.of(runs[1:]))
    assert "predicted" not in text
    assert "measured" not in text


def test_json_report(runs: list[RunRecord], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(path, Summary.of(runs), runs, "script.py")
    report = json.loads(path.read_text())
    assert report["title"] == "script.py"
    assert report["summary"]["tasks"] == 11
    assert [run["error"] for run in report["runs"]] == [None, "ValueError: <no>"]
    assert report["runs"][0]["stages"][0]["label"] == "load"


class Checker(HTMLParser):
    """Collects text and tags; notices what is not closed and what comes from elsewhere."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_html_report(runs: list[RunRecord], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, Summary.of(runs), runs, "a<b>.py")
    checker = Checker()
    checker.feed(path.read_text())
    assert checker.open == []
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert checker.tags.count("svg") == 4
    for part in ["a<b>.py", "load", "ValueError: <no>", "92%", "prefers-color-scheme: dark"]:
        assert part in checker.text


def test_html_report_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, Summary.of([]), [], "script.py")
    assert "There were none." in path.read_text()


def test_bad_places_for_a_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'report\.pdf' must end in \.html or \.json"):
        check_report_path("report.pdf")
    with pytest.raises(ConfigError, match="does not exist"):
        check_report_path(tmp_path / "missing" / "report.html")
