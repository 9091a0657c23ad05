"""``tilework cluster``: clusters that no program owns. They outlive the shell, and end by themselves when idle."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import psutil

from tilework.base.errors import ConfigError, ConnectionLostError, TileworkError
from tilework.base.sizes import format_bytes, format_time, parse_time
from tilework.distributed.cluster import cluster_config
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.start.launch import Launched, launch
from tilework.engine.cluster.wire import register
from tilework.engine.cluster.wire.register import Entry

PATIENCE = 5.0
"""Seconds that a cluster may take to answer, and to end."""


# ---------------------------------------------------------------- start


def start(options: argparse.Namespace) -> int:
    """Start a cluster, say where it is, and leave it alone, or (``--foreground``) wait for its end."""
    taken = {entry.name for entry in register.entries()}
    if options.name in taken:
        raise ConfigError(f"there is a cluster named {options.name!r} already; choose another name, or stop that one")
    name = options.name or next(free for k in count(1) if (free := f"cluster-{k}") not in taken)
    config = cluster_config(
        n_workers=options.workers,
        threads_per_worker=options.threads,
        memory_limit=options.memory_limit,
        scheduler_port=options.port,
        name=name,
    )
    log = options.log or (None if options.foreground else os.devnull)
    never = str(options.idle_timeout).lower() == "never"
    launched = launch(
        replace(
            config,
            owned=options.foreground,
            idle_timeout=None if never else parse_time(options.idle_timeout, "--idle-timeout"),
            log=None if log is None else os.path.abspath(log),
        )
    )
    for what, text in [
        ("cluster", f"{name} at {launched.address}"),
        ("workers", f"{config.n_workers} x {config.threads} threads, {format_bytes(config.memory_limit)} each"),
        ("status page", launched.dashboard or "none"),
        ("connect", f'tilework.distributed.Client("{launched.address}")'),
        ("stop", "Ctrl-C" if options.foreground else f"tilework cluster stop {name}"),
        (
            "ends",
            "when stopped" if never else f"when stopped, or after {options.idle_timeout} without clients and work",
        ),
    ]:
        print(f"{what:<12} {text}", flush=True)
    if options.foreground:
        _wait(launched)
    return 0


def _wait(launched: Launched) -> None:
    """Until the cluster ends by itself, or Ctrl-C or SIGTERM end it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if launched.lifeline is not None:
            launched.lifeline.settimeout(None)
            launched.lifeline.recv(1)
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr)
    finally:
        launched.close()


# ---------------------------------------------------------------- list


def list_clusters(options: argparse.Namespace) -> int:
    """All running clusters of this user, as a table or as JSON."""
    rows = [_describe(entry) for entry in register.entries()]
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print("no clusters are running", file=sys.stderr)
        return 0
    table = [("NAME", "ADDRESS", "WORKERS", "MEMORY", "AGE", "STATE")]
    for row in rows:
        workers, memory, state = "?", "?", row["error"]
        if not state:
            workers = f"{row['workers']} x {row['threads'] // max(1, row['workers'])}"
            memory = f"{format_bytes(row['memory'])} of {format_bytes(row['memory_limit'])}"
            state = f"{row['running']} tasks run" if row["running"] else "idle"
        table.append((row["name"], row["address"], workers, memory, format_time(round(row["age"])), state))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return 0


def _describe(entry: Entry) -> dict[str, Any]:
    """A cluster as plain data; ``error`` says why it does not tell more of itself."""
    row: dict[str, Any] = {
        "name": entry.name,
        "address": entry.address,
        "dashboard": entry.dashboard,
        "pid": entry.pid,
        "age": max(0.0, time.time() - entry.started),
        "error": None,
    }
    try:
        workers = _ask(entry, "info")["workers"].values()
    except TileworkError as error:
        return {**row, "error": str(error)}
    totals = {
        key: sum(worker[key] or 0 for worker in workers) for key in ("threads", "memory", "memory_limit", "running")
    }
    return {**row, "workers": len(workers), **totals}


# ---------------------------------------------------------------- scale, stop


def scale(options: argparse.Namespace) -> int:
    """Change how many workers a cluster has, and wait for those that are new."""
    (entry,) = _find([options.cluster])
    _ask(entry, "scale", options.workers)
    _ask(entry, "wait_for_workers", options.workers)
    print(f"{entry.name} has {options.workers} workers")
    return 0


def stop(options: argparse.Namespace) -> int:
    """End clusters, whatever they are doing, and wait until they are gone."""
    if bool(options.clusters) == options.all:
        raise ConfigError("say which cluster to stop, by name or address, or --all")
    for entry in register.entries() if options.all else _find(options.clusters):
        with suppress(psutil.NoSuchProcess):
            scheduler = psutil.Process(entry.pid)
            processes = [scheduler, *scheduler.children(recursive=True)]
            patience = 1.0  # if it hangs, or ends before it has answered
            with suppress(TileworkError):
                _ask(entry, "shutdown")
                patience = PATIENCE
            _, left = psutil.wait_procs(processes, patience)
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, PATIENCE)
        register.remove(entry.port, entry.pid)
        print(f"stopped {entry.name}")
    return 0


def _ask(entry: Entry, method: str, *args: Any) -> Any:
    link = Link.connect(entry.address, PATIENCE, "tilework cluster")
    try:
        return link.request(method, *args, timeout=PATIENCE)
    except TimeoutError as error:
        raise ConnectionLostError(f"{entry.name} does not answer: {error}") from error
    finally:
        link.close()


def _find(names: list[str]) -> list[Entry]:
    """Running clusters by name, address or port."""
    entries = register.entries()
    found = []
    for name in names:
        matching = [entry for entry in entries if name in (entry.name, entry.address, str(entry.port))]
        if len(matching) > 1:
            raise ConfigError(f"{len(matching)} clusters are named {name!r}; use the address of the one that you mean")
        if not matching and ":" in name:
            matching = [register.read(name)]  # spelled differently; or says what listens there
        if not matching:
            running = ", ".join(entry.name for entry in entries) or "none"
            raise ConfigError(f"there is no cluster {name!r}; running: {running}")
        found += matching
    return found
