"""Clients: who wants things computed by a cluster."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from types import TracebackType
from typing import Any, NoReturn

from tilework import session
from tilework.base import config
from tilework.base.errors import ClusterClosedError, ConfigError, UnsupportedError
from tilework.base.sizes import format_bytes, parse_time
from tilework.base.tokens import tokenize
from tilework.distributed import html, registry
from tilework.distributed.administration import Administration
from tilework.distributed.arguments import (
    ATOMS,
    Call,
    check_function,
    dump_calls,
    label_of,
)
from tilework.distributed.cluster import LocalCluster
from tilework.distributed.executor import ClientExecutor
from tilework.distributed.future import Future, futures_of
from tilework.engine.cluster.client.engine import Block, ClusterEngine
from tilework.engine.cluster.client.known import FINISHED, PENDING
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.store import values
from tilework.engine.cluster.wire import messages
from tilework.engine.cluster.workers import worker

CALLS = 1000
"""Calls in one message: workers begin with the first while the next are pickled."""

_opening = threading.Lock()


class Client(Administration):
    """Computes on a cluster of processes on this machine.

    A client is the default for everything lazy (``compute``, ``persist``, xarray) until it is closed.

    Parameters
    ----------
    address
        Of a running cluster, ``"tcp://127.0.0.1:PORT"``, or a :class:`LocalCluster`. By default a cluster of its own is
        started, which ends with the client (inside ``tilework run --workers`` it is the one that was started there).
    timeout
        Seconds, or text such as ``"10 s"``, to wait for the cluster.
    set_as_default
        Whether it becomes the default.
    name
        What the cluster calls it.
    **cluster_options
        For its own cluster: see :class:`LocalCluster`.

    Raises
    ------
    ConnectionLostError
        If no cluster of this user answers at the address.
    ConfigError
        If an option makes no sense.

    Examples
    --------
    >>> client = Client(n_workers=2)
    >>> client.gather(client.map(abs, [-1, 2, -3]))
    [1, 2, 3]
    >>> client.close()
    """

    def __init__(
        self,
        address: str | LocalCluster | None = None,
        *,
        timeout: float | str = 10.0,
        set_as_default: bool = True,
        name: str | None = None,
        asynchronous: bool = False,
        **cluster_options: Any,
    ) -> None:
        if asynchronous:
            raise UnsupportedError("clients are not asynchronous: futures are; write `await future` for their results")
        seconds = parse_time(timeout, "timeout")
        here = worker.current()
        self.cluster: LocalCluster | None = None
        self._owns_cluster = False
        secret = None
        if address is None and not cluster_options:
            if here is not None:
                address, secret = here.address, here.secret
            else:
                address = os.environ.get(config.ADDRESS_VARIABLE) or None
        if address is None:
            self.cluster = LocalCluster(**cluster_options)
            self._owns_cluster = True
        elif cluster_options:
            raise ConfigError(f"{', '.join(cluster_options)}: options of a new cluster, and there is one at {address}")
        elif isinstance(address, LocalCluster):
            self.cluster = address
        elif not isinstance(address, str):
            raise ConfigError(f'{address!r} is no cluster; give its address, "tcp://127.0.0.1:PORT", or a LocalCluster')
        try:
            name = name or os.path.basename(sys.argv[0]) or "python"
            if self.cluster is not None:
                self.link = self.cluster.connect(seconds, name)
            else:
                assert isinstance(address, str)
                self.link = Link.connect(address, seconds, name, secret)
        except BaseException:
            if self.cluster is not None and self._owns_cluster:
                self.cluster.close()
            raise
        if here is not None:
            self.link.waiting = worker.waiting
        self._functions: dict[bytes, int] = {}
        self._function_numbers = count()
        self._defining = threading.Lock()
        self._keyed: weakref.WeakValueDictionary[str, Future] = weakref.WeakValueDictionary()
        self._engine = ClusterEngine(self.link)
        registry.add(self, set_as_default)

    # ------------------------------------------------------------ calls

    def submit(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        pure: bool = False,
        retries: int | None = None,
        priority: int = 0,
        workers: int | str | Iterable[int | str] | None = None,
        allow_other_workers: bool = False,
        **kwargs: Any,
    ) -> Future:
        """Have ``function(*args, **kwargs)`` called on the cluster.

        Parameters
        ----------
        function
            Any function, also one of the main program or a lambda.
        *args, **kwargs
            Its arguments. Futures, at any depth of lists, tuples and dicts, stand for their values.
        key
            Names the future. While there is one of this name it is returned, and nothing is called.
        pure
            Whether equal calls have equal results: while there is a future of such a call, it is returned.
        retries
            How often to try again if it raises.
        priority
            Higher goes first.
        workers
            Numbers of the workers that may run it.
        allow_other_workers
            Whether others may, too.

        Returns
        -------
        Future
            At once.

        Raises
        ------
        TypeError
            If the function cannot be called, or an argument cannot be sent: a generator, a lock, an open file.
        """
        label = label_of(function)
        if key is None and pure:
            key = f"{label}-{tokenize(function, args, kwargs)}"
        if key is not None:
            known = self._keyed.get(key)
            if known is not None and not known.cancelled():
                return Future(self, self.link.meet(known.number, label, key))
        options = _options(retries, priority, workers, allow_other_workers)
        (future,) = self.call(function, [(args, kwargs)], options)
        if key is not None:
            future.state.given_key = key
            self._keyed[key] = future
        return future

    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        key: str | Sequence[str] | None = None,
        pure: bool = False,
        retries: int | None = None,
        priority: int = 0,
        workers: int | str | Iterable[int | str] | None = None,
        allow_other_workers: bool = False,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[Future]:
        """Have a function called for each element, or for each set of elements of several iterables.

        Parameters
        ----------
        function, pure, retries, priority, workers, allow_other_workers
            As in :meth:`submit`.
        *iterables
            Of arguments, futures among them. The shortest one counts.
        key
            A name for all, to which a number is added, or a list of names.
        batch_size
            How many calls are sent at a time.
        **kwargs
            Further arguments, the same for all calls.

        Returns
        -------
        list of Future
            At once.
        """
        options = _options(retries, priority, workers, allow_other_workers)
        if pure or not (key is None or isinstance(key, str)):
            calls = list(zip(*iterables, strict=False))
            keys = [None] * len(calls) if key is None or isinstance(key, str) else list(key)
            if len(keys) != len(calls):
                raise ValueError(f"{len(keys)} keys for {len(calls)} calls; give one for each")
            some = partial(self.submit, function, pure=pure, retries=retries, priority=priority, workers=workers)
            some = partial(some, allow_other_workers=allow_other_workers, **kwargs)
            return [some(*args, key=key) for args, key in zip(calls, keys, strict=True)]
        shared, held = self._share(kwargs)
        calls_ = ((args, shared) for args in zip(*iterables, strict=False))
        futures: list[Future] = []
        n = CALLS if batch_size is None else batch_size
        if n < 1:
            raise ValueError(f"batch_size={batch_size!r} is too small; use a whole number from 1 up")
        while batch := list(islice(calls_, n)):
            futures += self.call(function, batch, options, key if isinstance(key, str) else None)
        del held  # only now: until they were sent the calls needed it
        return futures

    def call(
        self,
        function: Callable[..., Any],
        calls: Sequence[Call],
        options: messages.TaskOptions,
        label: str | None = None,
    ) -> list[Future]:
        """Have a function called with each of several ``(args, kwargs)``: what ``submit`` and ``map`` do."""
        check_function(function)
        link = self.link
        name = label_of(function)
        args, inputs = dump_calls(calls, link.slot, link.welcome.address, name)
        number, once = self._define(function, name)
        # Made before anything is sent: whatever interrupts us, they are dropped, and with them the calls.
        futures = [Future(self, state) for state in link.reserve(len(calls), label or name)]
        link.send(messages.Submit(futures[0].number, number, args, inputs, options), *once)
        return futures

    def _define(self, function: Callable[..., Any], name: str) -> tuple[int, list[messages.Forget]]:
        """The number of a function, and what to send once it was used.

        It is pickled for every submission, since what it closes over, or the globals of the main program that it uses,
        may have changed; only if its pickle is the same it need not be sent again. Large ones are not compared.
        """
        try:
            blob, _ = values.dump(function, self.link.slot, copy=True)
        except MemoryError:
            raise
        except Exception as error:
            raise TypeError(f"{name} cannot be sent to a worker: {error}") from error
        with self._defining:
            if not isinstance(blob, bytes):
                number = next(self._function_numbers)
                self.link.send(messages.Define(number, blob, name))
                return number, [messages.Forget((number,), ())]
            known = self._functions.get(blob)
            if known is None:
                known = next(self._function_numbers)
                self.link.send(messages.Define(known, blob, name))
                self._functions[blob] = known
            return known, []

    def _share(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[Future]]:
        """Keywords of many calls: large values become futures, so that they are sent only once."""
        shared = dict(kwargs)
        held = []
        for name, value in kwargs.items():
            if type(value) in ATOMS or isinstance(value, Future) or futures_of(value):
                continue
            dumped, size = values.dump(value, self.link.slot, copy=True)
            if not isinstance(dumped, bytes):
                shared[name] = self._put([dumped], [size])[0]
                held.append(shared[name])
        return shared, held

    # ------------------------------------------------------------ data

    def gather(self, futures: Any, errors: str = "raise") -> Any:
        """Wait for futures and return their values.

        Parameters
        ----------
        futures
            A future, or lists, tuples, sets and dicts of futures, at any depth; other things in them stay as they are.
            Of an iterator the values come one by one.
        errors
            ``"raise"`` raises the first error as soon as there is one, ``"skip"`` leaves out what failed.

        Returns
        -------
        object
            The same with values in place of futures.
        """
        if errors not in ("raise", "skip"):
            raise ValueError(f'errors={errors!r} is neither "raise" nor "skip"')
        if isinstance(futures, Iterator):
            return (self.gather(future, errors) for future in futures)
        found = futures_of(futures)
        for future in found:
            future.check()
        states = [future.state for future in found]
        self.link.wait_done(states, until_failure=errors == "raise")
        if errors == "raise":
            for state in states:
                if state.status not in (PENDING, FINISHED):
                    raise self.link.failure(state)
        finished = [future for future in found if future.state.status == FINISHED]
        loaded = dict(zip(finished, self.link.load([future.state for future in finished]), strict=True))
        return _filled(futures, loaded)

    def scatter(self, data: Any, broadcast: bool = False, hash: bool = True) -> Any:
        """Bring data to the cluster once, for many tasks.

        Parameters
        ----------
        data
            An object, or a list, tuple, set or dict of objects.
        broadcast, hash
            Without effect: all workers read the same memory, and equal data are not looked for.

        Returns
        -------
        Future, or list, tuple, set or dict of futures
            As ``data``.
        """
        kind = type(data)
        items = list(data.values()) if kind is dict else list(data) if kind in (list, tuple, set, frozenset) else [data]
        dumped = []
        for item in items:
            try:
                dumped.append(values.dump(item, self.link.slot, copy=True))
            except MemoryError:
                raise
            except Exception as error:
                raise TypeError(f"{type(item).__qualname__} cannot be sent to the cluster: {error}") from error
        futures = self._put([value for value, _ in dumped], [size for _, size in dumped])
        if kind is dict:
            return dict(zip(data, futures, strict=True))
        return kind(futures) if kind in (list, tuple, set, frozenset) else futures[0]

    def _put(self, dumped: list[messages.Value], sizes: list[int]) -> list[Future]:
        if not dumped:
            return []
        futures = [Future(self, state) for state in self.link.reserve(len(dumped), "data")]
        self.link.send(messages.Put(futures[0].number, dumped, sizes))
        for future, value, size in zip(futures, dumped, sizes, strict=True):
            future.state.value, future.state.size = value if isinstance(value, bytes) else None, size
            future.state.settle(FINISHED)
        return futures

    # ------------------------------------------------------------ lazy things

    def compute(
        self,
        collections: Any,
        sync: bool = False,
        *,
        retries: int | None = None,
        priority: int = 0,
        workers: int | str | Iterable[int | str] | None = None,
        allow_other_workers: bool = False,
        **options: Any,
    ) -> Any:
        """Start to compute lazy things, and return futures of their values at once.

        Parameters
        ----------
        collections
            An array, a delayed value, an xarray object or anything with such things in it; or a list, tuple or set of
            them.
        sync
            Wait, and return the values themselves.
        retries, priority, workers, allow_other_workers
            As in :meth:`submit`.
        **options
            ``optimize_graph``, ``traverse``: as of :func:`tilework.compute`.

        Returns
        -------
        Future, or list of futures
            What is not lazy is returned as it is.
        """
        several = type(collections) in (list, tuple, set, frozenset)
        things = list(collections) if several else [collections]
        chosen = _options(retries, priority, workers, allow_other_workers)
        found = session.submit(
            *things, scheduler=self, retries=chosen.retries, priority=priority, only=chosen.workers, **options
        )
        futures = [Future(self, self.link.meet(x.number)) if isinstance(x, Block) else x for x in found]
        if sync:
            futures = self.gather(futures)
        return futures if several else futures[0]

    def persist(
        self,
        collections: Any,
        *,
        retries: int | None = None,
        priority: int = 0,
        workers: int | str | Iterable[int | str] | None = None,
        allow_other_workers: bool = False,
        **options: Any,
    ) -> Any:
        """Start to compute lazy things, and return them at once as lazy things whose blocks are futures.

        Parameters are those of :meth:`compute`. :func:`futures_of` tells the futures.
        """
        several = type(collections) in (list, tuple, set, frozenset)
        things = list(collections) if several else [collections]
        chosen = _options(retries, priority, workers, allow_other_workers)
        found = session.persist(
            *things, scheduler=self, retries=chosen.retries, priority=priority, only=chosen.workers, **options
        )
        return list(found) if several else found[0]

    def __tilework_engine__(self) -> ClusterEngine:
        return self._engine

    # ------------------------------------------------------------ futures

    def cancel(self, futures: Any, force: bool = False) -> None:
        """Do not compute futures, nor what needs them. What is finished is given up.

        Parameters
        ----------
        futures
            A future, or containers of futures.
        force
            Stop also those that run, by killing the worker process that runs them. Otherwise these go on, for nothing.
        """
        self.link.cancel([future.state for future in futures_of(futures)], force)

    def retry(self, futures: Any) -> None:
        """Try again what failed or was cancelled, and the failed futures that it needs."""
        self.link.retry([future.state for future in futures_of(futures)])

    def get_executor(self, **options: Any) -> ClientExecutor:
        """A :class:`concurrent.futures.Executor` that runs on the cluster.

        Parameters
        ----------
        **options
            ``retries``, ``priority``, ``workers``, ``allow_other_workers``: as in :meth:`submit`, for all its calls.
        """
        return ClientExecutor(self, _options(**{"retries": None, "priority": 0, **options}))

    @classmethod
    def restore_future(cls, address: str, number: int, label: str, key: str | None) -> Future:
        """What a pickled future becomes."""
        here = worker.current()
        client = get_client() if here is not None and here.address == address else registry.client_at(address)
        return Future(client, client.link.meet(number, label, key))

    # ------------------------------------------------------------ the client itself

    @property
    def id(self) -> str:
        """Names the client on its cluster."""
        return f"client-{self.link.welcome.client}"

    @property
    def status(self) -> str:
        """``"running"``, ``"closed"``, or ``"lost"`` if the cluster has ended."""
        broken = self.link.broken
        return "running" if broken is None else "closed" if isinstance(broken, ClusterClosedError) else "lost"

    def close(self) -> None:
        """Give up its futures, stop being the default, and end the cluster if it is its own. Idempotent.

        Values that were fetched stay valid.
        """
        registry.remove(self)
        self.link.close()
        if self._owns_cluster and self.cluster is not None:
            self.cluster.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client stays in its process; call get_client() inside the task, which gives one there")

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        address = self.link.welcome.address
        info = self._info_or_none()
        if info is None:
            return f"<Client: {address!r} {self.status}>"
        threads = sum(each["threads"] for each in info["workers"].values())
        memory = format_bytes(info["memory"])
        return f"<Client: {address!r} processes={len(info['workers'])} threads={threads}, memory={memory}>"

    def _repr_html_(self) -> str:
        return html.cluster("Client", self.status, self._info_or_none(), self.dashboard_link)


LocalCluster.client_class = Client


def _options(
    retries: int | None,
    priority: int,
    workers: int | str | Iterable[int | str] | None = None,
    allow_other_workers: bool = False,
) -> messages.TaskOptions:
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ConfigError(f"retries={retries!r} is no number of times; use a whole number from 0 up")
    chosen = None
    if workers is not None and not allow_other_workers:
        chosen = (workers,) if isinstance(workers, int | str) else tuple(workers)
    return messages.TaskOptions(priority, retries or 0, chosen)


class _LeftOut:
    """In the place of what failed."""


def _filled(thing: Any, loaded: dict[Future, Any]) -> Any:
    kind = type(thing)
    if kind is Future:
        return loaded.get(thing, _LeftOut)
    if kind in (list, tuple, set, frozenset):
        items = (_filled(item, loaded) for item in thing)
        return kind([item for item in items if item is not _LeftOut])
    if kind is dict:
        pairs = ((key, _filled(item, loaded)) for key, item in thing.items())
        return {key: item for key, item in pairs if item is not _LeftOut}
    return thing


# ---------------------------------------------------------------- finding clients


def get_client(address: str | None = None, timeout: float | str = 10.0) -> Client:
    """The client here: in a task, one of the cluster that runs it; elsewhere the default client.

    Parameters
    ----------
    address
        Of the cluster, if it matters which. Elsewhere than in a task a new client is made if there is none.
    timeout
        Seconds to wait for the cluster.

    Raises
    ------
    ValueError
        If there is none, and no address.
    """
    here = worker.current()
    if here is not None and address in (None, here.address):
        with _opening:
            return registry.running_at(here.address) or Client(timeout=timeout)
    client = registry.default()
    if client is not None and address in (None, client.link.welcome.address):
        return client
    if address is not None:
        return Client(address, timeout=timeout)
    raise ValueError("there is no client here: make one, Client() or Client(address)")
