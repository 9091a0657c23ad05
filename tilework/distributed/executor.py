"""The standard library's way to a cluster: :class:`concurrent.futures.Executor`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any

from tilework.distributed.future import Future
from tilework.engine.cluster.wire.messages import TaskOptions

if TYPE_CHECKING:
    from tilework.distributed.client import Client


class ClientExecutor(futures.Executor):
    """Runs functions on a client's cluster, with the interface of the standard library.

    Made by :meth:`Client.get_executor`. Its futures are those of the standard library, so that
    ``concurrent.futures.wait`` and ``asyncio.wrap_future`` take them. Several executors may share a client.

    Parameters
    ----------
    client
        Whose cluster it is. It stays open.
    options
        How to run all calls.
    """

    def __init__(self, client: Client, options: TaskOptions) -> None:
        self._client, self._options = client, options
        self._lock = threading.Lock()
        self._is_shut_down = False
        self._running: dict[futures.Future[Any], Future] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Have ``fn(*args, **kwargs)`` called, and return a future of its result.

        Raises
        ------
        RuntimeError
            If the executor was shut down.
        """
        return self._submit(fn, [(args, kwargs)])[0]

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """The results of ``map(fn, *iterables)``, in order; calls run at the same time, and begin at once.

        Parameters
        ----------
        fn, *iterables
            What to call with what.
        timeout
            Seconds from now, after which the iterator raises TimeoutError.
        chunksize
            Calls in a task.
        **kwargs
            Nothing else is understood.
        """
        if kwargs:
            raise TypeError(f"map() has no argument {', '.join(kwargs)}")
        if chunksize < 1:
            raise ValueError(f"chunksize={chunksize!r} is too small; use a whole number from 1 up")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            return _results(self._submit(fn, [(args, {}) for args in calls]), deadline)
        parts = iter(lambda: list(itertools.islice(calls, chunksize)), [])
        results = _results(self._submit(partial(_call_each, fn), [((part,), {}) for part in parts]), deadline)
        return itertools.chain.from_iterable(results)

    def _submit(self, fn: Callable[..., Any], calls: list[tuple[Any, Any]]) -> list[futures.Future[Any]]:
        outer: list[futures.Future[Any]] = [futures.Future() for _ in calls]
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            inner = self._client.call(fn, calls, self._options) if calls else []
            self._running.update(zip(outer, inner, strict=True))
        for future, running in zip(outer, inner, strict=True):
            future.add_done_callback(self._is_done)
            self._client.link.call_when_done(running.state, partial(_deliver, running, future))
        return outer

    def _is_done(self, outer: futures.Future[Any]) -> None:
        inner = self._running.pop(outer, None)
        if inner is not None and outer.cancelled() and not inner.done():
            inner.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. The client and its cluster stay.

        Parameters
        ----------
        wait
            Whether to wait for those that there are.
        cancel_futures
            Whether to cancel those that have not begun.
        """
        with self._lock:
            self._is_shut_down = True
            running = list(self._running)
        if cancel_futures:
            for future in running:
                future.cancel()
        if wait:
            futures.wait(running)


def _deliver(inner: Future, outer: futures.Future[Any]) -> None:
    """The cluster is done: so is the future of the standard library, unless it was cancelled."""
    if inner.cancelled():
        outer.cancel()
    if not outer.set_running_or_notify_cancel():
        return
    try:
        result = inner.result()
    except BaseException as error:
        outer.set_exception(error)
    else:
        outer.set_result(result)


def _results(running: list[futures.Future[Any]], deadline: float | None) -> Iterator[Any]:
    def results() -> Iterator[Any]:
        left = running[::-1]
        try:
            while left:
                seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
                yield left.pop().result(seconds)
        finally:
            for future in left:
                future.cancel()

    return results()


def _call_each(fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
    return [fn(*args) for args in calls]
