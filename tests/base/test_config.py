from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from tilework.base import config, machine
from tilework.base.config import Settings
from tilework.base.errors import ConfigError


def in_thread(fn: Any) -> Any:
    """What a function returns in a new thread."""
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(fn()))
    thread.start()
    thread.join()
    return out[0]


@pytest.fixture
def own_settings() -> Any:
    """Lets a test change settings globally, and takes the change back."""
    before = config._base, list(config._pending)
    yield
    config._base, config._pending[:] = before
    config._rebuild()


def test_defaults() -> None:
    assert config.get() == Settings()
    assert config.get().scheduler == "threads"
    assert config.get().chunk_size == 128 * 2**20


def test_settings_are_frozen_and_can_be_sent() -> None:
    settings = config.get(memory="1GB")
    with pytest.raises(AttributeError):
        settings.memory = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_with_statement_sets_and_restores() -> None:
    with config.set(memory="300MB", scheduler="single-threaded") as inside:
        assert inside == config.get()
        assert (inside.memory, inside.scheduler) == (300_000_000, "sync")
        with config.set(memory="1kB"):
            assert (config.get().memory, config.get().scheduler) == (1000, "sync")
        assert config.get().memory == 300_000_000
    assert config.get() == Settings()


def test_with_statement_restores_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), config.set(workers=3):
        1 / 0  # noqa: B018
    assert config.get() == Settings()


def test_with_statement_holds_for_its_own_thread_only() -> None:
    with config.set(workers=3):
        assert in_thread(config.get) == Settings()


def test_with_statement_holds_for_its_own_asyncio_task_only() -> None:
    async def other(inside: asyncio.Event, checked: asyncio.Event) -> Settings:
        await inside.wait()
        seen = config.get()
        checked.set()
        return seen

    async def main() -> Settings:
        inside, checked = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(other(inside, checked))
        with config.set(workers=3):
            inside.set()
            await checked.wait()
        return await task

    assert asyncio.run(main()) == Settings()


def test_a_plain_call_holds_for_all_threads(own_settings: Any) -> None:
    config.set(workers=3)
    assert config.get().workers == 3
    assert in_thread(config.get).workers == 3
    with config.set(workers=4):
        assert config.get().workers == 4
        assert in_thread(config.get).workers == 3
    assert config.get().workers == 3


def test_interleaved_with_statements_of_two_threads_leak_nothing(own_settings: Any) -> None:
    # A with statement makes its change before it enters it; another thread may do the same in between.
    first, second = config.set(workers=3), config.set(workers=4)
    with first:
        assert config.get().workers == 3
        in_thread(second.__enter__)
        assert config.get().workers == 3
    assert config.get() == Settings()


def test_many_plain_calls_keep_nothing_but_the_last(own_settings: Any) -> None:
    for n in range(1, 100):
        config.set(workers=n)
    assert config.get().workers == 99
    assert len(config._pending) == 1


def test_none_means_the_default() -> None:
    with config.set(scheduler="sync", retries=3), config.set(scheduler=None, retries=None):
        assert config.get() == Settings()


def test_arguments_of_one_computation_win_and_none_means_not_given() -> None:
    with config.set(scheduler="sync", workers=2):
        settings = config.get(scheduler=None, workers=5, memory="1 KiB")
        assert (settings.scheduler, settings.workers, settings.memory) == ("sync", 5, 1024)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"array.chunk-size": "64MiB"}, "chunk_size", 2**26),
        ({"array.chunk_size": 100}, "chunk_size", 100),
        ({"num_workers": 4}, "workers", 4),
        ({"temporary-directory": "/"}, "spill_directory", "/"),
        ({"scheduler": "threading"}, "scheduler", "threads"),
        ({"scheduler": "synchronous"}, "scheduler", "sync"),
        ({"scheduler": "Processes"}, "scheduler", "processes"),
        ({"scheduler": "tcp://127.0.0.1:1234"}, "scheduler", "tcp://127.0.0.1:1234"),
        ({"progress": "yes"}, "progress", True),
        ({"split-every": 4}, "split_every", 4),
    ],
)
def test_names_of_dask_are_understood(change: dict[str, Any], field: str, value: Any) -> None:
    with config.set(change):
        assert getattr(config.get(), field) == value


def test_double_underscores_stand_for_dots() -> None:
    with config.set(array__chunk_size="1 KiB"):
        assert config.get().chunk_size == 1024


def test_a_switch_of_dask_without_counterpart_warns() -> None:
    with (
        pytest.warns(UserWarning, match="split_large_chunks.*no effect"),
        config.set({"array.slicing.split_large_chunks": True}),
    ):
        assert config.get() == Settings()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memroy": 1}, "'memroy'.*did you mean 'memory'"),
        ({"nothing like it": 1}, "valid: scheduler, workers"),
        ({"scheduler": "treads"}, "'treads'.*did you mean 'threads'"),
        ({"scheduler": 3}, "scheduler=3"),
        ({"memory": "much"}, "memory='much'.*300MB"),
        ({"memory": -1}, "memory=-1"),
        ({"workers": 0}, "workers=0.*from 1 up"),
        ({"workers": 1.5}, "workers=1.5"),
        ({"workers": True}, "workers=True"),
        ({"workers": "two"}, "workers='two'"),
        ({"retries": -1}, "retries=-1.*from 0 up"),
        ({"split_every": 1}, "split_every=1.*from 2 up"),
        ({"progress": "perhaps"}, "progress='perhaps'"),
        ({"spill_directory": 3}, "spill_directory=3"),
        ({"spill_directory": __file__}, "not a directory"),
    ],
)
def test_bad_settings_name_value_and_remedy(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.set(change)
    with pytest.raises(ConfigError, match=message):
        config.get(**change)
    assert config.get() == Settings()


def test_nothing_is_changed_if_one_of_several_is_bad() -> None:
    with pytest.raises(ConfigError):
        config.set(workers=3, memory="much")
    assert config.get() == Settings()


def test_an_engine_object_is_a_scheduler() -> None:
    class Engine:
        name = "own"

        def run(self) -> None: ...

    engine = Engine()
    with config.set(scheduler=engine):
        assert config.get().scheduler is engine


def test_resolving_memory_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.resolve_memory(Settings(memory=5)) == 5
    assert config.resolve_workers(Settings(workers=7)) == 7
    monkeypatch.setattr(machine, "memory_total", lambda: 1000)
    monkeypatch.setattr(machine, "cores", lambda: 3)
    config._machine.cache_clear()
    assert config.resolve_memory(Settings()) == 600
    assert config.resolve_workers(Settings()) == 3
    config._machine.cache_clear()


def run_with(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=root)


def test_environment_is_read_at_import() -> None:
    done = run_with(
        {"TILEWORK_MEMORY": "2GB", "TILEWORK_WORKERS": "3", "TILEWORK_SCHEDULER": "sync", "TILEWORK_RETRIES": ""},
        "from tilework.base import config; s = config.get(); print(s.memory, s.workers, s.scheduler, s.retries)",
    )
    assert done.stdout.split() == ["2000000000", "3", "sync", "0"]
    assert done.stderr == ""


def test_a_bad_environment_variable_is_named() -> None:
    done = run_with({"TILEWORK_MEMORY": "lots"}, "import tilework.base.config")
    assert done.returncode != 0
    assert "ConfigError: TILEWORK_MEMORY='lots'" in done.stderr


def test_a_misspelt_environment_variable_is_warned_about() -> None:
    done = run_with({"TILEWORK_MEMROY": "2GB", "TILEWORK_XYZ": "1"}, "import tilework.base.config")
    assert "did you mean TILEWORK_MEMORY?" in done.stderr
    assert "XYZ" not in done.stderr
    assert run_with({config.ADDRESS_VARIABLE: "tcp://127.0.0.1:1"}, "import tilework.base.config").stderr == ""


# ---------------------------------------------------------------- schedulers that come and go


class Anything:
    """A scheduler, as far as settings know."""

    def run(self) -> None:
        raise AssertionError("nobody should run it")


def test_a_scheduler_is_everybodys_until_it_is_removed() -> None:
    scheduler = Anything()
    config.push_scheduler(scheduler)
    try:
        assert config.get().scheduler is scheduler
        assert in_thread(config.get).scheduler is scheduler
        with config.set(scheduler="sync"):
            assert config.get().scheduler == "sync"
        assert config.get(scheduler="threads").scheduler == "threads"
    finally:
        config.remove_scheduler(scheduler)
    assert config.get().scheduler == "threads"


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_schedulers_may_go_in_any_order(order: tuple[int, ...]) -> None:
    pushed = [Anything() for _ in order]
    for scheduler in pushed:
        config.push_scheduler(scheduler)
    left = list(pushed)
    for k in order:
        config.remove_scheduler(pushed[k])
        left.remove(pushed[k])
        assert config.get().scheduler == (left[-1] if left else "threads")
    config.remove_scheduler(pushed[0])


def test_a_forked_process_has_no_scheduler_of_its_parents() -> None:
    script = """
import os
from tilework.base import config
class Anything:
    def run(self): ...
config.set(retries=7)
config.push_scheduler(Anything())
config.set(workers=5)
pid = os.fork()
if pid == 0:
    os._exit((config.get().scheduler, config.get().retries, config.get().workers) != ("threads", 7, 5))
assert os.waitpid(pid, 0)[1] == 0
assert isinstance(config.get().scheduler, Anything)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_what_is_set_later_stays_when_a_scheduler_goes() -> None:
    """In a process of its own, since such settings are there to stay."""
    script = """
from tilework.base import config
class Anything:
    def run(self): ...
first = Anything()
config.set(retries=1)
config.push_scheduler(first)
for k in range(100):
    config.set(retries=k, workers=k + 1)
assert (config.get().scheduler, config.get().retries) == (first, 99)
assert len(config._pending) <= 3, "changes that are there to stay are one"
config.set(scheduler="sync")
assert config.get().scheduler == "sync", "the later one wins"
config.remove_scheduler(first)
assert (config.get().scheduler, config.get().retries, config.get().workers) == ("sync", 99, 100)
config.set(memory=10**9)
assert len(config._pending) <= 1
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
