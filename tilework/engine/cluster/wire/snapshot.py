"""What a cluster is doing, at one moment, as plain data: for the status page, its metrics, and ``scheduler_info``.

The scheduler fills it and knows nothing of pages. All times are seconds since the epoch, all sizes bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """A worker process.

    Attributes
    ----------
    name
        As users call it: in ``workers=``, in messages.
    pid
        The process.
    status
        ``"starting"``, ``"running"``, ``"leaving"`` (ends when its tasks are done).
    threads
        Tasks that it runs at a time.
    memory
        What the process holds of its own, resident, without the blocks in the store.
    memory_limit
        At more it is stopped; None if there is no limit.
    running
        Label of the operation that each of its busy threads runs.
    tasks_done
        Since it was started.
    """

    name: str
    pid: int
    status: str
    threads: int
    memory: int
    memory_limit: int | None
    running: tuple[str, ...]
    tasks_done: int


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """The store.

    Attributes
    ----------
    held
        Finished blocks in memory.
    reserved
        What the running tasks were promised besides.
    limit
        ``held`` and ``reserved`` together do not pass it.
    on_disk
        Finished blocks in the spill file.
    """

    held: int
    reserved: int
    limit: int
    on_disk: int


@dataclass(frozen=True, slots=True)
class OperationSnapshot:
    """The tasks of one operation (a function, a stage of a graph), by state. All tasks that ever came, together.

    ``waiting`` tasks wait for inputs, for memory or for a worker; ``failed`` ones raised, or needed one that did, or
    were cancelled.
    """

    label: str
    done: int
    running: int
    waiting: int
    failed: int


@dataclass(frozen=True, slots=True)
class ClientSnapshot:
    """A client: ``futures`` is how many it holds."""

    name: str
    pid: int
    connected: float
    futures: int


@dataclass(frozen=True, slots=True)
class EventSnapshot:
    """A line of the cluster's log (a worker came, died, was stopped). Level: "info", "warning" or "error"."""

    time: float
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Counters:
    """What has happened since the cluster was started; these never fall."""

    tasks_done: int = 0
    tasks_failed: int = 0
    tasks_retried: int = 0
    workers_started: int = 0
    workers_died: int = 0
    bytes_made: int = 0
    bytes_spilled: int = 0
    bytes_read_back: int = 0
    strangers_refused: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cluster.

    Attributes
    ----------
    cluster
        Its name.
    address
        What clients connect to.
    version
        Of tilework.
    started, time
        When it was started, and when this was taken.
    workers, clients
        By name.
    operations
        In the order in which they came; those without tasks to do may be left out after a while.
    events
        The last ones, oldest first.
    """

    cluster: str
    address: str
    version: str
    started: float
    time: float
    workers: tuple[WorkerSnapshot, ...]
    memory: MemorySnapshot
    operations: tuple[OperationSnapshot, ...] = ()
    clients: tuple[ClientSnapshot, ...] = ()
    counters: Counters = field(default_factory=Counters)
    events: tuple[EventSnapshot, ...] = ()
