from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tilework.io.random import RandomSource
from tilework.plan.blocks import AxisChunks, normalize_chunks
from tilework.plan.protocols import Source
from tilework.testing.sources import SourceSuite

SHAPE = (20, 33)
CHUNKS = normalize_chunks((8, 10), SHAPE)


def make_source(method: str, *args: Any, seed: int = 1, chunks: Any = CHUNKS, dtype: Any = "f8", **kw: Any) -> Source:
    return RandomSource(method, args, kw, np.random.SeedSequence(seed, spawn_key=(5,)), chunks, dtype)


def whole(source: Source) -> np.ndarray:
    return source.read(tuple(slice(0, n, 1) for n in source.shape))


CASES: dict[str, Callable[[], Source]] = {
    "random": lambda: make_source("random"),
    "random single": lambda: single("random"),
    "standard_normal": lambda: make_source("standard_normal"),
    "standard_exponential single": lambda: single("standard_exponential"),
    "normal": lambda: make_source("normal", 10, scale=0.1),
    "uniform": lambda: make_source("uniform", -2, 5),
    "integers": lambda: make_source("integers", 0, 100, dtype="i8"),
    "poisson of an array": lambda: make_source("poisson", np.arange(33), dtype="i8"),
    "choice": lambda: make_source("choice", np.array([2, 3, 5, 7]), dtype="i8"),
    "dirichlet": lambda: make_source("dirichlet", [1, 2, 3], chunks=(*CHUNKS, AxisChunks((3,)))),
    "irregular": lambda: make_source("normal", chunks=normalize_chunks(((3, 9, 8), -1), SHAPE)),
}


def single(method: str) -> Source:
    return RandomSource(method, (), {"dtype": np.float32}, np.random.SeedSequence(3), CHUNKS, "f4")


@pytest.mark.parametrize("case", CASES)
class TestRandom(SourceSuite):
    @pytest.fixture
    def make(self, case: str) -> Callable[[], Source]:
        return CASES[case]

    @pytest.fixture
    def reference(self, case: str) -> np.ndarray:
        """The values as one whole read gives them; that parts give the same is what the suite tests."""
        return whole(CASES[case]())


def test_every_block_is_a_stream_of_its_own() -> None:
    x = whole(make_source("random"))
    assert len(np.unique(x)) == x.size


def test_seeds_and_arguments_tell_sources_apart() -> None:
    sources = [
        make_source("random"),
        make_source("random", seed=2),
        make_source("random", chunks=normalize_chunks((8, 11), SHAPE)),
        make_source("standard_normal"),
        make_source("normal", 1),
        make_source("normal", 2),
    ]
    assert len({source.token for source in sources}) == len(sources)
    assert len({whole(source).tobytes() for source in sources}) == len(sources)


def test_distributions() -> None:
    chunks = normalize_chunks(10_000, (100_000,))
    for source, mean, std in [
        (make_source("normal", 10, 0.1, chunks=chunks), 10, 0.1),
        (make_source("uniform", -2, 5, chunks=chunks), 1.5, 7 / 12**0.5),
        (make_source("exponential", 3.0, chunks=chunks), 3, 3),
        (make_source("random", chunks=chunks), 0.5, 1 / 12**0.5),
    ]:
        x = whole(source)
        assert abs(x.mean() - mean) < 0.02 * std + 0.01 * abs(mean)
        assert abs(x.std() / std - 1) < 0.02


def test_array_parameters_are_broadcast() -> None:
    x = whole(make_source("normal", np.arange(33) * 100.0, np.array([[1.0]] * 20)))
    np.testing.assert_allclose(x.mean(axis=0), np.arange(33) * 100, atol=2)


def test_numpy_judges_the_arguments() -> None:
    with pytest.raises(ValueError, match="scale < 0"):
        make_source("normal", 0, -1)
    with pytest.raises(TypeError):
        make_source("normal", 0, 1, 2, 3)


def test_streams_only_whole_native_blocks() -> None:
    source = make_source("random")
    assert source.stream((slice(8, 16, 1), slice(30, 33, 1))) is not None
    assert source.stream((slice(8, 16, 1), slice(0, 9, 1))) is None
    assert source.stream((slice(8, 16, 2), slice(0, 10, 1))) is None
    assert make_source("poisson", 3.0, dtype="i8").stream((slice(8, 16, 1), slice(0, 10, 1))) is None


def test_a_part_of_a_block_does_not_keep_the_block() -> None:
    part = make_source("random").read((slice(0, 1, 1), slice(0, 10, 1)))
    assert part.base is None or part.base.nbytes == part.nbytes


def test_storage_chunks() -> None:
    assert make_source("random").storage_chunks == (8, 10)
    assert CASES["irregular"]().storage_chunks is None


def test_empty() -> None:
    source = make_source("random", chunks=(AxisChunks((0,)), AxisChunks((3, 0))))
    assert whole(source).shape == (0, 3)
    assert source.stream((slice(0, 0, 1), slice(0, 3, 1))) is not None
