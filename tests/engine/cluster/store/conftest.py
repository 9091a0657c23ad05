"""An arena, and a slot in it that keeps little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tilework.engine.cluster.store.arena import Arena, Slot

MB = 1 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.create(4, 64 * MB)
    yield arena
    arena.close()


@pytest.fixture
def slot(arena: Arena) -> Slot:
    return Slot(arena, 1, 8 * MB)
