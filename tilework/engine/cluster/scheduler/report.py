"""What a cluster is doing, for people: filled from the server's state."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tilework.base.version import __version__
from tilework.engine.cluster.scheduler.clients import DETACHED
from tilework.engine.cluster.scheduler.definitions import Operation
from tilework.engine.cluster.scheduler.limits import own_bytes
from tilework.engine.cluster.scheduler.members import Worker
from tilework.engine.cluster.wire.snapshot import (
    ClientSnapshot,
    Counters,
    EventSnapshot,
    MemorySnapshot,
    OperationSnapshot,
    Snapshot,
    WorkerSnapshot,
)

if TYPE_CHECKING:
    from tilework.engine.cluster.scheduler.server import Server


def info(server: Server) -> dict[str, Any]:
    """The answer to the request of that name."""
    return {
        "name": server.config.name,
        "address": server.address,
        "dashboard": server.dashboard,
        "memory": server.config.memory,
        "workers": {
            worker.number: {
                "name": worker.number,
                "pid": worker.pid,
                "status": worker.state,
                "threads": worker.threads,
                "memory_limit": server.config.memory_limit,
                "memory": own_bytes(worker.pid) if worker.pid else 0,
                "running": _running(worker),
                "done": worker.done,
            }
            for worker in sorted(server.scheduling.members.present, key=lambda worker: worker.number)
        },
    }


def snapshot(server: Server) -> Snapshot:
    """All that there is to see at this moment."""
    scheduling, journal = server.scheduling, server.journal
    core = scheduling.core
    now = time.time()
    operations = _operations(server)
    return Snapshot(
        cluster=server.config.name,
        address=server.address,
        version=__version__,
        started=server.started,
        time=now,
        workers=tuple(
            _worker(server, worker) for worker in sorted(scheduling.members.workers.values(), key=lambda w: w.number)
        ),
        memory=MemorySnapshot(core.held, core.reserved, scheduling.memory, core.on_disk),
        operations=operations,
        clients=tuple(
            ClientSnapshot(client.name or str(client.number), client.pid, client.since, len(client.held))
            for client in scheduling.holders.clients.values()
            if client.number != DETACHED
        ),
        counters=Counters(
            tasks_done=sum(operation.done for operation in _all_operations(server)),
            tasks_failed=sum(operation.failed for operation in _all_operations(server)),
            tasks_retried=scheduling.dispatch.retried,
            workers_started=server.crew.started,
            workers_died=server.crew.died,
            bytes_made=scheduling.dispatch.bytes_made,
            bytes_spilled=core.spilled_total,
            bytes_read_back=scheduling.dispatch.bytes_read_back,
            strangers_refused=server.strangers,
        ),
        events=tuple(EventSnapshot(*event) for event in journal.events),
    )


def _running(worker: Worker) -> int:
    """Tasks that a worker runs at this moment, as far as one can tell: one a batch."""
    return min(len(worker.batches), worker.threads + worker.blocked)


def _worker(server: Server, worker: Worker) -> WorkerSnapshot:
    futures, states = server.scheduling.futures, server.scheduling.core.states
    marks = server.arena.marks(worker.slot) if worker.batches else []
    return WorkerSnapshot(
        name=str(worker.number),
        pid=worker.pid,
        status=worker.state,
        threads=worker.threads,
        memory=own_bytes(worker.pid) if worker.pid else 0,
        memory_limit=server.config.memory_limit,
        running=tuple(futures.label(task) for task in marks if 0 <= task < len(states)),
        tasks_done=worker.done,
    )


def _all_operations(server: Server) -> list[Operation]:
    futures = server.scheduling.futures
    return [*futures.past.values(), *futures.operations.values()]


def _operations(server: Server) -> tuple[OperationSnapshot, ...]:
    """Stages of the same label together, in the order in which they came."""
    running: dict[str, int] = {}
    label = server.scheduling.futures.label
    for worker, batch in server.scheduling.members.batches.values():
        if worker.cause is None:
            for task in batch.run.tasks:
                running[label(task)] = running.get(label(task), 0) + 1
    totals: dict[str, list[int]] = {}
    for operation in _all_operations(server):
        total = totals.setdefault(operation.label, [0, 0, 0])
        total[0] += operation.total
        total[1] += operation.done
        total[2] += operation.failed
    return tuple(
        OperationSnapshot(name, done, busy, max(0, total - done - failed - busy), failed)
        for name, (total, done, failed) in totals.items()
        for busy in [running.get(name, 0)]
        if total
    )
