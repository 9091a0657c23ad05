"""Real clusters for tests, and what is done to them from outside."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engine.cluster import leaks
from tilework.distributed.client import Client
from tilework.engine.cluster.start.launch import ClusterConfig, Launched, launch

PATIENCE = 30.0  # seconds for what must happen soon


class Real:
    """A cluster and a client of it."""

    def __init__(self, watch: leaks.Watch, launched: Launched) -> None:
        self.watch, self.launched = watch, launched
        self.address = launched.address
        self.client = Client(launched.address)

    def ask(self, method: str, *args: Any) -> Any:
        return self.client.link.request(method, *args, timeout=PATIENCE)

    def workers(self) -> dict[int, dict[str, Any]]:
        return self.ask("info")["workers"]

    def worker(self, number: int = 0) -> int:
        """The process of a worker that serves."""
        while not (pid := self.workers().get(number, {"pid": 0})["pid"]):  # it may just be replaced
            self.ask("wait_for_workers", number + 1)
        return pid

    def kill(self, pid: int, signum: int = signal.SIGKILL) -> None:
        assert pid > 0, "0 would be all of us"
        with suppress(ProcessLookupError):
            os.kill(pid, signum)

    def nursery(self) -> int:
        (pid,) = self.watch.wait_for_processes(1, "tw-nursery")
        return pid


@contextmanager
def cluster(**options: Any) -> Iterator[Real]:
    """A cluster that leaves nothing behind: two workers of one thread, unless it is said otherwise."""
    config = {"n_workers": 2, "threads": 1, "memory_limit": 1 << 30, "memory": 1 << 30, "dashboard_port": None}
    with leaks.watched() as watch:
        launched = launch(ClusterConfig(**{**config, **options}))
        try:
            real = Real(watch, launched)
            try:
                yield real
            finally:
                real.client.close()
                del real.client  # it has the arena open
        finally:
            launched.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen soon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Gate:
    """Holds tasks up: each says that it is there, and goes on when it may."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def passes(self, name: object) -> None:
        """In the task."""
        (self.directory / f"{name}-{os.getpid()}-{time.monotonic_ns()}").touch()
        while not (self.directory / "open").exists():
            time.sleep(0.002)

    def open(self) -> None:
        (self.directory / "open").touch()

    def reached(self, name: object) -> int:
        """How often a task of this name has come here."""
        return len(list(self.directory.glob(f"{name}-*")))

    def wait(self, name: object, times: int = 1) -> None:
        until(lambda: self.reached(name) >= times)


def options(**of_cluster: Any) -> pytest.MarkDecorator:
    """Marks a test that wants such a cluster: see the fixture ``cluster``."""
    return pytest.mark.parametrize("cluster", [pytest.param(of_cluster, id="cluster")], indirect=True)
