"""What worker processes take, from /proc; and what to say about those that took too much, or ended."""

from __future__ import annotations

import os
import signal

from tilework.base.sizes import format_bytes

_PAGE = os.sysconf("SC_PAGE_SIZE")


def own_bytes(pid: int) -> int:
    """Memory that a process has for itself: neither the arena nor files count. 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            fields = file.read(128).split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE


def is_stopped(pid: int) -> bool:
    """Whether somebody has sent it SIGSTOP."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(512)
    except OSError:
        return False
    return text[text.rindex(b")") + 2 :][:1] == b"T"


def out_of_memory_kills() -> int:
    """How many processes the system has killed so far because memory was short; 0 if it does not tell."""
    kills = 0
    for path in ("/proc/vmstat", f"/sys/fs/cgroup{_cgroup()}/memory.events"):
        try:
            with open(path) as file:
                kills += next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        except (OSError, StopIteration, ValueError, IndexError):
            pass
    return kills


def _cgroup() -> str:
    """The path of our control group (version 2)."""
    try:
        with open("/proc/self/cgroup") as file:
            return next((line.split(":", 2)[2].strip() for line in file if line.startswith("0::")), "")
    except (OSError, IndexError):
        return ""


def how_it_ended(code: int | None, out_of_memory: bool = False) -> str:
    """A worker's end in words: ``code`` is its exit code, or minus the signal that killed it."""
    if code is None:
        return "closed its connection"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    if out_of_memory:
        return f"was killed by the system, which was out of memory ({name})"
    hints = {
        signal.SIGSEGV: ": a crash in compiled code",
        signal.SIGBUS: ": a crash in compiled code, or a mapped file that was cut off",
        signal.SIGABRT: ": compiled code gave up",
        signal.SIGKILL: ": by somebody, or by the system because memory was short",
    }
    return f"was killed by {name}{hints.get(-code, '')}"  # type: ignore[call-overload]


def memory_limit_text(task: str, taken: int, limit: int, inputs: list[int], threads: int) -> str:
    """Why a task was stopped, and what to do."""
    given = (
        f"its {len(inputs)} inputs weigh {format_bytes(sum(inputs))} (the largest {format_bytes(max(inputs))})"
        if inputs
        else "it has no inputs from other tasks"
    )
    fewer = f", threads_per_worker=1 (now {threads} tasks share the limit)" if threads > 1 else ""
    return (
        f"{task} was stopped: its worker process had taken {format_bytes(taken)} of memory, and may take "
        f"{format_bytes(limit)}; {given}. Give it less at a time (smaller chunks, fewer items), or give workers more: "
        f"fewer n_workers, a higher memory_limit{fewer}"
    )
