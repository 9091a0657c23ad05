"""Memory comes back to the pool when nobody looks at it any more, and not a moment earlier."""

from __future__ import annotations

import gc
import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.engine.kernels import BufferPool
from tilework.engine.kernels.pool import SMALLEST

FLOAT = np.dtype(float)
N = SMALLEST // 8
MANY = 1 << 40


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_buffer_is_used_again() -> None:
    pool = BufferPool(MANY)
    block = pool.empty((N,), FLOAT)
    first = _address(block)
    assert pool.idle_bytes == 0
    del block
    assert pool.idle_bytes == SMALLEST
    block = pool.empty((2, N // 2), FLOAT)
    assert _address(block) == first
    assert type(block) is np.ndarray
    assert block.flags.c_contiguous
    assert block.flags.writeable
    assert pool.idle_bytes == 0


def test_any_view_keeps_the_buffer() -> None:
    pool = BufferPool(MANY)
    keepers = [
        lambda block: block[3:5].reshape(-1)[::2].T,
        lambda block: block.view(np.int32),
        lambda block: memoryview(block),
        lambda block: np.frombuffer(block, np.uint8),
        lambda block: np.broadcast_to(block, (2, *block.shape)),
        lambda block: np.ma.masked_array(block).view(np.ndarray),
        lambda block: {"deep": [(block.real,)]},
    ]
    for keep in keepers:
        block = pool.empty((N // 8, 8), FLOAT)
        block[...] = 7
        kept = keep(block)
        del block
        gc.collect()
        other = pool.empty((N // 8, 8), FLOAT)
        other[...] = 0
        assert pool.idle_bytes == 0
        del kept, other
        gc.collect()
        assert pool.idle_bytes > 0
        pool.trim()


def test_a_view_in_a_cycle_keeps_the_buffer_until_it_is_collected() -> None:
    pool = BufferPool(MANY)
    cycle: list[object] = [pool.empty((N,), FLOAT)[5:]]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert pool.idle_bytes == SMALLEST


def test_small_blocks_and_objects_are_not_pooled() -> None:
    pool = BufferPool(MANY)
    assert pool.empty((N - 1,), FLOAT).flags.owndata
    objects = pool.empty((N,), np.dtype(object))
    assert objects.flags.owndata
    assert objects[0] is None


def test_buffers_serve_slightly_smaller_blocks_only() -> None:
    pool = BufferPool(MANY)
    big = pool.empty((2 * N,), FLOAT)
    address = _address(big)
    del big
    half = pool.empty((N,), FLOAT)
    assert _address(half) != address
    assert _address(pool.empty((2 * N - 10,), FLOAT)) == address


def test_idle_memory_is_bounded_and_trimmed() -> None:
    pool = BufferPool(3 * SMALLEST)
    blocks = [pool.empty((N,), FLOAT) for _ in range(5)]
    blocks.clear()
    assert pool.idle_bytes == 3 * SMALLEST
    pool.trim(2 * SMALLEST)
    assert pool.idle_bytes == 2 * SMALLEST
    pool.trim()
    assert pool.idle_bytes == 0
    assert BufferPool(0).empty((N,), FLOAT).shape == (N,)


def test_a_pool_may_be_dropped_before_its_blocks() -> None:
    pool = BufferPool(MANY)
    block = pool.empty((N,), FLOAT)
    block[:] = 3
    del pool
    gc.collect()
    assert (block == 3).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=60))
def test_live_blocks_never_share_memory(script: list[tuple[int, int]]) -> None:
    """Blocks come and go at random; each keeps the number that was written to it."""
    pool = BufferPool(4 * SMALLEST)
    live: dict[int, np.ndarray] = {}
    for stamp, (slot, size) in enumerate(script):
        block = pool.empty((N + size * N // 16,), FLOAT)
        block[[0, -1]] = stamp
        live[slot] = block[::-1] if size % 2 else block
        assert len({block[0] for block in live.values()}) == len(live)
        for block in live.values():
            assert block[0] == block[-1]


def test_threads_share_a_pool() -> None:
    pool = BufferPool(8 * SMALLEST)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            a, b = pool.empty((N,), FLOAT), pool.empty((N + N // 32,), FLOAT)
            a[::4096] = number
            b[::4096] = -number
            if (a[::4096] != number).any() or (b[::4096] != -number).any():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < pool.idle_bytes <= 8 * SMALLEST
    idle = pool.idle_bytes
    pool.trim()
    assert pool.idle_bytes == 0 < idle
