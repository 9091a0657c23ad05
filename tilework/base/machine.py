"""What this machine really has for us: cores, memory, shared memory and temporary space.

In a container or a batch job the operating system still tells of the whole machine; the truth is in the control
groups (cgroups) that hold the process. A limit counts at every level, from the process's own group up to the root
that can be seen, so the smallest one is what there is. Version 1 (one hierarchy a controller) and version 2 (one for
all) may both be mounted; both are asked. Elsewhere than on Linux there are no cgroups and nothing is lost.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil

PROC_SELF = Path("/proc/self")


def cores() -> int:
    """Cores that this process may keep busy: its affinity, bounded by the CPU quota of its cgroups; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    n = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, math.ceil(min(n, cpu_quota())))


def cpu_quota() -> float:
    """Cores' worth of CPU time that the cgroups allow, or infinity."""
    quota = math.inf
    for group in _cgroups("cpu"):
        text = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
        allowed, _, period = text.partition(" ")
        if allowed.isdigit() and period.isdigit() and int(period) > 0:  # "max" and -1 mean no limit
            quota = min(quota, int(allowed) / int(period))
    return quota


def memory_total() -> int:
    """Bytes of memory that this process can have at most: the machine's, bounded by its cgroups' limits."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _memory_groups())])


def memory_available() -> int:
    """Bytes that can be allocated now without swapping or being killed; caches count as available."""
    return min([int(psutil.virtual_memory().available), *(max(0, limit - used) for limit, used in _memory_groups())])


def _memory_groups() -> Iterator[tuple[int, int]]:
    """``(limit, used)`` of every cgroup around us that has a limit; ``used`` without the file cache it can drop."""
    for group in _cgroups("memory"):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if not limit.isdigit():  # "max", or the group has no such file
            continue
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes") or "0"
        statistics = dict(line.split()[:2] for line in _read(group / "memory.stat").splitlines() if " " in line)
        cache = statistics.get("total_inactive_file") or statistics.get("inactive_file", "0")
        yield int(limit), max(0, int(used) - int(cache))


def _cgroups(controller: str) -> Iterator[Path]:
    """The directories of the process's cgroups that a controller may keep its files in, innermost first."""
    for line in _read(PROC_SELF / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version = "cgroup2" if controllers == "" else "cgroup"
        if version == "cgroup" and controller not in controllers.split(","):
            continue
        for root, mount in _cgroup_mounts(version, controller):
            # Inside a container the mount may show only a part of the hierarchy, beginning at our own group.
            relative = os.path.relpath(path, root)
            group = mount if relative.startswith("..") else mount / relative
            yield group
            while group != mount:
                group = group.parent
                yield group


def _cgroup_mounts(version: str, controller: str) -> Iterator[tuple[str, Path]]:
    """``(root, mount point)`` of the mounted hierarchies of a version."""
    for line in _read(PROC_SELF / "mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind == version and (version == "cgroup2" or controller in options.split()[-1].split(",")):
            root, mount = fields.split()[3:5]
            yield root, Path(mount)


def _read(path: Path) -> str:
    """The stripped text of a file, or "" if there is none that we may read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def free_space(directory: str | os.PathLike[str]) -> int | None:
    """Free bytes on the file system of a directory, or None if it does not exist."""
    try:
        return int(psutil.disk_usage(os.fspath(directory)).free)
    except OSError:
        return None


class MemoryMeter:
    """Measures the most memory that this process (and its children) hold while a ``with`` block runs.

    The process itself is measured exactly by the kernel where it sets a new record; below its own record, and for
    children, a thread looks ``1 / interval`` times a second. Memory that children share with us counts once for each.

    Parameters
    ----------
    children
        Whether to count child processes, too. Finding them takes milliseconds.
    interval
        Seconds between two looks.

    Attributes
    ----------
    start
        Bytes resident when the block began.
    peak
        The most bytes resident at once; final after the block.

    Examples
    --------
    >>> with MemoryMeter() as meter:
    ...     data = bytearray(1000)
    >>> meter.peak >= meter.start > 0
    True
    """

    def __init__(self, children: bool = True, interval: float = 0.02) -> None:
        self.start = self.peak = 0
        self._with_children, self._interval = children, interval
        self._process = psutil.Process()
        self._children: list[psutil.Process] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._record = 0

    def __enter__(self) -> MemoryMeter:
        self._record = _resident_record()
        self.start = self.peak = self._measure(find_children=True)
        self._thread = threading.Thread(target=self._watch, name="tilework-memory-meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.peak = max(self.peak, self._measure(find_children=True))
        record = _resident_record()
        if record > self._record:
            self.peak = max(self.peak, record)

    def _watch(self) -> None:
        n = 0
        while not self._stop.wait(self._interval):
            n += 1
            # Looking for children means reading the whole process table: do that now and then only.
            self.peak = max(self.peak, self._measure(find_children=n % 10 == 0))

    def _measure(self, find_children: bool) -> int:
        if find_children and self._with_children:
            self._children = self._process.children(recursive=True)
        total = 0
        for process in (self._process, *self._children):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # has ended meanwhile
                continue
        return total


def _resident_record() -> int:
    """The most bytes that this process ever had resident, or 0 where the kernel does not tell."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
