"""Who owns which slot of the arena, is told of memory that is free again; and what is left where the owner has gone."""

from __future__ import annotations

from dataclasses import dataclass

from tilework.base.errors import UnsupportedError
from tilework.engine.cluster.scheduler.blocks import Blocks
from tilework.engine.cluster.store.arena import BOARD_THREADS, PAGE, Arena
from tilework.engine.cluster.wire.channel import QueuedChannel
from tilework.engine.cluster.wire.messages import Free


@dataclass(slots=True)
class _Orphan:
    """A slot without an owner: extents that are still in use, and batches that may still write to it."""

    live: int
    batches: set[int]


class Slots:
    """The slots of an arena.

    Parameters
    ----------
    arena
        The shared memory.
    blocks
        Who knows which extents are in use.
    """

    def __init__(self, arena: Arena, blocks: Blocks) -> None:
        self._arena, self._blocks = arena, blocks
        self.marks = arena.marks
        self._owners: dict[int, QueuedChannel] = {}
        self._free = list(range(arena.slots - 1, -1, -1))
        self._orphans: dict[int, _Orphan] = {}

    def take(self) -> int:
        """A slot for a new owner, whom :meth:`own` names.

        Raises
        ------
        UnsupportedError
            If there is none left.
        """
        if not self._free:
            raise UnsupportedError(
                f"all {self._arena.slots} places for workers and clients are taken; close clients that are not needed"
            )
        return self._free.pop()

    def own(self, slot: int, channel: QueuedChannel) -> None:
        """The connection of a slot's owner."""
        self._owners[slot] = channel

    def give_up(self, slot: int, batches: set[int]) -> None:
        """Its owner has gone. What is not in use there is given back to the system at once.

        ``batches`` may still write to it. When the last of them, and the last extent, is done with, it is free.
        """
        self.settle()
        del self._owners[slot]
        live = self._blocks.live(slot)
        position = self._arena.start(slot)
        stop = position + self._arena.slot_bytes
        for offset, size in live:
            if offset > position:
                self._arena.punch(position, offset - position)
            position = offset + -(-size // PAGE) * PAGE
        if stop > position:
            self._arena.punch(position, stop - position)
        for thread in range(BOARD_THREADS):
            self._arena.mark(slot, thread, -1)
        self._orphans[slot] = _Orphan(len(live), set(batches))
        self._look(slot)

    def settle(self) -> None:
        """Tell owners what is free again; give back to the system what has no owner."""
        for slot, extents in self._blocks.take_freed().items():
            owner = self._owners.get(slot)
            if owner is not None:
                owner.send(Free([offset for offset, _ in extents]))
                continue
            for offset, size in extents:
                self._arena.punch(offset, -(-size // PAGE) * PAGE)
            self._orphans[slot].live -= len(extents)
            self._look(slot)

    def batch_ended(self, number: int) -> None:
        """A batch writes nothing any more."""
        for slot, orphan in list(self._orphans.items()):
            orphan.batches.discard(number)
            self._look(slot)

    def _look(self, slot: int) -> None:
        orphan = self._orphans[slot]
        if not orphan.live and not orphan.batches:
            self._arena.punch(self._arena.start(slot), self._arena.slot_bytes)
            del self._orphans[slot]
            self._free.append(slot)
