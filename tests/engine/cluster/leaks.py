"""What clusters leave behind: nothing.

::

    with leaks.watched() as watch:      # what is started from here on can be told from everything else
        ...
    # or watch.assert_nothing_left() at any moment when all should be gone
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MARK = "CLUSTER_TEST"
PATIENCE = 10.0  # seconds for what is ending on its own


class Watch:
    """What there was before.

    Processes are recognised by an environment variable that they inherit, since other programs run on this machine too.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mark = f"{MARK}={os.environ[MARK]}".encode()
        self.before = self._remains()

    def processes(self) -> dict[int, str]:
        """What we have started and still runs, with its name. What is dead but not waited for counts, if it is ours."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            try:
                name, status = _stat(path)
                marked = pid != os.getpid() and self.mark in (path / "environ").read_bytes().split(b"\0")
            except (OSError, ValueError):
                continue
            if marked or (status[0] == "Z" and int(status[1]) == os.getpid()):
                found[pid] = f"{name} ({status[0]})"
        return found

    def wait_for_processes(self, n: int, name: str = "") -> list[int]:
        """Wait until exactly ``n`` run whose names begin so."""
        return _patiently(lambda: [p for p, k in self.processes().items() if k.startswith(name)], lambda f: len(f) == n)

    def assert_nothing_left(self) -> None:
        """All of it ends or is taken away, within seconds."""
        left = _patiently(lambda: self._remains() - self.before, lambda found: not found)
        assert not left, f"left behind: {sorted(left)}"

    def _remains(self) -> set[str]:
        gc.collect()
        found = {f"process {pid} {name}" for pid, name in self.processes().items()}
        pids = [*self.processes(), os.getpid()]
        found |= {f"port {port}" for pid in pids for port in listening(pid)}
        found |= _descriptors() | _mappings()
        found |= {f"/dev/shm/{name}" for name in os.listdir("/dev/shm")}
        found |= {str(path) for path in Path(tempfile.gettempdir()).glob("tilework*")}
        found |= {str(path) for path in self.directory.rglob("*") if not path.is_dir()}
        return found


@contextmanager
def watched() -> Iterator[Watch]:
    """Clusters that are made inside register in a directory of their own, and must leave nothing when all is over."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setenv(MARK, uuid.uuid4().hex)
        patch.setenv("XDG_RUNTIME_DIR", directory)
        watch = Watch(Path(directory))
        yield watch
        watch.assert_nothing_left()


def listening(pid: int) -> set[int]:
    """TCP ports at which a process listens."""
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links(pid) if link.startswith("socket:[")}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _patiently(look, good):  # type: ignore[no-untyped-def]
    """Look until it is good, or patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not good(found := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def _stat(process: Path) -> tuple[str, list[str]]:
    """A process's name; then its state, its parent ..."""
    text = (process / "stat").read_text()
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest.split()


def links(pid: int) -> list[str]:
    """What a process has open; nothing if it has ended."""
    found = []
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):  # closed meanwhile
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def _descriptors() -> set[str]:
    """Our own sockets and shared memory."""
    return {f"open {link}" for link in links(os.getpid()) if link.startswith(("socket:", "/memfd:tilework"))}


def _mappings() -> set[str]:
    """Our own views of shared memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {f"mapped {line}" for line in lines if "/memfd:tilework" in line}
