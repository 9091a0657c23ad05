"""Random arrays: which values come, and from where they may not depend."""

import numpy as np
import pytest

import tilework.array as ta
from tilework.base.errors import PlanError, UnsupportedError

DISTRIBUTIONS = [
    ("beta", (2.0, 3.0), {}),
    ("binomial", (10, 0.3), {}),
    ("chisquare", (2.0,), {}),
    ("dirichlet", ([1.0, 2.0, 3.0],), {}),
    ("exponential", (), {"scale": 2.0}),
    ("f", (2.0, 3.0), {}),
    ("gamma", (2.0,), {"scale": 3.0}),
    ("geometric", (0.3,), {}),
    ("gumbel", (), {}),
    ("hypergeometric", (10, 5, 7), {}),
    ("integers", (5,), {}),
    ("integers", (2, 5), {"dtype": "i2", "endpoint": True}),
    ("laplace", (1.0,), {}),
    ("logistic", (), {}),
    ("lognormal", (), {"sigma": 0.5}),
    ("logseries", (0.3,), {}),
    ("multinomial", (20, [0.2, 0.8]), {}),
    ("multivariate_hypergeometric", ([3, 4, 5], 6), {}),
    ("multivariate_normal", ([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]]), {}),
    ("negative_binomial", (5, 0.3), {}),
    ("noncentral_chisquare", (2.0, 3.0), {}),
    ("noncentral_f", (2.0, 3.0, 1.0), {}),
    ("normal", (10.0, 0.1), {}),
    ("pareto", (2.0,), {}),
    ("poisson", (4.0,), {}),
    ("power", (2.0,), {}),
    ("random", (), {}),
    ("random", (), {"dtype": "f4"}),
    ("rayleigh", (2.0,), {}),
    ("standard_cauchy", (), {}),
    ("standard_exponential", (), {}),
    ("standard_exponential", (), {"method": "inv"}),
    ("standard_gamma", (2.0,), {}),
    ("standard_normal", (), {"dtype": "f4"}),
    ("standard_t", (3.0,), {}),
    ("triangular", (0.0, 1.0, 3.0), {}),
    ("uniform", (-1.0, 1.0), {}),
    ("vonmises", (0.0, 2.0), {}),
    ("wald", (1.0, 2.0), {}),
    ("weibull", (2.0,), {}),
    ("zipf", (2.5,), {}),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), DISTRIBUTIONS)
def test_a_block_holds_what_numpy_draws(name, args, kwargs):
    x = getattr(ta.random.default_rng(7), name)(*args, size=(4, 6), chunks=-1, **kwargs)
    seed = np.random.SeedSequence(7, spawn_key=(0, 0))
    expected = getattr(np.random.Generator(np.random.PCG64(seed)), name)(*args, size=(4, 6), **kwargs)
    assert x.shape == expected.shape
    assert x.dtype == expected.dtype
    np.testing.assert_array_equal(x.compute(), expected)


@pytest.mark.parametrize(("name", "args", "kwargs"), DISTRIBUTIONS)
def test_no_size_is_one_draw(name, args, kwargs):
    x = getattr(ta.random.default_rng(7), name)(*args, **kwargs)
    assert x.shape == np.shape(getattr(np.random.default_rng(7), name)(*args, **kwargs))


def test_values_depend_on_seed_and_order_alone():
    def draw(**options):
        rng = ta.random.default_rng(3)
        x, y = rng.normal(size=(20, 30), chunks=(7, 8)), rng.integers(0, 99, size=(20, 30), chunks=(7, 8))
        return np.stack([x.compute(**options), y.compute(**options)])

    first = draw(scheduler="sync")
    assert (first[0] != first[1]).all()
    for options in [{"workers": 4}, {"workers": 1}, {"optimize_graph": False}]:
        np.testing.assert_array_equal(draw(**options), first)
    assert not np.array_equal(ta.random.default_rng(4).normal(size=(20, 30), chunks=(7, 8)).compute(), first[0])


def test_slicing_and_rechunking_change_no_value():
    x = ta.random.default_rng(3).random((20, 30), chunks=(7, 8))
    whole = x.compute()
    np.testing.assert_array_equal(x[3:17:3, 5].compute(), whole[3:17:3, 5])
    np.testing.assert_array_equal(x.rechunk((5, 30)).compute(), whole)
    np.testing.assert_array_equal((x - x).compute(), 0)


def test_blocks_and_calls_differ():
    rng = ta.random.default_rng(3)
    x, y = rng.random(8, chunks=4), rng.random(8, chunks=4)
    values = np.concatenate([x.compute(), y.compute()])
    assert len(np.unique(values)) == 16
    assert x.name != y.name


def test_seeds_of_all_kinds():
    def first(seed):
        return ta.random.default_rng(seed).random(3, chunks=3).compute()

    expected = first(5)
    np.testing.assert_array_equal(first(np.random.SeedSequence(5)), expected)
    np.testing.assert_array_equal(first(np.random.PCG64(5)), expected)
    np.testing.assert_array_equal(first(np.random.default_rng(5)), expected)
    assert not np.array_equal(first(None), first(None))
    assert not np.array_equal(first([5, 6]), expected)
    rng = ta.random.default_rng(5)
    assert ta.random.default_rng(rng) is rng
    with pytest.raises(UnsupportedError, match="RandomState"):
        ta.random.default_rng(np.random.RandomState(5))


@pytest.mark.parametrize("lazy", [False, True])
def test_parameters_may_be_arrays(lazy):
    loc = np.arange(24.0).reshape(4, 6)
    make = (lambda a, chunks: ta.from_array(a, chunks=chunks)) if lazy else (lambda a, chunks: a)
    rng = ta.random.default_rng(0)
    x = rng.normal(make(loc, (2, 4)), make(np.zeros(6), 3), size=(3, 4, 6), chunks=(2, 3, 4))
    assert x.chunks == ((2, 1), (3, 1), (4, 2))
    np.testing.assert_array_equal(x.compute(), np.broadcast_to(loc, (3, 4, 6)))
    low = np.arange(6)
    y = rng.integers(make(low, 4), make(low + 1, 3), chunks=3)
    np.testing.assert_array_equal(y.compute(), low)
    z = rng.poisson(make(np.array([[0.0], [1e6]]), 1), size=(2, 100), chunks=(2, 50)).compute()
    assert (z[0] == 0).all()
    assert len(np.unique(z[1])) > 90


def test_parameters_that_make_no_sense():
    rng = ta.random.default_rng(0)
    with pytest.raises(ValueError, match="scale < 0"):
        rng.normal(0, -1, size=3)
    with pytest.raises(PlanError, match="do not broadcast to size"):
        rng.normal(np.zeros(4), size=3)
    with pytest.raises(PlanError, match="is no shape"):
        rng.random(-1)
    with pytest.raises(TypeError, match="loc"):
        rng.standard_normal(loc=3)


def test_choice():
    rng = ta.random.default_rng(0)
    x = rng.choice(5, size=(40, 50), chunks=20)
    assert x.chunksize == (20, 20)
    assert set(np.unique(x.compute())) == set(range(5))
    letters = rng.choice(np.array(["a", "b", "c"]), size=100, p=[0.5, 0.5, 0], chunks=30)
    assert letters.dtype == "U1"
    assert set(letters.compute()) == {"a", "b"}
    lazy = rng.choice(ta.arange(10, 20, chunks=3), size=(3, 4), chunks=2)
    assert lazy.chunks == ((2, 1), (2, 2))
    assert ((lazy.compute() >= 10) & (lazy.compute() < 20)).all()


def test_choice_without_replacement_is_a_choice_over_all_blocks():
    rng = ta.random.default_rng(0)
    x = rng.choice(100, size=100, replace=False, chunks=30)
    np.testing.assert_array_equal(np.sort(x.compute()), np.arange(100))
    y = rng.choice(ta.arange(50, chunks=7), size=50, replace=False, chunks=20)
    np.testing.assert_array_equal(np.sort(y.compute()), np.arange(50))
    with pytest.raises(ValueError, match="larger sample than population"):
        rng.choice(3, size=4, replace=False)
    with pytest.raises(PlanError, match="a=0"):
        rng.choice(0, size=4)
    with pytest.raises(ValueError, match="same size"):
        rng.choice(3, size=4, p=[0.5, 0.5])


@pytest.mark.parametrize("lazy", [False, True])
def test_choice_along_an_axis(lazy):
    a = np.arange(12).reshape(3, 4)
    x = ta.random.default_rng(0).choice(ta.from_array(a, chunks=2) if lazy else a, size=(5, 2), axis=1, chunks=2)
    assert x.shape == (3, 5, 2)
    values = x.compute()
    assert (values % 4 == values[0] % 4).all()
    np.testing.assert_array_equal(values // 4, np.broadcast_to(np.arange(3)[:, None, None], x.shape))


def test_choice_with_lazy_chances():
    rng = ta.random.default_rng(0)
    p = ta.from_array([0.0, 0.5, 0.0, 0.5], chunks=2)
    assert set(rng.choice(4, size=100, p=p, chunks=30).compute()) == {1, 3}
    assert set(rng.choice(ta.arange(10, 14, chunks=2), size=100, p=p, chunks=30).compute()) == {11, 13}
    with pytest.raises(UnsupportedError, match="replace=True"):
        rng.choice(4, size=2, p=p, replace=False)


@pytest.mark.parametrize("chunks", [2, (2, 3), (2, 3, -1), "auto", {0: 2}])
def test_chunks_of_vectors(chunks):
    x = ta.random.default_rng(0).multinomial(20, [0.2, 0.3, 0.5], size=(4, 3), chunks=chunks)
    assert x.shape == (4, 3, 3)
    assert x.numblocks[-1] == 1
    np.testing.assert_array_equal(x.sum(axis=-1).compute(), 20)


def test_vectors_are_described_by_what_is_known():
    with pytest.raises(UnsupportedError, match="multinomial: pvals"):
        ta.random.default_rng(0).multinomial(20, ta.ones(2) / 2)


def test_generators_of_a_kind():
    for seed in (np.random.PCG64, np.random.PCG64(3), ta.random.default_rng(3)):
        assert 0 < ta.random.Generator(seed).random().compute() < 1
    assert ta.random.RandomState(1).tomaxint(10, chunks=4).min().compute() >= 0


def test_permutation():
    rng = ta.random.default_rng(0)
    x = np.arange(24).reshape(12, 2)
    y = rng.permutation(ta.from_array(x, chunks=5)).compute()
    assert not np.array_equal(y, x)
    np.testing.assert_array_equal(y[np.argsort(y[:, 0])], x)
    np.testing.assert_array_equal(np.sort(rng.permutation(10, chunks=3).compute()), np.arange(10))


def test_spawned_generators_are_independent():
    a, b = ta.random.default_rng(0).spawn(2)
    assert not np.array_equal(a.random(5).compute(), b.random(5).compute())


def test_the_older_interface():
    rs = ta.random.RandomState(0)
    first = rs.rand(3, 4, chunks=2)
    assert first.chunks == ((2, 1), (2, 2))
    rs.seed(0)
    np.testing.assert_array_equal(rs.random_sample((3, 4), chunks=2).compute(), first.compute())
    assert rs.randn(5).shape == (5,)
    assert set(rs.randint(2, 4, size=100).compute()) == {2, 3}
    assert set(rs.random_integers(2, size=100).compute()) == {1, 2}


def test_functions_of_the_module():
    ta.random.seed(1)
    x = ta.random.normal(3, 0.1, size=(10, 10), chunks=(5, 5))
    ta.random.seed(1)
    y = ta.random.normal(3, 0.1, size=(10, 10), chunks=(5, 5))
    np.testing.assert_array_equal(x.compute(), y.compute())
    assert ta.random.random((4, 4), chunks=2).chunks == ((2, 2), (2, 2))
    assert "uniform" in dir(ta.random)
    with pytest.raises(AttributeError, match="no attribute 'gauss'"):
        ta.random.gauss  # noqa: B018
