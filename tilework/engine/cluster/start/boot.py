"""Starts Python processes that are like this one: interpreter, flags, import path, working directory, environment.

They are started by ``exec`` and never forked from the user's process, whose threads and libraries need not survive
that. They do not import the user's main script, so it needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tilework.base.errors import UnsupportedError

# The import path comes first: without it the second pickle, of tilework's own classes, could not be read.
_MAIN = (
    "import importlib, pickle, sys; "
    "sys.path[:] = pickle.load(sys.stdin.buffer); "
    "module, function, arguments = pickle.load(sys.stdin.buffer); "
    "getattr(importlib.import_module(module), function)(*arguments)"
)

_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""BLAS uses one thread a call unless the user's environment says otherwise: there is a worker for every core."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def start(
    module: str, function: str, arguments: tuple[Any, ...], pass_fds: Sequence[int] = (), log: str | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that calls ``module.function(*arguments)``, in a session of its own: Ctrl-C does not reach it.

    ``pass_fds`` keep their numbers there. Output goes where ours goes, or is appended to the file ``log``.

    Raises
    ------
    UnsupportedError
        On other systems than Linux, or where it is not known which interpreter runs.
    """
    if not sys.platform.startswith("linux"):
        raise UnsupportedError(
            f"processes share memory in a way that only Linux has, and this is {sys.platform}; use scheduler='threads'"
        )
    if not sys.executable:
        raise UnsupportedError("sys.executable is empty, so no Python process can be started; use scheduler='threads'")
    output = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", _MAIN, f"{module}.{function}"],  # type: ignore[attr-defined]
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            env=dict.fromkeys(_ONE_THREAD, "1") | os.environ,
            start_new_session=True,
        )
    finally:
        if output is not None:
            os.close(output)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # if it has ended already, whoever waits for it will see
        pipe.write(pickle.dumps(sys.path) + pickle.dumps((module, function, arguments)))
    return process


def leave_stdin() -> None:
    """Nobody has anything to say on standard input any more. The output appears line by line."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def name_process(name: str) -> None:
    """What ``ps`` and ``top`` call this process, in up to 15 letters."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def die_with_parent(parent: int, signal: int) -> None:
    """The kernel sends us a signal when our parent ends, however it does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before we asked
        os._exit(1)
