from __future__ import annotations

import asyncio
import io
import time
from pathlib import Path
from typing import Any

import pytest

import tilework.array as ta
from tilework.base.errors import ConfigError
from tilework.distributed import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    Client,
    LocalCluster,
    TimeoutError,
    as_completed,
    fire_and_forget,
    progress,
    wait,
)


def inc(x: int) -> int:
    return x + 1


def fail(x: Any = None) -> None:
    raise ValueError("no")


def when_there(path: Path, value: Any = None) -> Any:
    while not path.exists():
        time.sleep(0.005)
    return value


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# ---------------------------------------------------------------- wait


def test_wait_for_all(client: Client) -> None:
    futures = [*client.map(inc, range(10)), client.submit(fail)]
    done, not_done = wait(futures)
    assert done == set(futures)
    assert not_done == set()
    assert wait([]) == (set(), set())


def test_wait_for_the_first(client: Client, tmp_path: Path) -> None:
    late, soon = client.submit(when_there, tmp_path / "go"), client.submit(inc, 1)
    assert wait([late, soon], return_when=FIRST_COMPLETED) == ({soon}, {late})
    (tmp_path / "go").touch()
    assert wait([late, soon]).not_done == set()


def test_wait_for_a_failure(client: Client, tmp_path: Path) -> None:
    late, bad = client.submit(when_there, tmp_path / "go"), client.submit(fail)
    assert wait([late, bad], return_when=FIRST_EXCEPTION) == ({bad}, {late})
    (tmp_path / "go").touch()


def test_wait_at_most(client: Client, tmp_path: Path) -> None:
    late = client.submit(when_there, tmp_path / "go")
    done = client.submit(inc, 1)
    done.result()
    with pytest.raises(TimeoutError, match="1 of 2 futures are not done"):
        wait([late, done], timeout=0.01)
    with pytest.raises(ConfigError, match="return_when='SOON'"):
        wait([late], return_when="SOON")
    (tmp_path / "go").touch()


def test_wait_for_what_is_persisted(client: Client) -> None:
    x = client.persist(ta.ones(100, chunks=10))
    assert len(wait(x).done) == 10


def test_waiting_for_futures_of_several_clients_is_refused(client: Client, cluster: LocalCluster) -> None:
    with Client(cluster) as other, pytest.raises(ValueError, match="2 clients"):
        wait([client.submit(inc, 1), other.submit(inc, 1)])


# ---------------------------------------------------------------- as_completed


def test_as_completed(client: Client, tmp_path: Path) -> None:
    late = client.submit(when_there, tmp_path / "go", "late")
    soon = client.map(inc, range(5))
    seen = []
    iterator = as_completed([late, *soon])
    assert iterator.count() == 6
    for future in iterator:
        seen.append(future.result())
        if len(seen) == 5:
            assert not iterator.has_ready()
            (tmp_path / "go").touch()
    assert sorted(seen[:5]) == [1, 2, 3, 4, 5]
    assert seen[5] == "late"
    assert iterator.is_empty()


def test_more_can_be_added(client: Client) -> None:
    iterator = as_completed(client.map(inc, [0]))
    seen = []
    for future in iterator:
        seen.append(future.result())
        if len(seen) < 5:
            iterator.add(client.submit(inc, future))
    assert seen == [1, 2, 3, 4, 5]


def test_a_future_that_is_added_twice_comes_twice(client: Client) -> None:
    future = client.submit(inc, 1)
    assert list(as_completed([future, future])) == [future, future]


def test_as_completed_with_results(client: Client) -> None:
    assert sorted(result for _, result in as_completed(client.map(inc, range(5)), with_results=True)) == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="no"):
        list(as_completed([client.submit(fail)], with_results=True))
    ((future, error),) = as_completed([client.submit(fail)], with_results=True, raise_errors=False)
    assert future.status == "error"
    assert isinstance(error, ValueError)


def test_batches(client: Client) -> None:
    seen = [
        result for batch in as_completed(client.map(inc, range(50)), with_results=True).batches() for _, result in batch
    ]
    assert sorted(seen) == list(range(1, 51))
    iterator = as_completed(client.map(inc, range(5)))
    assert iterator.next_batch(block=True)
    iterator.clear()
    assert iterator.next_batch(block=False) == []
    assert list(iterator) == []


def test_as_completed_at_most(client: Client, tmp_path: Path) -> None:
    late = client.submit(when_there, tmp_path / "go")
    with pytest.raises(TimeoutError, match="1 futures are not done"):
        next(as_completed([late], timeout="10 ms"))
    with pytest.raises(TypeError, match="7 is no future"):
        as_completed([7])  # type: ignore[list-item]
    (tmp_path / "go").touch()


def test_async_for(client: Client, tmp_path: Path) -> None:
    async def main() -> list[Any]:
        late = client.submit(when_there, tmp_path / "go", "late")
        seen = []
        async for _, result in as_completed([late, *client.map(inc, range(3))], with_results=True):
            seen.append(result)
            if len(seen) == 3:
                (tmp_path / "go").touch()
        return seen

    seen = asyncio.run(main())
    assert sorted(seen[:3]) == [1, 2, 3]
    assert seen[3] == "late"


def test_async_at_most(client: Client, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await anext(as_completed([client.submit(when_there, tmp_path / "go")], timeout=0.01))

    asyncio.run(main())
    (tmp_path / "go").touch()


# ---------------------------------------------------------------- the rest


def test_fire_and_forget(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    fire_and_forget([client.submit((tmp_path / "trace").touch, client.submit(when_there, gate, 0o600))])
    gate.touch()
    while not (tmp_path / "trace").exists():
        time.sleep(0.005)


def test_progress(client: Client) -> None:
    file = io.StringIO()
    progress(client.map(inc, range(8)), client.submit(fail), file=file)
    assert file.getvalue().startswith(f"[{'#' * 40}] 9/9 futures, 1 failed [")
    assert file.getvalue().count("\n") == 1
    terminal = Terminal()
    progress(client.map(inc, range(8)), file=terminal)
    assert terminal.getvalue().split("\r")[-1].startswith(f"[{'#' * 40}] 8/8 futures [")
    progress(7, file=terminal)
