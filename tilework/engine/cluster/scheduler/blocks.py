"""Where the value of each block lies, and which memory and disk space is free again. Pure: no I/O.

A block's value is in a message (``bytes``), in the arena (:class:`Stored`) or in the spill file (:class:`OnDisk`). What
lies in the arena takes *extents*, and several values may lie in the same one: each counts one use. The scheduler alone
counts, so a slot's owner may use an extent again only when it is told to (:class:`Free`). Arguments, functions and
graphs are values without a block; they are counted in the same way (``ref``, ``unref``). So is scratch space of plans,
which lies in the spill file, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tilework.base.errors import InternalError
from tilework.base.extents import Extents
from tilework.engine.cluster.wire.messages import OnDisk, Scratch, Stored, Value

SPILL_FILE_BYTES = 1 << 60  # addresses in it, not space


class Blocks:
    """Values by task, uses of extents, and the space of the spill file.

    Parameters
    ----------
    slot_of
        The slot in which an offset of the arena lies.
    """

    def __init__(self, slot_of: Callable[[int], int]) -> None:
        self._slot_of = slot_of
        self.values: dict[int, Value] = {}
        self._uses: dict[int, int] = {}  # by offset of the extent: values that lie in it; at least 1
        self._sizes: dict[int, int] = {}  # by offset of the extent: its bytes
        self._freed: list[tuple[int, int]] = []  # extents that nobody uses since the last take_freed()
        self._disk = Extents(0, SPILL_FILE_BYTES)
        self._ranges: dict[int, int] = {}  # by offset of scratch space: values that name it; at least 1
        self._unused: list[tuple[int, int]] = []  # of the spill file, since the last take_unused()
        self._writing: dict[int, tuple[int, int]] = {}  # by task: where it will lie, until the worker has answered

    # ------------------------------------------------------------ blocks

    def put(self, task: int, value: Value) -> None:
        """The task is finished."""
        self.values[task] = value
        if type(value) is not bytes:
            self.ref(value)

    def drop(self, tasks: Iterable[int]) -> None:
        """Nobody will ask for these blocks any more. Those that were never stored are passed over."""
        values = self.values
        for task in tasks:
            value = values.pop(task, None)
            if value is not None and type(value) is not bytes:
                self.unref(value)

    # ------------------------------------------------------------ memory

    def ref(self, value: Value) -> None:
        """One more use of the extents in which the value lies."""
        if type(value) is Stored:
            uses = self._uses
            for offset, size in value.extents:
                uses[offset] = uses.get(offset, 0) + 1
                self._sizes[offset] = size
            for offset, _ in value.borrowed:
                if offset not in uses:
                    raise InternalError(f"a value lies in the extent at {offset}, which is free")
                uses[offset] += 1
        elif type(value) is Scratch:
            self._ranges[value.offset] = self._ranges.get(value.offset, 0) + 1

    def unref(self, value: Value) -> None:
        """One use less."""
        if type(value) is Stored:
            for offset, _ in value.extents + value.borrowed:
                left = self._uses[offset] = self._uses[offset] - 1
                if not left:
                    del self._uses[offset]
                    self._freed.append((offset, self._sizes.pop(offset)))
        elif type(value) is OnDisk:
            self._free_disk(value.offset, sum(value.sizes))
        elif type(value) is Scratch:
            left = self._ranges[value.offset] = self._ranges[value.offset] - 1
            if not left:
                del self._ranges[value.offset]
                self._free_disk(value.offset, value.size)

    def take_freed(self) -> dict[int, list[tuple[int, int]]]:
        """Extents that became free since the last time, by slot: ``(offset, size)``."""
        out: dict[int, list[tuple[int, int]]] = {}
        if self._freed:
            for extent in self._freed:
                out.setdefault(self._slot_of(extent[0]), []).append(extent)
            self._freed.clear()
        return out

    def live(self, slot: int) -> list[tuple[int, int]]:
        """Extents of a slot that are in use, ascending: ``(offset, size)``."""
        return sorted(extent for extent in self._sizes.items() if self._slot_of(extent[0]) == slot)

    @property
    def arena_bytes(self) -> int:
        """Bytes of all extents in use."""
        return sum(self._sizes.values())

    # ------------------------------------------------------------ disk

    def plan_spill(self, tasks: Iterable[int]) -> tuple[list[tuple[int, Stored, int]], list[int]]:
        """Find places in the spill file: ``(task, value, offset)`` each; and the tasks that stay where they are.

        What stays is small, or lies in other values' extents: writing it would free nothing.
        """
        plan: list[tuple[int, Stored, int]] = []
        stay: list[int] = []
        for task in tasks:
            value = self.values[task]
            if type(value) is not Stored or not value.extents:
                stay.append(task)
                continue
            size = spilled_size(value)
            offset = self._allocate_disk(size)
            self._writing[task] = offset, size
            plan.append((task, value, offset))
        return plan, stay

    def spilled(self, task: int, place: OnDisk) -> None:
        """The block is on disk, as planned."""
        offset, size = self._writing.pop(task)
        if (place.offset, sum(place.sizes)) != (offset, size):
            raise InternalError(f"block {task} was written to {place}, not to {size} bytes at {offset}")
        self.unref(self.values[task])
        self.values[task] = place

    def kept(self, task: int) -> None:
        """The block was not written."""
        self._free_disk(*self._writing.pop(task))

    def loaded(self, task: int, value: Stored) -> None:
        """The block is back in the arena."""
        self.ref(value)
        self.unref(self.values[task])
        self.values[task] = value

    def new_scratch(self, size: int) -> Scratch:
        """Space in the spill file, with one use."""
        scratch = Scratch(self._allocate_disk(size), size)
        self.ref(scratch)
        return scratch

    def take_unused(self) -> list[tuple[int, int]]:
        """Ranges of the spill file that became free since the last time: ``(offset, size)``."""
        unused, self._unused = self._unused, []
        return unused

    @property
    def disk_end(self) -> int:
        """The spill file is used up to here."""
        return self._disk.top

    def _allocate_disk(self, size: int) -> int:
        offset = self._disk.allocate(size)
        if offset is None:
            raise InternalError(f"the spill file has no addresses left for {size} bytes")
        return offset

    def _free_disk(self, offset: int, size: int) -> None:
        if size:
            self._disk.free(offset, size)
            self._unused.append((offset, size))


def spilled_size(value: Stored) -> int:
    """Bytes of pickle and buffers as they are written to disk."""
    head = len(value.head) if isinstance(value.head, bytes) else value.head[1]
    return head + sum(size for _, size in value.parts)
