"""The executor does what the standard library's executors do. The same tests run on one of those."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from tilework.distributed import Client


def divide(a: int, b: int = 1) -> float:
    return a / b


def when_there(path: Path, value: Any = None) -> Any:
    while not path.exists():
        time.sleep(0.005)
    return value


@pytest.fixture(params=["client", "threads"])
def executor(request: pytest.FixtureRequest) -> Iterator[futures.Executor]:
    if request.param == "threads":
        with futures.ThreadPoolExecutor(4) as pool:
            yield pool
    else:
        with request.getfixturevalue("client").get_executor() as own:
            yield own


def test_submit(executor: futures.Executor) -> None:
    future = executor.submit(divide, 6, b=3)
    assert isinstance(future, futures.Future)
    assert future.result(10) == 2
    assert future.done()
    assert future.exception() is None


def test_keywords_are_the_functions(executor: futures.Executor) -> None:
    assert executor.submit(dict, key=1, workers=2, priority=3, retries=4, pure=5).result(10) == {
        "key": 1, "workers": 2, "priority": 3, "retries": 4, "pure": 5,
    }  # fmt: skip


def test_errors(executor: futures.Executor) -> None:
    future = executor.submit(divide, 1, 0)
    with pytest.raises(ZeroDivisionError):
        future.result(10)
    assert isinstance(future.exception(), ZeroDivisionError)


def test_map_keeps_the_order(executor: futures.Executor, tmp_path: Path) -> None:
    results = executor.map(when_there, [tmp_path / "go", tmp_path], ["late", "soon"])
    (tmp_path / "go").touch()
    assert list(results) == ["late", "soon"]
    assert list(executor.map(pow, range(100), [2] * 100)) == [n * n for n in range(100)]
    assert list(executor.map(divide, [])) == []


@pytest.mark.parametrize("chunksize", [2, 3, 100])
def test_map_in_chunks(executor: futures.Executor, chunksize: int) -> None:
    assert list(executor.map(pow, range(10), [2] * 10, chunksize=chunksize)) == [n * n for n in range(10)]


def test_map_raises_where_the_error_is(executor: futures.Executor) -> None:
    results = executor.map(divide, [1, 1, 1], [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_at_most(executor: futures.Executor, tmp_path: Path) -> None:
    results = executor.map(when_there, [tmp_path, tmp_path / "go"], [1, 2], timeout=0.5)
    assert next(results) == 1
    with pytest.raises(TimeoutError):
        next(results)
    (tmp_path / "go").touch()


def test_waiting(executor: futures.Executor, tmp_path: Path) -> None:
    late, soon = executor.submit(when_there, tmp_path / "go"), executor.submit(divide, 1)
    assert futures.wait([late, soon], return_when=futures.FIRST_COMPLETED).done == {soon}
    (tmp_path / "go").touch()
    assert set(futures.as_completed([late, soon], timeout=10)) == {late, soon}


def test_callbacks(executor: futures.Executor) -> None:
    told = threading.Event()
    seen: list[Any] = []
    future = executor.submit(divide, 4, 2)
    future.add_done_callback(lambda future: (seen.append(future.result()), told.set()))
    assert told.wait(10)
    assert seen == [2]


def test_cancel(executor: futures.Executor, tmp_path: Path) -> None:
    busy = [executor.submit(when_there, tmp_path / "go") for _ in range(20)]
    last = executor.submit(divide, 1)
    assert last.cancel()
    assert last.cancelled()
    with pytest.raises(futures.CancelledError):
        last.result(10)
    (tmp_path / "go").touch()
    futures.wait(busy)


def test_shutdown(executor: futures.Executor, tmp_path: Path) -> None:
    future = executor.submit(when_there, tmp_path / "go", 1)
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(divide, 1)
    (tmp_path / "go").touch()
    executor.shutdown(wait=True)
    assert future.done()
    assert future.result() == 1


def test_shutdown_that_cancels(executor: futures.Executor, tmp_path: Path) -> None:
    running = [executor.submit(when_there, tmp_path / "go") for _ in range(20)]
    executor.shutdown(wait=False, cancel_futures=True)
    (tmp_path / "go").touch()
    executor.shutdown()
    assert running[-1].cancelled()
    assert all(future.done() for future in running)


def test_asyncio(executor: futures.Executor) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, divide, 6, 3)  # type: ignore[arg-type]

    assert asyncio.run(main()) == 2


def test_the_cluster_may_cancel_too(client: Client, tmp_path: Path) -> None:
    executor = client.get_executor(retries=1, workers=[0, 1])
    future = executor.submit(when_there, tmp_path / "go")
    (inner,) = executor._running.values()
    inner.cancel()
    with pytest.raises(futures.CancelledError):
        future.result(10)
    (tmp_path / "go").touch()
    executor.shutdown()
    with pytest.raises(TypeError, match="chunk"):
        executor.map(divide, [1], chunk=1)
