"""Measures one peer of one case in a process of its own: ``python -m benchmarks.worker CASE PEER``. Prints JSON."""

from __future__ import annotations

import gc
import json
import resource
import sys
import threading
import time
from typing import Any

import numpy as np
import psutil

from benchmarks.cases import all_cases


class PeakWatch:
    """The most memory that this process and its children hold, sampled."""

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

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.02):
            self.peak = max(self.peak, me.memory_info().rss)


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
    before = psutil.Process().memory_info().rss
    with PeakWatch() as watch:
        cpu, wall = time.process_time(), time.perf_counter()
        value = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    lifetime = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    report = {"wall": wall, "cpu": cpu, "peak": max(watch.peak, 0 if case.warm else lifetime), "before": before}
    print(json.dumps({**report, "answer": answer_of(value)}))


if __name__ == "__main__":
    main()
