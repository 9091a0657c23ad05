from __future__ import annotations

import pytest

from tilework.base.errors import InternalError
from tilework.engine.cluster.scheduler.blocks import Blocks
from tilework.engine.cluster.wire.messages import OnDisk, Scratch, Stored

SLOT = 1 << 20


@pytest.fixture
def blocks() -> Blocks:
    return Blocks(lambda offset: offset // SLOT)


def stored(offset: int, size: int = 100, borrowed: tuple[tuple[int, int], ...] = ()) -> Stored:
    return Stored(b"head", ((offset, size),), ((offset, size),), borrowed)


def test_memory_is_free_when_its_last_value_goes(blocks: Blocks) -> None:
    blocks.put(1, stored(0))
    blocks.put(2, stored(SLOT, borrowed=((0, 100),)))
    assert blocks.arena_bytes == 200
    blocks.drop([1])
    assert blocks.take_freed() == {}
    assert blocks.live(0) == [(0, 100)]
    blocks.drop([2])
    assert blocks.take_freed() == {0: [(0, 100)], 1: [(SLOT, 100)]}
    assert blocks.take_freed() == {}
    assert blocks.arena_bytes == 0


def test_arguments_count_like_blocks(blocks: Blocks) -> None:
    blocks.ref(stored(0))
    blocks.put(1, Stored(b"", ((0, 50),), (), ((0, 100),)))
    blocks.unref(stored(0))
    assert blocks.take_freed() == {}
    blocks.drop([1, 7])  # 7 was never stored
    assert blocks.take_freed() == {0: [(0, 100)]}


def test_nothing_is_borrowed_from_what_is_free(blocks: Blocks) -> None:
    with pytest.raises(InternalError, match="extent at 5, which is free"):
        blocks.put(1, Stored(b"", ((5, 50),), (), ((5, 100),)))


def test_to_disk_and_back(blocks: Blocks) -> None:
    blocks.put(1, stored(0))
    blocks.put(2, b"small")
    blocks.put(3, Stored(b"", ((0, 50),), (), ((0, 100),)))
    plan, stay = blocks.plan_spill([1, 2, 3])
    assert stay == [2, 3], "they would free nothing"
    ((task, value, offset),) = plan
    assert (task, value) == (1, stored(0))
    blocks.drop([3])
    blocks.spilled(1, OnDisk(offset, (4, 100)))
    assert blocks.values[1] == OnDisk(offset, (4, 100))
    assert blocks.take_freed() == {0: [(0, 100)]}
    assert blocks.disk_end == 104
    blocks.loaded(1, stored(SLOT))
    assert blocks.values[1] == stored(SLOT)
    assert blocks.take_unused() == [(offset, 104)]
    assert blocks.disk_end == 0


def test_what_could_not_be_written_takes_no_disk(blocks: Blocks) -> None:
    blocks.put(1, stored(0))
    blocks.plan_spill([1])
    blocks.kept(1)
    assert blocks.disk_end == 0
    assert blocks.values[1] == stored(0)


def test_a_block_that_was_written_elsewhere_is_a_bug(blocks: Blocks) -> None:
    blocks.put(1, stored(0))
    blocks.plan_spill([1])
    with pytest.raises(InternalError, match="block 1 was written to"):
        blocks.spilled(1, OnDisk(7, (4, 100)))


def test_scratch_space_is_free_when_no_value_names_it(blocks: Blocks) -> None:
    scratch = blocks.new_scratch(1000)
    blocks.put(1, scratch)
    blocks.put(2, Scratch(*scratch))
    blocks.unref(scratch)
    blocks.drop([1])
    assert blocks.take_unused() == []
    blocks.drop([2])
    assert blocks.take_unused() == [(scratch.offset, 1000)]
