"""``xr.map_blocks`` against the same function of the whole object."""

from __future__ import annotations

import pytest
import xarray as xr

import tilework as tw


@pytest.fixture
def lazy(dataset):
    return dataset[["t", "n", "flag"]].chunk(time=40, lat=4, chunked_array_type="tilework")


def doubled(obj, plus=0):
    return obj.astype(float) * 2 + plus


def test_a_dataset_block_by_block(dataset, lazy, nothing_runs):
    with nothing_runs():
        found = xr.map_blocks(doubled, lazy, kwargs={"plus": 1})
    assert found.chunksizes == {"time": (40, 40, 20), "lat": (4, 2), "lon": (8,)}
    xr.testing.assert_identical(found.compute(), doubled(dataset[["t", "n", "flag"]], 1))


def test_one_call_a_block(lazy):
    shapes = []

    def seen(ds):
        shapes.append(dict(ds.sizes))
        return ds

    found = lazy.map_blocks(seen)
    shapes.clear()  # of the call that found out what comes back
    found.compute()
    assert sorted(tuple(s.values()) for s in shapes) == sorted([(40, 4, 8), (40, 2, 8)] * 2 + [(20, 4, 8), (20, 2, 8)])
    shapes.clear()
    found.t[:40, :4].compute()
    assert len(shapes) == 1


def test_arguments_are_cut_alike(dataset, lazy, nothing_runs):
    with nothing_runs():
        found = lazy.t.map_blocks(lambda a, b, c, d: a + b + c * d, args=[lazy.n, 2, dataset.lat.rename("weight")])
    xr.testing.assert_equal(found.compute(), dataset.t + dataset.n + 2 * dataset.lat)
    with pytest.raises(ValueError, match="Chunk sizes along dimension 'time'"):
        xr.map_blocks(doubled, lazy.t, args=[lazy.n.chunk(time=30)])


def test_dimensions_that_come_and_go(dataset, lazy, nothing_runs):
    with nothing_runs():
        means = lazy.t.map_blocks(lambda a: a.mean("lon").expand_dims(kind=["mean"]))
    assert means.dims == ("kind", "time", "lat")
    xr.testing.assert_allclose(means.compute(), dataset.t.mean("lon").expand_dims(kind=["mean"]))
    dropped = lazy.t.map_blocks(lambda a: a.sum("lat")).compute()  # each block has one: the last counts
    xr.testing.assert_allclose(dropped, dataset.t[:, 4:].sum("lat"))


def test_a_template_tells_what_comes_back(dataset, lazy, nothing_runs):
    first = dataset.t.isel(time=[0, 40, 80])
    template = first.chunk(time=1, lat=4, chunked_array_type="tilework")
    with nothing_runs():
        found = lazy.t.map_blocks(lambda a: a.isel(time=[0]), template=template)
    xr.testing.assert_identical(found.compute(), first)
    with pytest.raises(ValueError, match="Expected number of output chunks along dimension 'time' to be 3"):
        lazy.t.map_blocks(doubled, template=first.chunk(time=2, chunked_array_type="tilework"))
    with pytest.raises(ValueError, match="Received dimension 'time' of length 40"):
        lazy.t.map_blocks(doubled, template=template).compute()


def test_memory(nothing_runs):
    x = tw.array.random.default_rng(0).random((40, 500, 500), chunks=(1, 500, 500))
    da = xr.DataArray(x, dims=("time", "y", "x"))
    with nothing_runs():
        found = da.map_blocks(lambda a: a - a.mean()).sum()
    assert tw.explain(found, memory="30MB").predicted_peak < 30e6
    assert abs(float(found.compute(memory="30MB"))) < 1e-3


def test_refused(lazy):
    with pytest.raises(Exception, match="supply the 'template'"):
        xr.map_blocks(lambda a: a.isel(time=3), lazy)
    with pytest.raises(TypeError, match="returned <class 'int'>"):
        xr.map_blocks(lambda a: 1, lazy)
    with pytest.raises(TypeError, match="args must be a sequence"):
        xr.map_blocks(doubled, lazy, args=3)
    with pytest.raises(TypeError, match="lazy objects in kwargs"):
        xr.map_blocks(doubled, lazy, kwargs={"plus": lazy.t})
    with pytest.raises(TypeError, match="template must be"):
        xr.map_blocks(doubled, lazy, template=3)


def test_what_is_not_lazy_is_called_at_once(dataset):
    xr.testing.assert_identical(xr.map_blocks(doubled, dataset.t), doubled(dataset.t))
