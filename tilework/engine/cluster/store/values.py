"""Values on their way between processes: pickled, with their buffers in the arena.

Pickle protocol 5 hands out the buffers of arrays instead of copying them into the pickle. What is large is copied once,
from where it was made into the arena; whoever loads it looks at it there. What already lies in the arena is not copied
at all: a view of an input, a block that was computed in place.

The C pickler is tried first. It writes functions and classes of ``__main__`` by name, which means nothing in another
process: those, and whatever it cannot write (lambdas, local classes), go through cloudpickle.
"""

from __future__ import annotations

import io
import pickle
import traceback
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any

import cloudpickle
import numpy as np
from tblib.pickling_support import pickle_exception, pickle_traceback, unpickle_exception_with_attrs

from tilework.base.errors import InternalError, RemoteError
from tilework.base.scratch import ScratchFile, read_at, unreadable, unwritable, write_at
from tilework.engine.cluster.store.arena import ALIGNMENT, Arena, Slot, View
from tilework.engine.cluster.wire.messages import OnDisk, Scratch, Stored, Value

INLINE = 8 << 10
"""Values up to this size travel in messages; buffers below it stay in the pickle."""


class Input:
    """Stands in pickled arguments for the value of input ``k``."""

    __slots__ = ("k",)

    def __init__(self, k: int) -> None:
        self.k = k

    def __reduce__(self) -> tuple[Any, ...]:
        return Input, (self.k,)


def fill(template: Any, inputs: list[Any]) -> Any:
    """The template with inputs in place of Inputs, at any depth of lists, tuples and dicts."""
    kind = type(template)
    if kind is Input:
        return inputs[template.k]
    if kind is list or kind is tuple:
        return kind([fill(item, inputs) for item in template])
    if kind is dict:
        return {key: fill(item, inputs) for key, item in template.items()}
    return template


# ---------------------------------------------------------------- dump


def dump(value: Any, slot: Slot, lent: Collection[tuple[int, int]] = (), copy: bool = False) -> tuple[Value, int]:
    """Make a value ready to travel.

    Parameters
    ----------
    slot
        Where its buffers go.
    lent
        Extents (offset, size) that the scheduler keeps at least until it has heard of this value: those of a batch's
        inputs. What lies in one of them is borrowed, if it is at least half of it.
    copy
        Copy also what was made by ``slot.empty``, for whoever has it may go on to change it. If not, such memory is
        handed over as it is.

    Returns
    -------
    value
        What to send.
    size
        Bytes of memory that it takes.

    Raises
    ------
    MemoryBudgetError, StorageError
        There is no memory for it.
    Exception
        What the pickler raised, with a note. Values that cannot be pickled are generators, locks, open files...
    """
    kind = type(value)
    if kind in _ATOMS or (kind in _SIZED and len(value) <= _SIZED[kind]):
        head = _small(value)
        if head is not None:
            return head, len(head)
    if kind is ScratchFile:
        return Scratch(*value.shared_range()), 0
    head, buffers = _pickled(value, slot)
    if not buffers and len(head) <= INLINE:
        return head, len(head)
    stored = _stored(head, [buffer.raw() for buffer in buffers], slot, lent, copy)
    return stored, sum(size for _, size in stored.extents) + (len(head) if stored.head is head else 0)


_ATOMS = frozenset({type(None), bool, int, float, complex, np.float64, np.int64, np.bool})
_SIZED: dict[type, int] = {tuple: 16, list: 16, dict: 16, str: INLINE, bytes: INLINE}
"""Types that may be small, and the length up to which it is worth trying."""


def _small(value: Any) -> bytes | None:
    """The pickle of what most calls take and return, in a third of the time; None if more must be thought of."""
    aside: list[pickle.PickleBuffer] = []
    try:
        head = pickle.dumps(value, 5, buffer_callback=aside.append)
    except Exception:  # see _pickled
        return None
    return None if aside or len(head) > INLINE or _needs_more(head) else head


def _needs_more(head: bytes) -> bool:
    """Whether something was pickled by name that may mean nothing in another process."""
    return b"__main__" in head or bool(cloudpickle.list_registry_pickle_by_value())


def _pickled(value: Any, slot: Slot) -> tuple[bytes, list[pickle.PickleBuffer]]:
    buffers: list[pickle.PickleBuffer] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < INLINE and not (slot.sharing and slot.arena.find(_address(raw)) is not None):
            return True
        buffers.append(buffer)
        return False

    file = io.BytesIO()
    try:
        _Pickler(file, 5, buffer_callback=stays).dump(value)
        head = file.getvalue()
        if not _needs_more(head):
            return head, buffers
    except Exception:  # whatever the user's classes raise: cloudpickle will say so, if it cannot do it either
        pass
    buffers.clear()
    file = io.BytesIO()
    try:
        _CloudPickler(file, 5, buffer_callback=stays).dump(value)
    except Exception as error:
        error.add_note(
            f"so this {type(value).__qualname__}, or something in it, cannot be given to another process. Make such "
            'things inside the task that needs them, use a list instead of a generator, or use scheduler="threads"'
        )
        raise
    return file.getvalue(), buffers


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return _reduced(obj) if type(obj) is np.ndarray and obj.nbytes >= INLINE else NotImplemented


class _CloudPickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        return _reduced(obj) if type(obj) is np.ndarray and obj.nbytes >= INLINE else super().reducer_override(obj)


def _reduced(array: np.ndarray) -> Any:
    """How a large array is pickled: no element is written twice, and its memory is handed out as a buffer."""
    if array.dtype.hasobject:
        return NotImplemented
    if 0 in array.strides:
        elements = array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]
        return np.broadcast_to, (elements, array.shape)
    if array.dtype.kind in "mM":  # NumPy hands out no buffers of times
        return _as_dtype, (array.view(np.int64), array.dtype)
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        array = array.copy(order="K")
    return array.__reduce_ex__(5)


def _as_dtype(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    return array.view(dtype)


def _stored(head: bytes, raws: list[memoryview], slot: Slot, lent: Collection[tuple[int, int]], copy: bool) -> Stored:
    parts: list[tuple[int, int]] = [(0, 0)] * len(raws)
    inside: dict[int, _Inside] = {}  # extents in which some of the buffers lie, by offset
    fresh = []
    for k, raw in enumerate(raws):
        offset = slot.arena.find(_address(raw))
        found = None if offset is None else _extent_of(offset, slot, lent, copy)
        if offset is None or found is None:
            fresh.append(k)
        else:
            parts[k] = offset, raw.nbytes
            inside.setdefault(found.offset, found).buffers.append(k)
    extents, borrowed, shared = [], [], []
    for found in inside.values():
        if found.kind == "shared":
            slot.unshare(found.offset)
            shared += found.buffers
        elif 2 * sum(raws[k].nbytes for k in found.buffers) < found.size:  # would keep much more than it needs
            fresh += found.buffers
        elif found.kind == "own":
            slot.lend(found.offset)
            extents.append((found.offset, found.size))
        else:
            borrowed.append((found.offset, found.size))
    where: bytes | tuple[int, int] = head
    copies = [raws[k] for k in fresh]
    if len(head) > INLINE:
        copies.append(memoryview(head))
    if copies:
        try:
            start, size, offsets = slot.store(copies)
        except BaseException:
            slot.free(offset for offset, _ in extents)
            raise
        extents.append((start, size))
        for k, offset in zip(fresh, offsets, strict=False):
            parts[k] = offset, raws[k].nbytes
        if len(head) > INLINE:
            where = offsets[-1], len(head)
    return Stored(where, tuple(parts), tuple(extents), tuple(borrowed), tuple(sorted(shared)))


def _address(raw: memoryview) -> int:
    return int(np.frombuffer(raw, np.uint8).__array_interface__["data"][0]) if raw.nbytes else 0


class _Inside:
    """An extent in which buffers lie. ``kind``: "shared", "own" (to be handed over) or "lent" (to be borrowed)."""

    __slots__ = ("buffers", "kind", "offset", "size")

    def __init__(self, kind: str, offset: int, size: int) -> None:
        self.kind, self.offset, self.size = kind, offset, size
        self.buffers: list[int] = []


def _extent_of(offset: int, slot: Slot, lent: Collection[tuple[int, int]], copy: bool) -> _Inside | None:
    """The extent that a buffer need not be copied out of, None if there is none."""
    for start, size in lent:
        if start <= offset < start + size:
            return _Inside("lent", start, size)
    found = slot.extent_at(offset)
    if found is None:
        return None
    start, extent = found
    if extent.shared:
        return _Inside("shared", start, extent.size)
    # What the scheduler has already it may free at any moment.
    return None if extent.lent or copy else _Inside("own", start, extent.size)


# ---------------------------------------------------------------- load


class _Hold:
    """Lives as long as any array on a value's memory."""

    __slots__ = ("done",)

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done

    def __del__(self) -> None:
        self.done()


def load(value: Value, arena: Arena, done: Callable[[], None] | None = None, writable: bool = False) -> Any:
    """The value. Large arrays are views of the arena.

    Parameters
    ----------
    done
        Called once nobody looks at the value's memory any more, which may be before this returns. By any thread at any
        time, so it must not wait for a lock.
    writable
        Whether those views may be written to. Otherwise only those of what is shared.

    Raises
    ------
    Exception
        Whatever unpickling raises: missing modules, for example.
    """
    hold = None if done is None else _Hold(done)
    if type(value) is bytes:
        return pickle.loads(value)
    if type(value) is Scratch:
        return ScratchFile.shared(arena.spill, value.offset, value.size)
    if type(value) is not Stored:
        raise InternalError(f"{value!r} must be read back into the arena first")
    head = value.head if type(value.head) is bytes else arena.view(*value.head)
    buffers = [
        np.asarray(View(arena.array(offset, size), writable or k in value.shared, hold))
        for k, (offset, size) in enumerate(value.parts)
    ]
    return pickle.loads(head, buffers=buffers)


def load_copy(value: Value, arena: Arena) -> Any:
    """The value, on memory of this process alone."""
    if type(value) is not Stored:
        return load(value, arena)
    head = value.head if type(value.head) is bytes else arena.view(*value.head)
    return pickle.loads(head, buffers=[arena.array(*part).copy() for part in value.parts])


# ---------------------------------------------------------------- to disk and back


def write_spill(arena: Arena, descriptor: int, value: Stored, offset: int) -> OnDisk:
    """Write a value to a file.

    Raises
    ------
    StorageError
        The disk is full.
    """
    head = memoryview(value.head) if isinstance(value.head, bytes) else arena.view(*value.head)
    raws = [head, *(arena.view(*part) for part in value.parts)]
    sizes = tuple(raw.nbytes for raw in raws)
    try:
        write_at(descriptor, raws, offset)
    except OSError as error:
        raise unwritable(sum(sizes), error) from error
    return OnDisk(offset, sizes)


def read_spill(descriptor: int, value: OnDisk, slot: Slot) -> Stored:
    """Read a value back into the arena.

    Raises
    ------
    MemoryBudgetError
        There is no room.
    StorageError
        The disk does not give back what was written, or there is no memory.
    """
    head_size, *sizes = value.sizes
    inline = bytearray(head_size if head_size <= INLINE else 0)
    places, total = [], 0
    for size in sizes if inline else value.sizes:
        places.append((total, size))
        total += -(-size // ALIGNMENT) * ALIGNMENT
    start = slot.allocate(total)
    parts = [(start + place, size) for place, size in places]
    views = [slot.arena.view(*part) for part in parts]
    try:
        read_at(descriptor, [memoryview(inline), *views] if inline else views, value.offset)
    except OSError as error:
        slot.free([start])
        raise unreadable(sum(value.sizes), error) from error
    head = bytes(inline) if inline else parts.pop(0)
    return Stored(head, tuple(parts), ((start, total),))


# ---------------------------------------------------------------- errors


ERROR_BYTES = 1 << 20
"""Errors travel in messages. Larger ones become text."""


class _ErrorPickler(cloudpickle.Pickler):
    """Pickles what exceptions lose otherwise: their tracebacks, causes and contexts."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, TracebackType):
            return pickle_traceback(obj)
        if isinstance(obj, BaseException):
            function, *rest = pickle_exception(obj)
            return (_revived if function is unpickle_exception_with_attrs else function, *rest)
        return super().reducer_override(obj)


_HEAP_TYPE = 1 << 9  # of classes that are defined in Python


def _revived(kind: type[BaseException], attributes: dict[str, Any], *rest: Any) -> BaseException:
    """As tblib does, without calling the constructor; also where a class has several exceptions as its bases."""
    static = kind
    while static.__flags__ & _HEAP_TYPE:
        static = static.__base__  # type: ignore[assignment]
    cause, frames, context, suppress_context, notes, *args = rest
    error = static.__new__(kind, *(args[0] if args else ()))
    for name, value in attributes.items():
        setattr(error, name, value)
    error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppress_context
    if notes is not None:
        error.__notes__ = notes
    return error.with_traceback(frames)


def dump_error(error: BaseException) -> bytes:
    """Pickle what a task raised, with its traceback; as text if that cannot be done, or not be undone."""
    error.__traceback__ = _without_engine(error.__traceback__)
    text = _as_text(error)
    try:
        blob = _pickled_error(error)
        if len(blob) > ERROR_BYTES:
            raise ValueError(f"an exception of {len(blob)} bytes")
        pickle.loads(blob)
    except Exception:  # whatever the user's class raises
        try:
            blob = _pickled_error(text.with_traceback(error.__traceback__))
        except Exception:
            blob = b""
    return pickle.dumps((blob, str(text)), 5)


def load_error(data: bytes) -> BaseException:
    """What was dumped by ``dump_error``; its ``__traceback__`` shows where it was raised.

    What cannot be unpickled here, since its module is missing, is a RemoteError.
    """
    blob, text = pickle.loads(data)
    try:
        error = pickle.loads(blob)
    except Exception:
        return RemoteError(text)
    return error if isinstance(error, BaseException) else RemoteError(text)


def _pickled_error(error: BaseException) -> bytes:
    file = io.BytesIO()
    _ErrorPickler(file, 5).dump(error)
    return file.getvalue()


def _without_engine(frames: TracebackType | None) -> TracebackType | None:
    """Leave out the frames that led to the user's function, unless there are no others."""
    user = frames
    while user is not None and user.tb_frame.f_globals.get("__name__", "").startswith("tilework.engine."):
        user = user.tb_next
    return user or frames


def _as_text(error: BaseException) -> RemoteError:
    kind = type(error)
    try:
        message = str(error)
    except Exception as failure:
        message = f"(its message cannot be had: {type(failure).__name__})"
    try:
        lines = "".join(traceback.format_exception(error))
    except Exception:
        lines = "".join(traceback.format_tb(error.__traceback__))
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return RemoteError(f"{name}: {message}\n\nIt was raised in another process:\n{lines}")
