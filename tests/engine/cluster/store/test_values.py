from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tilework.base.errors import (
    InternalError,
    KilledWorker,
    MemoryBudgetError,
    RemoteError,
    StorageError,
    TaskTimeoutError,
    UnsupportedError,
)
from tilework.base.scratch import ScratchFile
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.cluster.store.values import (
    INLINE,
    Input,
    dump,
    dump_error,
    fill,
    load,
    load_error,
    read_spill,
    write_spill,
)
from tilework.engine.cluster.wire.messages import OnDisk, Scratch, Stored

MB = 1 << 20
BIG = 100_000
DOUBLES = np.dtype(float)


def stored(value: Any, slot: Slot, *args: Any, **kwargs: Any) -> Stored:
    found, _ = dump(value, slot, *args, **kwargs)
    assert isinstance(found, Stored)
    return found


# ---------------------------------------------------------------- there and back

VALUES: dict[str, Any] = {
    "None": None,
    "int": 12345678901234567890,
    "text": "häßlich",
    "large text": "x" * 100_000,
    "large bytes": bytes(100_000),
    "nested": [1, (2, {"a": [3.5, None]}), {4}],
    "long list": list(range(20_000)),
    "small array": np.arange(12).reshape(3, 4),
    "array": np.arange(float(BIG)).reshape(100, -1),
    "Fortran order": np.asfortranarray(np.arange(float(BIG)).reshape(100, -1)),
    "every second": np.arange(float(BIG))[::2],
    "turned and backwards": np.arange(float(BIG)).reshape(100, -1).T[::-1],
    "broadcast": np.broadcast_to(np.arange(1000.0)[:, None], (3, 1000, 50)),
    "dates": np.arange(BIG).astype("M8[s]"),
    "records": np.zeros(BIG, [("a", "i4"), ("b", "f8", 3)]),
    "objects": np.array([1, "a", None] * 10_000, dtype=object),
    "masked": np.ma.masked_less(np.arange(float(BIG)), 5),
    "no elements": np.zeros((0, 5)),
    "scalar": np.float32(2.5),
    "several": {"a": np.arange(BIG), "b": [np.arange(5), np.ones(BIG)]},
    "frame": pd.DataFrame({"a": np.arange(BIG), "b": ["x", "y"] * (BIG // 2), "c": pd.date_range("2000", periods=BIG)}),
    "dataset": xr.Dataset({"a": ("x", np.arange(BIG))}, {"x": np.arange(BIG) / 2}),
    "readonly": np.frombuffer(bytes(BIG), np.uint8),
}


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    elif isinstance(a, xr.Dataset):
        xr.testing.assert_identical(a, b)
    elif isinstance(a, list):
        assert [repr(item) for item in a] == [repr(item) for item in b]
    else:
        np.testing.assert_equal(a, b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        assert getattr(a, "shape", None) == getattr(b, "shape", None)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_values_come_back(arena: Arena, slot: Slot, tmp_path: Path, value: Any) -> None:
    dumped, size = dump(value, slot)
    assert pickle.loads(pickle.dumps(dumped)) == dumped
    same(load(dumped, arena), value)
    if isinstance(dumped, bytes):
        assert size == len(dumped) <= INLINE
        return
    assert isinstance(dumped, Stored)
    assert size >= sum(n for _, n in dumped.extents) > 0
    assert slot.used_bytes >= sum(n for _, n in dumped.extents)
    with open(tmp_path / "file", "w+b") as file:
        on_disk = write_spill(arena, file.fileno(), dumped, 1000)
        assert on_disk.offset == 1000
        assert os.stat(tmp_path / "file").st_size == 1000 + sum(on_disk.sizes)
        slot.free(offset for offset, _ in dumped.extents)
        assert slot.used_bytes == 0
        other = Slot(arena, 2)
        back = read_spill(file.fileno(), on_disk, other)
    same(load(back, arena), value)
    other.free(offset for offset, _ in back.extents)
    assert other.used_bytes == 0


@pytest.mark.parametrize("name", ["array", "Fortran order", "every second", "turned and backwards", "dates", "several"])
def test_large_arrays_are_views(arena: Arena, slot: Slot, name: str) -> None:
    dumped = stored(VALUES[name], slot)
    loaded = load(dumped, arena)
    assert isinstance(dumped.head, bytes)
    assert len(dumped.head) < 1000, "no element is in the pickle"
    for array in [loaded] if name != "several" else [loaded["a"], loaded["b"][1]]:
        assert arena.find(array.ctypes.data) is not None
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    writable = load(dumped, arena, writable=True)
    array = writable if name != "several" else writable["a"]
    array[...] = array[:1]
    np.testing.assert_array_equal(loaded if name != "several" else loaded["a"], array)


def test_what_is_broadcast_weighs_what_it_shows(slot: Slot) -> None:
    _, size = dump(np.broadcast_to(1.5, (10_000, 10_000)), slot)
    assert size < 1000
    _, size = dump([np.broadcast_to(np.arange(1000.0)[:, None], (1000, 10_000))], slot)
    assert size < 10_000


def test_another_process_loads_it(arena: Arena, slot: Slot) -> None:
    dumped, _ = dump((np.arange(BIG), "x" * BIG), slot)
    code = (
        "import sys, pickle; from tilework.engine.cluster.store import arena, values\n"
        f"shared = arena.Arena.open({arena.place})\n"
        "array, text = values.load(pickle.load(sys.stdin.buffer), shared)\n"
        "slot = arena.Slot(shared, 2)\n"
        "sys.stdout.buffer.write(pickle.dumps(values.dump((array * 2, len(text)), slot)[0]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(dumped), capture_output=True, check=True)
    array, length = load(pickle.loads(done.stdout), arena)
    np.testing.assert_array_equal(array, np.arange(BIG) * 2)
    assert length == BIG


# ---------------------------------------------------------------- when memory may be used again


class Told:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def test_done_is_told_after_the_last_view(arena: Arena, slot: Slot) -> None:
    done = Told()
    loaded = load(stored({"a": np.arange(BIG), "b": np.ones(BIG)}, slot), arena, done)
    view = loaded["b"][10:20].reshape(2, 5).T
    del loaded
    gc.collect()
    assert done.times == 0
    raw = memoryview(view)
    del view
    assert done.times == 0
    raw.release()
    del raw
    assert done.times == 1


@pytest.mark.parametrize("value", [5, "x" * BIG, list(range(BIG)), np.arange(10)], ids=["int", "text", "list", "array"])
def test_done_is_told_at_once_if_there_are_no_views(arena: Arena, slot: Slot, value: Any) -> None:
    done = Told()
    kept = load(dump(value, slot)[0], arena, done)
    assert done.times == 1
    same(kept, value)


def test_done_is_told_if_it_cannot_be_loaded(arena: Arena, slot: Slot) -> None:
    dumped, done = stored([np.arange(BIG), Unloadable()], slot), Told()
    with pytest.raises(ZeroDivisionError):
        load(dumped, arena, done)
    gc.collect()
    assert done.times == 1


class Unloadable:
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


# ---------------------------------------------------------------- what is not copied


def test_views_of_inputs_are_borrowed(arena: Arena, slot: Slot) -> None:
    first = stored(np.arange(BIG), slot)
    loaded = load(first, arena)
    before = slot.used_bytes
    for view in (loaded, loaded[: BIG // 2], loaded.reshape(100, -1), loaded.reshape(100, -1).T, loaded[::-1][::-1]):
        again, size = dump(view, Slot(arena, 2), first.extents)
        assert isinstance(again, Stored)
        assert (again.extents, again.borrowed) == ((), first.extents)
        assert size == len(again.head) < 1000
        same(load(again, arena), view)
    both = stored({"view": loaded[10:], "new": np.ones(BIG)}, slot, first.extents)
    assert both.borrowed == first.extents
    assert len(both.extents) == 1
    assert slot.used_bytes - before < 8 * BIG + 10_000
    np.testing.assert_equal(load(both, arena), {"view": loaded[10:], "new": np.ones(BIG)})


def test_small_views_do_not_keep_large_extents(arena: Arena, slot: Slot) -> None:
    first = stored(np.arange(BIG), slot)
    view = load(first, arena)[: BIG // 3]
    copied = stored(view, slot, first.extents)
    assert copied.borrowed == ()
    slot.arena.array(*first.extents[0])[...] = 0
    np.testing.assert_array_equal(load(copied, arena), np.arange(BIG // 3))
    halves = stored([view, load(first, arena)[BIG // 3 : 2 * BIG // 3]], slot, first.extents)
    assert halves.borrowed == first.extents, "together they are large"


def test_what_the_scheduler_may_free_is_copied(arena: Arena, slot: Slot) -> None:
    loaded = load(stored(np.arange(BIG), slot), arena)
    assert stored(loaded, slot).borrowed == ()


def test_arrays_made_in_the_arena_are_handed_over(arena: Arena, slot: Slot) -> None:
    array = slot.empty((2, BIG), DOUBLES)
    array[...] = [[1], [2]]
    handed, size = dump((array, array[1]), slot)
    assert isinstance(handed, Stored)
    assert handed.extents == ((arena.find(array.ctypes.data), array.nbytes),)
    assert handed.borrowed == ()
    assert array.nbytes < size < array.nbytes + 1000
    assert slot.used_bytes < array.nbytes + 5000
    again = stored(array, slot)
    assert again.extents != handed.extents, "the scheduler has the first, and may free it at any moment"
    assert stored(array, slot, handed.extents).borrowed == handed.extents, "unless it promised not to"
    slot.free([handed.extents[0][0], again.extents[0][0]])
    del array
    assert slot.used_bytes == 0


def test_two_arrays_are_handed_over_together(arena: Arena, slot: Slot) -> None:
    pair = slot.empty((BIG,), DOUBLES), slot.empty((BIG,), DOUBLES)
    pair[0][...], pair[1][...] = 1, 2
    dumped = stored((*pair, np.full(BIG, 3.0)), slot)
    assert len(dumped.extents) == 3
    assert [int(a[0]) for a in load(dumped, arena)] == [1, 2, 3]
    del pair
    slot.free(offset for offset, _ in dumped.extents)
    assert slot.used_bytes == 0


def test_what_the_user_may_change_is_copied(arena: Arena, slot: Slot) -> None:
    array = slot.empty((BIG,), DOUBLES)
    array[...] = 1
    copied = stored(array, slot, copy=True)
    array[...] = 2
    assert load(copied, arena).max() == 1


@pytest.mark.parametrize("n", [1, 100, BIG])
def test_shared_results_are_written_where_they_lie(arena: Arena, slot: Slot, n: int) -> None:
    result = slot.empty((3, n), DOUBLES, shared=True)
    dumped = stored({"sink": result, "small": np.arange(3), "large": np.arange(BIG)}, slot, copy=True)
    assert dumped.shared == (0,)
    assert all(start != arena.find(result.ctypes.data) for start, _ in dumped.extents)
    theirs = load(dumped, arena)
    theirs["sink"][1] = 7
    assert (result[1] == 7).all()
    assert not theirs["large"].flags.writeable
    after = dump(result, slot, copy=True)[0]
    result[1] = 8
    assert load(after, arena)[1, 0] == 7, "later it is the user's, and copied"


def test_nothing_is_kept_of_what_could_not_be_stored(arena: Arena, slot: Slot) -> None:
    array = slot.empty((BIG,), DOUBLES)
    with pytest.raises(MemoryBudgetError):
        dump([array, np.zeros(70 * MB, np.uint8)], slot)
    del array
    gc.collect()
    assert slot.used_bytes == 0


# ---------------------------------------------------------------- functions and what cannot be pickled


def test_functions_of_main_go_by_value(arena: Arena, slot: Slot, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import pickle, sys, numpy as np\n"
        "from tilework.engine.cluster.store import arena, values\n"
        f"slot = arena.Slot(arena.Arena.open({arena.place}), 2)\n"
        "BASE = 100\n"
        "class Thing:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def get(self): return self.x + BASE\n"
        "def add(x): return x + BASE\n"
        "things = [Thing(1), add, (Thing(2), [add]), {'large': np.arange(100_000), 'thing': Thing(3)}]\n"
        "pickle.dump([values.dump(thing, slot)[0] for thing in things], sys.stdout.buffer)\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, check=True)
    thing, add, (other, (same_add,)), large = (load(value, arena) for value in pickle.loads(done.stdout))
    assert (thing.get(), add(1), other.get(), same_add(2)) == (101, 101, 102, 102)
    assert (large["thing"].get(), large["large"].sum()) == (103, sum(range(BIG)))
    assert arena.find(large["large"].ctypes.data) is not None


def test_lambdas_and_modules_by_value(arena: Arena, slot: Slot) -> None:
    large = np.arange(BIG)
    dumped = stored(lambda x: x + large[2], slot)
    assert load(dumped, arena)(1) == 3
    by_name, _ = dump(np.median, slot)
    assert b"median" in by_name
    assert len(by_name) < 100
    cloudpickle.register_pickle_by_value(values)
    try:
        by_value, _ = dump(values.fill, slot)
    finally:
        cloudpickle.unregister_pickle_by_value(values)
    assert len(by_value) > 300


@pytest.mark.parametrize(
    "make",
    [threading.Lock, lambda: [threading.Lock()], lambda: (i for i in range(3))],
    ids=["lock", "list", "generator"],
)
def test_what_cannot_be_pickled_says_what_to_do(slot: Slot, make: Callable[[], Any]) -> None:
    value = make()
    with pytest.raises(TypeError, match="pickle") as caught:
        dump(value, slot)
    (note,) = caught.value.__notes__
    assert type(value).__qualname__ in note
    assert 'scheduler="threads"' in note


def test_inputs_are_filled_in() -> None:
    template = pickle.loads(pickle.dumps((Input(1), [Input(0), {"k": (Input(1), 2)}], "x")))
    assert fill(template, ["zero", "one"]) == ("one", ["zero", {"k": ("one", 2)}], "x")
    assert len(pickle.dumps(Input(3))) < 80


# ---------------------------------------------------------------- scratch space and the spill file


def test_scratch_space_is_passed_on(arena: Arena, slot: Slot, tmp_path: Path) -> None:
    with open(tmp_path / "spill", "w+b") as file:
        arena.spill = file.fileno()
        here = load(Scratch(4096, 100), arena)
        here.write([memoryview(b"hello")], 10)
        dumped, size = dump(here, slot)
        assert (dumped, size) == (Scratch(4096, 100), 0)
        back = bytearray(5)
        load(dumped, arena).read([memoryview(back)], 10)
        assert back == b"hello"
        assert os.pread(file.fileno(), 5, 4106) == b"hello"
        with pytest.raises(InternalError, match="bytes 96 to 101 of a scratch space of 100"):
            here.write([memoryview(b"hello")], 96)
    with pytest.raises(TypeError, match="stays in its process"):
        dump([here], slot)
    with pytest.raises(TypeError, match="stays in its process"):
        dump(ScratchFile(str(tmp_path)), slot)


def test_disks_that_fail(arena: Arena, slot: Slot, tmp_path: Path) -> None:
    value = stored(np.arange(BIG), slot)
    (tmp_path / "file").write_bytes(b"short")
    used = slot.used_bytes
    with open(tmp_path / "file", "rb") as file:
        with pytest.raises(StorageError, match=r"cannot write 781.* KiB to scratch space"):
            write_spill(arena, file.fileno(), value, 0)
        with pytest.raises(StorageError, match=r"cannot read 97\.7 KiB back from scratch space"):
            read_spill(file.fileno(), OnDisk(0, (10, 100_000)), slot)
    assert slot.used_bytes == used


def test_what_is_on_disk_must_be_read_back_first(arena: Arena) -> None:
    with pytest.raises(InternalError, match="must be read back"):
        load(OnDisk(0, (10,)), arena)


# ---------------------------------------------------------------- errors


def raised(function: Callable[..., Any], *args: Any) -> BaseException:
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError


def broken(x: int) -> float:
    try:
        return x / 0
    except ZeroDivisionError as error:
        error.add_note("a note")
        raise KeyError("unknown") from error


def shown(error: BaseException) -> list[str]:
    """As Python prints it, without the marks below expressions."""
    return [line for line in "".join(traceback.format_exception(error)).splitlines() if line.strip(" ^~")]


def test_errors_keep_their_tracebacks_causes_and_notes() -> None:
    error = raised(broken, 1)
    text = shown(error)
    back = load_error(dump_error(error))
    assert shown(back) == text
    assert "    return x / 0" in text
    assert "a note" in text
    assert isinstance(back, KeyError)
    assert isinstance(back.__cause__, ZeroDivisionError)
    again = load_error(dump_error(raised(throw, back)))
    assert "    return x / 0" in shown(again)


def throw(error: BaseException) -> None:
    raise error


def test_groups_of_errors() -> None:
    group = raised(throw, ExceptionGroup("two", [ValueError(1), raised(broken, 1)]))  # type: ignore[list-item]
    back = load_error(dump_error(group))
    assert isinstance(back, ExceptionGroup)
    assert any("return x / 0" in line for line in shown(back))


class TwoArguments(Exception):
    """Its ``args`` are not what its constructor takes."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.b = b


class WithLock(Exception):
    def __init__(self) -> None:
        super().__init__("the message")
        self.lock = threading.Lock()


class NotComingBack(Exception):
    def __reduce__(self) -> Any:
        return divmod, (1, 0)


class NoMessage(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError


class Several(TwoArguments, LookupError):
    """Python is particular about whose ``__new__`` is called for such."""


@pytest.mark.parametrize("kind", [KilledWorker, MemoryBudgetError, StorageError, TaskTimeoutError, UnsupportedError])
def test_our_errors(kind: type[Exception]) -> None:
    back = load_error(dump_error(raised(throw, kind("message"))))
    assert type(back) is kind
    assert str(back) == "message"


def test_constructors_are_not_called_again() -> None:
    several = load_error(dump_error(raised(throw, Several(1, 2))))
    assert isinstance(several, Several)
    assert (str(several), several.b) == ("1 and 2", 2)
    back = load_error(dump_error(raised(throw, TwoArguments(1, 2))))
    assert isinstance(back, TwoArguments)
    assert (str(back), back.b) == ("1 and 2", 2)
    error = load_error(dump_error(raised(open, "/nowhere")))
    assert isinstance(error, FileNotFoundError)
    assert (error.filename, error.errno) == ("/nowhere", 2)


@pytest.mark.parametrize("kind", [WithLock, NotComingBack, NoMessage, lambda: ValueError("x" * values.ERROR_BYTES)])
def test_errors_that_cannot_travel_become_text(kind: Callable[[], Exception]) -> None:
    error = raised(throw, kind())
    back = load_error(dump_error(error))
    assert type(back) is RemoteError
    assert type(error).__qualname__ in str(back)
    assert "raise error" in str(back), "its traceback as text"
    assert "raise error" in "".join(traceback.format_tb(back.__traceback__)), "and as such"
    if kind is WithLock:
        assert "WithLock: the message" in str(back)


def test_errors_of_modules_that_are_not_here(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").write_text("class Special(Exception): pass\ndef go(): raise Special('message')\n")
    code = (
        "import sys; from tilework.engine.cluster.store import values; import elsewhere\n"
        "try: elsewhere.go()\n"
        "except Exception as error: sys.stdout.buffer.write(values.dump_error(error))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    data = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment).stdout
    back = load_error(data)
    assert type(back) is RemoteError
    assert "elsewhere.Special: message" in str(back)
    assert "elsewhere.py" in str(back)
    assert load_error(pickle.dumps((b"", "text"))).args == ("text",)


def test_frames_that_led_to_the_users_function_are_left_out(arena: Arena, slot: Slot) -> None:
    error = raised(load, dump(Unloadable(), slot)[0], arena)
    names = [frame.name for frame in traceback.extract_tb(load_error(dump_error(error)).__traceback__)]
    assert names[0] == "raised"
    within: dict[str, Any] = {"__name__": "tilework.engine.x", "throw": throw}
    exec("def run(error): throw(error)", within)
    inner = raised(within["run"], ValueError())
    inner.__traceback__ = inner.__traceback__.tb_next if inner.__traceback__ else None
    names = [frame.name for frame in traceback.extract_tb(load_error(dump_error(inner)).__traceback__)]
    assert names == ["throw"]
