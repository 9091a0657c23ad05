"""Clusters of processes on this machine."""

from __future__ import annotations

import atexit
import os
import socket
import threading
import weakref
from collections.abc import Mapping
from difflib import get_close_matches
from math import ceil, inf, sqrt
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tilework.base import config, machine
from tilework.base.errors import ClusterClosedError, ConfigError, TileworkError, UnsupportedError
from tilework.base.sizes import format_bytes, parse_bytes, parse_time
from tilework.distributed import html
from tilework.engine.cluster.client.engine import ClusterEngine
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.start.launch import ClusterConfig, launch

if TYPE_CHECKING:
    from tilework.distributed.client import Client

LEAST_MEMORY = 50 << 20
"""Bytes of memory without which no worker can work."""

_ANSWER_SECONDS = 5.0


class LocalCluster:
    """A scheduler and worker processes on this machine, for this user alone, until it is closed.

    It listens on 127.0.0.1 and nowhere else, and wants its secret from whoever connects. It ends with the process that
    made it, whatever ends that.

    Parameters
    ----------
    n_workers
        Worker processes. Default: as many as there are cores up to four, then fewer with several threads each.
    threads_per_worker
        Tasks at a time, of each worker. Default: so that all cores are used.
    memory_limit
        Memory that one worker process may have before it is stopped: bytes, text such as ``"2GB"``, a share of the
        machine's (a float below 1), ``"auto"`` for an equal share, or None for no limit.
    processes
        With False there is one worker, with all the threads. It is a process of its own nevertheless: nothing that
        tasks do can end the program.
    dashboard_address
        Where the status page listens, ``":8787"``; by default at any free port. None is no status page.
    scheduler_port
        Where clients connect; 0 is any free port.
    name
        What to call the cluster.
    **options
        ``memory``: bytes that all blocks may take together, by default 60 % of what the workers have.
        ``local_directory``: where blocks go that do not fit into memory. ``task_timeout``: seconds after which a task
        is stopped. ``host``: 127.0.0.1, or another name of this machine's own. ``silence_logs`` and
        ``asynchronous=False`` are accepted, and have no effect.

    Raises
    ------
    ConfigError
        If an option makes no sense. Nothing was started then.
    UnsupportedError
        On other systems than Linux.

    Examples
    --------
    >>> with LocalCluster(n_workers=2) as cluster, cluster.get_client() as client:
    ...     client.submit(sum, [1, 2]).result()
    3
    """

    client_class: type[Client]
    """Set by the module of clients: they know clusters, and a module cannot import one that imports it."""

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        memory_limit: str | float | None = "auto",
        processes: bool = True,
        dashboard_address: str | int | None = ":0",
        scheduler_port: int = 0,
        name: str | None = None,
        **options: Any,
    ) -> None:
        settings = cluster_config(
            n_workers, threads_per_worker, memory_limit, processes, dashboard_address, scheduler_port, name, **options
        )
        self._settings = settings
        self._linking = threading.Lock()
        self._link: Link | None = None
        self._engine: ClusterEngine | None = None
        self._closed = False
        self._launched = launch(settings)
        _open.add(self)

    # ------------------------------------------------------------ asking

    @property
    def name(self) -> str:
        """What it is called."""
        return self._settings.name

    @property
    def scheduler_address(self) -> str:
        """Where clients connect: ``tcp://127.0.0.1:PORT``."""
        return self._launched.address

    @property
    def dashboard_link(self) -> str | None:
        """Link to the status page, with the token that it wants; None if there is none."""
        return self._launched.dashboard

    @property
    def workers(self) -> dict[int, dict[str, Any]]:
        """What its workers are and have, by number."""
        workers: dict[int, dict[str, Any]] = self._request("info")["workers"]
        return workers

    @property
    def status(self) -> str:
        """``"running"`` or ``"closed"``; ``"lost"`` if its scheduler process was killed."""
        if self._closed:
            return "closed"
        return "running" if self._info_or_none() is not None else "lost"

    def logs(self) -> dict[str, str]:
        """What the scheduler and each worker have to tell, by name."""
        logs: dict[str, str] = self._request("logs")
        return logs

    get_logs = logs

    # ------------------------------------------------------------ doing

    def scale(self, n: int) -> None:
        """Have ``n`` workers. Those that leave finish what they run; what they hold stays."""
        self._request("scale", _count("n", n, 0))

    def adapt(self, minimum: int = 0, maximum: int | float = inf) -> None:
        """Have as many workers as the work and its memory call for, from ``minimum`` to ``maximum``.

        A later :meth:`scale` ends it. Without a maximum there are as many as there are cores.
        """
        most = self._most() if maximum == inf else _count("maximum", maximum, 1)
        least = _count("minimum", minimum, 0)
        if least > most:
            raise ConfigError(f"minimum={minimum!r} is more than maximum={maximum!r}")
        self._request("adapt", least, most)

    def _most(self) -> int:
        return max(1, machine.cores() // self._settings.threads)

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> None:
        """Wait until at least so many workers run. Raises TimeoutError if they do not in time."""
        self._request("wait_for_workers", n_workers, timeout=_seconds(timeout))

    def get_client(self, **options: Any) -> Client:
        """A client of this cluster. Options as of :class:`Client`."""
        return self.client_class(self, **options)

    def connect(self, timeout: float, name: str) -> Link:
        """A connection to it, for whoever wants one."""
        self._check()
        return Link.connect(self.scheduler_address, timeout, name, self._launched.secret)

    def __tilework_engine__(self) -> ClusterEngine:
        return self._connected()[1]

    def close(self) -> None:
        """End all its processes, and wait until they are gone. Idempotent."""
        with self._linking:
            closed, self._closed = self._closed, True
            link = self._link
        if link is not None:
            link.close()
        if not closed:
            self._launched.close()
            _open.discard(self)

    def forget_in_child(self) -> None:
        """We are a copy in a forked process: the cluster must not live as long as this one."""
        self._linking = threading.Lock()
        self._closed = True
        lifeline = self._launched.lifeline
        if lifeline is not None:
            lifeline.close()

    def _check(self) -> None:
        if self._closed:
            raise ClusterClosedError(f"the cluster {self.name} was closed; make a new LocalCluster")

    def _connected(self) -> tuple[Link, ClusterEngine]:
        """A connection of the cluster object's own, made when it is first asked for something."""
        with self._linking:
            self._check()
            if self._link is None:
                self._link = self.connect(_ANSWER_SECONDS, self.name)
                self._engine = ClusterEngine(self._link)
            assert self._engine is not None
            return self._link, self._engine

    def _request(self, method: str, *args: Any, timeout: float | None = None) -> Any:
        return self._connected()[0].request(method, *args, timeout=timeout)

    def _info_or_none(self) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self._request("info", timeout=_ANSWER_SECONDS)
        except (TileworkError, TimeoutError):
            return None
        return info

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self._info_or_none()
        if info is None:
            return f"LocalCluster({self.name}, {self.scheduler_address!r}, {'closed' if self._closed else 'lost'})"
        workers = info["workers"].values()
        threads = sum(worker["threads"] for worker in workers)
        return (
            f"LocalCluster({self.name}, {self.scheduler_address!r}, workers={len(workers)}, threads={threads}, "
            f"memory={format_bytes(info['memory'])})"
        )

    def _repr_html_(self) -> str:
        info = self._info_or_none()
        status = "closed" if self._closed else "lost" if info is None else "running"
        return html.cluster(f"LocalCluster {self.name}", status, info, self.dashboard_link)


# ---------------------------------------------------------------- those there are

_open: weakref.WeakSet[LocalCluster] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """End all clusters of this process."""
    for cluster in list(_open):
        cluster.close()


def _after_fork() -> None:
    for cluster in list(_open):
        cluster.forget_in_child()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ---------------------------------------------------------------- options

_OPTIONS = ("memory", "local_directory", "task_timeout", "host", "silence_logs", "asynchronous")
_NAMED = ("n_workers", "threads_per_worker", "memory_limit", "processes", "dashboard_address", "scheduler_port", "name")
_LOOPBACK = ("127.0.0.1", "localhost", "")


def cluster_config(
    n_workers: int | None = None,
    threads_per_worker: int | None = None,
    memory_limit: str | float | None = "auto",
    processes: bool = True,
    dashboard_address: str | int | None = ":0",
    scheduler_port: int = 0,
    name: str | None = None,
    **options: Any,
) -> ClusterConfig:
    """What the options of :class:`LocalCluster` mean on this machine. Raises as that does."""
    _check_options(options)
    workers, threads = _shape(n_workers, threads_per_worker, processes)
    limit = _memory_limit(memory_limit, workers)
    return ClusterConfig(
        n_workers=workers,
        threads=threads,
        memory_limit=limit,
        memory=_memory(options.get("memory"), limit, workers),
        spill_directory=_directory(options.get("local_directory")),
        port=_free_port(scheduler_port, "scheduler_port"),
        dashboard_port=_dashboard_port(dashboard_address),
        name=name or f"local-{os.getpid()}",
        task_timeout=_seconds(options.get("task_timeout")),
        extras=() if dashboard_address is None else ("tilework.diagnostics.status:attach",),
    )


def _check_options(options: Mapping[str, Any]) -> None:
    for name in options:
        if name not in _OPTIONS:
            valid = (*_NAMED, *_OPTIONS)
            close = get_close_matches(name, valid, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"LocalCluster has no option {name!r}{hint} (valid: {', '.join(valid)})")
    _check_host("host", options.get("host") or "")
    if options.get("asynchronous"):
        raise UnsupportedError("clusters are not asynchronous: futures are; write `await future` for their results")


def _check_host(name: str, host: str) -> None:
    if host.removeprefix("tcp://") not in _LOOPBACK:
        raise ConfigError(f'{name}={host!r} would let others in: clusters listen on "127.0.0.1" and nowhere else')


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < least:
        raise ConfigError(f"{name}={value!r} is no number of them; use a whole number from {least} up")
    return int(value)


def _shape(n_workers: Any, threads: Any, processes: Any) -> tuple[int, int]:
    """Workers, and threads of each."""
    cores = machine.cores()
    if not isinstance(processes, bool):
        raise ConfigError(f"processes={processes!r} is neither True nor False")
    if threads is not None:
        threads = _count("threads_per_worker", threads, 1)
    if n_workers is not None:
        n_workers = _count("n_workers", n_workers, 1)
    elif not processes:
        n_workers = 1
    elif threads is not None:
        n_workers = max(1, cores // threads)
    else:
        n_workers = cores if cores <= 4 else min(n for n in range(ceil(sqrt(cores)), cores + 1) if cores % n == 0)
    return n_workers, threads or max(1, ceil(cores / n_workers))


def _memory_limit(value: Any, n_workers: int) -> int:
    """Bytes that a worker process may have."""
    total = machine.memory_total()
    if value is None or (not isinstance(value, str) and value == 0):
        return total
    if isinstance(value, str) and value == "auto":
        return max(LEAST_MEMORY, total // n_workers)
    if isinstance(value, float) and 0 < value <= 1:
        return int(value * total)
    limit = parse_bytes(value, "memory_limit")
    if limit > total:
        raise ConfigError(
            f"memory_limit={value!r} is more than the {format_bytes(total)} that this machine has (or its container); "
            'use "auto" for an equal share of it'
        )
    if limit < LEAST_MEMORY:
        raise ConfigError(
            f"memory_limit={value!r} is less than a Python process with NumPy needs; use {format_bytes(LEAST_MEMORY)} "
            "or more for each worker"
        )
    return limit


def _memory(value: Any, memory_limit: int, n_workers: int) -> int:
    """Bytes that blocks may take together."""
    total = machine.memory_total()
    if value is None:
        return int(config.MEMORY_SHARE * min(total, memory_limit * n_workers))
    memory = parse_bytes(value, "memory")
    if memory > total:
        raise ConfigError(f"memory={value!r} is more than the {format_bytes(total)} that this machine has")
    return memory


def _directory(value: Any) -> str | None:
    if value is None:
        return None
    path = os.path.abspath(os.path.expanduser(os.fsdecode(value)))
    if not os.path.isdir(path):
        raise ConfigError(f"local_directory={value!r} is no directory; make it first")
    return path


def _seconds(value: Any) -> float | None:
    return None if value is None else parse_time(value, "timeout")


def _dashboard_port(address: Any) -> int | None:
    """The port that a dashboard address means: ``":8787"``, ``"localhost:8787"``, ``8787``; None is none."""
    if address is None:
        return None
    host, _, port = str(address).removeprefix("http://").rpartition(":")
    if not port.isdigit():
        raise ConfigError(f'dashboard_address={address!r} is no address; write ":8787", ":0" for any port, or None')
    _check_host("dashboard_address", host)
    return _free_port(int(port), "dashboard_address")


def _free_port(port: Any, name: str) -> int:
    """The port, if it can be had. 0 is any."""
    port = _count(name, port, 0)
    if port > 65535:
        raise ConfigError(f"{name}={port} is no port; they go up to 65535, and 0 is any free one")
    if port:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigError(
                    f"{name}: port {port} cannot be had: {error.strerror}. Something else listens there; use another "
                    "one, or 0 for any free one"
                ) from None
    return port
