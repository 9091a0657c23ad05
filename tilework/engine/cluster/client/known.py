"""What a client knows of its futures."""

from __future__ import annotations

import threading
from collections.abc import Callable

PENDING, FINISHED, ERROR, CANCELLED, LOST = "pending", "finished", "error", "cancelled", "lost"


class State:
    """What a client knows of a future.

    Attributes
    ----------
    number
        Names the future in the cluster.
    label
        What it is of: the name of a function, for example.
    given_key
        The key that the user has chosen.
    status
        PENDING, FINISHED, ERROR, CANCELLED, or LOST: the connection was over before it was done.
    value
        Its pickled value once finished, if that is small. Otherwise the scheduler knows where it is.
    size
        Bytes of memory that the value takes.
    error
        The pickled error.
    references
        How many Future objects there are. Changed only with the lock for sending.
    """

    __slots__ = ("error", "given_key", "label", "listeners", "number", "references", "size", "status", "value")

    def __init__(self, number: int, label: str, given_key: str | None = None) -> None:
        self.number = number
        self.label = label
        self.given_key = given_key
        self.status = PENDING
        self.value: bytes | None = None
        self.size = 0
        self.error = b""
        self.references = 1
        self.listeners: list[Callable[[State], object]] | None = None

    @property
    def key(self) -> str:
        """Names the future to people."""
        return self.given_key or f"{self.label}-{self.number:x}"

    def settle(self, status: str) -> None:
        """It is done, or otherwise at an end. What goes with the status has been set before."""
        self.status = status
        self._tell()

    def listen(self, listener: Callable[[State], object]) -> None:
        """Have ``listener`` called once it is done, by whoever reads: it must return at once, and not raise."""
        with _listening:
            if self.listeners is None:
                self.listeners = []
            self.listeners.append(listener)
        if self.status != PENDING:
            self._tell()

    def _tell(self) -> None:
        """Each listener once, however many threads come here."""
        listeners = self.listeners
        while listeners:
            try:
                listener = listeners.pop(0)
            except IndexError:  # another thread took the last
                return
            listener(self)


_listening = threading.Lock()
