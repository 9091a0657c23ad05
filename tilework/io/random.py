"""Random numbers as a source. The values depend on the seed and the chunks, and on nothing else.

Every block of the *native* chunks (those the array was made with) has a generator of its own, PCG64 seeded by NumPy's
``SeedSequence`` with the block's number as its last spawn key. Which thread makes a block, when, how often, or whether
a slice of it was asked for cannot change a value. Seeding costs about 15 µs a block.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tilework.base.tokens import tokenize
from tilework.io.regions import assemble, detached, region_shape, regular
from tilework.plan.blocks import Chunks
from tilework.plan.protocols import Region

_STREAMS = ("random", "standard_normal", "standard_exponential")
"""Methods that fill a given array with one draw per element, so that filling it piece by piece gives the same."""

_AFFINE: dict[str, tuple[str, Callable[..., tuple[Any, Any]]]] = {
    "uniform": ("random", lambda low=0.0, high=1.0: (low, high - low)),
    "normal": ("standard_normal", lambda loc=0.0, scale=1.0: (loc, scale)),
    "exponential": ("standard_exponential", lambda scale=1.0: (0.0, scale)),
}
"""Methods that are ``offset + factor *`` a method of :data:`_STREAMS`."""

_WHOLE_ARGUMENTS = ("choice", "dirichlet", "multinomial", "multivariate_hypergeometric", "multivariate_normal")
"""Methods whose array arguments describe the distribution of each element, and are not broadcast over the result."""

_VECTORS = _WHOLE_ARGUMENTS[1:]
"""Methods that draw vectors: they add a last axis to the size they are given."""


class RandomSource:
    """Draws of one method of ``numpy.random.Generator``.

    Parameters
    ----------
    method
        Name of the method: ``"normal"``.
    args, kwargs
        Its arguments but for ``size``. Arrays are broadcast over the result, as NumPy does.
    seed
        Where the generators of all blocks spawn from. Two sources of equal arguments and seeds are equal.
    chunks
        The native chunks.
    dtype
        Of the result.
    """

    free = False

    def __init__(
        self,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        seed: np.random.SeedSequence,
        chunks: Chunks,
        dtype: Any,
    ) -> None:
        self.chunks = chunks
        self.shape: tuple[int, ...] = tuple(axis.total for axis in chunks)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.storage_chunks = regular(chunks)
        self._method, self._args, self._kwargs = method, tuple(args), dict(kwargs)
        self._entropy, self._key = seed.entropy, tuple(seed.spawn_key)
        self._grid = tuple(len(axis) for axis in chunks)
        self.token = tokenize("random", method, self._args, self._kwargs, self._entropy, self._key, chunks, self.dtype)
        if self._affine:  # let NumPy judge the arguments, for it does not see them later
            getattr(np.random.default_rng(0), method)(*self._args, **self._kwargs, size=0)

    @property
    def _affine(self) -> bool:
        scalars = all(np.ndim(value) == 0 for value in (*self._args, *self._kwargs.values()))
        return self._method in _AFFINE and scalars and self.dtype == np.float64

    def read(self, region: Region) -> np.ndarray:
        return detached(assemble(region, self.chunks, self.dtype, self._block))

    def stream(self, region: Region) -> Callable[[np.ndarray], None] | None:
        index = tuple(
            min(bisect_right(axis.bounds, s.start), len(axis)) - 1 for axis, s in zip(self.chunks, region, strict=True)
        )
        if self._place(index) != region:
            return None
        return self._filler(index)

    def _place(self, index: tuple[int, ...]) -> Region:
        return tuple(
            slice(int(axis.bounds[k]), int(axis.bounds[k + 1]), 1) for axis, k in zip(self.chunks, index, strict=True)
        )

    def _generator(self, index: tuple[int, ...]) -> np.random.Generator:
        number = 0
        for k, n in zip(index, self._grid, strict=True):
            number = number * n + k
        return np.random.Generator(
            np.random.PCG64(np.random.SeedSequence(self._entropy, spawn_key=(*self._key, number)))
        )

    def _filler(self, index: tuple[int, ...]) -> Callable[[np.ndarray], None] | None:
        """What fills the block piece by piece, if its method can."""
        if self._method in _STREAMS and not self._args and self._kwargs.keys() <= {"dtype"}:
            draw = getattr(self._generator(index), self._method)
            dtype = self.dtype.type

            def fill(tile: np.ndarray) -> None:
                draw(out=tile, dtype=dtype)

            return fill
        if self._affine:
            method, parameters = _AFFINE[self._method]
            draw = getattr(self._generator(index), method)
            offset, factor = parameters(*self._args, **self._kwargs)

            def fill_scaled(tile: np.ndarray) -> None:
                draw(out=tile)
                tile *= factor
                tile += offset

            return fill_scaled
        return None

    def _block(self, index: tuple[int, ...]) -> np.ndarray:
        place = self._place(index)
        shape = region_shape(place)
        fill = self._filler(index)
        if fill is not None:
            out = np.empty(shape, self.dtype)
            fill(out)
            return out
        args = [self._cut(value, place) for value in self._args]
        kwargs = {name: self._cut(value, place) for name, value in self._kwargs.items()}
        size = shape[:-1] if self._method in _VECTORS else shape
        drawn = getattr(self._generator(index), self._method)(*args, **kwargs, size=size)
        return np.asarray(drawn, self.dtype)

    def _cut(self, value: Any, place: Region) -> Any:
        """The part of an array argument that belongs to a block."""
        if np.ndim(value) == 0 or isinstance(value, str) or self._method in _WHOLE_ARGUMENTS:
            return value
        value = np.asarray(value)
        return value[
            tuple(s if n != 1 else slice(None) for n, s in zip(value.shape, place[-value.ndim :], strict=True))
        ]
