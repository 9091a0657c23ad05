"""Starts a cluster: its scheduler process, which makes all the others."""

from __future__ import annotations

import pickle
import socket
import subprocess
from dataclasses import dataclass

from tilework.base.errors import ConnectionLostError
from tilework.engine.cluster.start import boot

START_SECONDS = 60.0  # Python and NumPy may have to come from a slow network
CLOSE_SECONDS = 5.0
MESSAGE_BYTES = 1 << 16


@dataclass(frozen=True)
class ClusterConfig:
    """What a cluster should be.

    Attributes
    ----------
    n_workers
        How many to begin with.
    threads
        Tasks at a time, of each worker.
    memory_limit
        Bytes of memory that one worker process may have.
    memory
        Bytes that all blocks in shared memory may weigh together.
    spill_directory
        Where the spill file goes; None is the system's temporary directory.
    port, dashboard_port
        On loopback. 0 is any free one; without a dashboard port there is no status page.
    name
        What people call it.
    idle_timeout
        Seconds without clients and work after which it ends by itself.
    task_timeout
        Seconds after which a task is stopped.
    owned
        Whether it ends when whoever started it has gone.
    extras
        Functions that are called with the server once it serves, each as ``"module:function"``.
    log
        File for the output of all processes; None is where ours goes.
    """

    n_workers: int
    threads: int
    memory_limit: int
    memory: int
    spill_directory: str | None = None
    port: int = 0
    dashboard_port: int | None = 0
    name: str = ""
    idle_timeout: float | None = None
    task_timeout: float | None = None
    owned: bool = True
    extras: tuple[str, ...] = ()
    log: str | None = None


@dataclass(frozen=True)
class Started:
    """What the scheduler process says once it serves. Plain data."""

    address: str
    secret: bytes
    dashboard: str | None
    pid: int


class Launched:
    """A running cluster, as seen by who started it.

    Attributes
    ----------
    address, secret, dashboard, pid
        See :class:`Started`.
    lifeline
        A connected socket on which nothing is said: its other end is open as long as the scheduler process or its
        nursery lives. An owned cluster ends when this end is closed, whoever or whatever closes it. None if the cluster
        is not owned, or closed.
    """

    def __init__(
        self, started: Started, lifeline: socket.socket | None, process: subprocess.Popen[bytes] | None
    ) -> None:
        self.address, self.secret = started.address, started.secret
        self.dashboard, self.pid = started.dashboard, started.pid
        self.lifeline, self._process = lifeline, process

    def close(self) -> None:
        """End the cluster, if it is owned, and wait until all of its processes are gone. Idempotent.

        If that takes too long they are killed.
        """
        lifeline, self.lifeline = self.lifeline, None
        if lifeline is not None and self._process is not None:
            _end(self._process, lifeline)


def launch(config: ClusterConfig) -> Launched:
    """Start a cluster and wait until it serves.

    Raises
    ------
    TileworkError
        What was wrong with the configuration or the machine, as the scheduler process saw it.
    ConnectionLostError
        If that process ended, or did not serve within a minute.
    UnsupportedError
        On other systems than Linux.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = boot.start(
            "tilework.engine.cluster.scheduler.process",
            "main",
            (config, theirs.fileno()),
            [theirs.fileno()],
            config.log,
        )
    try:
        started = _hear(ours, process)
    except BaseException:
        _end(process, ours)
        raise
    if config.owned:
        return Launched(started, ours, process)
    ours.close()
    process.wait()  # its child serves
    return Launched(started, None, None)


def _hear(lifeline: socket.socket, process: subprocess.Popen[bytes]) -> Started:
    """The first and only message."""
    lifeline.settimeout(START_SECONDS)
    try:
        message = lifeline.recv(MESSAGE_BYTES)
    except TimeoutError:
        raise ConnectionLostError(f"process {process.pid} does not serve after {START_SECONDS:.0f} s") from None
    if not message:
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise ConnectionLostError(f"the scheduler process ended before it served, by {how}; its output says why")
    answer: Started | Exception = pickle.loads(message)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _end(process: subprocess.Popen[bytes], lifeline: socket.socket) -> None:
    """Hang up, and wait until nobody holds the other end."""
    with lifeline:
        lifeline.shutdown(socket.SHUT_WR)
        lifeline.settimeout(CLOSE_SECONDS)
        for _ in range(2):
            try:
                lifeline.recv(1)
                break
            except TimeoutError:
                process.kill()  # its nursery sees to the rest
    process.wait()
