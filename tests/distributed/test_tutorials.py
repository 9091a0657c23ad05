"""What people learn Dask's clusters by, run on tilework: only imports differ (and xarray is told which arrays to make).

The programs are written for Dask, where they run as they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]

FUTURES = """
    import random
    import time
    from dask.distributed import Client, progress, wait

    client = Client(threads_per_worker=4, n_workers=1)

    def inc(x):
        time.sleep(random.random() / 100)
        return x + 1

    def double(x):
        time.sleep(random.random() / 100)
        return 2 * x

    def add(x, y):
        time.sleep(random.random() / 100)
        return x + y

    future = client.submit(inc, 1)  # returns at once
    assert future.result() == 2
    assert future.done()
    assert future.status == "finished"
    assert "finished" in repr(future)

    x = client.submit(inc, 1)
    y = client.submit(double, 2)
    z = client.submit(add, x, y)
    assert z.result() == 6

    zs = []
    for i in range(64):
        x = client.submit(inc, i)
        y = client.submit(double, x)
        z = client.submit(add, x, y)
        zs.append(z)
    total = client.submit(sum, zs)
    assert total.result() == sum(3 * (i + 1) for i in range(64))

    # A tree of sums, built while it runs
    level = zs
    while len(level) > 1:
        new_level = []
        for i in range(0, len(level), 2):
            new_level.append(client.submit(add, level[i], level[i + 1]))
        level = new_level
    assert client.gather(level) == [total.result()]
    del future, level, new_level, total

    futures = client.map(inc, range(20))
    more = client.map(add, futures, range(20))
    wait(more)
    assert all(f.done() for f in more)
    assert client.gather(more) == [2 * i + 1 for i in range(20)]
    assert client.gather({"first": more[0], "last": more[-1]}) == {"first": 1, "last": 39}
    assert client.submit(lambda *args, **kwargs: (args, kwargs), futures[0], k=futures[1]).result() == ((1,), {"k": 2})
    client.close()
"""

ERRORS = """
    from dask.distributed import Client, CancelledError, TimeoutError, as_completed, wait

    client = Client(n_workers=2, threads_per_worker=1)

    def div(a, b):
        return a / b

    def seconds(n):
        import time
        time.sleep(n)
        return n

    future = client.submit(div, 1, 0)
    wait(future)
    assert future.status == "error"
    assert isinstance(future.exception(), ZeroDivisionError)
    assert future.traceback() is not None
    try:
        future.result()
    except ZeroDivisionError as error:
        import traceback
        assert "in div" in "".join(traceback.format_exception(error))
    else:
        raise AssertionError

    after = client.submit(abs, future)  # fails as what it needs has failed
    assert isinstance(after.exception(), ZeroDivisionError)
    assert client.gather([client.submit(div, 1, 1), future], errors="skip") == [1]

    def fails_twice(path):
        with open(path, "a") as file:
            file.write("x")
        with open(path) as file:
            if len(file.read()) < 3:
                raise OSError("not yet")
        return "done"

    assert client.submit(fails_twice, "tries", retries=2).result() == "done"

    late = client.submit(seconds, 30)
    try:
        late.result(timeout=0.05)
    except TimeoutError:
        pass
    else:
        raise AssertionError
    never = client.submit(abs, late)
    client.cancel([late, never])
    assert never.cancelled()
    try:
        never.result()
    except CancelledError:
        pass
    else:
        raise AssertionError

    results = []
    for f in as_completed(client.map(div, [1, 2, 3], [1, 0, 1])):
        results.append("failed" if f.status == "error" else f.result())
    assert sorted(map(str, results)) == ["1.0", "3.0", "failed"]
    client.close()
"""

SEARCH = """
    # A local optimisation: new points are tried as soon as others are known, near the best so far.
    import random
    from dask.distributed import Client, as_completed

    client = Client(n_workers=2, threads_per_worker=2)
    random.seed(1)

    def rosenbrock(point):
        x, y = point
        return (1 - x) ** 2 + 2 * (y - x**2) ** 2

    scale = 5.0
    best_point = (0.0, 0.0)
    best_score = float("inf")
    initial = [(random.uniform(-scale, scale), random.uniform(-scale, scale)) for i in range(10)]
    futures = [client.submit(rosenbrock, point) for point in initial]
    points = {f.key: p for f, p in zip(futures, initial)}
    iterator = as_completed(futures)
    count = 0
    for future in iterator:
        point, score = points.pop(future.key), future.result()
        if score < best_score:
            best_score, best_point = score, point
        count += 1
        scale *= 0.98
        if scale < 0.05:
            break
        x, y = best_point
        new_point = (x + random.uniform(-scale, scale), y + random.uniform(-scale, scale))
        new = client.submit(rosenbrock, new_point)
        points[new.key] = new_point
        iterator.add(new)
    assert count > 200
    assert best_score < 0.1

    # In batches, and with results
    seen = []
    for batch in as_completed(client.map(lambda x: x**2, range(30)), with_results=True).batches():
        seen += [result for future, result in batch]
    assert sorted(seen) == [x**2 for x in range(30)]
    iterator.clear()
    client.close()
"""

TASKS_IN_TASKS = """
    import dask
    from dask import delayed
    from dask.distributed import Client, get_client, rejoin, secede, worker_client

    client = Client(n_workers=2, threads_per_worker=1)

    def fib(n):
        if n < 2:
            return n
        client = get_client()
        a = client.submit(fib, n - 1)
        b = client.submit(fib, n - 2)
        secede()
        a, b = client.gather([a, b])
        rejoin()
        return a + b

    assert client.submit(fib, 6).result() == 8

    def total(n):
        with worker_client() as client:
            futures = client.map(lambda x: 2 * x, range(n))
            return sum(client.gather(futures))

    assert client.submit(total, 10).result() == 90

    def fib_delayed(n):
        if n < 2:
            return n
        a = delayed(fib_delayed)(n - 1)
        b = delayed(fib_delayed)(n - 2)
        with worker_client():
            a, b = dask.compute(a, b)
        return a + b

    assert delayed(fib_delayed)(5).compute() == 5
    client.close()
"""

DATA = """
    import numpy as np
    from dask.distributed import Client, fire_and_forget, get_worker

    client = Client(n_workers=2, threads_per_worker=1)

    data = np.random.default_rng(0).random((1000, 50))
    remote = client.scatter(data)
    sums = [client.submit(lambda a, i: a[:, i].sum(), remote, i) for i in range(50)]
    assert np.allclose(client.gather(sums), data.sum(axis=0))

    everywhere = client.scatter(data, broadcast=True)
    assert client.submit(np.mean, everywhere).result() == data.mean()
    several = client.scatter([1, 2, 3])
    assert client.submit(sum, several).result() == 6
    named = client.scatter({"a": 1, "b": 2})
    assert client.submit(lambda a, b: a + b, **named).result() == 3

    back = client.submit(np.sort, remote).result()
    assert np.array_equal(back, np.sort(data))

    class Model:
        def __init__(self, weights):
            self.weights = weights
        def predict(self, x):
            return x @ self.weights

    model = client.scatter(Model(np.ones(50)))
    predicted = client.map(lambda model, rows: model.predict(rows), [model] * 4, np.split(data, 4))
    assert np.allclose(np.concatenate(client.gather(predicted)), data.sum(axis=1))

    def save(text, path):
        with open(path + ".part", "w") as file:
            file.write(text)
        import os
        os.rename(path + ".part", path)

    import os
    import time
    fire_and_forget(client.submit(save, "kept", "out.txt"))
    while not os.path.exists("out.txt"):
        time.sleep(0.01)
    assert open("out.txt").read() == "kept"

    assert len(client.run(os.getpid)) == 2
    assert len(set(client.run(os.getpid).values())) == 2
    assert sum(client.nthreads().values()) == 2
    assert [worker["nthreads"] for worker in client.scheduler_info()["workers"].values()] == [1, 1]
    assert remote.key in client.who_has([remote])
    assert client.submit(lambda: get_worker() is not None).result()

    with client.get_executor() as executor:
        assert list(executor.map(pow, range(5), [2] * 5)) == [0, 1, 4, 9, 16]
        assert executor.submit(divmod, 7, 3).result() == (2, 1)

    client.restart()
    assert client.submit(sum, [1, 2]).result() == 3
    client.close()
"""

CLUSTER = """
    import os
    import subprocess
    import sys
    import dask
    from dask import delayed
    from dask.distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=2, memory_limit="500MB", dashboard_address="127.0.0.1:0")
    client = Client(cluster)
    assert client.dashboard_link.startswith("http://")
    assert client.cluster is cluster
    assert "LocalCluster" in repr(cluster)
    assert "Client" in repr(client)
    assert client._repr_html_()
    assert cluster._repr_html_()

    def inc(x):
        return x + 1

    cluster.scale(3)
    client.wait_for_workers(3)
    assert len(client.scheduler_info()["workers"]) == 3
    assert client.gather(client.map(inc, range(100))) == list(range(1, 101))
    cluster.scale(1)

    code = "from dask.distributed import Client; c = Client({!r}); print(c.submit(sum, [1, 2]).result())"
    done = subprocess.run(
        [sys.executable, "-c", code.format(cluster.scheduler_address)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout == "3\\n"

    with Client(cluster.scheduler_address) as second, Client(cluster) as third:
        assert second.submit(inc, 1).result() == third.submit(inc, 1).result() == 2

    # The client is the default for everything that is lazy.
    assert delayed(os.getpid)().compute() in client.run(os.getpid).values()
    assert dask.compute(delayed(inc)(1), delayed(inc)(2)) == (2, 3)
    client.close()
    assert delayed(os.getpid)().compute() == os.getpid()
    cluster.close()
    cluster.close()

    with LocalCluster(n_workers=2, processes=True) as cluster, cluster.get_client() as client:
        cluster.adapt(minimum=1, maximum=2)
        assert client.submit(inc, 1).result() == 2
"""

DELAYED = """
    import time
    import dask
    from dask import delayed
    from dask.distributed import Client, futures_of, progress, wait

    client = Client(n_workers=2, threads_per_worker=2)

    @delayed
    def inc(x):
        time.sleep(0.01)
        return x + 1

    @delayed
    def double(x):
        time.sleep(0.01)
        return 2 * x

    @delayed
    def add(x, y):
        time.sleep(0.01)
        return x + y

    output = []
    for x in range(8):
        a = inc(x)
        b = double(x)
        output.append(add(a, b))
    total = delayed(sum)(output)
    assert total.compute() == sum(3 * x + 1 for x in range(8))

    zs = dask.persist(*output)  # in the background
    wait(zs)
    level = list(zs)
    while len(level) > 1:
        level = [add(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    assert level[0].compute() == total.compute()

    future = client.compute(total)  # a future of a delayed
    assert future.result() == total.compute()
    several = client.compute([total, zs[0]])
    assert client.gather(several) == [total.compute(), 1]
    assert client.submit(lambda x: x + 1, future).result() == total.compute() + 1
    assert client.submit(lambda x: x + 1, client.compute(total)).result() == total.compute() + 1
    assert delayed(lambda x: x + 2)(future).compute() == total.compute() + 2  # futures inside plans
    assert client.compute(total, sync=True) == total.compute()

    # Decisions inside, lists and dictionaries of delayed
    result = delayed(lambda d: sorted(d.items()))({"a": inc(1), "b": [inc(2), inc(3)]})
    assert result.compute() == [("a", 2), ("b", [3, 4])]
    client.close()
"""

ARRAYS = """
    import numpy as np
    import dask
    import dask.array as da
    from dask.distributed import Client, futures_of, progress, wait

    client = Client(processes=False, threads_per_worker=4, n_workers=1, memory_limit="2GB")

    x = da.random.random((2000, 2000), chunks=(500, 500))
    y = x + x.T
    z = y[::2, 1000:].mean(axis=1)
    assert z.compute().shape == (1000,)

    x = x.persist()
    wait(x)
    a, b = dask.compute(x.mean(), x.std())
    assert abs(a - 0.5) < 0.01 and abs(b - np.sqrt(1 / 12)) < 0.01
    assert np.allclose(x.sum(axis=0).compute(), x.compute().sum(axis=0))

    future = client.compute(x.max())
    assert 0.99 < future.result() <= 1
    again = client.persist(x[:500] * 2)
    assert np.allclose(again.compute(), 2 * x[:500].compute())

    def block_mean(block):
        return block.mean(keepdims=True)
    means = x.map_blocks(block_mean, chunks=(1, 1))
    assert means.compute().shape == (4, 4)
    assert da.dot(x, x.T).trace().compute() > 0
    client.close()
"""

XARRAY = """
    import numpy as np
    import pandas as pd
    import xarray as xr
    from dask.distributed import Client

    client = Client(n_workers=2, threads_per_worker=2, memory_limit="1GB")

    rng = np.random.default_rng(0)
    time = pd.date_range("2013-01-01", periods=730)
    ds = xr.Dataset(
        {"air": (("time", "lat", "lon"), rng.normal(280, 10, (730, 25, 53)))},
        {"time": time, "lat": np.linspace(75, 15, 25), "lon": np.linspace(200, 330, 53)},
    )
    ds.to_zarr("air.zarr")
    ds = ds.compute()
    lazy = xr.open_zarr("air.zarr", chunks={"time": 100})
    da = lazy["air"]
    assert da.chunks[0][0] == 100

    mean = da.mean("time")
    xr.testing.assert_allclose(mean.compute(), ds["air"].mean("time"))
    clim = da.groupby("time.month").mean("time")
    xr.testing.assert_allclose(clim.compute(), ds["air"].groupby("time.month").mean("time"))
    anomaly = da.groupby("time.month") - clim
    expected = ds["air"].groupby("time.month") - clim.compute()
    xr.testing.assert_allclose(anomaly.std("time").compute(), expected.std("time"))

    kept = da.persist()
    xr.testing.assert_equal(kept.resample(time="MS").max().compute(), ds["air"].resample(time="MS").max())
    xr.testing.assert_equal(kept.sel(time="2014").load(), ds["air"].sel(time="2014"))
    future = client.compute(da.mean())
    assert np.allclose(future.result(), ds["air"].mean())

    def covariance(x, y):
        return ((x - x.mean(axis=-1, keepdims=True)) * (y - y.mean(axis=-1, keepdims=True))).mean(axis=-1)
    whole = da.chunk({"time": -1, "lat": 5})
    found = xr.apply_ufunc(
        covariance, whole, whole, input_core_dims=[["time"], ["time"]], dask="parallelized", output_dtypes=[float]
    )
    xr.testing.assert_allclose(found.compute(), ds["air"].var("time"))
    client.close()
"""

PROGRAMS = {
    "futures": FUTURES,
    "errors": ERRORS,
    "search": SEARCH,
    "tasks in tasks": TASKS_IN_TASKS,
    "data": DATA,
    "cluster": CLUSTER,
    "delayed": DELAYED,
    "arrays": ARRAYS,
    "xarray": XARRAY,
}


def for_tilework(program: str) -> str:
    """The program with other imports."""
    program = re.sub(r"^( *)import dask$", r"\1import tilework as dask", program, flags=re.MULTILINE)
    program = re.sub(r"\b(from|import) dask\b", r"\1 tilework", program)
    return program.replace("import xarray as xr\n", "import xarray as xr; xr.set_options(chunk_manager='tilework')\n")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_runs(name: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(for_tilework(dedent(PROGRAMS[name])), "utf-8")
    done = subprocess.run(
        [sys.executable, "program.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
