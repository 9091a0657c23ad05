"""NumPy's functions on lazy arrays: found, or refused with a remedy; never computed behind the user's back."""

import inspect

import numpy as np
import pytest

import tilework.array as ta
from tilework.array import dispatch
from tilework.base.errors import UnsupportedError
from tilework.diagnostics.listeners import Observer
from tilework.testing import assert_eq


@pytest.fixture
def x():
    return ta.from_array(np.arange(12.0).reshape(3, 4), chunks=2)


class Runs(Observer):
    """Counts computations."""

    def __init__(self):
        self.count = 0

    def start_run(self):
        self.count += 1
        return lambda event: None


# ---------------------------------------------------------------- all of NumPy


MODULES = (np, np.char, np.fft, np.lib.scimath, np.lib.stride_tricks, np.linalg, np.polynomial.polynomial, np.strings)


def dispatched():
    """Every public function of NumPy's that asks its arguments for ``__array_function__``, with its full name."""
    found = {}
    for module in MODULES:
        for name in dir(module):
            if not name.startswith("_") and isinstance(getattr(module, name), type(np.mean)):
                found.setdefault(getattr(module, name), f"{module.__name__}.{name}")
    return sorted((name, function) for function, name in found.items())


LINE, TABLE, SQUARE = np.array([3.0, 1, 2, 5]), np.arange(12.0).reshape(3, 4) - 3, np.array([[2.0, 1], [1, 3]])
WHOLE, WORDS, CUBE = np.array([1, 0, 2, 1]), np.array(["one", "two"]), np.arange(24).reshape(2, 3, 4)
DAYS = np.array(["2000-01-03", "2000-01-05"], "M8[D]")

GENERAL = [
    lambda put: (put(LINE),),
    lambda put: (put(TABLE),),
    lambda put: (put(SQUARE),),
    lambda put: (put(WHOLE),),
    lambda put: (put(WORDS),),
    lambda put: (put(TABLE) > 2,),
    lambda put: (put(LINE), put(LINE)),
    lambda put: (put(SQUARE), put(SQUARE)),
    lambda put: (put(WHOLE), put(WHOLE)),
    lambda put: (put(WORDS), put(WORDS)),
    lambda put: (put(TABLE), 0),
    lambda put: (put(LINE), 2),
    lambda put: (put(WORDS), 5),
    lambda put: (put(LINE), [0, 1]),
    lambda put: (put(TABLE), (4, 3)),
    lambda put: (put(TABLE), 0, 1),
    lambda put: (put(TABLE) > 2, put(TABLE)),
    lambda put: (put(TABLE) > 2, put(TABLE), 0),
    lambda put: (put(LINE), [0], 9.0),
    lambda put: (put(WHOLE), (3, 4)),
    lambda put: (put(LINE), put(LINE), put(LINE)),
]
"""Arguments that some functions take and others refuse; ``put`` makes an array lazy."""

JOINING = "block column_stack concat concatenate dstack hstack stack vstack"
PARTICULAR = {f"numpy.{name}": lambda put: ([put(LINE), put(LINE)],) for name in JOINING.split()} | {
    "numpy.apply_along_axis": lambda put: (np.sum, 0, put(TABLE)),
    "numpy.apply_over_axes": lambda put: (np.sum, put(TABLE), 0),
    "numpy.astype": lambda put: (put(LINE), int),
    "numpy.busday_count": lambda put: (put(DAYS), put(DAYS)),
    "numpy.busday_offset": lambda put: (put(DAYS), 1, "forward"),
    "numpy.can_cast": lambda put: (put(LINE).dtype, int),
    "numpy.char.decode": lambda put: (put(WORDS.astype("S")),),
    "numpy.char.replace": lambda put: (put(WORDS), "o", "e"),
    "numpy.choose": lambda put: (put(WHOLE), [put(LINE), put(LINE), 0]),
    "numpy.datetime_as_string": lambda put: (put(DAYS),),
    "numpy.dsplit": lambda put: (put(CUBE), 2),
    "numpy.einsum": lambda put: ("ij->j", put(TABLE)),
    "numpy.einsum_path": lambda put: ("ij->j", put(TABLE)),
    "numpy.full_like": lambda put: (put(LINE), 3),
    "numpy.histogram": lambda put: (put(LINE), 3, (0, 5)),
    "numpy.is_busday": lambda put: (put(DAYS),),
    "numpy.linalg.cross": lambda put: (put(LINE[:3]), put(LINE[:3])),
    "numpy.linalg.lstsq": lambda put: (put(SQUARE), put(SQUARE)),
    "numpy.linalg.matrix_power": lambda put: (put(SQUARE), 2),
    "numpy.linalg.multi_dot": lambda put: ([put(SQUARE), put(SQUARE)],),
    "numpy.linalg.tensorinv": lambda put: (put(np.eye(4).reshape(2, 2, 2, 2)),),
    "numpy.linalg.tensorsolve": lambda put: (put(np.eye(4).reshape(2, 2, 2, 2)), put(SQUARE)),
    "numpy.moveaxis": lambda put: (put(TABLE), 0, 1),
    "numpy.piecewise": lambda put: (put(LINE), [put(LINE) < 2], [1, 0]),
    "numpy.polynomial.polynomial.polygrid2d": lambda put: (put(LINE), put(LINE), put(SQUARE)),
    "numpy.polyfit": lambda put: (put(LINE), put(LINE), 1),
    "numpy.put_along_axis": lambda put: (put(LINE), put(WHOLE), 0, 0),
    "numpy.ravel_multi_index": lambda put: ((put(WHOLE), put(WHOLE)), (3, 3)),
    "numpy.save": lambda put: ("never-written.npy", put(LINE)),
    "numpy.savetxt": lambda put: ("never-written.txt", put(LINE)),
    "numpy.savez": lambda put: ("never-written.npz", put(LINE)),
    "numpy.savez_compressed": lambda put: ("never-written.npz", put(LINE)),
    "numpy.lexsort": lambda put: ((put(LINE), put(LINE)),),
    "numpy.lib.stride_tricks.sliding_window_view": lambda put: (put(LINE), 2),
    "numpy.select": lambda put: ([put(LINE) > 2], [put(LINE)]),
    "numpy.take_along_axis": lambda put: (put(LINE), put(WHOLE), 0),
    "numpy.tensordot": lambda put: (put(SQUARE), put(SQUARE)),
    "numpy.unpackbits": lambda put: (put(WHOLE.astype(np.uint8)),),
    "numpy.char.join": lambda put: (",", put(WORDS)),
    "numpy.strings.decode": lambda put: (put(WORDS.astype("S")),),
    "numpy.strings.replace": lambda put: (put(WORDS), "o", "e"),
}
"""Arguments for what none of the general ones suits."""

ANSWERS = (bool, int, float, complex, str, np.dtype, type, slice, np.generic)
"""What is known without computing: shapes, dtypes, numbers of axes, whether types can be cast."""

REFUSED = object()
WITH_EDGES = {"numpy.histogram", "numpy.histogram2d", "numpy.histogramdd"}
"""Return edges as well, which were given."""


def is_lazy(result):
    if isinstance(result, list | tuple):
        return all(map(is_lazy, result))
    return result is None or isinstance(result, (ta.Array, *ANSWERS))


def facts(result):
    """Shapes and dtypes of what is in a result."""
    if isinstance(result, list | tuple):
        return [facts(part) for part in result]
    return (np.shape(result), getattr(result, "dtype", type(result)))


def agree(mine, theirs):
    if isinstance(mine, list) or isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(agree, mine, theirs))
    return len(mine[0]) == len(theirs[0]) and all(n != n or n == m for n, m in zip(mine[0], theirs[0], strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "function"), dispatched(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_function_is_lazy_or_refused(name, function):
    tried = 0
    for arguments in [PARTICULAR[name]] if name in PARTICULAR else GENERAL:
        if not name.startswith("numpy.save"):
            try:
                expected = function(*arguments(lambda a: a.copy()))
            except Exception:
                continue  # NumPy refuses these arguments as well
        given = arguments(lambda a: ta.from_array(a, chunks=2))
        tried += 1
        with Runs() as runs:
            try:
                result = function(*given)
            except NotImplementedError:
                result = REFUSED
        assert runs.count == 0, f"{name} computed {given}"
        if result is REFUSED:
            continue
        assert is_lazy(result[0] if name in WITH_EDGES else result), f"{name} returned {result!r}"
        assert agree(facts(result), facts(expected)), f"{name}: {result} where NumPy has {expected!r}"
    assert tried, f"none of the arguments suits {name}: give it some"


# ---------------------------------------------------------------- found, and refused


def test_namesakes_stand_for_each_other(x):
    for theirs, mine in dispatch.FUNCTIONS.items():
        if theirs.__module__ not in ("numpy.fft", "numpy.linalg"):  # whose namesakes have namespaces of their own
            assert getattr(ta, theirs.__name__, None) is mine or theirs.__name__ in dir(np.lib.stride_tricks), theirs
    assert_eq(np.mean(x, axis=0), np.mean(x.compute(), axis=0))
    assert np.shape(x) == (3, 4)
    assert np.result_type(x, np.complex64) == np.complex128
    assert np.can_cast(x.dtype, "complex128")
    assert not np.iscomplexobj(x)
    assert ta.isrealobj(x)
    assert ta.finfo(x).bits == 64
    assert ta.iinfo(x.astype("int8")).bits == 8


@pytest.mark.parametrize(
    "name", ["sum", "max", "any", "mean", "std", "nanvar", "argmax", "cumsum", "diff", "roll", "full_like"]
)
def test_parameters_stand_in_the_order_of_numpy(name):
    mine, theirs = (list(inspect.signature(getattr(module, name)).parameters) for module in (ta, np))
    assert [p for p in mine if p in theirs] == [p for p in theirs if p in mine]


def test_remedies_are_for_what_is_missing():
    names = {function.__name__ for function in dispatch.FUNCTIONS if function.__module__ != "numpy.linalg"}
    modules = {"linalg"}
    assert not (set(dispatch._NEAREST) - modules) & names


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda x: np.put(x, [0], 1), "x\\[index\\] = value"),
        (lambda x: np.copyto(x, 1), "where"),
        (lambda x: np.copyto(np.zeros((3, 4)), x), "compute"),
        (lambda x: np.lexsort((x, x)), "compute"),
        (lambda x: np.sum(x, nonsense=1), "unexpected keyword"),
    ],
)
def test_what_is_missing_is_refused_with_a_remedy(x, call, remedy):
    with Runs() as runs, pytest.raises((UnsupportedError, TypeError), match=remedy):
        call(x)
    assert runs.count == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.add.at(x, [0], 1),
        lambda x: np.add.at(np.zeros((3, 4)), [0], x),
        lambda x: np.add.reduceat(x, [0, 1]),
        lambda x: np.subtract.reduce(x),
        lambda x: np.divide.accumulate(x),
        lambda x: np.add.accumulate(x, where=x > 1),
        lambda x: np.add(x, 1, extobj=[1]),
        lambda x: np.add(x, x, out=np.zeros((3, 4))),
        lambda x: np.add(np.zeros((3, 4)), 1, out=np.zeros((3, 4)), where=x > 2),
    ],
)
def test_what_ufuncs_cannot_do_lazily(x, call):
    with Runs() as runs, pytest.raises((UnsupportedError, TypeError)):
        call(x)
    assert runs.count == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda x, i: np.split(x, i),
        lambda x, i: np.delete(x, i, 0),
        lambda x, i: np.insert(x, i, 0, 0),
        lambda x, i: np.roll(x, i),
        lambda x, i: np.tile(x, i),
        lambda x, i: np.pad(x, i),
        lambda x, i: np.digitize(x, i),
        lambda x, i: np.nan_to_num(x, nan=i),
    ],
)
def test_what_decides_about_shapes_cannot_be_lazy(x, call):
    with Runs() as runs, pytest.raises(UnsupportedError, match="compute"):
        call(x, ta.arange(1, 3))
    assert runs.count == 0


def test_options_that_numpy_has_and_we_have_not(x):
    with pytest.raises(UnsupportedError, match=r"numpy\.cumulative_sum|numpy\.unique"):
        np.unique(x, axis=0)


def test_other_libraries_come_first(x):
    class Stranger:
        def __array_function__(self, func, types, args, kwargs):
            return "mine"

    assert np.concatenate([x, Stranger()]) == "mine"
