"""The conformance suite of sinks: subclass it, say how yours is made and read back, and pytest runs the rest."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import cloudpickle
import numpy as np
import pytest

from tilework.plan.blocks import Chunks, normalize_chunks
from tilework.plan.protocols import Region, Sink


class SinkSuite:
    """What every :class:`~tilework.plan.protocols.Sink` keeps to.

    Subclasses define the fixture ``sink`` for an array of ``chunks`` and ``dtype``, and :meth:`contents`.

    Examples
    --------
    >>> import pytest
    >>> from tilework.io.memory import MemorySink
    >>> class TestMemory(SinkSuite):
    ...     @pytest.fixture
    ...     def sink(self):
    ...         return MemorySink(self.shape, self.dtype)
    ...
    ...     def contents(self, sink):
    ...         return sink.array
    """

    chunks: Chunks = normalize_chunks((3, 4), (8, 8))
    shape: tuple[int, ...] = (8, 8)
    dtype: np.dtype[Any] = np.dtype("float64")

    @pytest.fixture
    def sink(self) -> Sink:
        raise NotImplementedError

    def contents(self, sink: Any) -> np.ndarray:
        """What was written, read back."""
        raise NotImplementedError

    @property
    def reference(self) -> np.ndarray:
        return np.arange(64, dtype=self.dtype).reshape(self.shape)

    @property
    def places(self) -> list[tuple[tuple[int, ...], Region]]:
        """Index and region of every block."""
        return [
            (
                index,
                tuple(
                    slice(int(axis.bounds[k]), int(axis.bounds[k + 1]), 1)
                    for axis, k in zip(self.chunks, index, strict=True)
                ),
            )
            for index in product(*(range(len(axis)) for axis in self.chunks))
        ]

    def test_attributes(self, sink: Sink) -> None:
        assert isinstance(sink, Sink)
        assert isinstance(sink.token, str)
        assert type(sink.resident_bytes) is int
        assert sink.resident_bytes in (0, self.reference.nbytes)
        assert type(sink.shared) is bool

    def test_nothing_is_finished_at_first(self, sink: Sink) -> None:
        finished = sink.finished()
        assert finished is None or (finished.shape == tuple(map(len, self.chunks)) and not finished.any())

    def test_write(self, sink: Sink) -> None:
        for index, region in self.places:
            sink.write(index, region, self.reference[region].copy())
        self.check(sink)

    def test_buffers(self, sink: Sink) -> None:
        """Blocks computed in the sink's own memory, several at a time."""
        taken = [(index, region, sink.buffer(region)) for index, region in self.places]
        for index, region, buffer in taken:
            block = np.empty(self.reference[region].shape, self.dtype) if buffer is None else buffer
            assert (block.shape, block.dtype) == (self.reference[region].shape, self.dtype)
            block[...] = self.reference[region]
            sink.write(index, region, block)
        self.check(sink)

    def test_blocks_in_spite_of_buffers(self, sink: Sink) -> None:
        """A buffer that was not used after all."""
        for index, region in self.places:
            sink.buffer(region)
            sink.write(index, region, self.reference[region].copy())
        self.check(sink)

    def test_memory_is_reused_after_write(self, sink: Sink) -> None:
        scratch = np.empty(64, self.dtype)
        for index, region in self.places:
            expected = self.reference[region]
            block = scratch[: expected.size].reshape(expected.shape)
            block[...] = expected
            sink.write(index, region, block)
            scratch[...] = 0
        self.check(sink)

    def test_any_layout(self, sink: Sink) -> None:
        """Fortran order, read-only views, in any order of blocks."""
        for index, region in reversed(self.places):
            block = np.asfortranarray(self.reference[region])
            block.flags.writeable = False
            sink.write(index, region, block)
        self.check(sink)

    def test_broadcast_blocks(self, sink: Sink) -> None:
        for index, region in self.places:
            sink.write(index, region, np.broadcast_to(self.dtype.type(7), self.reference[region].shape))
        np.testing.assert_array_equal(self.contents(sink), np.full(self.shape, 7, self.dtype))

    def test_what_is_shared_is_written_by_pickled_copies_as_well(self, sink: Sink) -> None:
        for index, region in self.places:
            copy = pickle.loads(cloudpickle.dumps(sink)) if sink.shared else sink
            copy.write(index, region, self.reference[region].copy())
        self.check(sink)

    def test_threads(self, sink: Sink) -> None:
        def write(place: tuple[tuple[int, ...], Region]) -> None:
            index, region = place
            sink.write(index, region, self.reference[region].copy())

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, self.places))
        self.check(sink)

    def check(self, sink: Sink) -> None:
        contents = self.contents(sink)
        assert contents.dtype == self.dtype
        np.testing.assert_array_equal(contents, self.reference)
