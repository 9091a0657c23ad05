from __future__ import annotations

import collections
import copy
import datetime
import decimal
import enum
import functools
import gc
import operator
import os
import pathlib
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from tilework.base import tokens
from tilework.base.tokens import identity_token, tokenize, unique_token


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int


@dataclass
class Holder:
    data: Any


class Plain:
    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)

    def method(self) -> None: ...


class Knows:
    def __init__(self, key: Any) -> None:
        self.key = key

    def __tilework_token__(self) -> Any:
        return self.key


def function(x: Any) -> Any:
    return x


def other_function(x: Any) -> Any:
    return x


STRUCTURED = np.dtype([("a", "i4"), ("b", "f8", (2,))])

# One maker per value: it is called twice, so equal tokens cannot come from identity.
DIFFERENT: list[Callable[[], Any]] = [
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: ...,
    lambda: 1,
    lambda: 2,
    lambda: 1.0,
    lambda: 0.0,
    lambda: -0.0,
    lambda: 1 + 0j,
    lambda: "1",
    lambda: "",
    lambda: "\udcff",  # no valid UTF-8
    lambda: "None",
    lambda: b"1",
    lambda: bytearray(b"1"),
    lambda: b"x" * 100,
    lambda: bytearray(b"x" * 100),
    lambda: (),
    lambda: (1,),
    lambda: (1, 2),
    lambda: ((1,), 2),
    lambda: (1, (2,)),
    lambda: [1, 2],
    lambda: "1,2",
    lambda: {1, 2},
    lambda: frozenset({1, 2}),
    lambda: {1: 2},
    lambda: {1: 2, 3: 4},
    lambda: {1: 4, 3: 2},
    lambda: collections.OrderedDict({1: 2}),
    lambda: collections.Counter("aab"),
    lambda: collections.deque([1, 2]),
    lambda: slice(1, 2),
    lambda: slice(1, 2, None),
    lambda: slice(None, 2),
    lambda: range(3),
    lambda: np.int64(1),
    lambda: np.int32(1),
    lambda: np.float64(1),
    lambda: np.bool_(True),
    lambda: np.str_("1"),
    lambda: np.datetime64("2000-01-01"),
    lambda: np.datetime64("2000-01-01", "ns"),
    lambda: np.datetime64("NaT"),
    lambda: np.zeros(1, STRUCTURED)[0],
    lambda: np.dtype("f4"),
    lambda: np.dtype(">f4"),
    lambda: np.dtype("M8[s]"),
    lambda: np.dtype("U4"),
    lambda: np.dtype(object),
    lambda: STRUCTURED,
    lambda: np.dtype([("a", "i4"), ("c", "f8", (2,))]),
    lambda: np.dtypes.StringDType(),
    lambda: np.dtypes.StringDType(na_object=None),
    lambda: np.arange(4),
    lambda: np.arange(4).reshape(2, 2),
    lambda: np.arange(4.0),
    lambda: np.arange(5)[:4] + 1,
    lambda: np.array(1),
    lambda: np.array([1, "a", None], dtype=object),
    lambda: np.array(["a", "bc" * 20], dtype=np.dtypes.StringDType()),
    lambda: np.array(["a", "bd" * 20], dtype=np.dtypes.StringDType()),
    lambda: np.random.default_rng(0),
    lambda: np.random.default_rng(1),
    lambda: np.random.SeedSequence(0),
    lambda: np.add,
    lambda: np.multiply,
    lambda: np.sum,
    lambda: np.mean,
    lambda: scipy.special.gamma,
    lambda: operator.add,
    lambda: operator.itemgetter(1),
    lambda: operator.methodcaller("sum", axis=0),
    lambda: len,
    lambda: str.upper,
    lambda: "a".upper,
    lambda: "b".upper,
    lambda: int,
    lambda: np.ndarray,
    lambda: function,
    lambda: other_function,
    lambda: functools.partial(function, 1),
    lambda: functools.partial(function, 2),
    lambda: functools.partial(other_function, 1),
    lambda: Plain(a=1).method,
    lambda: Plain(a=2).method,
    lambda: Color.RED,
    lambda: Color.BLUE,
    lambda: Color,
    lambda: Point(1, 2),
    lambda: Point(2, 1),
    lambda: Plain(a=1),
    lambda: Plain(a=2),
    lambda: Plain(token="same", a=1),
    lambda: Plain(token="same", a=2),
    lambda: Knows(1),
    lambda: Knows(2),
    lambda: np,
    lambda: datetime.datetime(2000, 1, 1),
    lambda: datetime.date(2000, 1, 1),
    lambda: datetime.timedelta(1),
    lambda: decimal.Decimal("1"),
    lambda: uuid.UUID(int=1),
    lambda: pathlib.PurePosixPath("/a"),
    lambda: re.compile("a"),
    lambda: re.compile("a", re.IGNORECASE),
    lambda: pd.Timestamp("2000-01-01"),
    lambda: iter([1, 2]),
]


def test_equal_values_have_equal_tokens_and_different_values_different_ones() -> None:
    seen: dict[str, Any] = {}
    for make in DIFFERENT:
        value = make()
        token = tokenize(value)
        assert token == tokenize(make()), value
        if isinstance(value, slice) and value == slice(1, 2):
            seen.pop(token, None)  # written in two ways
        assert token not in seen, (value, seen.get(token))
        seen[token] = value


def test_nan_is_itself() -> None:
    assert tokenize(float("nan")) == tokenize(float("nan"))


def test_form() -> None:
    assert re.fullmatch("[0-9a-f]{32}", tokenize())
    assert tokenize(1, 2) != tokenize((1, 2))
    assert tokenize(1, 2) != tokenize(12)


SIMPLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
NESTED = st.recursive(
    SIMPLE,
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner) | st.frozensets(SIMPLE)
    ),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """A description that is equal exactly for values of equal type and content."""
    if isinstance(value, list | tuple):
        return type(value), tuple(typed(v) for v in value)
    if isinstance(value, dict):
        return dict, frozenset((typed(k), typed(v)) for k, v in value.items())
    if isinstance(value, frozenset):
        return frozenset, frozenset(typed(v) for v in value)
    return type(value), repr(value)


@given(NESTED, NESTED)
def test_tokens_are_equal_exactly_for_equal_values(a: Any, b: Any) -> None:
    assert (tokenize(a) == tokenize(b)) == (typed(a) == typed(b))
    assert tokenize(a) == tokenize(copy.deepcopy(a))


def test_order_of_dicts_and_sets_does_not_matter() -> None:
    assert tokenize({"a": 1, "b": 2}) == tokenize({"b": 2, "a": 1})
    assert tokenize({"a", "b", "c"}) == tokenize({"c", "b", "a"})


def test_tokens_are_the_same_in_other_processes() -> None:
    code = """
import functools, operator, numpy as np, datetime
from tilework.base.tokens import tokenize
def local(x, y=2): return x + y
print(tokenize(1, "a", {"b", "c", "d"}, {"x": np.arange(3)}, np.float32(2), np.dtype("f4"), np.add, np.sum, slice(1),
      operator.add, functools.partial(np.mean, axis=0), datetime.date(2000, 1, 1), local, lambda x: x in {"p", "q"}))
"""
    seen = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=pathlib.Path(__file__).parents[2],
        )
        seen.add(done.stdout)
    assert len(seen) == 1


# ---------------------------------------------------------------- arrays


def test_large_arrays_are_told_apart_by_identity_and_their_bytes_never_read() -> None:
    class Unreadable(np.ndarray):
        def tobytes(self, *args: Any, **kwargs: Any) -> bytes:
            raise AssertionError("read")

        __reduce_ex__ = __reduce__ = __array__ = tobytes  # type: ignore[assignment]

    for cls in (np.ndarray, Unreadable):
        a, b = np.zeros(10_000).view(cls), np.zeros(10_000).view(cls)
        assert tokenize(a) == tokenize(a)
        assert tokenize(a) != tokenize(b)
        assert tokenize(Holder(a)) == tokenize(Holder(a)) != tokenize(Holder(b))


def test_views_of_a_large_array_differ() -> None:
    a = np.zeros((100, 1000))
    views = a, a[:50], a[50:], a.T, a.view("i8")
    assert len({tokenize(v) for v in views}) == len(views)


def test_small_arrays_are_told_apart_by_value_whatever_their_layout() -> None:
    a = np.arange(6).reshape(2, 3)
    assert tokenize(a) == tokenize(np.asfortranarray(a)) == tokenize(a[::-1][::-1])
    assert tokenize(a) != tokenize(a.astype(">i8"))


# ---------------------------------------------------------------- functions


def test_lambdas_are_told_apart_by_what_they_do() -> None:
    def make(n: int) -> Any:
        return lambda x, y=1: x + y + n

    assert tokenize(make(1)) == tokenize(make(1)) != tokenize(make(2))
    assert tokenize(lambda x: x + 1) != tokenize(lambda x: x + 2)
    assert tokenize(lambda x: x.real) != tokenize(lambda x: x.imag)
    assert tokenize(lambda x, y=1: x) != tokenize(lambda x, y=2: x)
    assert tokenize(lambda x, *, y=1: x) != tokenize(lambda x, *, y=2: x)


def test_functions_inside_functions_count() -> None:
    def make(n: int) -> Any:
        if n == 1:
            return lambda: lambda: 1
        return lambda: lambda: 2

    assert tokenize(make(1)) != tokenize(make(2))


def test_closures_over_large_arrays_and_over_themselves() -> None:
    def make(data: np.ndarray) -> Any:
        def recursive(n: int) -> Any:
            return data if n == 0 else recursive(n - 1)

        return recursive

    a, b = np.zeros(10_000), np.zeros(10_000)
    assert tokenize(make(a)) == tokenize(make(a)) != tokenize(make(b))


def test_a_cell_that_is_not_assigned_yet() -> None:
    def early() -> Any:
        return late

    token = tokenize(early)
    late = 3
    assert tokenize(early) != token
    assert early() == late


def test_a_function_that_is_bound_anew_is_another() -> None:
    # As in a notebook, where a cell is run again with other code under the same name.
    module: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(x): return x + 1", module)
    first = module["f"]
    exec("def f(x): return x + 2", module)
    assert tokenize(first) != tokenize(module["f"])


def test_a_wrapper_is_not_what_it_wraps() -> None:
    @functools.wraps(function)
    def wrapper(x: Any) -> Any:
        return -x

    assert tokenize(wrapper) != tokenize(function)


def test_local_classes_are_told_apart() -> None:
    def make() -> type:
        class Local:
            pass

        return Local

    a, b = make(), make()
    assert tokenize(a) == tokenize(a) != tokenize(b)
    assert tokenize(a()) == tokenize(a()) != tokenize(b())


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in ()), lambda: open(os.devnull)])  # noqa: SIM115
def test_what_has_no_value_is_told_apart_by_identity(make: Callable[[], Any]) -> None:
    a, b = make(), make()
    assert tokenize(a) == tokenize(a) != tokenize(b)


@pytest.mark.parametrize("make", [object, lambda: np.frompyfunc(function, 1, 1)])
def test_what_has_not_even_a_lasting_identity_is_never_merged(make: Callable[[], Any]) -> None:
    a, b = make(), make()  # neither can be weakly referenced
    assert len({tokenize(a), tokenize(a), tokenize(b)}) == 3


def test_identity_is_never_used_twice() -> None:
    seen = set()
    for _ in range(100):  # ids are recycled at once
        token = tokenize(np.zeros(1000))
        assert token not in seen
        seen.add(token)


def test_identities_die_with_their_objects() -> None:
    gc.collect()
    before = len(tokens._identities)
    kept = [np.zeros(1000) for _ in range(50)]
    first = [identity_token(a) for a in kept]
    assert len(tokens._identities) == before + 50
    assert [identity_token(a) for a in kept] == first
    del kept
    gc.collect()
    assert len(tokens._identities) == before


def test_two_threads_give_an_object_one_identity() -> None:
    for _ in range(50):
        obj, barrier, seen = np.zeros(1000), threading.Barrier(4), []

        def ask(obj: Any = obj, barrier: threading.Barrier = barrier, seen: list[str] = seen) -> None:
            barrier.wait()
            seen.append(identity_token(obj))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(seen)) == 1


def test_what_cannot_be_weakly_referenced_is_new_each_time() -> None:
    assert identity_token((1, 2)) != identity_token((1, 2))


def test_unique_tokens() -> None:
    made = {unique_token("call") for _ in range(1000)}
    assert len(made) == 1000
    assert all(token.startswith("call-") for token in made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_makes_other_tokens() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, unique_token("x").encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 1000).decode()
    os.close(read)
    os.close(write)
    assert theirs.split("-")[1] != unique_token("x").split("-")[1]


def test_a_value_that_contains_itself_gets_a_token() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert tokenize(loop) != tokenize(loop)  # never merged, never wrong


def test_foreign_token_attributes_are_not_trusted_and_our_own_are() -> None:
    theirs = Plain(token="secret")
    assert tokenize(theirs) != tokenize(Plain(token="secret", more=1))
    ours = type("Ours", (), {"__module__": "tilework.plan.ops"})
    a, b = ours(), ours()
    a.token = b.token = "add-123"
    b.more = 1
    assert tokenize(a) == tokenize(b)
