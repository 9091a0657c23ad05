from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from tilework.base.errors import InternalError, MemoryBudgetError, UnsupportedError
from tilework.engine.cluster.store import arena as arena_module
from tilework.engine.cluster.store.arena import ALIGNMENT, BOARD_THREADS, PAGE, Arena, Slot

MB = 1 << 20
DOUBLES = np.dtype(float)


def resident(arena: Arena) -> int:
    """Bytes that the memfd has pages for."""
    return os.fstat(arena.fd).st_blocks * 512


def bytes_of(size: int, value: int = 1) -> memoryview:
    return memoryview(bytes([value]) * size)


def mapped() -> list[str]:
    with open("/proc/self/maps") as file:
        return [line for line in file if "memfd:tilework" in line]


# ---------------------------------------------------------------- the arena


def test_addresses_cost_nothing(arena: Arena) -> None:
    assert os.fstat(arena.fd).st_size > 256 * MB
    assert resident(arena) == 0
    assert not os.get_inheritable(arena.fd), "programs that users start do not get it"


def test_another_process_sees_the_same_memory(arena: Arena) -> None:
    arena.view(arena.start(2) + 100, 5)[:] = b"hello"
    code = (
        "import sys, numpy as np; from tilework.engine.cluster.store.arena import Arena\n"
        f"arena = Arena.open({arena.place})\n"
        "print(bytes(arena.view(arena.start(2) + 100, 5)).decode(), arena.marks(3)[7])\n"
        "arena.view(arena.start(3), 3)[:] = b'abc'; arena.mark(3, 8, 9)\n"
    )
    arena.mark(3, 7, 12345)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["hello", "12345"]
    assert bytes(arena.view(arena.start(3), 3)) == b"abc"
    assert arena.marks(3)[7:10] == [12345, 9, -1]


def test_a_forked_process_sees_the_same_memory(arena: Arena) -> None:
    child = os.fork()
    if not child:
        arena.array(arena.start(0), 4)[...] = [1, 2, 3, 4]
        os._exit(0)
    os.waitpid(child, 0)
    assert arena.array(arena.start(0), 4).tolist() == [1, 2, 3, 4]


def test_addresses_belong_to_slots(arena: Arena) -> None:
    for k in range(4):
        assert arena.slot_of(arena.start(k)) == arena.slot_of(arena.start(k) + 64 * MB - 1) == k
    assert arena.find(id(arena)) is None
    part = arena.array(arena.start(2) + 10, 10)
    assert arena.find(part.ctypes.data) == arena.start(2) + 10


def test_the_board_tells_threads_apart(arena: Arena) -> None:
    assert arena.marks(0) == [-1] * BOARD_THREADS
    for k in range(4):
        for thread in range(BOARD_THREADS):
            arena.mark(k, thread, k << 40 | thread)
    arena.mark(2, 5, -1)
    assert arena.marks(1) == [1 << 40 | thread for thread in range(BOARD_THREADS)]
    assert arena.marks(2)[4:7] == [2 << 40 | 4, -1, 2 << 40 | 6]
    assert arena.array(arena.start(0), 64).max() == 0, "it lies before slot 0"


def test_holes_read_as_zeros_and_weigh_nothing(arena: Arena) -> None:
    start = arena.start(0)
    arena.array(start, 3 * PAGE)[...] = 7
    assert resident(arena) == 3 * PAGE
    arena.punch(start + PAGE, PAGE)
    assert resident(arena) == 2 * PAGE
    assert arena.array(start, 3 * PAGE)[:: PAGE // 2].tolist() == [7, 7, 0, 0, 7, 7]


def test_what_cannot_be_opened_says_why(arena: Arena) -> None:
    *_, size, slots = arena.place
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(UnsupportedError, match=r"the same user who see each other in /proc"):
        Arena.open((gone.pid, arena.fd, size, slots))
    with open(os.devnull) as other:
        with pytest.raises(UnsupportedError, match=r"is not the cluster's shared memory"):
            Arena.open((os.getpid(), other.fileno(), size, slots))


def test_systems_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(UnsupportedError, match=r'need Linux.*scheduler="threads"'):
        Arena.create(1, MB)


def in_a_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_limits_of_the_system() -> None:
    out = in_a_process(
        "import resource; from tilework.engine.cluster.store.arena import Arena\n"
        "from tilework.base.errors import UnsupportedError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try: Arena.create(4, 1 << 30)\n"
        "except UnsupportedError as error: print(error)\n"
    )
    assert "cannot make shared memory with 4 slots of 1.0 GiB" in out
    assert "ulimit -f" in out
    out = in_a_process(
        "import resource; from tilework.engine.cluster.store.arena import Arena\n"
        "from tilework.base.errors import UnsupportedError\n"
        "arena = Arena.create(4, 1 << 40)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))\n"
        "try: arena.view(arena.start(0), 10)\n"
        "except UnsupportedError as error: print(error)\n"
    )
    assert "cannot map 1.0 TiB of shared memory" in out
    assert "ulimit -v" in out


def test_nothing_is_left_after_close() -> None:
    gc.collect()
    before = set(os.listdir("/proc/self/fd")), mapped()  # other tests' arenas may still be looked at
    arena = Arena.create(3, MB)
    slot = Slot(arena, 0)
    array = slot.empty((200, 100), DOUBLES)
    array[...] = 3
    slot.store([bytes_of(1000)])
    other = Arena.open(arena.place)
    other.view(other.start(1), 10)[:] = b"x" * 10
    assert os.fstat(arena.fd).st_dev != os.stat("/dev/shm").st_dev, "its size does not matter, and nothing can stay"
    other.close()
    arena.close()
    arena.close()
    assert array.sum() == 60_000, "what is looked at stays"
    del other, array, arena, slot
    gc.collect()
    assert (set(os.listdir("/proc/self/fd")), mapped()) == before


def test_nothing_is_left_of_a_process_that_is_killed() -> None:
    code = (
        "import time; from tilework.engine.cluster.store.arena import Arena, Slot\n"
        "slot = Slot(Arena.create(2, 1 << 30), 0); slot.store([memoryview(bytes(32 << 20))])\n"
        "print(*slot.arena.place, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    place = tuple(map(int, process.stdout.readline().split()))
    assert len(place) == 4
    ours = Arena.open(place)
    assert resident(ours) == 32 * MB
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert resident(ours) == 32 * MB, "whoever has it open keeps it"
    ours.close()
    with pytest.raises(UnsupportedError):
        Arena.open(place)


# ---------------------------------------------------------------- slots


def test_buffers_are_stored_side_by_side(arena: Arena, slot: Slot) -> None:
    for _ in range(2):  # fresh pages, then warm ones
        buffers = [bytes_of(n, k + 1) for k, n in enumerate([100, 0, 5000, ALIGNMENT, 1])]
        start, size, offsets = slot.store(buffers)
        assert arena.slot_of(start) == 1
        assert start % PAGE == 0
        assert all(offset % ALIGNMENT == 0 for offset in offsets)
        assert offsets[-1] + 1 <= start + size
        assert [bytes(arena.view(o, len(b))) for o, b in zip(offsets, buffers, strict=True)] == list(
            map(bytes, buffers)
        )
        slot.free([start])
        assert slot.used_bytes == 0
        assert slot.warm_bytes == 2 * PAGE


def test_freed_pages_are_used_again(arena: Arena, slot: Slot) -> None:
    first = slot.allocate(MB)
    second = slot.allocate(MB)
    slot.free([first])
    assert resident(arena) == 2 * MB
    assert slot.allocate(MB // 2) == first
    assert slot.allocate(MB // 2) == first + MB // 2
    assert slot.allocate(10) == second + MB
    assert resident(arena) == 2 * MB + PAGE


def test_only_so_many_pages_stay_warm(arena: Arena, slot: Slot) -> None:
    extents = [slot.store([bytes_of(3 * MB)])[0] for _ in range(6)]
    assert resident(arena) == 18 * MB
    slot.free(extents[:2])
    assert (slot.warm_bytes, resident(arena)) == (6 * MB, 18 * MB)
    slot.free(extents[2:])
    assert (slot.warm_bytes, resident(arena)) == (8 * MB, 8 * MB)
    start, _, offsets = slot.store([bytes_of(9 * MB, 5)])
    assert start == extents[0], "and those at low addresses"
    assert arena.array(offsets[0], 9 * MB).min() == 5
    slot.free([start])
    slot.trim()
    assert (slot.warm_bytes, resident(arena)) == (0, 0)


def test_an_array_is_given_back_with_its_last_view(arena: Arena, slot: Slot) -> None:
    array = slot.empty((300, 1000), DOUBLES)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert arena.find(array.ctypes.data) == arena.start(1)
    array[...] = 2
    assert arena.array(arena.start(1), 2_400_000).view(float).sum() == 600_000
    kept = {"deep": [array[10:20].T.reshape(-1)[::-1], memoryview(array)]}
    deep = array[5:, 5:].T
    del array, kept
    gc.collect()
    assert slot.used_bytes > 2_400_000
    assert deep.sum() == 2 * deep.size
    del deep
    assert slot.used_bytes == 0


def test_an_array_that_was_lent_is_given_back_by_both(slot: Slot) -> None:
    for array_first in (True, False):
        array = slot.empty((100_000,), DOUBLES)
        start = slot.arena.find(array.ctypes.data)
        assert start is not None
        slot.lend(start)
        if array_first:
            del array
            assert slot.used_bytes > 0
            slot.free([start])
        else:
            slot.free([start])
            assert slot.used_bytes > 0
            del array
        assert slot.used_bytes == 0


def test_small_arrays_and_objects_are_not_shared(slot: Slot) -> None:
    for array in (slot.empty((10,), DOUBLES), slot.empty((MB,), np.dtype(object)), slot.empty((0, 5), DOUBLES)):
        assert slot.arena.find(array.ctypes.data) is None
    assert slot.used_bytes == 0
    shared = slot.empty((3,), DOUBLES, shared=True)
    assert slot.arena.find(shared.ctypes.data) == slot.arena.start(1)


def test_pages_of_shared_results_come_when_they_are_written(arena: Arena, slot: Slot) -> None:
    result = slot.empty((4, MB), np.dtype(np.uint8), shared=True)
    assert resident(arena) == 0
    result[2] = 1
    assert resident(arena) == MB


def test_a_full_slot(slot: Slot) -> None:
    kept = slot.allocate(40 * MB)
    with pytest.raises(
        MemoryBudgetError, match=r"no room for 30\.0 MiB .* 40\.0 MiB of 64\.0 MiB are in use.* 24\.0 MiB"
    ):
        slot.allocate(30 * MB)
    slot.free([kept])
    slot.allocate(60 * MB)


def test_no_memory() -> None:
    """Errors of the system are errors, not the end of the process; and nothing is lost by them."""
    out = in_a_process(
        "import os, resource; from tilework.engine.cluster.store.arena import *\n"
        "arena = Arena.create(2, 1 << 26); slot = Slot(arena, 0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (arena.start(0) + (1 << 20), -1))\n"
        "try: slot.store([memoryview(bytes(2 << 20))])\n"
        "except StorageError as error: print(error)\n"
        "print(slot.used_bytes, os.fstat(arena.fd).st_blocks)\n"
        "slot.store([memoryview(bytes(1 << 20))])\n"
        "arena.view(arena.start(0), 1); os.ftruncate(arena.fd, arena.start(0) + (2 << 20))\n"
        "for attempt in (slot.allocate, lambda size: slot.empty((size,), np.dtype('u1'))):\n"
        "    try: attempt(2 << 20)\n"
        "    except StorageError as error: print(error)\n"
        "print(slot.used_bytes >> 20)\n"
    )
    first, left, second, third, used = out.splitlines()
    assert "no memory for a block of 2.0 MiB: [Errno 27] File too large" in first
    assert "memory_limit=" in first
    assert left == "0 0"
    assert "no memory for a block of 2.0 MiB" in second
    assert second == third
    assert used == "1"


def test_nothing_comes_back_twice(slot: Slot) -> None:
    start = slot.allocate(10)
    slot.free([start])
    with pytest.raises(InternalError, match="is not in use"):
        slot.free([start])


def test_arrays_may_go_at_any_moment(slot: Slot) -> None:
    """Also while this very thread is in the middle of allocating: destructors run wherever the collector does."""
    array = slot.empty((100_000,), DOUBLES)
    with slot._lock:
        del array
        assert slot.used_bytes > 0
    slot.allocate(10)
    assert slot.used_bytes == PAGE


def test_threads_share_a_slot(slot: Slot) -> None:
    errors = []

    def work(seed: int) -> None:
        random, kept = np.random.default_rng(seed), []
        try:
            for k in range(300):
                size = int(random.integers(1, 300_000))
                if k % 3:
                    start, _, (offset,) = slot.store([bytes_of(size, seed)])
                    kept.append((start, slot.arena.array(offset, size)))
                else:
                    array = slot.empty((size,), np.dtype(np.uint8))
                    array[...] = seed
                    kept.append((-1, array))
                if len(kept) > 8:
                    start, array = kept.pop(int(random.integers(8)))
                    assert (array == seed).all(), "nobody else writes there"
                    del array
                    if start >= 0:
                        slot.free([start])
            slot.free([start for start, _ in kept if start >= 0])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k + 1,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert slot.used_bytes == 0


def test_slots_hold_twice_the_memory() -> None:
    for memory in (10 * MB, 16 * MB, 16 * MB + 1, 3 << 30):
        size = arena_module.slot_bytes(memory)
        assert 2 * memory <= size < 4 * memory
        assert size % resource.getpagesize() == 0
