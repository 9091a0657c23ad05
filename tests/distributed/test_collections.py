"""Lazy things and clients: arrays, delayed values and xarray objects run on the cluster, and may hold futures."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import iris_sample_data
import numpy as np
import pytest
import xarray as xr

import tilework as tw
import tilework.array as ta
from tilework.base import config
from tilework.base.errors import ClusterClosedError, ConnectionLostError, MemoryBudgetError, TileworkError
from tilework.diagnostics.history import History
from tilework.distributed import Client, Future, LocalCluster, as_completed, futures_of, wait
from tilework.distributed.waiting import progress
from tilework.testing import assert_eq

NUMPY = np.random.default_rng(0).random((400, 300))
SAMPLES = Path(iris_sample_data.path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    here = sys.modules[__name__]  # which workers cannot import
    cloudpickle.register_pickle_by_value(here)
    with LocalCluster(2, 1, memory="400MB", dashboard_address=None) as cluster:
        cluster.wait_for_workers(2)
        yield cluster
    cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with cluster.get_client() as client:
        yield client


def array() -> Any:
    return ta.from_array(NUMPY, chunks=100)


def inc(x: Any) -> Any:
    return x + 1


def pid(*inputs: Any) -> int:
    return os.getpid()


# ---------------------------------------------------------------- the default


def test_a_client_is_the_default_until_it_is_closed(cluster: LocalCluster) -> None:
    workers = {info["pid"] for info in cluster.workers.values()}
    assert tw.delayed(pid)().compute() == os.getpid()
    client = cluster.get_client()
    assert tw.delayed(pid)().compute() in workers
    with tw.config.set(scheduler="sync"):
        assert tw.delayed(pid)().compute() == os.getpid()
    assert tw.delayed(pid)().compute(scheduler="threads") == os.getpid()
    client.close()
    assert tw.delayed(pid)().compute() == os.getpid()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_clients_are_closed_in_any_order(cluster: LocalCluster, order: tuple[int, ...]) -> None:
    clients = [cluster.get_client() for _ in order]
    left = list(clients)
    for k in order:
        clients[k].close()
        left.remove(clients[k])
        assert config.get().scheduler == (left[-1] if left else "threads")


def test_every_way_to_name_a_cluster(cluster: LocalCluster) -> None:
    workers = {info["pid"] for info in cluster.workers.values()}
    with cluster.get_client(set_as_default=False) as client:
        for scheduler in (client, cluster, cluster.scheduler_address):
            assert tw.delayed(pid)().compute(scheduler=scheduler) in workers
            with tw.config.set(scheduler=scheduler):
                assert array().map_blocks(lambda b: b * 0 + pid(), dtype="f8").max().compute() in workers
    with pytest.raises(ClusterClosedError):
        tw.compute(array().sum(), scheduler=client)
    with pytest.raises(ConnectionLostError):
        tw.compute(array().sum(), scheduler="tcp://127.0.0.1:1")


def test_explain_shows_what_the_cluster_has(client: Client) -> None:
    explanation = array().sum().explain()
    assert (explanation.workers, explanation.budget) == (2, 400 * 10**6)
    with pytest.raises(MemoryBudgetError, match=r"381\.5 MiB"):
        ta.ones((10_000, 10_000), chunks=1000).compute()


def test_tasks_compute_by_themselves(client: Client) -> None:
    """What a task computes runs in its own process, unless it asks for a client."""

    def nested() -> tuple[int, int]:
        return int(ta.arange(100, chunks=10).sum().compute()), tw.delayed(pid)().compute() - os.getpid()

    assert client.submit(nested).result() == (4950, 0)


# ---------------------------------------------------------------- arrays


def test_computing_arrays(client: Client) -> None:
    x = array()
    y = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = (NUMPY - NUMPY.mean(axis=0)) / NUMPY.std(axis=0)
    np.testing.assert_allclose(y.compute(), expected)
    assert_eq(x[x > 0.5].sum().compute(), NUMPY[NUMPY > 0.5].sum())
    np.testing.assert_allclose(ta.linalg.svd(x.rechunk((100, -1)))[1].compute(), np.linalg.svd(NUMPY)[1])


def test_persisting_returns_at_once_and_holds_blocks_on_the_cluster(client: Client, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def slowly(block: np.ndarray) -> np.ndarray:
        while not go.exists():
            wait_a_little()
        return block * 2

    lazy = array().map_blocks(slowly, dtype="f8")
    held = lazy.persist()
    futures = futures_of(held)
    assert len(futures) == lazy.npartitions
    assert {future.status for future in futures} == {"pending"}
    total, part = held.sum(), held[150:, ::2]
    go.touch()
    wait(held)
    assert {future.status for future in futures} == {"finished"}
    progress(held)
    np.testing.assert_array_equal(held.compute(), NUMPY * 2)
    np.testing.assert_allclose(total.compute(), 2 * NUMPY.sum())
    np.testing.assert_array_equal(part.compute(), 2 * NUMPY[150:, ::2])
    np.testing.assert_array_equal(part.compute(scheduler="threads"), 2 * NUMPY[150:, ::2])
    assert sorted(f.key for f in as_completed(futures)) == sorted(f.key for f in futures)


def wait_a_little() -> None:
    import time

    time.sleep(0.005)


def test_what_is_persisted_is_let_go_with_the_last_reference(client: Client) -> None:
    held = (array() + 1).persist()
    wait(held)
    numbers = [future.number for future in futures_of(held)]
    assert all(client.link.request("who_has", numbers).values())
    del held
    assert not any(client.link.request("who_has", numbers).values())


def test_persisting_with_unknown_sizes(client: Client) -> None:
    x = array()
    held = x[x[:, 0] > 0.5].persist()
    np.testing.assert_array_equal(held.compute(), NUMPY[NUMPY[:, 0] > 0.5])
    np.testing.assert_allclose(held.sum().compute(), NUMPY[NUMPY[:, 0] > 0.5].sum())


def test_more_is_persisted_than_memory_holds(client: Client) -> None:
    held = [ta.full((2500, 2000), float(k), chunks=(500, 2000)).persist() for k in range(12)]  # 480 MB
    wait(held)
    assert [float(x[0, 0].compute()) for x in held] == [float(k) for k in range(12)]
    assert [x.mean().compute() for x in held] == [float(k) for k in range(12)]
    del held
    one = ta.ones((12, 2500, 2000), chunks=(1, 500, 2000)).persist()
    assert one.sum().compute() == 12 * 2500 * 2000


def test_writing(client: Client, tmp_path: Path) -> None:
    x = array()
    x.to_zarr(str(tmp_path / "x.zarr"))
    np.testing.assert_array_equal(ta.from_zarr(str(tmp_path / "x.zarr")).compute(), NUMPY)
    later = (x + 1).to_zarr(str(tmp_path / "later.zarr"), compute=False)
    future = client.compute(later)
    assert future.result() is None
    np.testing.assert_array_equal(ta.from_zarr(str(tmp_path / "later.zarr")).compute(), NUMPY + 1)
    target = np.zeros_like(NUMPY)
    ta.store(x, target)
    np.testing.assert_array_equal(target, NUMPY)


def keep(array: np.ndarray) -> float:
    vars(sys.modules["__main__"])["kept"] = array  # one that all functions share in a worker
    return float(array.sum())


def sum_of_kept() -> float:
    return float(np.sum(vars(sys.modules["__main__"]).pop("kept", 0.0)))


def test_what_a_task_keeps_of_its_plan_stays_as_it_is(client: Client) -> None:
    assert tw.delayed(keep)(np.ones(1_000_000)).compute() == 1e6
    for k in range(2, 6):
        assert tw.delayed(np.sum)(np.full(1_000_000, float(k))).compute() == k * 1e6
    assert sorted(client.run(sum_of_kept).values()) == [0.0, 1e6]


# ---------------------------------------------------------------- futures and lazy things


def test_futures_are_lazy_things_like_others(client: Client) -> None:
    future = client.submit(inc, 1)
    assert tw.compute(future, [future, {"a": future}]) == (2, [2, {"a": 2}])
    assert tw.delayed(sum)([future, 10, tw.delayed(inc)(future)]).compute() == 15
    assert tw.delayed(inc)(future).compute(scheduler="threads") == 3
    block = client.submit(np.full, (3, 4), 2.0)
    x = ta.from_delayed(block, (3, 4), "f8")
    np.testing.assert_array_equal((ta.concatenate([x, x * 2]) + 1).compute(), [[3.0] * 4] * 3 + [[5.0] * 4] * 3)
    assert tw.persist(future)[0] is future
    assert [f.key for f in futures_of(tw.delayed(inc)(future))] == [future.key]


def test_scattered_data_in_plans(client: Client) -> None:
    future = client.scatter(NUMPY)
    x = ta.from_delayed(future, NUMPY.shape, NUMPY.dtype)
    np.testing.assert_allclose(x.sum(axis=0).compute(), NUMPY.sum(axis=0))


def test_computing_gives_futures(client: Client) -> None:
    x = array()
    future = client.compute(x.sum())
    assert isinstance(future, Future)
    np.testing.assert_allclose(future.result(), NUMPY.sum())
    whole, pair, text = client.compute([x + 1, (x.min(), 5), "text"])
    np.testing.assert_array_equal(whole.result(), NUMPY + 1)
    assert (pair.result(), text) == ((NUMPY.min(), 5), "text")
    assert client.submit(np.shape, whole).result() == (400, 300)
    np.testing.assert_allclose(client.compute(x.mean(), sync=True), NUMPY.mean())
    assert client.gather(client.compute([tw.delayed(inc)(k) for k in range(20)])) == list(range(1, 21))


def test_what_is_not_computed_can_be_cancelled(client: Client) -> None:
    future = client.compute(tw.delayed(hang)())
    later = client.compute(tw.delayed(inc)(future))
    future.cancel()
    with pytest.raises(BaseException, match="cancelled"):
        later.result(timeout=30)
    assert client.submit(inc, 1).result(timeout=30) == 2


def hang() -> None:
    for _ in range(100):
        wait_a_little()


def test_persisted_things_can_be_sent_to_tasks(client: Client) -> None:
    held = array().persist()

    def total(x: Any) -> float:
        return float(x.sum().compute())

    assert client.submit(total, held).result() == pytest.approx(NUMPY.sum())


def test_a_plan_can_be_pickled_with_its_futures(client: Client) -> None:
    held = (array() + 1).persist()
    again = pickle.loads(cloudpickle.dumps(held))
    np.testing.assert_array_equal(again.compute(), NUMPY + 1)


def test_errors_of_plans(client: Client) -> None:
    def broken(block: np.ndarray) -> np.ndarray:
        raise ValueError("no such thing")

    lazy = array().map_blocks(broken, dtype="f8")
    with pytest.raises(ValueError, match="no such thing") as caught:
        lazy.sum().compute()
    assert any(note.startswith("in operation") for note in caught.value.__notes__)
    future = client.compute(lazy.sum())
    with pytest.raises(ValueError, match="no such thing"):
        future.result()
    held = lazy.persist()
    with pytest.raises(ValueError, match="no such thing"):
        (held + 1).compute()
    wait(held)
    assert {future.status for future in futures_of(held)} <= {"error", "cancelled"}


def test_history_sees_what_runs_on_a_cluster(client: Client) -> None:
    with History() as history:
        array().sum().compute()
    (run,) = history.runs
    assert (run.engine, run.workers, run.tasks, run.done) == ("cluster", 2, run.done, run.done)


def test_a_cluster_that_ends_while_it_computes() -> None:
    with LocalCluster(1, 1, dashboard_address=None) as cluster, cluster.get_client() as client:
        held = array().persist()
        wait(held)
        cluster.close()
        with pytest.raises(TileworkError):
            held.sum().compute(scheduler=client)


# ---------------------------------------------------------------- xarray


def test_xarray_on_a_client(client: Client, tmp_path: Path) -> None:
    path = next(SAMPLES.rglob("*A1B_north_america.nc"), None) or next(SAMPLES.rglob("E1_north_america.nc"))
    eager = xr.open_dataset(path, decode_timedelta=False).load()
    with xr.open_dataset(path, chunks={"time": 60}, chunked_array_type="tilework", decode_timedelta=False) as lazy:
        climate = lazy.air_temperature
        expected = eager.air_temperature
        xr.testing.assert_allclose(climate.mean("time").compute(), expected.mean("time"))
        anomaly = climate.groupby("time.month") - climate.groupby("time.month").mean()
        xr.testing.assert_allclose(
            anomaly.load(), expected.groupby("time.month") - expected.groupby("time.month").mean(), rtol=1e-4, atol=1e-3
        )
        held = lazy.persist()
        assert len(futures_of(held)) >= 1
        wait(held)
        xr.testing.assert_allclose(held.air_temperature.max("time").compute(), expected.max("time"))
        future = client.compute(lazy.air_temperature.isel(time=slice(0, 10)))
        xr.testing.assert_allclose(future.result(), expected.isel(time=slice(0, 10)))
        lazy.to_zarr(tmp_path / "climate.zarr")
    again = xr.open_zarr(tmp_path / "climate.zarr", chunked_array_type="tilework", decode_timedelta=False)
    xr.testing.assert_allclose(again.compute(), eager)
    (both,) = tw.compute(again)
    xr.testing.assert_allclose(both, eager)


def test_xarray_by_name_of_the_scheduler() -> None:
    x = xr.DataArray(NUMPY, dims=("y", "x"), coords={"y": np.arange(400) // 10}, name="x")
    lazy = x.chunk({"y": 100}, chunked_array_type="tilework")
    with tw.config.set(scheduler="processes", workers=2, memory="200MB"):
        xr.testing.assert_allclose(lazy.groupby("y").mean().compute(), x.groupby("y").mean())
        xr.testing.assert_allclose(lazy.rolling(x=3).mean().load(), x.rolling(x=3).mean())
