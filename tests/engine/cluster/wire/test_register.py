from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tilework.base.errors import ConfigError, ConnectionLostError, StorageError, UnsupportedError
from tilework.engine.cluster.wire import register
from tilework.engine.cluster.wire.register import Entry

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="clusters need Linux")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory, a home and a directory for temporary files of our own. The first is where entries go."""
    for name, variable in (("run", "XDG_RUNTIME_DIR"), ("home", "HOME"), ("tmp", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "run" / "tilework"


@pytest.fixture
def entry() -> Entry:
    return Entry("mine", 8786, bytes(range(32)), os.getpid(), 100.0, "http://127.0.0.1:8787/?token=x")


@pytest.fixture
def dead() -> Iterator[int]:
    """The number of a process that is dead, and not yet waited for."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "127.0.0.1:8786", "localhost:8786", "LOCALHOST:8786", ":8786", "tcp://[::1]:8786/"],
)
def test_addresses_of_this_machine(address: str) -> None:
    assert register.parse_address(address) == 8786


@pytest.mark.parametrize(
    "address", ["", "8786", "localhost", "tcp://localhost", ":0", ":65536", "udp://:1", "tls://127.0.0.1:8786", "a:b"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match=r'is not the address of a cluster; it looks like "tcp://127.0.0.1:8786"'):
        register.parse_address(address)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.7:8786", "scheduler.example.org:8786", "0.0.0.0:8786", "[fe80::1]:1"]
)
def test_other_machines_are_reached_otherwise(address: str) -> None:
    with pytest.raises(UnsupportedError, match="is another machine"):
        register.parse_address(address)


# ---------------------------------------------------------------- entries


def test_what_is_written_is_found(entry: Entry) -> None:
    other = replace(entry, name="other", port=8788, started=50.0, dashboard=None)
    register.write(entry)
    register.write(other)
    assert register.entries() == [other, entry]
    assert register.read("localhost:8786") == entry
    assert register.read(other.address) == other
    register.remove(8786, entry.pid)
    register.remove(8786, entry.pid)
    assert register.entries() == [other]


def test_a_new_cluster_at_a_port_takes_the_place_of_the_old_one(entry: Entry) -> None:
    register.write(entry)
    new = replace(entry, name="new")
    register.write(new)
    assert register.entries() == [new]


def test_another_cluster_at_the_port_is_not_removed(entry: Entry) -> None:
    register.write(entry)
    register.remove(8786, entry.pid + 1)
    assert register.entries() == [entry]


def test_only_the_owner_can_read(entry: Entry, runtime: Path) -> None:
    before = os.umask(0)
    try:
        register.write(entry)
    finally:
        os.umask(before)
    (file,) = runtime.iterdir()
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600


def test_nothing_secret_is_shown(entry: Entry) -> None:
    assert "secret" not in repr(entry)
    assert "token" not in repr(entry)


def test_entries_are_found_from_another_environment(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    register.write(entry)
    assert Path("~/.cache/tilework/clusters").expanduser().is_dir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert register.entries() == [entry]


def test_where_there_is_no_home(entry: Entry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", "/nowhere")
    register.write(entry)
    assert register.read(":8786") == entry
    assert len(list((tmp_path / "tmp" / f"tilework-{os.geteuid()}").iterdir())) == 1


# ---------------------------------------------------------------- stale entries


def test_the_entry_of_a_dead_process_is_removed(entry: Entry, runtime: Path, dead: int) -> None:
    register.write(replace(entry, pid=dead))
    assert register.entries() == []
    assert list(runtime.iterdir()) == []


def test_a_process_that_got_the_number_of_a_dead_one_is_not_taken_for_it(entry: Entry, runtime: Path) -> None:
    register.write(entry)
    (file,) = runtime.iterdir()
    record = json.loads(file.read_text())
    record["birth"] -= 1
    file.write_text(json.dumps(record))
    assert register.entries() == []
    assert list(runtime.iterdir()) == []


def test_what_a_killed_process_left_half_written_is_removed(entry: Entry, runtime: Path, dead: int) -> None:
    register.write(entry)
    (file,) = runtime.iterdir()
    (runtime / f"{file.name}.{dead}.new").write_text("{")
    (runtime / f"{file.name}.{os.getpid()}.new").write_text("{")  # being written right now
    assert register.entries() == [entry]
    assert sorted(path.name for path in runtime.iterdir()) == [file.name, f"{file.name}.{os.getpid()}.new"]


def test_entries_of_another_boot_are_left_alone(entry: Entry, runtime: Path) -> None:
    register.write(entry)
    (file,) = runtime.iterdir()
    file.rename(runtime / "00000000-8786")
    assert register.entries() == []
    assert len(list(runtime.iterdir())) == 1


# ---------------------------------------------------------------- clear errors


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_nobody_listens(entry: Entry) -> None:
    register.write(entry)
    port = free_port()
    with pytest.raises(
        ConnectionLostError, match=rf"nobody listens at .*:{port}; your clusters: tcp://127.0.0.1:8786\."
    ):
        register.read(f":{port}")


def test_somebody_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(ConnectionLostError, match="no cluster of yours: it is another user's, or another program"):
            register.read(f":{listener.getsockname()[1]}")


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_directory_that_others_may_enter_is_refused(entry: Entry, runtime: Path, mode: int) -> None:
    runtime.mkdir()
    runtime.chmod(mode)
    with pytest.raises(StorageError, match=r"not safe to keep a cluster's secret.*chmod go-rwx"):
        register.write(entry)
    with pytest.raises(StorageError, match="not safe"):
        register.entries()


def test_a_link_is_refused(entry: Entry, runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="no link"):
        register.write(entry)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_that_others_may_read_is_refused(entry: Entry, runtime: Path) -> None:
    register.write(entry)
    (file,) = runtime.iterdir()
    file.chmod(0o644)
    with pytest.raises(StorageError, match="not safe"):
        register.read(":8786")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_the_directories_of_others_are_not_used(
    entry: Entry, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(runtime.parent, 12345, 12345)  # sudo keeps the variable of the user
    register.write(entry)
    assert not runtime.exists()
    assert register.entries() == [entry]

    os.chown(tmp_path / "home", 12345, 12345)
    trap = tmp_path / "tmp" / f"tilework-{os.geteuid()}"
    trap.mkdir(mode=0o700)
    os.chown(trap, 12345, 12345)
    assert register.entries() == []
    with pytest.raises(StorageError, match="belongs to another user"):
        register.write(entry)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"port": 1}'])
def test_a_file_that_makes_no_sense(entry: Entry, runtime: Path, text: str) -> None:
    register.write(entry)
    (file,) = runtime.iterdir()
    file.write_text(text)
    with pytest.raises(StorageError, match="does not tell of a cluster; remove it"):
        register.entries()


def test_readers_never_see_half_a_file(entry: Entry) -> None:
    """A process writes the entry again and again while we read it."""
    program = (
        "import sys\n"
        "from tilework.engine.cluster.wire.register import Entry, write\n"
        "for k in range(300):\n"
        "    write(Entry('x' * k, 8786, bytes(32), int(sys.argv[1]), 0.0))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(os.getpid())]) as writer:
        seen = set()
        while writer.poll() is None:
            seen.update(entry.name for entry in register.entries())
    assert writer.returncode == 0
    assert seen
