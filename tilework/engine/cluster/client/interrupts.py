"""Ctrl-C while a message is half read or half written: it waits until that is over.

Python raises KeyboardInterrupt between any two instructions of the main thread: while messages have been taken from the
socket and not yet been looked at, or when a lock has been taken that nobody will give back. So a conversation runs
inside :class:`Deferred`, which puts a handler of its own in place of the program's and hands over to it where that is
harmless. It uses the C functions: those of ``signal`` convert to enums and back, which takes ten times as long.
"""

from __future__ import annotations

import os
import threading
import time
from _signal import getsignal, signal  # type: ignore[import-not-found]
from _thread import start_new_thread
from collections.abc import Callable
from signal import SIGINT
from types import FrameType, TracebackType
from typing import Any


class Deferred:
    """While it is entered, Ctrl-C is remembered, and handled at its end, or at once while ``open``.

    In other threads than the main one nothing happens, for Ctrl-C never does either. A second Ctrl-C is not deferred:
    whoever presses it twice means it.

    Parameters
    ----------
    destroying
        Whether an object may be in the midst of being destroyed. Exceptions are ignored there, so Ctrl-C is repeated a
        moment later.
    """

    __slots__ = ("_destroying", "_handler", "_pending", "open")

    def __init__(self, destroying: bool = False) -> None:
        self._destroying = destroying
        self._handler: Callable[[int, FrameType | None], Any] | None = None
        self._pending = False
        self.open = False

    def __enter__(self) -> Deferred:
        if threading.get_ident() == threading.main_thread().ident:
            handler = getsignal(SIGINT)
            if callable(handler) and not isinstance(getattr(handler, "__self__", None), Deferred):
                self._handler = handler
                signal(SIGINT, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        handler = self._handler
        if handler is not None:
            self._handler = None
            signal(SIGINT, handler)
            if self._pending and self._destroying:
                start_new_thread(_press_later, ())
            elif self._pending:
                handler(SIGINT, None)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if (self.open or self._pending) and self._handler is not None:
            self._pending = False
            self._handler(number, frame)
        else:
            self._pending = True

    def call(self, wait: Callable[[float], Any], seconds: float) -> None:
        """Wait in a way that Ctrl-C ends: ``wait`` must be harmless to abandon."""
        self.open = True
        try:
            if self._pending and self._handler is not None:
                self._pending = False
                self._handler(SIGINT, None)
            wait(seconds)
        finally:
            self.open = False


def _press_later() -> None:
    time.sleep(0.01)
    os.kill(os.getpid(), SIGINT)
