"""Clusters that are started from a shell, with real commands in processes of their own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.engine.cluster import leaks
from tilework.cli.main import main

Tilework = Callable[..., subprocess.CompletedProcess[str]]
Script = Callable[[str], str]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="clusters need Linux")


@pytest.fixture(autouse=True)
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[leaks.Watch]:
    """Nothing remains; and no clusters are seen but the test's own."""
    for variable in ("HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    watch = None
    try:
        with leaks.watched() as watch:
            yield watch
    finally:
        for pid in watch.processes() if watch else ():  # of a test that failed
            os.kill(pid, signal.SIGKILL)


def started(tilework: Tilework, *arguments: str) -> dict[str, str]:
    """Start a cluster; what was printed about it, line by line."""
    done = tilework("cluster", "start", "--threads", "1", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return {line[:12].strip(): line[12:].strip() for line in done.stdout.splitlines()}


def listed(tilework: Tilework) -> list[dict[str, object]]:
    done = tilework("cluster", "list", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert isinstance(rows, list)
    return rows


def test_a_cluster_outlives_its_shell_and_is_used_from_elsewhere(tilework: Tilework, script: Script) -> None:
    told = started(tilework, "--workers", "2", "--name", "mine", "--memory-limit", "200 MiB")
    address = told["cluster"].removeprefix("mine at ")
    assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", address)
    assert told["workers"] == "2 x 1 threads, 200.0 MiB each"
    assert told["status page"].startswith("http://127.0.0.1:")
    assert told["stop"] == "tilework cluster stop mine"

    code = f"""
        import os
        import tilework as tw
        from tilework.distributed import Client
        with {told["connect"].removeprefix("tilework.distributed.")} as client:
            print(sum(client.gather(client.map(abs, range(-10, 0)))), len(client.run(os.getpid)))
            print(tw.delayed(os.getppid)().compute() != os.getpid())
    """
    for _ in range(2):
        done = tilework("run", script(code))
        assert done.stdout == "55 2\nTrue\n", done.stderr

    (row,) = listed(tilework)
    assert (row["name"], row["address"], row["workers"], row["threads"]) == ("mine", address, 2, 2)
    assert (row["error"], row["running"]) == (None, 0)
    table = tilework("cluster", "list").stdout.splitlines()
    assert table[0].split() == ["NAME", "ADDRESS", "WORKERS", "MEMORY", "AGE", "STATE"]
    assert table[1].split()[:5] == ["mine", address, "2", "x", "1"]
    assert table[1].endswith("idle")

    done = tilework("cluster", "scale", "mine", "3")
    assert (done.returncode, done.stdout) == (0, "mine has 3 workers\n"), done.stderr
    assert listed(tilework)[0]["workers"] == 3

    done = tilework("cluster", "stop", address)
    assert (done.returncode, done.stdout) == (0, "stopped mine\n"), done.stderr
    assert listed(tilework) == []
    assert tilework("cluster", "list").stderr == "no clusters are running\n"


def test_a_cluster_ends_when_idle(tilework: Tilework, watch: leaks.Watch) -> None:
    told = started(tilework, "--workers", "1", "--idle-timeout", "200 ms")
    assert told["ends"] == "when stopped, or after 200 ms without clients and work"
    watch.assert_nothing_left()


def test_several_clusters(tilework: Tilework) -> None:
    told = [started(tilework, "--workers", "1")["cluster"] for _ in range(2)]
    rows = listed(tilework)
    assert [f"{row['name']} at {row['address']}" for row in rows] == told
    assert [row["name"] for row in rows] == ["cluster-1", "cluster-2"]
    assert tilework("cluster", "stop", "--all").stdout == "stopped cluster-1\nstopped cluster-2\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_scheduler_that_is_dead_or_hangs(tilework: Tilework, watch: leaks.Watch, number: int) -> None:
    started(tilework, "--workers", "1", "--name", "poor")
    (row,) = listed(tilework)
    scheduler = psutil.Process(int(str(row["pid"])))
    scheduler.send_signal(number)
    if number == signal.SIGKILL:
        watch.assert_nothing_left()
        assert listed(tilework) == []
        done = tilework("cluster", "stop", "poor")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "tilework: there is no cluster 'poor'; running: none\n"
    else:
        assert tilework("cluster", "stop", "poor").stdout == "stopped poor\n"
        watch.assert_nothing_left()


def test_in_the_foreground_until_a_signal(tilework: Tilework, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "tilework", "cluster", "start", "--foreground", "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    address = process.stdout.readline().split()[-1]
    assert [row["address"] for row in listed(tilework)] == [address]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    with process.stdout, process.stderr:
        assert "Ctrl-C" in process.stdout.read()
        assert process.stderr.read() == "stopping\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "--workers", "0"], "0"),
        (["start", "--memory-limit", "much"], "'much' is not a byte size"),
        (["start", "--idle-timeout", "soon"], "--idle-timeout='soon' is not a duration"),
        (["start", "--spam"], "unrecognized arguments: --spam"),
        (["scale", "nothing", "2"], "there is no cluster 'nothing'; running: none"),
        (["scale", "nothing", "many"], "invalid int value: 'many'"),
        (["stop"], "by name or address, or --all"),
        (["stop", "tcp://10.0.0.1:8786"], "another machine"),
        (["stop", "spam:eggs"], "is not the address of a cluster"),
        (["stop", "tcp://127.0.0.1:1"], "nobody listens at tcp://127.0.0.1:1"),
        (["restart"], "invalid choice: 'restart'"),
        ([], "required: action"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["cluster", *arguments])
    except SystemExit as end:  # argparse's
        code = end.code
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert message in said.err.splitlines()[-1]


def test_a_name_or_port_that_is_taken(tilework: Tilework) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = tilework("cluster", "start", "--workers", "1", "--port", str(taken.getsockname()[1]))
        assert done.returncode == 2
        assert str(taken.getsockname()[1]) in done.stderr
        assert "Traceback" not in done.stderr
    started(tilework, "--workers", "1", "--name", "mine")
    assert "a cluster named 'mine' already" in tilework("cluster", "start", "--name", "mine").stderr
    assert tilework("cluster", "stop", "mine").returncode == 0


# ---------------------------------------------------------------- around a script

PROCESSES = """
    import os
    import tilework as tw
    from tilework.distributed import Client, get_client
    print(tw.delayed(os.getpid)().compute() != os.getpid())
    print(len(get_client().scheduler_info()["workers"]))
    with Client() as client:
        print(client.submit(sum, [1, 2]).result())
"""


def test_a_cluster_around_a_script(tilework: Tilework, script: Script) -> None:
    done = tilework("run", "--workers", "2", "--memory", "400 MiB", script(PROCESSES))
    assert (done.returncode, done.stdout) == (0, "True\n2\n3\n"), done.stderr
    assert "status page          http://127.0.0.1:" in done.stderr
    assert "computations         1" in done.stderr


def test_a_script_on_a_running_cluster(tilework: Tilework, script: Script) -> None:
    address = started(tilework, "--workers", "1")["cluster"].split()[-1]
    done = tilework("run", "--scheduler", address, script(PROCESSES))
    assert (done.returncode, done.stdout) == (0, "True\n1\n3\n"), done.stderr
    assert tilework("cluster", "stop", "--all").returncode == 0
    done = tilework("run", "--scheduler", address, script(PROCESSES))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"nobody listens at {address}" in done.stderr


def test_a_script_that_fails_leaves_no_cluster(tilework: Tilework, script: Script, watch: leaks.Watch) -> None:
    done = tilework("run", "--workers", "1", script("import tilework as tw\ntw.delayed(int)('x').compute()"))
    assert done.returncode == 1
    assert "ValueError: invalid literal" in done.stderr
    watch.assert_nothing_left()


def test_ctrl_c_ends_a_script_and_its_cluster(script: Script, tmp_path: Path, watch: leaks.Watch) -> None:
    code = """
        import time
        import tilework as tw
        def wait():
            print("waiting", flush=True)
            time.sleep(60)
        tw.delayed(wait)().compute()
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tilework", "run", "--workers", "1", script(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in errors
    watch.assert_nothing_left()
