"""What a task can ask of where it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tilework.distributed.client import Client, get_client
from tilework.engine.cluster.workers import worker


@dataclass(frozen=True, slots=True)
class Worker:
    """The worker process that a task runs in: its number, which is also its name, and its cluster's address."""

    number: int
    scheduler_address: str

    @property
    def name(self) -> int:
        """What ``workers=`` calls it."""
        return self.number

    @property
    def client(self) -> Client:
        """A client of the cluster."""
        return get_client()


def get_worker() -> Worker:
    """The worker that runs this task. Raises ValueError elsewhere."""
    here = worker.current()
    if here is None:
        raise ValueError("this is no worker process; get_worker() is for tasks")
    return Worker(here.worker, here.address)


@contextmanager
def worker_client() -> Iterator[Client]:
    """The client for a task that submits others and waits for them: the same as :func:`get_client`."""
    yield get_client()


def secede() -> None:
    """Say that this task will not compute until :func:`rejoin`, so that its worker may run another one meanwhile.

    To wait for futures this is not needed: whoever waits in a task does it by itself.
    """
    get_worker()
    worker.secede()


def rejoin() -> None:
    """End what :func:`secede` began. The end of the task does it, too."""
    get_worker()
    worker.rejoin()
