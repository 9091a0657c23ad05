"""What has happened in a cluster, for people: a bounded list of events, and the last lines of each process's log."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from typing import Final

EVENTS: Final = 200
LINES: Final = 1000  # of each log


class Journal:
    """Events and logs."""

    def __init__(self) -> None:
        self.events: deque[tuple[float, str, str]] = deque(maxlen=EVENTS)  # time, level, text
        self._logs: dict[str, deque[str]] = {"scheduler": deque(maxlen=LINES)}

    def note(self, level: str, text: str) -> None:
        """Something has happened; ``level`` is ``"info"``, ``"warning"`` or ``"error"``."""
        self.events.append((time.time(), level, text))
        self.log("scheduler", logging.getLevelNamesMapping()[level.upper()], text)

    def log(self, name: str, level: int, text: str) -> None:
        """A process has something to tell."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {logging.getLevelName(level)} {text}"
        self._logs.setdefault(name, deque(maxlen=LINES)).append(line)

    def bug(self, where: str, trace: str) -> None:
        """A bug of ours: the user should see it as well."""
        self.note("error", f"{where}\n{trace}")
        sys.stderr.write(f"tilework: {where}\n{trace}")

    def logs(self) -> dict[str, str]:
        """All logs, by name."""
        return {name: "\n".join(lines) for name, lines in self._logs.items()}
