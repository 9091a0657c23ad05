"""Measures one peer of one case in a process of its own, with what it starts. Prints JSON."""

from __future__ import annotations

import contextlib
import gc
import json
import resource
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil

from benchmarks.case import Told
from benchmarks.cases import all_cases


def tree() -> list[psutil.Process]:
    """This process and all that descend from it."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def memory() -> int:
    """Bytes that the tree holds. What several processes share counts once."""
    me, *others = tree()
    if not others:
        return me.memory_info().rss
    total = 0
    for process in (me, *others):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            total += process.memory_full_info().pss
    return total


def cpu() -> float:
    """CPU seconds of the tree so far. What has ended counts, once its parent has asked how."""
    me, *others = tree()
    total = time.process_time() + sum(me.cpu_times()[2:4])
    for process in others:
        with contextlib.suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


class PeakWatch:
    """The most memory that the tree holds, sampled. Looking takes at most a fiftieth of the time."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, memory())

    def _watch(self) -> None:
        took = 0.0
        while not self._over.wait(max(0.02, 50 * took)):
            start = time.thread_time()
            self.peak = max(self.peak, memory())
            took = time.thread_time() - start


def answer_of(value: Any) -> Any:
    """The answer in a form that JSON takes; large arrays are told by a few sums."""
    if value is None:
        return None
    array = np.asarray(value, dtype=float)
    if array.size <= 100:
        return array.tolist()
    finite = np.nan_to_num(array.ravel())
    return [
        float(finite.sum()),
        float(np.abs(finite).max()),
        float(np.isnan(array).sum()),
        *finite[:: array.size // 50],
    ]


def main() -> None:
    """Measure and print."""
    case = all_cases()[sys.argv[1]]
    work = case.peers[sys.argv[2]]()
    if case.warm:
        work()
    gc.collect()
    before = memory()
    with PeakWatch() as watch:
        spent, start = cpu(), time.perf_counter()
        value = work()
        wall, spent = time.perf_counter() - start, cpu() - spent
    lifetime = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = {"wall": wall, "cpu": spent, "peak": max(watch.peak, 0 if case.warm else lifetime), "before": before}
    if isinstance(value, Told):
        report, value = report | value.figures, value.answer
    print(json.dumps({**report, "answer": answer_of(value)}))


if __name__ == "__main__":
    main()
