"""Keeps BLAS from using all cores in every one of our threads at once.

Each call into BLAS may spread over all cores. Called by as many workers as there are cores, its threads fight for
them: on two cores, a 4000 x 4000 matrix product in blocks of 500 took 11 CPU-seconds instead of 3.6. So while workers
run, BLAS gets the cores divided by the workers. The limit belongs to the whole process: the first run sets it, the
last one that is still running lifts it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController

from tilework.base import machine

_lock = Lock()
_running = 0
_limit: Any = None


@cache
def _controller(scipy: bool) -> ThreadpoolController:
    """The BLAS libraries that are loaded: NumPy's, and SciPy's own once that is there. Looking takes a millisecond."""
    return ThreadpoolController()


@contextmanager
def shared_by(workers: int) -> Iterator[None]:
    """Inside, BLAS calls use ``cores / workers`` threads, at least one."""
    global _running, _limit
    with _lock:
        _running += 1
        if _running == 1:
            controller = _controller("scipy.linalg" in sys.modules)
            _limit = controller.limit(limits=max(1, machine.cores() // workers), user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _limit.restore_original_limits()
