from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilework.base.errors import ClusterClosedError, ConfigError, ConnectionLostError
from tilework.base.tokens import tokenize
from tilework.distributed import CancelledError, Client, Future, LocalCluster, TimeoutError, futures_of, wait


def inc(x: int) -> int:
    return x + 1


def divide(a: int, b: int) -> float:
    return a / b


def when_there(path: Path, value: Any = None) -> Any:
    while not path.exists():
        time.sleep(0.005)
    return value


def test_status(client: Client, tmp_path: Path) -> None:
    future = client.submit(when_there, tmp_path / "go", 1)
    assert (future.status, future.done(), future.cancelled(), future.type) == ("pending", False, False, None)
    (tmp_path / "go").touch()
    assert future.result() == 1
    assert (future.status, future.done(), future.cancelled(), future.type) == ("finished", True, False, int)


def test_status_hears_without_waiting(client: Client) -> None:
    future = client.submit(inc, 1)
    while not future.done():
        pass
    assert future.status == "finished"


def test_timeouts(client: Client, tmp_path: Path) -> None:
    future = client.submit(when_there, tmp_path / "go", 1)
    for wait_for in (future.result, future.exception, future.traceback):
        with pytest.raises(TimeoutError, match=f"{future.key} is not done after 0.01 s"):
            wait_for("10 ms")
    with pytest.raises(ConfigError, match="timeout=-1"):
        future.result(-1)
    (tmp_path / "go").touch()
    assert future.result(timeout=60) == 1


def test_errors_keep_class_and_traceback(client: Client) -> None:
    future = client.submit(divide, 1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        future.result()
    assert "return a / b" in "".join(traceback.format_exception(caught.value))
    assert future.status == "error"
    assert isinstance(future.exception(), ZeroDivisionError)
    assert "return a / b" in "".join(traceback.format_tb(future.traceback()))
    good = client.submit(divide, 1, 1)
    assert good.exception() is None
    assert good.traceback() is None


def test_results_are_the_callers_own(client: Client) -> None:
    future = client.submit(list, (1, 2))
    future.result().append(3)
    assert future.result() == [1, 2]


def test_callbacks(client: Client) -> None:
    called: list[tuple[int, str]] = []
    three = threading.Semaphore(0)

    def note(future: Future) -> None:
        called.append((future.result(), threading.current_thread().name))
        three.release()

    done = client.submit(inc, 1)
    done.result()
    done.add_done_callback(note)
    for x in (2, 3):
        client.submit(inc, x).add_done_callback(note)
    assert all(three.acquire(timeout=10) for _ in range(3))
    assert sorted(called) == [(n, "tilework-client") for n in (2, 3, 4)]


def test_callbacks_of_what_fails(client: Client) -> None:
    told = threading.Event()
    client.submit(divide, 1, 0).add_done_callback(lambda future: future.status == "error" and told.set())
    assert told.wait(10)


def test_await(client: Client) -> None:
    async def main() -> None:
        assert await client.submit(inc, 1) == 2
        assert (await client.submit(np.ones, 100_000)).sum() == 100_000
        assert await asyncio.gather(*client.map(inc, range(20))) == list(range(1, 21))
        with pytest.raises(ZeroDivisionError):
            await client.submit(divide, 1, 0)
        done = client.submit(inc, 1)
        await done
        assert await done == 2

    asyncio.run(main())


def test_awaiting_may_be_given_up(client: Client, tmp_path: Path) -> None:
    async def main() -> None:
        future = client.submit(when_there, tmp_path / "go", 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.01)
        cancelled = asyncio.ensure_future(_awaited(future))
        await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(CancelledError):
            await cancelled

    asyncio.run(main())
    (tmp_path / "go").touch()


async def _awaited(future: Future) -> Any:
    return await future


def test_release(client: Client, tmp_path: Path) -> None:
    future = client.submit(inc, 1)
    future.release()
    future.release()
    with pytest.raises(ClusterClosedError, match="was released"):
        future.result()
    with pytest.raises(ClusterClosedError, match="was released"):
        client.submit(inc, future)


def test_what_nobody_wants_is_not_computed(client: Client, tmp_path: Path) -> None:
    gate, trace = tmp_path / "gate", tmp_path / "trace"
    first = client.submit(when_there, gate)
    second = client.submit(lambda _: trace.touch(), first)
    del second
    gc.collect()
    third = client.submit(inc, client.submit(len, [first]))
    gate.touch()
    third.result()
    assert not trace.exists()


def test_values_are_dropped_with_their_futures(client: Client) -> None:
    future = client.submit(np.ones, 100_000)
    wait(future)
    key = future.key
    assert key in client.who_has()
    del future
    assert key not in client.who_has()


def test_pickled_futures(client: Client, cluster: LocalCluster) -> None:
    future = client.submit(inc, 1)
    blob = pickle.dumps(future)
    assert pickle.loads(blob).result() == 2
    with Client(cluster) as other:
        again = pickle.loads(blob)
        assert again.client is other
        assert again.key == future.key
        assert again.result() == 2
        failed = client.submit(divide, 1, 0)
        assert isinstance(pickle.loads(pickle.dumps(failed)).exception(), ZeroDivisionError)
    assert copy.deepcopy([future])[0].result() == 2
    assert tokenize(future) == tokenize(pickle.loads(blob)) != tokenize(client.submit(inc, 1))


def test_pickled_futures_need_a_client(cluster: LocalCluster) -> None:
    with Client(cluster) as client:
        future = client.submit(inc, 1)
        blob = pickle.dumps(future)
    with pytest.raises(ClusterClosedError, match="make one first"):
        pickle.loads(blob)
    with Client(cluster):
        late = pickle.loads(blob)  # nobody has kept the original
        with pytest.raises(CancelledError):
            late.result(10)


def test_futures_of(client: Client) -> None:
    a, b = client.map(inc, [1, 2])
    assert futures_of([a, {"x": (b, a)}], {b}, 7, "text", None) == [a, b]


def test_dropped_in_many_threads(client: Client) -> None:
    """Futures are made, used and dropped by several threads at once, while the garbage collector runs."""

    def work(k: int) -> None:
        for i in range(20):
            cycle: list[Any] = [client.submit(inc, i)]
            cycle.append(cycle)
            totals[k] += cycle[0].result()
            client.map(inc, range(5))

    totals = [0] * 4
    before = gc.get_threshold()
    gc.set_threshold(20)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        gc.set_threshold(*before)
    assert totals == [sum(range(1, 21))] * 4


def test_a_scheduler_that_is_killed() -> None:
    with Client(n_workers=1, memory_limit="500MB") as client:
        done = client.submit(inc, 1)
        assert done.result() == 2
        future = client.submit(time.sleep, 60)
        told = threading.Event()
        future.add_done_callback(lambda future: told.set())
        assert client.cluster is not None
        os.kill(client.cluster._launched.pid, 9)
        with pytest.raises(ConnectionLostError, match="has ended"):
            future.result(20)
        assert told.wait(10)
        assert future.status == "lost"
        assert client.status == "lost"
        assert done.result() == 2
        with pytest.raises(ConnectionLostError):
            client.submit(inc, 1)


def test_reprs(client: Client) -> None:
    future = client.submit(inc, 1, key="named <1>")
    wait(future)
    assert repr(future) == "<Future: finished, type: int, key: named <1>>"
    assert "named &lt;1&gt;" in future._repr_html_()
    failed = client.submit(divide, 1, 0)
    wait(failed)
    assert repr(failed) == f"<Future: error, key: {failed.key}>"
    array = client.submit(np.ones, 100_000)
    wait(array)
    assert "type" not in repr(array)
    array.result()
    assert "type: numpy.ndarray" in repr(array)
