from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tilework.base import machine
from tilework.base.machine import MemoryMeter


class Host:
    """A made-up /proc/self and cgroup file system."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.proc.mkdir()
        self.fs = root / "cgroup"
        self.mounts: list[str] = []
        self.groups: list[str] = []

    def mount(self, kind: str, point: str, root: str = "/", options: str = "rw") -> None:
        number = len(self.mounts) + 30
        self.mounts.append(f"{number} 23 0:{number} {root} {self.fs / point} rw,relatime - {kind} {kind} {options}")
        (self.proc / "mountinfo").write_text("\n".join(["1 0 8:1 / / rw - ext4 /dev/x rw", *self.mounts]))

    def belong(self, controllers: str, path: str) -> None:
        self.groups.append(f"{len(self.groups)}:{controllers}:{path}")
        (self.proc / "cgroup").write_text("\n".join(self.groups) + "\n")

    def write(self, path: str, **files: str) -> None:
        directory = self.fs / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    made_up = Host(tmp_path)
    monkeypatch.setattr(machine, "PROC_SELF", made_up.proc)
    return made_up


def test_without_cgroups_the_machine_counts(host: Host) -> None:
    assert machine.memory_total() == psutil.virtual_memory().total
    assert machine.cpu_quota() == math.inf
    assert machine.cores() == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_version_2_the_smallest_limit_on_the_way_up_counts(host: Host) -> None:
    host.mount("cgroup2", "v2")
    host.belong("", "/slice/job/step")
    host.write("v2/slice", memory__max="1000000")
    host.write(
        "v2/slice/job", memory__max="300000", memory__current="250000", memory__stat="anon 5\ninactive_file 50000"
    )
    host.write("v2/slice/job/step", memory__max="max", cpu__max="150000 100000")
    assert machine.memory_total() == 300_000
    assert machine.memory_available() == 100_000  # the file cache can be dropped
    assert machine.cpu_quota() == 1.5


def test_version_1_limits_of_each_controller(host: Host) -> None:
    host.mount("cgroup", "memory", options="rw,memory")
    host.mount("cgroup", "cpu,cpuacct", options="rw,cpu,cpuacct")
    host.belong("memory", "/batch/7")
    host.belong("cpuacct,cpu", "/batch")
    host.write("memory", memory__limit_in_bytes=str(2**63 - 4096))
    host.write(
        "memory/batch/7",
        memory__limit_in_bytes="500000",
        memory__usage_in_bytes="600000",
        memory__stat="total_inactive_file 0",
    )
    host.write("cpu,cpuacct/batch", cpu__cfs_quota_us="25000", cpu__cfs_period_us="50000")
    assert machine.memory_total() == 500_000
    assert machine.memory_available() == 0
    assert machine.cpu_quota() == 0.5
    assert machine.cores() == 1


def test_version_1_without_a_quota(host: Host) -> None:
    host.mount("cgroup", "cpu", options="rw,cpu")
    host.belong("cpu", "/")
    host.write("cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert machine.cpu_quota() == math.inf


def test_both_versions_at_once(host: Host) -> None:
    host.mount("cgroup2", "unified")
    host.mount("cgroup", "memory", options="rw,memory")
    host.belong("", "/job")
    host.belong("memory", "/job")
    host.write("unified/job", cpu__max="max 100000")
    host.write("memory/job", memory__limit_in_bytes="400000")
    assert machine.memory_total() == 400_000
    assert machine.cpu_quota() == math.inf


@pytest.mark.parametrize("root", ["/docker/abc", "/somewhere/else"])
def test_in_a_container_the_mount_begins_at_our_own_group(host: Host, root: str) -> None:
    host.mount("cgroup", "memory", root=root, options="rw,memory")
    host.belong("memory", "/docker/abc")
    host.write("memory", memory__limit_in_bytes="123456")
    assert machine.memory_total() == 123_456


def test_this_machine() -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    assert 0 < machine.memory_available() <= machine.memory_total() <= psutil.virtual_memory().total


def test_free_space(tmp_path: Path) -> None:
    free = machine.free_space(tmp_path)
    assert free is not None
    assert free > 0
    assert machine.free_space(tmp_path / "missing") is None


def test_memory_meter_sees_what_is_allocated_and_freed() -> None:
    # In a process of its own: the kernel tells exactly only what is above all that a process ever held.
    code = textwrap.dedent("""
        from tilework.base.machine import MemoryMeter
        with MemoryMeter() as meter:
            block = bytearray(100 * 2**20)  # touches every page
            del block
        print(meter.peak - meter.start)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 90 * 2**20


def test_memory_meter_sees_children() -> None:
    # The child tells when it holds its memory and waits to be told to end, so nothing depends on speed.
    code = textwrap.dedent("""
        import sys
        block = bytearray(80 * 2**20)
        print("holding", flush=True)
        sys.stdin.read()
    """)
    with MemoryMeter() as meter:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"holding"
        assert meter._measure(find_children=True) - meter.start >= 75 * 2**20
        meter.peak = 0
    child.communicate()
    assert meter.peak - meter.start >= 75 * 2**20  # the last look, at the end of the block, has found it
    assert not meter._thread.is_alive() if meter._thread else True
