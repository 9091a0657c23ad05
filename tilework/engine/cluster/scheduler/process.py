"""The scheduler process, from its first line to its last."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys

from tilework.base.errors import TileworkError
from tilework.base.scratch import ScratchFile
from tilework.engine.cluster.scheduler.server import Server
from tilework.engine.cluster.start import boot
from tilework.engine.cluster.start.launch import MESSAGE_BYTES, ClusterConfig, Started
from tilework.engine.cluster.start.nursery import Nursery
from tilework.engine.cluster.store.arena import Arena, slot_bytes

SLOTS = 1024
"""Workers and clients that a cluster may have at the same time."""


def main(config: ClusterConfig, lifeline: int) -> None:
    """Make shared memory, spill file and nursery, in this order, then serve until the cluster ends.

    Says on the lifeline what has come of it: one message, Started or an error. If the cluster is owned, the server
    looks after the lifeline from then on, and ends when its other end is closed.
    """
    if not config.owned and os.fork():
        os._exit(0)  # who has started us need not wait for the one that stays
    boot.leave_stdin()
    boot.name_process("tw-scheduler")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = socket.socket(fileno=lifeline)
    try:
        server = _make(config, owner)
        started = Started(server.address, server.secret, server.dashboard, os.getpid())
    except Exception as error:
        owner.send(_portable(error))
        if isinstance(error, TileworkError | OSError):
            sys.exit(1)
        raise
    try:
        owner.send(pickle.dumps(started))
    except BrokenPipeError:
        server.end("nobody waits for it any more")
    server.serve()


def _make(config: ClusterConfig, owner: socket.socket) -> Server:
    arena = Arena.create(SLOTS, slot_bytes(config.memory))
    spill = ScratchFile(config.spill_directory)
    arena.spill = spill.fileno()
    nursery = Nursery(arena, config.memory_limit, owner.fileno())  # before there is anything to inherit
    try:
        return Server(config, arena, spill, nursery, owner if config.owned else None)
    except BaseException:
        nursery.close()
        raise


def _portable(error: Exception) -> bytes:
    """The error, or at least its text, as a message."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = b""
    return (
        data if 0 < len(data) < MESSAGE_BYTES else pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"[:4096]))
    )
