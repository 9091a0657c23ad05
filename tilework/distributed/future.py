"""Futures: what users hold of a value that is on a cluster, or is being made there."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tilework import session
from tilework.base.errors import ClusterClosedError, TileworkError
from tilework.base.sizes import parse_time
from tilework.delayed.core import Delayed
from tilework.distributed import html, registry
from tilework.engine.cluster.client.known import ERROR, FINISHED, PENDING, State
from tilework.engine.cluster.client.link import Link
from tilework.plan import build
from tilework.plan.ops import Node

if TYPE_CHECKING:
    from tilework.distributed.client import Client


class Future:
    """A value on a cluster. Made by :meth:`Client.submit` and its kin; as an argument of a task it means the value.

    The value is kept, and its task is wanted, as long as a Future for it exists somewhere. Futures can be pickled:
    where they are unpickled there must be a Client of the same cluster, or a task of it, and the original must be kept
    until then.

    Attributes
    ----------
    client
        The client that it belongs to.
    key
        Names the value.
    state
        What the client knows of it.

    Examples
    --------
    >>> from tilework.distributed import Client
    >>> client = Client(n_workers=1)
    >>> future = client.submit(sum, [1, 2])
    >>> future.result()
    3
    >>> client.close()
    """

    __slots__ = ("__weakref__", "_released", "_type", "client", "state")

    def __init__(self, client: Client, state: State) -> None:
        self.client = client
        self.state = state
        self._released = False
        self._type: type | None = None

    def __del__(self) -> None:
        with suppress(AttributeError):  # of one that was not finished, or at the interpreter's end
            if not self._released:
                self.client.link.drop(self.state)

    # ------------------------------------------------------------ what it is

    @property
    def number(self) -> int:
        """The future's number on its cluster."""
        return self.state.number

    @property
    def cluster(self) -> str:
        """What tells clusters apart: the address."""
        return self.client.link.welcome.address

    @property
    def key(self) -> str:
        return self.state.key

    @property
    def node(self) -> Node:
        """Plan node of the value: a future is something lazy like others, inside plans and for ``compute``."""
        return build.held_value(self, self.state.label)

    def __tilework_rebuild__(self, node: Node) -> Future | Delayed:
        return self if getattr(node, "handle", None) is self else Delayed(node)

    @property
    def status(self) -> str:
        """How it stands: ``"pending"``, ``"finished"``, ``"error"``, ``"cancelled"``, or ``"lost"``.

        It is lost if its client was closed, or the cluster ended, before it was done.
        """
        if self.state.status == PENDING:
            with suppress(TileworkError):
                self.client.link.poll()
        return self.state.status

    @property
    def type(self) -> builtins.type | None:
        """Class of the value, as far as it is known here without fetching anything; None otherwise."""
        if self._type is None and self.state.value is not None and self.status == FINISHED:
            with suppress(Exception):  # a class that cannot be unpickled here
                self._type = type(self.client.link.load([self.state])[0])
        return self._type

    def done(self) -> bool:
        """Whether it is not pending any more: finished, failed, cancelled or lost."""
        return self.status != PENDING

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.status == "cancelled"

    # ------------------------------------------------------------ waiting for it

    def result(self, timeout: float | str | None = None) -> Any:
        """Wait for the value and return it.

        Large arrays are views of memory that is shared with the cluster, and cannot be written to.

        Parameters
        ----------
        timeout
            Seconds, or text such as ``"10 s"``.

        Raises
        ------
        TimeoutError
            If it is not done in time. It goes on being computed.
        concurrent.futures.CancelledError
            If it was cancelled.
        ClusterClosedError, ConnectionLostError
            If the client or cluster is gone.
        Exception
            What the task raised.
        """
        self._wait(timeout)
        if self.state.status != FINISHED:
            raise self.client.link.failure(self.state)
        (value,) = self.client.link.load([self.state])
        self._type = type(value)
        return value

    def exception(self, timeout: float | str | None = None) -> BaseException | None:
        """Wait until it is done and return what the task raised; None if it finished. Raises as :meth:`result`."""
        self._wait(timeout)
        if self.state.status == FINISHED:
            return None
        failure = self.client.link.failure(self.state)
        if self.state.status != ERROR:
            raise failure
        return failure

    def traceback(self, timeout: float | str | None = None) -> TracebackType | None:
        """Wait until it is done and return where the task raised; None if it finished. Raises as :meth:`result`."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def _wait(self, timeout: float | str | None) -> None:
        self.check()
        seconds = None if timeout is None else parse_time(timeout, "timeout")
        if not self.client.link.wait_done([self.state], seconds):
            raise TimeoutError(f"{self.key} is not done after {seconds:g} s; it goes on being computed")

    def check(self) -> None:
        """Refuse a future that was released, or whose client was closed."""
        if self._released:
            raise ClusterClosedError(f"{self.key} was released; keep a future as long as its value is needed")
        broken = self.client.link.broken
        if isinstance(broken, ClusterClosedError):
            raise type(broken)(*broken.args)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._result().__await__()

    async def _result(self) -> Any:
        self.check()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if waiter.done():  # who awaited it has been cancelled
                return
            if error is None:
                waiter.set_result(value)
            else:
                waiter.set_exception(error)

        def deliver() -> None:
            value, error = None, None
            try:
                value = self.result()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(settle, value, error)

        self.client.link.call_when_done(self.state, deliver)
        return await waiter

    def add_done_callback(self, fn: Callable[[Future], object]) -> None:
        """Call ``fn(future)`` in a thread once it is done, in whatever way. Errors of ``fn`` are printed."""
        self.check()
        self.client.link.call_when_done(self.state, partial(fn, self))

    # ------------------------------------------------------------ doing something about it

    def cancel(self, force: bool = False) -> None:
        """Do not compute it, nor what needs it: see :meth:`Client.cancel`."""
        self.client.cancel([self], force=force)

    def retry(self) -> None:
        """Try again what failed: see :meth:`Client.retry`."""
        self.client.retry([self])

    def release(self) -> None:
        """Have no use for it any more, as if the object was deleted."""
        if not self._released:
            self._released = True
            self.client.link.drop(self.state)

    # ------------------------------------------------------------ as an object

    def __reduce__(self) -> tuple[Any, ...]:
        return self.client.restore_future, (self.cluster, self.number, self.state.label, self.state.given_key)

    def __repr__(self) -> str:
        kind = self.type
        return f"<Future: {self.status}, {f'type: {_name(kind)}, ' if kind else ''}key: {self.key}>"

    def _repr_html_(self) -> str:
        kind = self.type
        return html.future(self.key, self.status, _name(kind) if kind else None)


def _name(kind: builtins.type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def futures_of(*things: Any) -> list[Future]:
    """The futures in things: in lists, tuples, sets and dicts at any depth, and in persisted collections.

    Each once, in the order in which they are met.
    """
    found: dict[Future, None] = {}
    _find(things, found)
    return list(found)


def _find(thing: Any, found: dict[Future, None]) -> None:
    kind = type(thing)
    if kind is Future:
        found[thing] = None
    elif kind is dict:
        _find(list(thing.values()), found)
    elif kind in (list, tuple, set, frozenset):
        for item in thing:
            _find(item, found)
    else:
        for handle in session.handles_of(thing, traverse=False):
            client = registry.client_at(handle.cluster)
            found[Future(client, client.link.meet(handle.number))] = None


def link_of(futures: Iterable[Future]) -> Link:
    """The connection that all of them belong to."""
    links = {future.client.link for future in futures}
    if len(links) != 1:
        raise ValueError(f"the futures belong to {len(links)} clients; wait for those of one client at a time")
    return links.pop()
