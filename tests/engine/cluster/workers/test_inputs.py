from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.cluster.wire.messages import Value
from tilework.engine.cluster.workers.inputs import CACHE_HEAD, CACHED, Inputs

LARGE = list(range(10_000))


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create(1, 1 << 26)
    yield made
    made.close()


@pytest.fixture
def slot(arena: Arena) -> Slot:
    return Slot(arena, 0, 0)


def dump(value: Any, slot: Slot) -> Value:
    return values.dump(value, slot)[0]


def test_arrays_are_in_view_until_the_last_is_gone(arena: Arena, slot: Slot) -> None:
    inputs = Inputs(arena)
    value = dump(np.ones(100_000), slot)
    first, second = inputs.load(1, value), inputs.load(1, value)[5:]
    assert inputs.viewed([1, 2]) == (1,)
    del first
    assert inputs.unviewed() == ()
    del second
    assert inputs.unviewed() == (1,)
    assert inputs.unviewed() == ()
    assert inputs.viewed([1]) == ()
    assert not inputs.in_view


def test_what_was_not_reported_is_not_taken_back(arena: Arena, slot: Slot) -> None:
    inputs = Inputs(arena)
    inputs.load(1, dump(np.ones(100_000), slot))
    assert inputs.unviewed() == ()


def test_what_has_no_arrays_is_never_in_view(arena: Arena, slot: Slot) -> None:
    inputs = Inputs(arena)
    kept = [inputs.load(k, dump(value, slot)) for k, value in enumerate([1, "a", LARGE])]
    assert inputs.viewed(range(3)) == ()
    assert kept[2] == LARGE


def fail() -> None:
    raise ImportError("no such module")


class Unloadable:
    def __init__(self) -> None:
        self.data = np.ones(100_000)

    def __reduce__(self) -> tuple[Any, ...]:
        return fail, (), self.data


def test_what_cannot_be_loaded_is_not_in_view(arena: Arena, slot: Slot) -> None:
    inputs = Inputs(arena)
    with pytest.raises(ImportError, match="no such module"):
        inputs.load(1, dump(Unloadable(), slot))
    gc.collect()  # the error's traceback
    assert inputs.viewed([1]) == ()


def test_large_objects_are_kept_and_small_ones_are_not(arena: Arena, slot: Slot) -> None:
    inputs = Inputs(arena)
    large, small, bytes_ = dump(LARGE, slot), dump([1], slot), dump("x" * (CACHE_HEAD + 1), slot)
    assert type(bytes_) is bytes
    assert inputs.load(1, large) is inputs.load(1, large)
    assert inputs.load(3, bytes_) is inputs.load(3, bytes_)
    assert inputs.load(2, small) is not inputs.load(2, small)
    assert inputs.load(~1, large) is not inputs.load(~1, large), "arguments are of one task only"
    before = inputs.load(1, large)
    inputs.clear()
    assert inputs.load(1, large) is not before


def test_the_one_that_was_not_used_for_longest_goes(arena: Arena, slot: Slot) -> None:
    inputs = Inputs(arena)
    value = dump(LARGE, slot)
    first, second = inputs.load(0, value), inputs.load(1, value)
    for k in range(2, CACHED):
        inputs.load(k, value)
    assert inputs.load(0, value) is first
    inputs.load(CACHED, value)
    assert inputs.load(0, value) is first
    assert inputs.load(1, value) is not second
