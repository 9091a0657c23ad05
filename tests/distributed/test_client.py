from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.base import config
from tilework.base.errors import ClusterClosedError, ConfigError, ConnectionLostError, UnsupportedError
from tilework.distributed import (
    CancelledError,
    Client,
    Future,
    LocalCluster,
    futures_of,
    get_client,
    get_worker,
    rejoin,
    secede,
    wait,
)
from tilework.engine.cluster.wire.versions import versions


def inc(x: int) -> int:
    return x + 1


def fail(text: str) -> None:
    raise ValueError(text)


def keyed(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


@pytest.fixture
def gate(tmp_path: Path) -> Callable[[], None]:
    """What a task waits for (see ``held``) until the test opens it."""
    return (tmp_path / "open").touch


def held(directory: Path, value: Any = None) -> Any:
    """A task that waits for the gate."""
    (directory / f"began-{uuid4()}").touch()
    while not (directory / "open").exists():
        time.sleep(0.005)
    return value


# ---------------------------------------------------------------- calls


def test_submit(client: Client) -> None:
    future = client.submit(inc, 1)
    assert isinstance(future, Future)
    assert future.result() == 2
    assert client.submit(keyed, 1, a=2).result() == ((1,), {"a": 2})
    assert future.key.startswith("inc-")


def test_functions_that_are_not_importable(client: Client) -> None:
    n = 3

    class Local:
        def __call__(self, x: int) -> int:
            return x * n

    assert client.submit(lambda x: x * n, 2).result() == 6
    assert client.submit(Local(), 2).result() == 6


def test_a_function_that_has_changed_is_sent_again(client: Client) -> None:
    factor = [1]

    def scaled(x: int) -> int:
        return factor[0] * x

    first = client.submit(scaled, 2)
    factor[0] = 10
    assert (first.result(), client.submit(scaled, 2).result()) == (2, 20)


def test_a_function_with_much_in_it_is_sent_and_forgotten(client: Client) -> None:
    model = np.arange(100_000.0)
    assert client.gather(client.map(model.take, [5, 7])) == [5.0, 7.0]


def test_futures_as_arguments_at_any_depth(client: Client) -> None:
    a, b = client.submit(inc, 1), client.submit(inc, 2)
    assert client.submit(keyed, [a, (b, {"c": a})], x={"y": [b]}).result() == (([2, (3, {"c": 2})],), {"x": {"y": [3]}})


def test_a_future_of_a_failed_one_fails_with_its_error(client: Client) -> None:
    future = client.submit(inc, client.submit(fail, "the first"))
    with pytest.raises(ValueError, match="the first"):
        future.result()


def test_map(client: Client) -> None:
    futures = client.map(pow, range(5), [client.submit(inc, 1)] * 5)
    assert client.gather(futures) == [0, 1, 4, 9, 16]
    assert client.map(inc, []) == []
    assert client.gather(client.map(inc, iter([1, 2]))) == [2, 3]
    assert client.gather(client.map(keyed, [1, 2], k=3)) == [((1,), {"k": 3}), ((2,), {"k": 3})]


def test_map_in_batches(client: Client) -> None:
    assert client.gather(client.map(inc, range(2500), batch_size=1000)) == list(range(1, 2501))
    with pytest.raises(ValueError, match="batch_size=0"):
        client.map(inc, [1], batch_size=0)


def test_map_sends_a_large_keyword_once(client: Client) -> None:
    before = client.link.slot.used_bytes
    weights = np.ones(1_000_000)
    futures = client.map(lambda i, w: w[i], range(100), w=weights)
    assert client.link.slot.used_bytes - before < 1.1 * weights.nbytes
    assert client.gather(futures) == [1.0] * 100


def test_keys(client: Client) -> None:
    a = client.submit(inc, 1, key="mine")
    b = client.submit(inc, 2, key="mine")
    assert a.key == b.key == "mine"
    assert b.result() == 2
    assert b.number == a.number
    del a, b
    assert client.submit(inc, 5, key="mine").result() == 6
    assert [f.key for f in client.map(inc, [1, 2], key=["x", "y"])] == ["x", "y"]
    assert all(f.key.startswith("prefix-") for f in client.map(inc, [1, 2], key="prefix"))
    with pytest.raises(ValueError, match="1 keys for 2 calls"):
        client.map(inc, [1, 2], key=["x"])


def test_pure_calls_are_done_once(client: Client) -> None:
    a, b = client.submit(inc, 1, pure=True), client.submit(inc, 1, pure=True)
    assert a.number == b.number
    assert client.submit(inc, 2, pure=True).number != a.number
    assert client.submit(inc, 1).number != a.number


def test_retries(client: Client, tmp_path: Path) -> None:
    def second_time(path: Path) -> str:
        path.write_text(path.read_text() + "x" if path.exists() else "x")
        if len(path.read_text()) < 2:
            raise OSError("again")
        return "done"

    assert client.submit(second_time, tmp_path / "a", retries=1).result() == "done"
    with pytest.raises(OSError, match="again"):
        client.submit(second_time, tmp_path / "b").result()
    with pytest.raises(ConfigError, match="retries=-1"):
        client.submit(inc, 1, retries=-1)


def test_workers(client: Client) -> None:
    numbers = client.map(lambda i: get_worker().number, range(10), workers=[1])
    assert set(client.gather(numbers)) == {1}
    assert client.submit(inc, 1, workers=99, allow_other_workers=True).result() == 2


def test_priority(client: Client, tmp_path: Path) -> None:
    """All threads are busy until both tasks wait; then one thread takes them, in the order that they tell."""
    busy = client.map(held, [tmp_path] * 4, workers=[0, 1])
    while len(list(tmp_path.glob("began-*"))) < 4:
        time.sleep(0.005)
    other, order = tmp_path / "other", tmp_path / "order"
    other.mkdir()

    def note(name: str) -> None:
        with order.open("a") as file:
            file.write(name)

    low = client.submit(note, "low ", priority=-1, workers=0)
    high = client.submit(note, "high ", priority=1, workers=0)
    blocker = client.submit(held, other, priority=2, workers=0)
    client.scheduler_info()  # so that the scheduler knows all of them
    (tmp_path / "open").touch()
    client.gather([*busy, low, high])
    (other / "open").touch()
    blocker.result()
    assert order.read_text() == "high low "


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ((x for x in ()), "argument 0 (generator) of inc cannot be sent"),
        (threading.Lock(), "argument 0 (lock) of inc cannot be sent"),
        ([socket.socket()], "argument 0 (list) of inc cannot be sent"),
    ],
)
def test_arguments_that_cannot_be_sent(client: Client, argument: Any, message: str) -> None:
    before = client.link.slot.used_bytes
    with pytest.raises(TypeError) as caught:
        client.map(inc, [np.zeros(100_000), argument])
    with pytest.raises(TypeError) as caught:
        client.submit(inc, argument)
    assert message in str(caught.value)
    assert client.link.slot.used_bytes == before


def test_functions_that_cannot_be_tasks(client: Client) -> None:
    async def later() -> None: ...

    lock = threading.Lock()
    with pytest.raises(TypeError, match="3 is not a function"):
        client.submit(3)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="coroutine"):
        client.submit(later)
    with pytest.raises(TypeError, match="lambda cannot be sent"):
        client.submit(lambda: lock)
    with pytest.raises(TypeError, match=r"get_client\(\) inside the task"):
        client.submit(lambda: client.submit(inc, 1))


# ---------------------------------------------------------------- data


def test_gather(client: Client) -> None:
    a, b = client.map(inc, [1, 2])
    assert client.gather(a) == 2
    assert client.gather({"a": a, "more": [b, (a, "text")]}) == {"a": 2, "more": [3, (2, "text")]}
    assert client.gather({a, b}) == {2, 3}
    assert list(client.gather(iter([a, b]))) == [2, 3]
    assert client.gather([]) == []


def test_gather_with_errors(client: Client, tmp_path: Path, gate: Callable[[], None]) -> None:
    never = client.submit(held, tmp_path)
    bad = client.submit(fail, "at once")
    with pytest.raises(ValueError, match="at once"):
        client.gather([never, bad])
    gate()
    good = client.submit(inc, 1)
    assert client.gather([bad, good, [bad]], errors="skip") == [2, []]
    assert client.gather({"bad": bad, "good": good}, errors="skip") == {"good": 2}
    with pytest.raises(ValueError, match="errors='ignore'"):
        client.gather([], errors="ignore")


def test_large_results_are_shared_and_cannot_be_written(client: Client) -> None:
    futures = client.map(lambda i: np.full(100_000, i), range(5))
    arrays = client.gather(futures)
    assert [array[7] for array in arrays] == list(range(5))
    with pytest.raises(ValueError, match="read-only"):
        arrays[0][0] = 1
    assert np.shares_memory(arrays[1], futures[1].result())


def test_scatter(client: Client) -> None:
    data = np.arange(50_000.0)
    future = client.scatter(data)
    assert future.done()
    data[0] = -1  # it was copied
    assert client.submit(np.min, future).result() == 0
    assert [f.result() for f in client.scatter([1, "two"])] == [1, "two"]
    named = client.scatter({"x": 1, "data": data}, broadcast=True, hash=False)
    assert client.submit(lambda x, data: data[x], **named).result() == 1.0
    assert isinstance(client.scatter((1, 2)), tuple)
    assert client.scatter([]) == []
    with pytest.raises(TypeError, match="lock cannot be sent"):
        client.scatter(threading.Lock())


def test_memory_of_arguments_and_results_is_given_back(client: Client) -> None:
    for _ in range(3):
        array = client.submit(np.square, np.ones(1_000_000)).result()
        assert array.sum() == 1_000_000
        del array
    wait([client.submit(inc, 1)])
    while client.link.slot.used_bytes:  # until the scheduler's word has come
        client.scheduler_info()


# ---------------------------------------------------------------- cancel and retry


def test_cancel(client: Client, tmp_path: Path, gate: Callable[[], None]) -> None:
    running = client.submit(held, tmp_path, 1)
    waiting = client.submit(inc, running)
    client.cancel([running])
    assert running.cancelled()
    with pytest.raises(CancelledError, match=f"{running.key} was cancelled"):
        running.result()
    wait([waiting])
    assert waiting.status == "cancelled"
    gate()
    client.retry([running, waiting])
    assert waiting.result() == 2


def test_retry(client: Client, tmp_path: Path) -> None:
    def needs(path: Path) -> str:
        return path.read_text()

    first = client.submit(needs, tmp_path / "file")
    second = client.submit(str.upper, first)
    wait([second])
    assert second.status == "error"
    (tmp_path / "file").write_text("text")
    client.retry(second)
    assert second.result() == "TEXT"


# ---------------------------------------------------------------- lazy things


def test_compute(client: Client) -> None:
    x = ta.arange(1000, chunks=100)
    future = client.compute(x.sum())
    assert isinstance(future, Future)
    assert future.result() == 499500
    several = client.compute([x.max(), tw.delayed(inc)(1), 7])
    assert client.gather(several) == [999, 2, 7]
    assert client.compute(x.min(), sync=True) == 0
    assert np.array_equal(client.compute(x, sync=True), np.arange(1000))


def test_persist(client: Client) -> None:
    x = client.persist(ta.ones((100, 100), chunks=50) + 1)
    assert len(futures_of(x)) == 4
    wait(x)
    assert client.gather(futures_of(x))[0].shape == (50, 50)
    y, z = client.persist([x + 1, x.sum()])
    assert y.sum().compute() == 30_000
    assert z.compute() == 20_000


def test_futures_inside_plans(client: Client) -> None:
    future = client.submit(inc, 1)
    assert tw.delayed(inc)(future).compute() == 3
    assert tw.compute(future, [future]) == (2, [2])
    assert tw.delayed(inc)(future).compute(scheduler="sync") == 3


def test_it_is_the_default_until_it_is_closed(cluster: LocalCluster) -> None:
    before = config.get().scheduler
    where = tw.delayed(os.getpid)
    with Client(cluster) as first:
        assert get_client() is first
        with Client(cluster) as second:
            assert get_client() is second
            assert where().compute() != os.getpid()
            with Client(cluster, set_as_default=False):
                assert get_client() is second
        assert get_client() is first
        assert where().compute() in first.run(os.getpid).values()
        assert where().compute(scheduler="threads") == os.getpid()
    assert where().compute() == os.getpid()
    assert config.get().scheduler == before
    with pytest.raises(ValueError, match="no client"):
        get_client()


# ---------------------------------------------------------------- tasks in tasks


def test_tasks_that_submit_tasks(client: Client) -> None:
    """Deeper than there are threads."""

    def fib(n: int) -> int:
        if n < 2:
            return n
        client = get_client()
        return sum(client.gather(client.map(fib, [n - 1, n - 2])))

    assert client.submit(fib, 8).result() == 21


def test_tasks_that_secede(client: Client, tmp_path: Path) -> None:
    """Eight tasks that wait for the last of them, on four threads; half of them do not say that they are back."""

    def meet(k: int) -> int:
        secede()
        (tmp_path / f"here-{k}").touch()
        while len(list(tmp_path.glob("here-*"))) < 8:
            time.sleep(0.005)
        if k % 2:
            rejoin()
        return k

    assert client.gather(client.map(meet, range(8))) == list(range(8))
    assert client.gather(client.map(inc, range(100))) == list(range(1, 101))
    with pytest.raises(ValueError, match="no worker process"):
        secede()


def test_futures_inside_other_objects(client: Client) -> None:
    class Box:
        def __init__(self, future: Future) -> None:
            self.future = future

    box = Box(client.submit(inc, 1))
    assert client.submit(lambda box: box.future.result() + 1, box).result() == 3


def test_tasks_know_where_they_are(client: Client) -> None:
    number, address = client.submit(lambda: (get_worker().name, get_worker().scheduler_address)).result()
    assert number in client.nthreads()
    assert address == client.cluster.scheduler_address  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="no worker process"):
        get_worker()


# ---------------------------------------------------------------- the whole cluster


def test_information(client: Client, cluster: LocalCluster) -> None:
    info = client.scheduler_info()
    assert info["address"] == cluster.scheduler_address
    assert client.nthreads() == client.ncores() == {0: 2, 1: 2}
    future = client.submit(np.ones, 100_000, workers=1)
    wait(future)
    assert client.who_has(future) == {future.key: (1,)}
    assert client.has_what()[1] == [future.key]
    found = client.get_versions(check=True)
    assert found["client"] == versions()
    assert set(found["workers"]) == {0, 1}
    assert client.dashboard_link == cluster.dashboard_link
    assert client.id in repr(client.id)


def test_run(client: Client) -> None:
    pids = client.run(os.getpid)
    assert len(set(pids.values())) == 2
    assert client.run(keyed, 1, a=2, workers=0) == {0: ((1,), {"a": 2})}
    assert np.array_equal(client.run(np.arange, 50_000)[1], np.arange(50_000))
    with pytest.raises(ValueError, match="no good"):
        client.run(fail, "no good")
    assert all(isinstance(error, ValueError) for error in client.run(fail, "x", on_error="return").values())
    assert client.run(fail, "x", on_error="ignore") == {}
    with pytest.raises(ConfigError, match="no worker 7"):
        client.run(os.getpid, workers=[7])
    with pytest.raises(UnsupportedError):
        client.run_on_scheduler(os.getpid)


def test_upload_file(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "uploaded_module.py"
    path.write_text("value = 1")
    client.upload_file(path)

    def look() -> int:
        import uploaded_module  # type: ignore[import-not-found]

        return uploaded_module.value

    assert client.run(look) == {0: 1, 1: 1}
    path.write_text("value = 22")
    client.upload_file(path)
    assert client.run(look) == {0: 22, 1: 22}
    with pytest.raises(FileNotFoundError):
        client.upload_file(tmp_path / "none.py")


def test_restart_and_setup() -> None:
    def set_up() -> None:
        os.environ["SET_UP"] = "yes"

    with Client(n_workers=1, memory_limit="500MB") as client:
        client.register_worker_callbacks(set_up)
        before = client.run(os.getpid)
        future = client.submit(inc, 1)
        wait(future)
        client.restart(timeout=20)
        assert client.run(os.getpid) != before
        assert future.cancelled()
        assert client.submit(lambda: os.environ.get("SET_UP")).result() == "yes"


# ---------------------------------------------------------------- connecting and closing


def test_several_clients(cluster: LocalCluster) -> None:
    with Client(cluster.scheduler_address) as a, Client(cluster) as b:
        assert a.id != b.id
        future = a.submit(inc, 1)
        assert b.submit(inc, future).result() == 3
        assert b.gather(b.map(inc, [future])) == [3]


def test_from_another_process(cluster: LocalCluster) -> None:
    code = "from tilework.distributed import Client; print(Client({!r}).submit(sum, [1]).result())"
    code = code.format(cluster.scheduler_address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_by_the_environment(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(config.ADDRESS_VARIABLE, cluster.scheduler_address)
    with Client() as client:
        assert client.scheduler_info()["address"] == cluster.scheduler_address
        assert client.cluster is None


def test_closing(cluster: LocalCluster) -> None:
    client = Client(cluster)
    array = client.submit(np.arange, 100_000).result()
    future = client.submit(inc, 1)
    client.close()
    client.close()
    assert client.status == "closed"
    assert array.sum() == 4999950000
    for use in (future.result, future.exception, lambda: client.submit(inc, 1), lambda: client.gather(future)):
        with pytest.raises(ClusterClosedError, match="closed"):
            use()
    with Client(cluster) as other, pytest.raises(ClusterClosedError):
        other.submit(inc, future)
    assert repr(client) == f"<Client: {cluster.scheduler_address!r} closed>"
    assert array.sum() == 4999950000


def test_what_was_fetched_is_not_overwritten_after_closing(cluster: LocalCluster) -> None:
    client = Client(cluster)
    arrays = client.gather(client.map(lambda i: np.full(1_000_000, i), range(4)))
    client.close()
    with Client(cluster) as other:
        other.gather(other.map(lambda i: np.full(1_000_000, -1), range(20)))
    assert [set(array.tolist()) for array in arrays] == [{0}, {1}, {2}, {3}]


def test_ctrl_c_at_any_moment(client: Client) -> None:
    """It ends what is waited for, and nothing else: the next call finds all in order."""
    delay = random.Random(1)
    presses, pressed = 50, 0
    end = threading.Event()
    armed: list[bool] = []  # so that none comes while this test looks after another one

    def interrupt(number: int, frame: Any) -> None:
        if armed:
            armed.clear()
            raise KeyboardInterrupt

    def press() -> None:
        for _ in range(presses):
            end.wait(0.002 + 0.02 * delay.random())
            os.kill(os.getpid(), signal.SIGINT)
        end.set()

    def work() -> None:
        while not end.is_set():
            armed[:] = [True]
            assert client.gather(client.map(inc, range(20))) == list(range(1, 21))
            assert client.submit(np.ones, 20_000).result().sum() == 20_000
            assert client.submit(inc, 1).result() == 2
            assert client.scheduler_info()["workers"]
        armed.clear()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        thread = threading.Thread(target=press)
        thread.start()
        while not end.is_set():
            try:
                work()
            except KeyboardInterrupt:
                pressed += 1
        thread.join()
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed > presses // 2  # what comes in a destructor is ignored by Python
    assert client.gather(client.map(inc, range(100))) == list(range(1, 101))
    assert client.link._pins == 0


def test_futures_of_other_clusters_are_refused(client: Client) -> None:
    with Client(n_workers=1, memory_limit="500MB", set_as_default=False) as other:
        future = other.submit(inc, 1)
        with pytest.raises(ValueError, match="cannot be used on the one at"):
            client.submit(inc, future)


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "udp://127.0.0.1:80", "tcp://127.0.0.1:99999"])
def test_bad_addresses(address: str) -> None:
    with pytest.raises(ConfigError):
        Client(address)


def test_addresses_where_nobody_is() -> None:
    with pytest.raises(ConnectionLostError, match="nobody listens"):
        Client("tcp://127.0.0.1:1")
    with pytest.raises(UnsupportedError, match="another machine"):
        Client("tcp://192.0.2.1:8786")


def test_bad_options(cluster: LocalCluster) -> None:
    with pytest.raises(ConfigError, match="did you mean 'n_workers'"):
        Client(nworkers=2)
    with pytest.raises(ConfigError, match="n_workers: options of a new cluster"):
        Client(cluster, n_workers=2)
    with pytest.raises(ConfigError, match="timeout='soon'"):
        Client(cluster, timeout="soon")
    with pytest.raises(UnsupportedError, match="await"):
        Client(cluster, asynchronous=True)
    with pytest.raises(ConfigError, match="is no cluster"):
        Client(7)  # type: ignore[arg-type]


def test_other_versions_are_refused(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**versions(), "python": "3.10.1"}
    monkeypatch.setattr("tilework.engine.cluster.client.link.versions", lambda: other)
    with pytest.raises(ConnectionLostError, match=r"python .* on the cluster and 3\.10\.1 on the client"):
        Client(cluster)


def test_reprs(client: Client, cluster: LocalCluster) -> None:
    assert repr(client).startswith(f"<Client: {cluster.scheduler_address!r} processes=2 threads=4, memory=")
    html = client._repr_html_()
    assert "running" in html
    assert html.count("<tr>") == 5 + 1 + 2
