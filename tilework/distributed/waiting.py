"""Waiting for several futures: for all, for the first, for each as it comes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, TextIO

from tilework.base.errors import ConfigError
from tilework.base.sizes import format_count, format_time, parse_time
from tilework.distributed.future import Future, futures_of, link_of
from tilework.engine.cluster.client.known import FINISHED, PENDING, State
from tilework.engine.cluster.client.link import Link

ALL_COMPLETED = "ALL_COMPLETED"
FIRST_COMPLETED = "FIRST_COMPLETED"
FIRST_EXCEPTION = "FIRST_EXCEPTION"

REDRAW = 0.1
"""Seconds between two drawings of a progress bar."""


class DoneAndNotDoneFutures(NamedTuple):
    """What ``wait`` returns."""

    done: set[Future]
    not_done: set[Future]


def wait(futures: Any, timeout: float | str | None = None, return_when: str = ALL_COMPLETED) -> DoneAndNotDoneFutures:
    """Wait until futures are done, in whatever way. Their values stay where they are.

    Parameters
    ----------
    futures
        Futures, or persisted collections, in containers of any kind.
    timeout
        Seconds, or text such as ``"10 s"``.
    return_when
        ``"ALL_COMPLETED"``, ``"FIRST_COMPLETED"``, or ``"FIRST_EXCEPTION"``: all, or one that failed.

    Returns
    -------
    DoneAndNotDoneFutures
        ``done`` and ``not_done``, two sets.

    Raises
    ------
    TimeoutError
        If it is not so in time.
    """
    found = futures_of(futures)
    seconds = None if timeout is None else parse_time(timeout, "timeout")
    if found:
        states = [future.state for future in found]
        link = link_of(found)
        if return_when == ALL_COMPLETED:
            done = link.wait_done(states, seconds)
        elif return_when == FIRST_EXCEPTION:
            done = link.wait_done(states, seconds, until_failure=True)
        elif return_when == FIRST_COMPLETED:
            done = link.wait(lambda: any(state.status != PENDING for state in states), seconds)
        else:
            raise ConfigError(
                f'return_when={return_when!r} is none of "{ALL_COMPLETED}", "{FIRST_COMPLETED}", "{FIRST_EXCEPTION}"'
            )
        if not done:
            n = sum(state.status == PENDING for state in states)
            raise TimeoutError(
                f"{n} of {len(states)} futures are not done after {seconds:g} s; they go on being computed"
            )
    return DoneAndNotDoneFutures(
        {future for future in found if future.state.status != PENDING},
        {future for future in found if future.state.status == PENDING},
    )


class as_completed:
    """Futures, in the order in which they are done. An iterator, also for ``async for``; more can be added meanwhile.

    Parameters
    ----------
    futures
        Of one client.
    with_results
        Whether to give ``(future, result)`` pairs.
    raise_errors
        With results: whether to raise what a task raised. Otherwise the exception takes the place of the result.
    timeout
        Seconds, or text such as ``"10 s"``, from now on, after which TimeoutError is raised.

    Examples
    --------
    >>> from tilework.distributed import Client
    >>> with Client(n_workers=1) as client:
    ...     sorted(future.result() for future in as_completed(client.map(abs, [-1, 2])))
    [1, 2]
    """

    def __init__(
        self,
        futures: Iterable[Future] = (),
        with_results: bool = False,
        raise_errors: bool = True,
        *,
        timeout: float | str | None = None,
    ) -> None:
        self._with_results, self._raise_errors = with_results, raise_errors
        self._deadline = None if timeout is None else time.monotonic() + parse_time(timeout, "timeout")
        self._link: Link | None = None
        self._pending: dict[int, list[Future]] = {}  # by number
        self._ready: deque[Future] = deque()
        self._wakers: list[Callable[[], object]] = []
        self.update(futures)

    def update(self, futures: Iterable[Future]) -> None:
        """Add futures. One that is added twice comes twice."""
        futures = list(futures)
        for future in futures:
            if not isinstance(future, Future):
                raise TypeError(f"{future!r} is no future")
        if not futures:
            return
        link = link_of(futures)
        if self._link not in (None, link):
            raise ValueError("the futures belong to several clients; wait for those of one client at a time")
        self._link = link
        for future in futures:
            known = self._pending.setdefault(future.number, [])
            known.append(future)
            if len(known) == 1:
                future.state.listen(self._done)

    def add(self, future: Future) -> None:
        """Add a future."""
        self.update([future])

    def _done(self, state: State) -> None:
        self._ready.extend(self._pending.pop(state.number, ()))
        for wake in list(self._wakers):
            wake()

    def count(self) -> int:
        """How many futures are still to come."""
        return sum(map(len, list(self._pending.values()))) + len(self._ready)

    def is_empty(self) -> bool:
        """Whether none are to come."""
        return not self.count()

    def has_ready(self) -> bool:
        """Whether one can be had without waiting."""
        if self._link is not None and not self._ready:
            self._link.poll()
        return bool(self._ready)

    def clear(self) -> None:
        """Forget all futures."""
        self._pending.clear()
        self._ready.clear()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.is_empty():
            raise StopIteration
        assert self._link is not None
        if not self._link.wait(lambda: self._ready, self._left()):
            raise self._late()
        return self._outcomes(1)[0]

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _late(self) -> TimeoutError:
        return TimeoutError(f"{self.count()} futures are not done in time; they go on being computed")

    def next_batch(self, block: bool = True) -> list[Any]:
        """All that are done now; with ``block`` wait until there is one."""
        first = [next(self)] if block else []
        if not block:
            self.has_ready()
        return first + self._outcomes(len(self._ready))

    def batches(self) -> Iterator[list[Any]]:
        """All that are done at a time, as lists."""
        while not self.is_empty():
            yield self.next_batch()

    def _outcomes(self, n: int) -> list[Any]:
        futures = [self._ready.popleft() for _ in range(n)]
        if not self._with_results:
            return futures
        assert self._link is not None
        finished = [future for future in futures if future.state.status == FINISHED]
        loaded = dict(zip(finished, self._link.load([future.state for future in finished]), strict=True))
        return [(future, loaded[future] if future in loaded else self._failed(future)) for future in futures]

    def _failed(self, future: Future) -> BaseException:
        assert self._link is not None
        failure = self._link.failure(future.state)
        if self._raise_errors:
            raise failure
        return failure

    def __aiter__(self) -> as_completed:
        return self

    async def __anext__(self) -> Any:
        if self.is_empty():
            raise StopAsyncIteration
        if not self.has_ready():
            await self._become_ready()
        return self._outcomes(1)[0]

    async def _become_ready(self) -> None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(event.set)

        assert self._link is not None
        self._wakers.append(wake)
        try:
            self._link.read_always()
            while not self._ready:
                try:
                    await asyncio.wait_for(event.wait(), self._left())
                except TimeoutError:
                    raise self._late() from None
                event.clear()
        finally:
            self._wakers.remove(wake)

    def __repr__(self) -> str:
        return f"<as_completed: waiting={self.count() - len(self._ready)} done={len(self._ready)}>"


def fire_and_forget(futures: Any) -> None:
    """Have futures computed although nobody keeps them. Their values are dropped then.

    Parameters
    ----------
    futures
        A future, or containers of futures.
    """
    found = futures_of(futures)
    if found:
        link_of(found).request("fire_and_forget", [future.number for future in found])


def progress(*futures: Any, file: TextIO | None = None) -> None:
    """Show on a terminal how many futures are done, until all are.

    Parameters
    ----------
    *futures
        Futures, or persisted collections, in containers of any kind.
    file
        Where to draw; standard error by default. Where nobody can watch, there is one line at the end.
    """
    found = futures_of(futures)
    if not found:
        return
    file = file or sys.stderr
    live = file.isatty()
    states = [future.state for future in found]
    link, began = link_of(found), time.monotonic()
    done = False
    try:
        while not done:
            done = link.wait_done(states, REDRAW if live else None)
            if live:
                file.write("\r" + _bar(states, time.monotonic() - began))
                file.flush()
    finally:
        file.write("\n" if live else _bar(states, time.monotonic() - began) + "\n")
        file.flush()


def _bar(states: list[State], seconds: float) -> str:
    done = sum(state.status != PENDING for state in states)
    failed = sum(state.status not in (PENDING, FINISHED) for state in states)
    width = 40 * done // len(states)
    note = f", {format_count(failed)} failed" if failed else ""
    return (
        f"[{'#' * width}{' ' * (40 - width)}] {format_count(done)}/{format_count(len(states))} futures{note} "
        f"[{format_time(seconds)}]"
    )
