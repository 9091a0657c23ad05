from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable

import pytest

import tilework as tw
from tilework.base.errors import UnsupportedError
from tilework.diagnostics import progress
from tilework.diagnostics.progress import ProgressBar
from tilework.engine.events import BatchFinished, RunFinished, RunStarted
from tilework.engine.taskgraph import TaskGraph


class Terminal(io.StringIO):
    """A terminal that tells when a text has been drawn."""

    def __init__(self, waiting_for: str = "") -> None:
        super().__init__()
        self.waiting_for, self.seen = waiting_for, threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.waiting_for in self.getvalue():
            self.seen.set()
        return written


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")


def test_bar_on_a_terminal(graph: TaskGraph, played: Callable[..., None]) -> None:
    terminal = Terminal()
    played(ProgressBar(file=terminal).start_run(), graph)
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("100%|")
    assert "8/8 tasks" in last
    assert "608.0 MiB" in last
    assert "8.0 MiB held" in last
    assert "iB/s" in last
    assert last.endswith("\n")


def test_bar_moves_while_the_run_goes_on(graph: TaskGraph) -> None:
    terminal = Terminal("5/8 tasks")
    listener = ProgressBar(file=terminal).start_run()
    listener(RunStarted(graph, "threads", 2, 2**30, 0.0))
    listener(BatchFinished(0, (0, 1, 2, 3, 4), 0.0, 1.0, 3 * 2**20, 2**20))
    assert terminal.seen.wait(60), terminal.getvalue()
    listener(RunFinished(1.0, 0, 0, None))
    assert "3.0 MiB held, 1.0 MiB spilled" in terminal.getvalue()


def test_one_line_where_nobody_watches(graph: TaskGraph, played: Callable[..., None]) -> None:
    file = io.StringIO()
    played(ProgressBar(file=file).start_run(), graph)
    assert file.getvalue().count("\n") == 1
    assert "\r" not in file.getvalue()
    assert file.getvalue().startswith("100% 8/8 tasks [")


@pytest.mark.parametrize("file", [Terminal, io.StringIO])
@pytest.mark.parametrize(("error", "word"), [(ValueError(), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_run_that_ends_early_stays_where_it_was(
    graph: TaskGraph, played: Callable[..., None], file: type[io.StringIO], error: BaseException, word: str
) -> None:
    out = file()
    played(ProgressBar(file=out).start_run(), graph, 4, error)
    assert f"{word}, " in out.getvalue()
    assert " 4/8 tasks" in out.getvalue()


@pytest.mark.parametrize("file", [Terminal, io.StringIO])
def test_short_runs_show_nothing(graph: TaskGraph, played: Callable[..., None], file: type[io.StringIO]) -> None:
    out = file()
    played(ProgressBar(minimum=1e6, file=out).start_run(), graph)
    assert out.getvalue() == ""


def test_no_thread_is_left(graph: TaskGraph, played: Callable[..., None]) -> None:
    before = set(threading.enumerate())
    played(ProgressBar(file=Terminal()).start_run(), graph)
    assert set(threading.enumerate()) <= before


def test_progress_of_a_real_computation() -> None:
    out = io.StringIO()
    with ProgressBar(file=out):
        tw.compute(*[tw.delayed(int)(k) for k in range(7)])
    assert "7/7 tasks" in out.getvalue()


def test_progress_as_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    tw.compute(tw.delayed(int)(1), progress=True)
    assert "1/1 tasks" in capsys.readouterr().err
    out = io.StringIO()
    with ProgressBar(file=out), tw.config.set(progress=True):
        tw.compute(tw.delayed(int)(1))
    assert "1/1 tasks" in out.getvalue()
    assert capsys.readouterr().err == ""  # one bar, not two


def test_in_a_notebook_without_widgets_text_is_drawn(
    monkeypatch: pytest.MonkeyPatch, graph: TaskGraph, played: Callable[..., None]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", io)  # all that is asked is whether it has been loaded
    out = io.StringIO()
    played(ProgressBar(file=out).start_run(), graph)
    assert "\r100%|" in out.getvalue()


def test_without_tqdm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'tilework\[progress\]'"):
        ProgressBar()


def test_redrawing_is_slow_enough_not_to_matter() -> None:
    assert progress.REDRAW >= 0.1
