"""Small stages, made by hand, and what they are run with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tilework.engine.kernels import BufferPool, Context, run_stage
from tilework.plan.blocks import AxisChunks
from tilework.plan.protocols import Region
from tilework.plan.stages import Leaf, Operand, Output, Program, Segment, Stage, StageInput


class InMemory:
    """An ndarray as a source."""

    free = True
    storage_chunks = None

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.token = str(id(array))

    def read(self, region: Region) -> np.ndarray:
        return self.array[(*region, ...)]

    def stream(self, region: Region) -> None:
        return None


class Counting(InMemory):
    """Generates its values, the numbers from 0 on in C order, and notes how."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(np.arange(np.prod(shape, dtype=int), dtype=float).reshape(shape))
        self.reads: list[Region] = []
        self.tiles: list[tuple[int, ...]] = []

    def read(self, region: Region) -> np.ndarray:
        self.reads.append(region)
        return super().read(region)

    def stream(self, region: Region) -> Callable[[np.ndarray], None]:
        flat, start = super().read(region).ravel(), 0

        def fill(tile: np.ndarray) -> None:
            nonlocal start
            assert tile.flags.c_contiguous
            self.tiles.append(tile.shape)
            tile[...] = flat[start : start + tile.size].reshape(tile.shape)
            start += tile.size

        return fill


def leaf(source: Any, chunks: Sequence[Sequence[int]] | None = None) -> Leaf:
    """All of a source as a leaf whose axes are those of the grid; one block unless ``chunks`` say more."""
    if isinstance(source, np.ndarray):
        source = InMemory(source)
    have = tuple(AxisChunks(c) for c in chunks or [(n,) for n in source.shape])
    region = tuple(slice(0, n, 1) for n in source.shape)
    axes = tuple(a if len(c) > 1 else None for a, c in enumerate(have))
    return Leaf(source, region, have, axes)


def one_stage(
    chunks: Sequence[Sequence[Any]],
    operands: Sequence[Operand],
    segments: Sequence[Segment],
    outputs: Sequence[int | Output],
    inputs: Sequence[StageInput] = (),
) -> Stage:
    """A stage over blocks ``chunks``; ``outputs`` are numbers of values or Outputs."""
    domain = tuple(AxisChunks(c) for c in chunks)
    outs = tuple(Output(o) if isinstance(o, int) else o for o in outputs)
    program = Program(domain, tuple(operands), tuple(segments), outs)
    zero = np.zeros(1, np.int64)
    return Stage("test", tuple(map(len, domain)), tuple(inputs), program, zero, zero)


def run(
    stage: Stage, index: tuple[int, ...] | None = None, blocks: Sequence[Sequence[Any]] = (), tile_bytes: int = 512
) -> Any:
    """One block of a stage, the first unless ``index`` says otherwise, in tiles as small as ``tile_bytes``."""
    context = Context(BufferPool(1 << 24))
    context.tile_bytes = tile_bytes
    return run_stage(stage, (0,) * len(stage.grid) if index is None else index, blocks, context)


class Tools:
    """The functions above, for tests, which cannot import this module."""

    InMemory = InMemory
    Counting = Counting
    leaf = staticmethod(leaf)
    one_stage = staticmethod(one_stage)
    run = staticmethod(run)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
