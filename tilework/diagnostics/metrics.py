"""What a cluster is doing, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable

from tilework.engine.cluster.wire.snapshot import Counters, Snapshot

_Samples = Iterable[tuple[dict[str, str], float]]
_COUNTERS = {
    "tasks_done": ("tasks_done", "Tasks that have a result."),
    "tasks_failed": ("tasks_failed", "Tasks that raised, or needed one that did, or were cancelled."),
    "tasks_retried": ("tasks_retried", "Times that a task was tried again."),
    "workers_started": ("workers_started", "Worker processes that were started."),
    "workers_died": ("workers_died", "Worker processes that died without being told to end."),
    "bytes_made": ("made_bytes", "Bytes of all results."),
    "bytes_spilled": ("spilled_bytes", "Bytes written to disk for want of memory."),
    "bytes_read_back": ("read_back_bytes", "Bytes read back from disk."),
    "strangers_refused": ("strangers_refused", "Connections that did not prove who they are."),
}
"""Field of Counters → name between ``tilework_`` and ``_total``, help."""


def metrics(snapshot: Snapshot) -> str:
    """A snapshot in the text format of Prometheus."""
    workers, memory = snapshot.workers, snapshot.memory
    named = [({"worker": worker.name}, worker) for worker in workers]
    families: list[tuple[str, str, str, _Samples]] = [
        ("info", "gauge", "Which cluster this is.", [(_info(snapshot), 1)]),
        ("start_time_seconds", "gauge", "When it was started, since the epoch.", [({}, snapshot.started)]),
        ("memory_held_bytes", "gauge", "Finished blocks in memory.", [({}, memory.held)]),
        ("memory_reserved_bytes", "gauge", "Promised to running tasks.", [({}, memory.reserved)]),
        ("memory_limit_bytes", "gauge", "What held and reserved may take together.", [({}, memory.limit)]),
        ("memory_on_disk_bytes", "gauge", "Finished blocks in the spill file.", [({}, memory.on_disk)]),
        ("workers", "gauge", "Worker processes.", [({"status": worker.status}, 1) for worker in workers]),
        ("worker_threads", "gauge", "Tasks it may run at a time.", [(name, w.threads) for name, w in named]),
        ("worker_tasks_running", "gauge", "Tasks it runs.", [(name, len(w.running)) for name, w in named]),
        ("worker_memory_bytes", "gauge", "Its own memory.", [(name, w.memory) for name, w in named]),
        (
            "worker_memory_limit_bytes",
            "gauge",
            "At more it is stopped.",
            [(name, w.memory_limit) for name, w in named if w.memory_limit is not None],
        ),
        ("worker_tasks_done_total", "counter", "Tasks it has run.", [(name, w.tasks_done) for name, w in named]),
        ("tasks", "gauge", "Tasks by operation and state.", _tasks(snapshot)),
        (
            "client_futures",
            "gauge",
            "Futures that clients hold.",
            [({"client": client.name, "pid": str(client.pid)}, client.futures) for client in snapshot.clients],
        ),
    ]
    counters: Counters = snapshot.counters
    for name, (metric, text) in _COUNTERS.items():
        families.append((f"{metric}_total", "counter", text, [({}, getattr(counters, name))]))
    return "".join(_family(*family) for family in families)


def _info(snapshot: Snapshot) -> dict[str, str]:
    return {"cluster": snapshot.cluster, "version": snapshot.version}


def _tasks(snapshot: Snapshot) -> _Samples:
    for operation in snapshot.operations:
        for state in ("done", "running", "waiting", "failed"):
            yield {"operation": operation.label, "state": state}, getattr(operation, state)


def _family(name: str, kind: str, text: str, samples: _Samples) -> str:
    """One metric. Samples of the same labels are added up, for Prometheus takes none twice."""
    totals: dict[str, float] = {}
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escape(content)}"' for label, content in labels.items())
        key = f"{{{inner}}}" if inner else ""
        totals[key] = totals.get(key, 0) + value
    lines = [f"# HELP tilework_{name} {text}", f"# TYPE tilework_{name} {kind}"]
    lines += [f"tilework_{name}{key} {value!r}" for key, value in totals.items()]
    return "\n".join(lines) + "\n"


def _escape(content: str) -> str:
    return content.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
