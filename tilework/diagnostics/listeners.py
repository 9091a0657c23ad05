"""Who listens to computations: observers that are registered, and the one listener that a run reports to.

An :class:`Observer` makes one fresh listener for every run. Events do not say which run they belong to, and several
may go on at once, so a listener belongs to exactly one. An observer is active inside its ``with`` statement, for
computations that are started in the same thread or asyncio task, or everywhere between ``register()`` and
``unregister()``.

Nobody registered means no listener, and the engine then spends nothing on events.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import ClassVar, Self

from tilework.engine.events import Listener, RunEvent

_everywhere: list[Observer] = []
_here: ContextVar[tuple[Observer, ...]] = ContextVar("tilework-observers", default=())


class Observer(ABC):
    """Something that wants to hear of computations: a context manager, or registered everywhere."""

    exclusive: ClassVar[bool] = False
    """Of several active observers of this class only the innermost hears of a run."""

    _token: Token[tuple[Observer, ...]] | None = None

    @abstractmethod
    def start_run(self) -> Listener:
        """Return a listener for one run. Called once for each, before its first event."""

    def register(self) -> Self:
        """Listen to all computations of this process from now on."""
        if self not in _everywhere:
            _everywhere.append(self)
        return self

    def unregister(self) -> None:
        """Undo :meth:`register`; does nothing if it is not registered."""
        if self in _everywhere:
            _everywhere.remove(self)

    def __enter__(self) -> Self:
        self._token = _here.set((*_here.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _here.reset(self._token)
            self._token = None


def for_run(extra: Iterable[Observer] = ()) -> Listener | None:
    """Return the listener for one run that starts here and now, or None if nobody listens.

    Parameters
    ----------
    extra
        Observers to add, outermost.
    """
    observers: dict[object, Observer] = {}
    for observer in (*extra, *_everywhere, *_here.get()):
        observers[type(observer) if observer.exclusive else observer] = observer
    return _Guard([observer.start_run() for observer in observers.values()]) if observers else None


class _Guard:
    """Passes events on to several listeners. One that raises is dropped with a warning: the computation goes on."""

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners

    def __call__(self, event: RunEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as error:
                self._listeners.remove(listener)
                warnings.warn(
                    f"{type(listener).__name__} raised {error!r} and no longer listens", RuntimeWarning, stacklevel=2
                )
