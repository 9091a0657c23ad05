"""The conformance suite of sources: subclass it, say how yours is made, and pytest runs the rest."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilework.io.regions import region_shape
from tilework.plan.protocols import Region, Source

# The source is one and the same for all examples, and reading must not change it: that is what is tested. Reading may
# be slow, and the suite runs for many kinds of source: few examples each.
_shared = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...], max_step: int = 3) -> Region:
    """Regions as the engine asks for them: not empty, unless the axis is."""
    out = []
    for n in shape:
        start = draw(st.integers(0, max(0, n - 1)))
        stop = draw(st.integers(min(start + 1, n), n))
        out.append(slice(start, stop, draw(st.integers(1, max_step))))
    return tuple(out)


class SourceSuite:
    """What every :class:`~tilework.plan.protocols.Source` keeps to. Subclasses define the two fixtures.

    Examples
    --------
    >>> import numpy as np, pytest
    >>> from tilework.io.memory import ConstantSource
    >>> class TestOnes(SourceSuite):
    ...     @pytest.fixture
    ...     def make(self):
    ...         return lambda: ConstantSource(1, (3, 4), "float32")
    ...
    ...     @pytest.fixture
    ...     def reference(self):
    ...         return np.ones((3, 4), "float32")
    """

    @pytest.fixture
    def make(self) -> Callable[[], Source]:
        """A function that opens the same source at each call."""
        raise NotImplementedError

    @pytest.fixture
    def reference(self) -> np.ndarray:
        """All that the source holds."""
        raise NotImplementedError

    def test_attributes(self, make: Callable[[], Source], reference: np.ndarray) -> None:
        source = make()
        assert isinstance(source, Source)
        assert source.shape == reference.shape
        assert source.dtype == reference.dtype
        assert all(type(n) is int for n in source.shape)
        assert isinstance(source.dtype, np.dtype)
        if source.storage_chunks is not None:
            assert len(source.storage_chunks) == len(source.shape)
            assert all(type(n) is int and n > 0 for n in source.storage_chunks)

    def test_token_is_stable(self, make: Callable[[], Source]) -> None:
        first, second = make(), make()
        assert isinstance(first.token, str)
        assert first.token == second.token

    def test_whole(self, make: Callable[[], Source], reference: np.ndarray) -> None:
        self.check(make().read(tuple(slice(0, n, 1) for n in reference.shape)), reference)

    @_shared
    @given(data=st.data())
    def test_regions(self, make: Callable[[], Source], reference: np.ndarray, data: st.DataObject) -> None:
        region = data.draw(regions(reference.shape))
        self.check(make().read(region), np.asarray(reference[region]))

    @_shared
    @given(data=st.data())
    def test_stream_equals_read(self, make: Callable[[], Source], reference: np.ndarray, data: st.DataObject) -> None:
        source = make()
        region = data.draw(st.one_of(regions(reference.shape), self.storage_regions(source)))
        fill = source.stream(region)
        if fill is None:
            return
        left = int(np.prod(region_shape(region)))
        tiles = []
        while left:
            tile = np.empty(data.draw(st.integers(1, left)), source.dtype)
            fill(tile)
            tiles.append(tile)
            left -= tile.size
        np.testing.assert_array_equal(np.concatenate(tiles), source.read(region).ravel())

    def test_what_is_read_belongs_to_the_reader(self, make: Callable[[], Source], reference: np.ndarray) -> None:
        source = make()
        whole = tuple(slice(0, n, 1) for n in reference.shape)
        block = source.read(whole)
        if block.flags.writeable:
            block[...] = np.zeros((), block.dtype)
        self.check(source.read(whole), reference)

    def test_pickled_it_reads_the_same(self, make: Callable[[], Source], reference: np.ndarray) -> None:
        """For processes. Unpickled copies are pickled again."""
        source = make()
        for _ in range(2):
            source = pickle.loads(cloudpickle.dumps(source))
            self.check(source.read(tuple(slice(0, n, 1) for n in reference.shape)), reference)
            assert source.token == make().token

    def test_threads(self, make: Callable[[], Source], reference: np.ndarray) -> None:
        source, random = make(), np.random.default_rng(0)

        def region() -> Region:
            starts = [int(random.integers(0, max(1, n))) for n in reference.shape]
            return tuple(slice(a, n, 1) for a, n in zip(starts, reference.shape, strict=True))

        wanted = [region() for _ in range(60)]
        with ThreadPoolExecutor(4) as pool:
            for asked, block in zip(wanted, pool.map(source.read, wanted), strict=True):
                self.check(block, np.asarray(reference[asked]))

    @staticmethod
    def storage_regions(source: Source) -> st.SearchStrategy[Region]:
        """Regions of exactly one unit of storage, which are those that can be streamed if any can."""
        unit = source.storage_chunks or source.shape
        starts = [
            st.sampled_from(range(0, max(1, n), max(1, size))) for n, size in zip(source.shape, unit, strict=True)
        ]
        return st.tuples(*starts).map(
            lambda at: tuple(slice(a, min(a + size, n), 1) for a, size, n in zip(at, unit, source.shape, strict=True))
        )

    @staticmethod
    def check(block: np.ndarray, expected: np.ndarray) -> None:
        assert type(block) is np.ndarray
        assert block.dtype == expected.dtype
        assert block.shape == expected.shape
        np.testing.assert_array_equal(block, expected)
