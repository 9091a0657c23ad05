"""The progress bar: tasks done, bytes, rate, time left and memory held, on a terminal or in a notebook.

Events only count; a thread draws ten times a second. A task therefore costs nothing extra, however many there are, and
the clock goes on ticking through a task of minutes. Where nobody can watch (a log file, a batch job), each computation
leaves one line, at its end.

The drawing itself is tqdm's (extra ``progress``), which knows terminals and notebooks.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from typing import Any, TextIO

from tilework.base.errors import UnsupportedError
from tilework.base.sizes import format_bytes
from tilework.diagnostics.history import RunRecord
from tilework.diagnostics.listeners import Observer
from tilework.engine.events import Listener, RunEvent, RunFinished, RunStarted

REDRAW = 0.1
"""Seconds between two drawings."""

_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} tasks [{elapsed}<{remaining}{postfix}]"
_LINE = "{percentage:3.0f}% {n_fmt}/{total_fmt} tasks [{elapsed}{postfix}]"


class ProgressBar(Observer):
    """Shows how computations get on.

    Parameters
    ----------
    minimum
        Computations that take fewer seconds show nothing.
    file
        Where to draw; standard error by default.

    Raises
    ------
    UnsupportedError
        If tqdm is not installed.

    Examples
    --------
    >>> with ProgressBar():
    ...     pass  # compute something here
    """

    exclusive = True  # two bars for one computation would draw over each other

    def __init__(self, minimum: float = 0.0, file: TextIO | None = None) -> None:
        self.minimum = minimum
        self.file = file
        self._bar_class = _load_bar_class()

    def start_run(self) -> Listener:
        return _RunBar(self._bar_class, self.minimum, self.file or sys.stderr)


def _load_bar_class() -> type[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it complains about notebooks without widgets, and draws text there
            from tqdm.auto import tqdm
    except ImportError as error:
        raise UnsupportedError(
            "the progress bar is drawn by tqdm, which is not installed; pip install 'tilework[progress]'"
        ) from error
    # tqdm's own watchdog thread would outlive the bar; ours draws often enough.
    return type("Bar", (tqdm,), {"monitor_interval": 0})


class _RunBar:
    """The bar of one run. Events come from the engine's threads; ``_watch`` draws in a thread of its own."""

    def __init__(self, bar_class: type[Any], minimum: float, file: TextIO) -> None:
        self._record = RunRecord()
        self._bar_class = bar_class
        self._minimum = minimum
        self._file = file
        self._live = "ipykernel" in sys.modules or file.isatty()
        self._bar: Any = None  # made when it is first drawn
        self._began = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tilework-progress", daemon=True)

    def __call__(self, event: RunEvent) -> None:
        self._record(event)
        if isinstance(event, RunStarted):
            self._began = time.time()
            if self._live:
                self._thread.start()
        elif isinstance(event, RunFinished):
            self._over.set()
            if self._live:
                self._thread.join()
            self._finish(event.error)

    def _watch(self) -> None:
        while not self._over.wait(REDRAW):
            if time.time() - self._began >= self._minimum:
                self._draw()

    def _draw(self, note: str = "") -> None:
        if self._bar is None:
            self._bar = self._bar_class(
                total=self._record.tasks, file=self._file, bar_format=_FORMAT, dynamic_ncols=True, delay=1e-9
            )  # with a delay it draws nothing yet: the first drawing is below, with everything in it
            self._bar.start_t = self._began
        self._bar.n = self._record.done
        self._bar.set_postfix_str(self._figures(note), refresh=False)
        self._bar.refresh()

    def _figures(self, note: str) -> str:
        record, wall = self._record, time.time() - self._began
        parts = [note] if note else []
        if record.bytes_done:  # of delayed calls nothing is known
            parts += [format_bytes(record.bytes_done), f"{format_bytes(record.bytes_done / max(wall, 1e-6))}/s"]
        parts.append(f"{format_bytes(record.held)} held")
        if record.spilled:
            parts.append(f"{format_bytes(record.spilled)} spilled")
        return ", ".join(parts)

    def _finish(self, error: BaseException | None) -> None:
        wall = time.time() - self._began
        note = "" if error is None else "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if self._live and (self._bar is not None or wall >= self._minimum):
            self._draw(note)
            self._bar.close()
        elif not self._live and wall >= self._minimum:
            record = self._record
            line = self._bar_class.format_meter(
                record.done, record.tasks, wall, bar_format=_LINE, postfix=self._figures(note)
            )
            self._file.write(line + "\n")
            self._file.flush()
