"""Memory that all processes of a cluster share: one memfd, cut into slots, one for each worker and client.

Everybody reads everywhere; only its owner allocates in a slot (:class:`Slot`), and nobody else is asked. The file is
sparse: addresses cost nothing, and pages exist from when they are first written until a hole is punched. It has no
name, so when the last process that has it open is gone, however it went, so is the memory.

How bytes get there (8 MB, measured): filling fresh pages through a mapping takes a page fault a page, 7 ms in all;
``pwrite`` makes the same pages in 3.3 ms, and says so if there is no memory, where a mapping would kill the process
(SIGBUS). Pages that this process has used before take 1.5 ms through the mapping. So a slot keeps freed pages, up to a
limit, knows them, and writes to fresh ones by system call.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import numpy as np

from tilework.base.errors import InternalError, MemoryBudgetError, StorageError, UnsupportedError
from tilework.base.extents import Extents
from tilework.base.scratch import punch_hole, write_at
from tilework.base.sizes import format_bytes

_libc = ctypes.CDLL(None, use_errno=True)

PAGE = mmap.PAGESIZE
ALIGNMENT = 64  # of buffers within an extent: what vector instructions and cache lines like
BOARD_THREADS = 64
WARM_BYTES = 128 << 20
"""What a slot keeps idle, where nobody says otherwise."""

_LINE = 8  # 64-bit integers in a cache line: threads that write next to each other must not share one


def slot_bytes(memory: int) -> int:
    """How large slots should be where ``memory`` bytes may be in use: no slot can ever lack addresses by half."""
    return 1 << max(20, (2 * memory - 1).bit_length())


class _Mapping:
    """A slot's memory as this process sees it. Unmapped when nobody looks at any of it."""

    __slots__ = ("address", "array", "bytes")

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.bytes = memoryview(mmap.mmap(descriptor, size, offset=offset))
        self.array = np.frombuffer(self.bytes, np.uint8)
        self.address = _address(self.array)


class Arena:
    """The shared memory, as one process has it open. Any thread may call any method.

    Before slot 0 lies the *board*: what each thread of each worker is running, for those who look after it has died.

    Parameters
    ----------
    descriptor
        Of the memfd; the arena owns it.
    place
        See ``place``.

    Attributes
    ----------
    fd
        The descriptor.
    place
        The process that made it, its descriptor there, bytes of a slot, number of slots: enough to open it.
    spill
        The descriptor of the spill file, in processes that have it (workers set it); else -1.
    """

    def __init__(self, descriptor: int, place: tuple[int, int, int, int]) -> None:
        self.fd, self.place, self.spill = descriptor, place, -1
        *_, self.slot_bytes, self.slots = place
        self._first = _first(self.slots)
        self._mappings: dict[int, _Mapping] = {}
        try:
            self._board = _Mapping(descriptor, 0, self._first).bytes.cast("q")
        except OSError as error:
            raise _unmappable(self._first, error) from error

    @classmethod
    def create(cls, slots: int, slot_bytes: int) -> Arena:
        """Make one.

        Raises
        ------
        UnsupportedError
            The system has no such memory.
        """
        if not hasattr(os, "memfd_create"):
            raise UnsupportedError(
                'clusters of processes need Linux: they share memory by memfd_create. Use scheduler="threads"'
            )
        descriptor = -1
        try:
            descriptor = os.memfd_create("tilework", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _first(slots) + slots * slot_bytes)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise UnsupportedError(
                f"cannot make shared memory with {slots} slots of {format_bytes(slot_bytes)}: {error}. A limit on the "
                'size of files (ulimit -f) or a sandbox may forbid it; lift it, or use scheduler="threads"'
            ) from error
        return cls(descriptor, (os.getpid(), descriptor, slot_bytes, slots))

    @classmethod
    def open(cls, place: tuple[int, int, int, int]) -> Arena:
        """Open the arena of another process of the same user, which must still have it.

        Raises
        ------
        UnsupportedError
            The system does not allow it, or the process is out of sight.
        """
        pid, descriptor, slot_bytes, slots = place
        path = f"/proc/{pid}/fd/{descriptor}"
        try:
            opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UnsupportedError(
                f"cannot open the cluster's shared memory, {path}: {error}. Client and cluster must be processes of "
                "the same user who see each other in /proc (in the same container, without hidepid), and the cluster "
                "must be alive"
            ) from error
        if os.fstat(opened).st_size != _first(slots) + slots * slot_bytes:
            os.close(opened)
            raise UnsupportedError(f"{path} is not the cluster's shared memory: process {pid} is not its scheduler")
        return cls(opened, place)

    def start(self, slot: int) -> int:
        """The first address of a slot."""
        return self._first + slot * self.slot_bytes

    def slot_of(self, offset: int) -> int:
        """The slot that an address lies in."""
        return (offset - self._first) // self.slot_bytes

    def view(self, offset: int, size: int) -> memoryview:
        """Bytes of the arena, writable."""
        slot, within = divmod(offset - self._first, self.slot_bytes)
        return self._mapping(slot).bytes[within : within + size]

    def array(self, offset: int, size: int) -> np.ndarray:
        """Bytes of the arena as an array of uint8, writable."""
        slot, within = divmod(offset - self._first, self.slot_bytes)
        return self._mapping(slot).array[within : within + size]

    def find(self, address: int) -> int | None:
        """The offset of what lies at an address of this process; None if that is not in the arena."""
        for slot, mapping in tuple(self._mappings.items()):
            if 0 <= address - mapping.address < self.slot_bytes:
                return self.start(slot) + address - mapping.address
        return None

    def punch(self, offset: int, size: int) -> None:
        """Give pages back to the system. What lies there becomes zeros, for all processes."""
        if self.fd >= 0:
            punch_hole(self.fd, offset, size)

    def mark(self, slot: int, thread: int, task: int) -> None:
        """Write on the board that a thread runs a task; -1: none. The 64 threads are told apart."""
        self._board[(slot * BOARD_THREADS + thread) * _LINE] = task + 1  # so that a fresh board is idle

    def marks(self, slot: int) -> list[int]:
        """What the threads of a slot run, -1 where nothing does."""
        first = slot * BOARD_THREADS * _LINE
        return [task - 1 for task in self._board[first : first + BOARD_THREADS * _LINE : _LINE].tolist()]

    def close(self) -> None:
        """Let go of it. What is looked at stays until it is not."""
        if self.fd >= 0:
            self._mappings = {}
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:  # else it could not be made
            self.close()

    def _mapping(self, slot: int) -> _Mapping:
        found = self._mappings.get(slot)
        if found is None:
            try:
                mapping = _Mapping(self.fd, self.start(slot), self.slot_bytes)
            except OSError as error:
                raise _unmappable(self.slot_bytes, error) from error
            found = self._mappings.setdefault(slot, mapping)  # another thread may have been faster
        return found


def _first(slots: int) -> int:
    """Where slot 0 begins."""
    return -(-slots * BOARD_THREADS * _LINE * 8 // PAGE) * PAGE


def _unmappable(size: int, error: OSError) -> UnsupportedError:
    return UnsupportedError(
        f"cannot map {format_bytes(size)} of shared memory: {error}. A limit on addresses (ulimit -v) may forbid it; "
        'lift it, use less memory=..., or scheduler="threads"'
    )


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


_MADV_POPULATE_WRITE = 23  # Linux 5.14


def _populate_write(address: int, size: int) -> None:
    if _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _MADV_POPULATE_WRITE):
        error = ctypes.get_errno()
        if error != errno.EINVAL:  # an older system: the pages come one by one
            raise OSError(error, os.strerror(error))


class View:
    """Memory as NumPy sees it: every array on it holds this, directly or through its base.

    Parameters
    ----------
    memory
        Bytes of the arena.
    writable
        Whether arrays on it may be written to.
    keep
        What lives as long as this does.
    """

    __slots__ = ("__array_interface__", "keep", "memory")

    def __init__(self, memory: np.ndarray, writable: bool, keep: Any) -> None:
        self.memory, self.keep = memory, keep
        self.__array_interface__ = {
            "data": (_address(memory), not writable),
            "shape": memory.shape,
            "typestr": "|u1",
            "version": 3,
        }


class _Extent:
    """An extent in use. It is free when neither flag is set any more."""

    __slots__ = ("leased", "lent", "shared", "size")

    def __init__(self, size: int, lent: bool, leased: bool, shared: bool) -> None:
        self.size, self.lent, self.leased, self.shared = size, lent, leased, shared
        # lent: the scheduler has it, until it says Free. leased: arrays of this process look at it.
        # shared: the next dump makes a reference that others may write to.


class _Lease:
    """Lives as long as any array on an extent."""

    __slots__ = ("done", "offset", "slot")

    def __init__(self, slot: Slot, offset: int, done: Callable[[], None] | None) -> None:
        self.slot, self.offset, self.done = slot, offset, done

    def __del__(self) -> None:
        self.slot._returned.append((self.offset, True))
        self.slot._settle()
        if self.done is not None:
            self.done()


class Slot:
    """Where this process allocates. Any thread may call any method, also while objects are destroyed.

    Parameters
    ----------
    arena, number
        Of which it is a slot.
    warm_limit
        Bytes that may lie idle, to be used again sooner than fresh ones.

    Attributes
    ----------
    sharing
        How many arrays were made ``shared`` and not dumped yet.
    """

    def __init__(self, arena: Arena, number: int, warm_limit: int = WARM_BYTES) -> None:
        self.arena, self.number, self.warm_limit, self.sharing = arena, number, warm_limit, 0
        start = arena.start(number)
        self._space = Extents(start, start + arena.slot_bytes, PAGE)
        # Free addresses that have pages, of this process's making or use. A subset of what is free in _space.
        self._warm = Extents(start, start + arena.slot_bytes, PAGE)
        self._warm.claim(start, arena.slot_bytes)
        self._extents: dict[int, _Extent] = {}
        # Offsets that came back, and whether from arrays here or from the scheduler. What destroys objects may run in
        # any thread at any time, also in one that holds the lock: so it only appends, and settles if nobody else is
        # at it; whoever holds the lock looks once more after letting it go.
        self._returned: deque[tuple[int, bool]] = deque()
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes in use, rounded up to pages."""
        return self._space.used_bytes

    @property
    def warm_bytes(self) -> int:
        """Bytes that lie idle."""
        return self._warm.free_bytes

    def allocate(self, size: int) -> int:
        """An extent for the scheduler: it is in use until ``free``. Its contents are undefined.

        Raises
        ------
        MemoryBudgetError
            There is no such room in the slot.
        StorageError
            The system has no memory.
        """
        offset, _ = self._take(size, lent=True)
        self._populate(offset, size)
        return offset

    def store(self, buffers: Sequence[memoryview]) -> tuple[int, int, list[int]]:
        """Copy buffers into one new extent: its offset, its size, and the offset of each buffer. Raises as allocate."""
        offsets, size = [], 0
        for buffer in buffers:
            offsets.append(size)
            size += -(-buffer.nbytes // ALIGNMENT) * ALIGNMENT
        start, warm = self._take(size, lent=True)
        offsets = [start + offset for offset in offsets]
        if warm:
            self._populate(start, size)
            for offset, buffer in zip(offsets, buffers, strict=True):
                self.arena.array(offset, buffer.nbytes)[...] = np.frombuffer(buffer, np.uint8)
        else:
            padded = []
            for buffer in buffers:
                padded += [buffer, _PADDING[: -buffer.nbytes % ALIGNMENT]]
            try:
                write_at(self.arena.fd, padded, start)
            except OSError as error:
                raise self._no_memory(start, size, error) from error
        return start, size, offsets

    def free(self, offsets: Iterable[int]) -> None:
        """The scheduler has no use for these extents any more."""
        self._returned.extend((offset, False) for offset in offsets)
        self._settle()

    def empty(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], shared: bool = False, done: Callable[[], None] | None = None
    ) -> np.ndarray:
        """Like ``np.empty``, in the arena if it is large. Given back when the last array that looks at it is gone.

        Parameters
        ----------
        shared
            Other processes write to it: it is always in the arena, and dumped as a reference, once. Afterwards it is
            like any other, for it may belong to the user by then.
        done
            Called when memory of the arena is given back, by whoever destroys the array, so it must not wait.
        """
        dtype = np.dtype(dtype)
        nbytes = prod(shape) * dtype.itemsize
        if dtype.hasobject or (nbytes < SMALLEST and not shared):
            return np.empty(shape, dtype)
        offset, _ = self._take(nbytes, leased=True, shared=shared)
        if not shared:  # else those who write make the pages
            self._populate(offset, nbytes)
        view = View(self.arena.array(offset, nbytes), True, _Lease(self, offset, done))
        return np.ndarray(shape, dtype, np.asarray(view))

    def trim(self, nbytes: int = 0) -> None:
        """Give idle pages back to the system until at most ``nbytes`` are idle."""
        with self._lock:
            self._trim(nbytes)
        self._settle()

    # ------------------------------------------------------------ for values.py

    def extent_at(self, offset: int) -> tuple[int, _Extent] | None:
        """The extent of this slot that an address lies in, if arrays here look at it."""
        if self.arena.slot_of(offset) != self.number:
            return None
        found = self._extents.get(offset)
        if found is not None:
            return (offset, found) if found.leased else None
        with self._lock:
            around = [one for one in self._extents.items() if one[0] < offset < one[0] + one[1].size and one[1].leased]
        self._settle()
        return around[0] if around else None

    def lend(self, offset: int) -> None:
        """The scheduler gets an extent that arrays here look at."""
        self._extents[offset].lent = True

    def unshare(self, offset: int) -> None:
        """The array on an extent was dumped as a reference."""
        with self._lock:
            self.sharing -= self._extents[offset].shared
            self._extents[offset].shared = False
        self._settle()

    # ------------------------------------------------------------ in and out

    def _take(self, size: int, lent: bool = False, leased: bool = False, shared: bool = False) -> tuple[int, bool]:
        """The offset of a new extent, and whether all of it is warm."""
        size = max(size, 1)
        with self._lock:
            self._drain()
            offset = self._space.allocate(size)
            if offset is None:
                raise MemoryBudgetError(
                    f"no room for {format_bytes(size)} in this process's part of the cluster's memory: "
                    f"{format_bytes(self._space.used_bytes)} of {format_bytes(self.arena.slot_bytes)} are in use, and "
                    f"{format_bytes(self._space.largest)} free in one piece. Let go of results and futures that are "
                    "no longer needed, or give the cluster more memory"
                )
            warm = self._warm.claim(offset, size) == self._space.rounded(size)
            self._extents[offset] = _Extent(size, lent, leased, shared)
            self.sharing += shared
        self._settle()
        return offset, warm

    def _settle(self) -> None:
        while self._returned and self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()

    def _drain(self) -> None:
        """Take back what was returned."""
        while self._returned:
            offset, from_here = self._returned.popleft()
            extent = self._extents.get(offset)
            if extent is None:
                raise InternalError(f"extent {offset} of slot {self.number} came back, but is not in use")
            if from_here:
                extent.leased = False
            else:
                extent.lent = False
            if not extent.leased and not extent.lent:
                del self._extents[offset]
                self.sharing -= extent.shared
                self._space.free(offset, extent.size)
                self._warm.free(offset, extent.size)
                self._trim(self.warm_limit)

    def _trim(self, nbytes: int) -> None:
        """The last ones first: the first are taken next."""
        while found := self._warm.claim_last(self._warm.free_bytes - nbytes):
            self.arena.punch(*found)

    def _populate(self, offset: int, size: int) -> None:
        """Have pages under a mapping before it is written to: many at a time, and errors come as such."""
        try:
            _populate_write(_address(self.arena.array(offset, size)), size)
        except OSError as error:
            raise self._no_memory(offset, size, error) from error

    def _no_memory(self, offset: int, size: int, error: OSError) -> StorageError:
        self.arena.punch(offset, self._space.rounded(size))
        with self._lock:
            self.sharing -= self._extents.pop(offset).shared
            self._space.free(offset, size)
        return StorageError(
            f"the system gave no memory for a block of {format_bytes(size)}: {error}. This process holds "
            f"{format_bytes(self._space.used_bytes)}; give the cluster less memory (memory_limit=...), so that blocks "
            "go to disk earlier"
        )


SMALLEST = 64 << 10
"""Smaller arrays come from ``np.empty``, and are copied into the arena if need be."""

_PADDING = memoryview(bytes(ALIGNMENT))
