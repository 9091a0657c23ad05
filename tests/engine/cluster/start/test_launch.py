from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.cluster import housing, leaks
from tilework.base.errors import ConfigError, ConnectionLostError, UnsupportedError
from tilework.engine.cluster.start import boot, launch
from tilework.engine.cluster.start.launch import ClusterConfig
from tilework.engine.cluster.wire import register

CONFIG = ClusterConfig(n_workers=2, threads=1, memory_limit=1 << 30, memory=1 << 28, dashboard_port=None, name="mine")


@pytest.fixture
def watch() -> Iterator[leaks.Watch]:
    with leaks.watched() as made:
        yield made


def test_a_cluster_starts_and_ends(watch: leaks.Watch) -> None:
    launched = launch.launch(CONFIG)
    entry = register.read(launched.address)
    assert (entry.name, entry.secret, entry.pid) == ("mine", launched.secret, launched.pid)
    assert watch.wait_for_processes(1, "tw-scheduler") == [launched.pid]
    assert len(watch.wait_for_processes(2, "tw-worker")) == 2
    assert os.getsid(launched.pid) == launched.pid, "Ctrl-C in our terminal does not reach it"
    launched.close()
    assert watch.processes() == {}, "all have ended when close() returns"
    launched.close()
    watch.assert_nothing_left()


def test_it_listens_on_loopback_only(watch: leaks.Watch) -> None:
    launched = launch.launch(CONFIG)
    assert leaks.listening(launched.pid) == {register.parse_address(launched.address)}
    addresses = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f"{register.parse_address(launched.address):04X}"
    assert [f[1] for f in addresses if f[3] == "0A" and f[1].endswith(":" + port)] == [f"0100007F:{port}"]
    launched.close()


def test_what_the_machine_refuses_is_raised(watch: leaks.Watch, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used"):
            launch.launch(ClusterConfig(1, 1, 1 << 30, 1 << 28, port=port))
    watch.assert_nothing_left()
    assert capfd.readouterr().err == "", "it is raised, and need not be printed as well"


def test_a_spill_directory_that_is_not_there(watch: leaks.Watch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        launch.launch(ClusterConfig(1, 1, 1 << 30, 1 << 28, spill_directory="/nowhere"))
    watch.assert_nothing_left()


def test_a_process_that_ends_at_once(watch: leaks.Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConnectionLostError, match="before it served, by exit code 1"):
        launch.launch(CONFIG)


def test_a_process_that_does_not_answer(watch: leaks.Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    silent.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(silent))
    monkeypatch.setattr(launch, "START_SECONDS", 0.1)
    monkeypatch.setattr(launch, "CLOSE_SECONDS", 0.1)
    with pytest.raises(ConnectionLostError, match="does not serve after"):
        launch.launch(CONFIG)
    watch.assert_nothing_left()


@pytest.mark.parametrize(("name", "value"), [("platform", "darwin"), ("executable", "")])
def test_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setattr(sys, name, value)
    with pytest.raises(UnsupportedError, match="scheduler='threads'"):
        launch.launch(CONFIG)


def test_a_frozen_cluster_is_killed(watch: leaks.Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = launch.launch(CONFIG)
    os.kill(launched.pid, signal.SIGSTOP)
    monkeypatch.setattr(launch, "CLOSE_SECONDS", 0.5)
    launched.close()
    watch.assert_nothing_left()


@pytest.mark.parametrize("who", ["tw-scheduler", "tw-nursery", "tw-worker", "all"])
def test_whoever_is_killed_nothing_is_left(watch: leaks.Watch, who: str) -> None:
    launched = launch.launch(CONFIG)
    watch.wait_for_processes(2, "tw-worker")
    killed = [pid for pid, name in watch.processes().items() if who == "all" or name.startswith(who)]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    housing.soon(lambda: not any(housing.runs(pid) for pid in killed))
    if who in ("tw-scheduler", "all"):
        with pytest.raises(ConnectionLostError):
            register.read(launched.address)
    launched.close()
    if who == "all":
        # Nobody was left to remove its entry; who looks does.
        assert launched.address not in [entry.address for entry in register.entries()]
    watch.assert_nothing_left()


OWNER = """
import sys, threading
from tilework.engine.cluster.start import launch
config = launch.ClusterConfig(2, 1, 1 << 30, 1 << 28, dashboard_port=None)
launched = []
thread = threading.Thread(target=lambda: launched.append(launch.launch(config)))
thread.start()
thread.join()  # the cluster does not end with the thread that has made it
print(launched[0].address, flush=True)
try:
    sys.stdin.read()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.stdin.read()
"""


def owner() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_ends_with_its_owner(watch: leaks.Watch, how: signal.Signals | None) -> None:
    process = owner()
    assert process.stdin is not None
    assert process.stdout is not None
    register.read(process.stdout.readline().strip())
    watch.wait_for_processes(2, "tw-worker")
    if how is not None:
        process.send_signal(how)
    _, errors = process.communicate()
    watch.assert_nothing_left()
    assert errors == ""


def test_ctrl_c_in_the_terminal_is_for_the_owner_alone(watch: leaks.Watch) -> None:
    process = owner()
    assert process.stdin is not None
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    pids = {*watch.wait_for_processes(2, "tw-worker"), register.read(address).pid}
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    for pid in pids:
        os.kill(pid, signal.SIGINT)  # not even so
    assert register.read(address).pid in pids
    assert pids <= watch.processes().keys()
    _, errors = process.communicate()
    watch.assert_nothing_left()
    assert errors == ""


def test_ctrl_c_while_it_starts(
    watch: leaks.Watch, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_hear", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch.launch(CONFIG)
    assert watch.processes() == {}
    assert capfd.readouterr().err == ""


def test_one_that_nobody_owns_goes_on_and_ends_when_idle(watch: leaks.Watch, tmp_path: Path) -> None:
    script = (
        "from tilework.engine.cluster.start import launch\n"
        "launched = launch.launch(launch.ClusterConfig(1, 1, 1 << 30, 1 << 28, dashboard_port=None, owned=False,\n"
        f"    idle_timeout=1.0, log={str(tmp_path / 'log')!r}))\n"
        "print(launched.address, launched.lifeline)\n"
        "launched.close()"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    address, lifeline = output.stdout.split()
    assert lifeline == "None"
    entry = register.read(address)
    assert housing.runs(entry.pid)
    assert housing.parent(entry.pid) != os.getpid()
    watch.assert_nothing_left()
    assert (tmp_path / "log").exists()


def say(directory: str) -> None:
    """Body of a process below."""
    boot.leave_stdin()
    import only_for_the_child

    Path(directory, "said").write_text(
        "\n".join([os.getcwd(), only_for_the_child.word, sys.stdin.read(), os.environ["OPENBLAS_NUM_THREADS"],
                   os.environ["MKL_NUM_THREADS"], str(sys.flags.optimize)])
    )  # fmt: skip


def test_a_process_like_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "modules"
    module.mkdir()
    (module / "only_for_the_child.py").write_text("word = 'found'")
    monkeypatch.syspath_prepend(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    process = boot.start(__name__, "say", (str(tmp_path),), log=str(tmp_path / "log"))
    assert process.wait(30) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "said").read_text().split("\n")
    assert said == [str(tmp_path), "found", "", "1", "3", str(sys.flags.optimize)]
