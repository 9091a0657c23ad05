from __future__ import annotations

import copy
import operator
import pickle
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilework as tw
from tilework.base.errors import PlanError
from tilework.delayed import Delayed, delayed
from tilework.plan.graph import topological
from tilework.plan.ops import Call, Slot, Whole
from tilework.session import compute, is_tilework_collection, persist

ROOT = Path(__file__).parents[1]
DEEP = 100_000  # far beyond the recursion limit


def inc(x: Any) -> Any:
    return x + 1


def double(x: Any) -> Any:
    return x * 2


def add(x: Any, y: Any) -> Any:
    return x + y


def identity(x: Any) -> Any:
    return x


def arguments(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


class Counting:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any) -> int:
        self.calls += 1
        return self.calls


Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    inner: Any = None


@dataclass
class Computed:
    x: Any
    twice: Any = field(init=False)

    def __post_init__(self) -> None:
        self.twice = self.x * 2


@dataclass(init=False)
class OwnInit:
    x: Any

    def __init__(self, *, whatever: Any) -> None:
        self.x = whatever


def call_of(d: Delayed) -> Call:
    assert isinstance(d.node, Call)
    return d.node


# ---------------------------------------------------------------- programs of a tutorial


def test_a_call_is_recorded_and_computed_later() -> None:
    counting = Counting()
    lazy = delayed(counting)()
    assert counting.calls == 0
    assert lazy.compute() == 1
    assert counting.calls == 1


def test_inc_double_add_loop() -> None:
    data = [1, 2, 3, 4, 5]
    output = []
    for x in data:
        a = delayed(inc)(x)
        b = delayed(double)(x)
        c = delayed(add)(a, b)
        output.append(c)
    total = delayed(sum)(output)
    assert total.compute() == 50


def test_decorators() -> None:
    @delayed
    def plain(x: int) -> int:
        "Adds one."
        return x + 1

    @delayed(pure=True)
    def pure(x: int) -> int:
        return x + 1

    @delayed(nout=2)
    def both(x: int) -> tuple[int, int]:
        return x, x + 1

    a, b = both(plain(pure(1)))
    assert compute(a, b) == (3, 4)
    assert plain.__name__ == "plain"
    assert plain.__doc__ == "Adds one."
    assert plain.__wrapped__(1) == 2


def test_control_flow_on_known_values() -> None:
    results = [delayed(double)(x) if x % 2 == 0 else delayed(inc)(x) for x in range(10)]
    assert delayed(sum)(results).compute() == sum(double(x) if x % 2 == 0 else inc(x) for x in range(10))


def test_operators_on_results_replace_a_sum() -> None:
    total: Any = 0
    for x in range(5):
        total = total + delayed(inc)(x)
    assert total.compute() == 15
    assert sum(delayed(inc)(x) for x in range(5)).compute() == 15  # type: ignore[attr-defined]


def test_compute_of_several_runs_shared_work_once() -> None:
    counting = Counting()
    shared = delayed(counting)()
    assert compute(shared + 1, shared * 10, [shared, {"again": shared}]) == (2, 10, [1, {"again": 1}])
    assert counting.calls == 1


def test_persist_computes_once() -> None:
    counting = Counting()
    lazy = delayed(counting)()
    kept = lazy.persist()
    assert isinstance(kept, Delayed)
    assert (kept + 1).compute() == 2
    assert kept.compute() == 1
    assert counting.calls == 1
    (again,) = persist(lazy + 1)
    assert again.compute() == 3


def test_explain_counts_tasks() -> None:
    assert "2 tasks" in str((delayed(inc)(1) + 1).explain())


def test_persist_keeps_nout() -> None:
    a, b = delayed(divmod, nout=2)(17, 5).persist()
    assert compute(a, b) == (3, 2)


def test_methods_and_attributes() -> None:
    class Account:
        def __init__(self, balance: float) -> None:
            self.balance = balance
            self.parts = {"cash": [balance, 0]}

        def with_interest(self, rate: float, *, years: int = 1) -> Account:
            return Account(self.balance * (1 + rate) ** years)

    account = delayed(Account)(100)
    grown = account.with_interest(delayed(float)("0.5"), years=delayed(inc)(1))
    assert grown.balance.compute() == 225
    assert grown.parts["cash"][0].compute() == 225
    assert grown.balance.as_integer_ratio()[0].compute() == 225
    method = grown.with_interest  # used as a value, not called here
    assert delayed(lambda f: f(1).balance)(method).compute() == 450


def test_missing_attribute_is_noticed_when_computed() -> None:
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        delayed(3).missing.compute()


def test_error_in_a_function_keeps_its_class() -> None:
    def bad(x: int) -> float:
        return 1 / x

    with pytest.raises(ZeroDivisionError) as caught:
        (delayed(bad)(0) + 1).compute()
    assert any(entry.name == "bad" for entry in caught.traceback)


def test_classes_partials_builtins_and_callables() -> None:
    assert delayed(list)((1, delayed(inc)(1))).compute() == [1, 2]
    assert delayed(partial(add, 1))(delayed(2)).compute() == 3
    assert delayed(max)(1, delayed(inc)(4), 2).compute() == 5
    assert delayed(operator.itemgetter(1))([1, delayed(inc)(4)]).compute() == 5
    assert delayed(np.add)(delayed(1), 2).compute() == 3


def test_plain_values_and_containers() -> None:
    value = object()
    assert delayed(value).compute() is value
    assert delayed(None).compute() is None
    assert delayed([1, 2, 3])[1].compute() == 2
    lazy = delayed({"a": delayed(inc)(1), "b": [delayed(inc)(2), 7]})
    assert lazy.compute() == {"a": 2, "b": [3, 7]}
    a, b = delayed([delayed(inc)(1), 5], nout=2)
    assert compute(a, b) == (2, 5)


def test_delayed_of_a_delayed_is_itself() -> None:
    lazy = delayed(inc)(1)
    assert delayed(lazy) is lazy


def test_calling_a_result() -> None:
    adder = delayed(lambda n: lambda x, *, scale=1: (x + n) * scale)(3)
    assert adder(delayed(4)).compute() == 7
    assert adder(4, scale=delayed(inc)(1)).compute() == 14
    assert call_of(adder(4)).label == "apply"


def test_delayed_methods_of_classes() -> None:
    class Model:
        factor = 3

        @delayed
        def scale(self, x: int) -> int:
            return self.factor * x

    assert Model().scale(delayed(inc)(1)).compute() == 6  # type: ignore[operator]
    assert isinstance(Model.scale, Delayed)


# ---------------------------------------------------------------- arguments


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        keys = st.text("abc", max_size=2) | st.tuples(st.integers(0, 3), st.booleans())
        return (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(keys, inner, max_size=3)
            | st.builds(Point, inner, inner)
            | st.builds(Frozen, inner, inner)
            | st.builds(Pair, inner, inner)
            | st.builds(slice, inner, inner, inner)
        )

    return st.recursive(leaves, deeper, max_leaves=8)


def lazily(value: Any, lazy: Callable[[int], bool]) -> Any:
    """The value with some of its integers delayed."""
    kind = type(value)
    if kind is int:
        return delayed(identity)(value) if lazy(value) else value
    if kind in (list, tuple):
        return kind([lazily(v, lazy) for v in value])
    if kind is Pair:
        return Pair(*[lazily(v, lazy) for v in value])
    if kind is dict:
        return {k: lazily(v, lazy) for k, v in value.items()}
    if kind is slice:
        return slice(*[lazily(v, lazy) for v in (value.start, value.stop, value.step)])
    if kind in (Point, Frozen):
        return kind(*[lazily(getattr(value, name), lazy) for name in kind.__dataclass_fields__])
    return value


@given(nested(st.integers(0, 99) | st.none() | st.text(max_size=2)), st.integers(1, 3))
def test_lazy_values_are_found_at_any_depth(value: Any, every: int) -> None:
    argument = lazily(value, lambda n: n % every == 0)
    args, kwargs = delayed(arguments)(argument, 5, keyword=argument).compute(scheduler="sync")
    assert args == (value, 5)
    assert kwargs == {"keyword": value}
    assert delayed(argument).compute(scheduler="sync") == value


def test_sets_and_keys_of_dicts() -> None:
    one, two = delayed(inc)(0), delayed(inc)(1)
    assert delayed(identity)({one, two, 3}).compute() == {1, 2, 3}
    assert delayed(identity)(frozenset([one, two])).compute() == frozenset([1, 2])
    assert delayed(identity)({one: two, (two, 5): [one]}).compute() == {1: 2, (2, 5): [1]}


@pytest.mark.parametrize("kind", [list, tuple, set])
def test_iterators_over_containers(kind: Any) -> None:
    iterator = iter(kind([delayed(inc)(0), delayed(inc)(1)]))
    assert sorted(delayed(list)(iterator).compute()) == [1, 2]


def test_dataclasses_are_filled_whatever_their_init() -> None:
    three = delayed(inc)(2)
    computed = delayed(identity)(Computed(three)).compute()
    assert (computed.x, computed.twice) == (3, 6)
    own = delayed(identity)(OwnInit(whatever=[three])).compute()
    assert own.x == [3]
    original = Point(three)
    delayed(identity)(original).compute()
    assert original.x is three  # what the user holds is not touched


def test_containers_without_lazy_things_arrive_as_they_are() -> None:
    for value in ([1, [2]], (1, (2,)), {"a": [1]}, {1}, Point(1), Pair(1, 2), slice(1, 2), np.zeros(2)):
        assert call_of(delayed(identity)(value)).args[0] is value


def test_traverse_false_does_not_look_inside() -> None:
    inner = delayed(inc)(1)
    value = [inner]
    lazy = delayed(value, traverse=False)
    assert lazy.compute() is value
    assert delayed(inner, traverse=False) is inner


def test_many_inputs() -> None:
    parts = [delayed(inc)(i) for i in range(200)]
    assert delayed(arguments)(*parts).compute() == (tuple(range(1, 201)), {})
    assert delayed(sum)(parts).compute() == sum(range(1, 201))


def test_arrays_arrive_as_one_numpy_array() -> None:
    import tilework.array as ta

    data = np.arange(12.0).reshape(3, 4)
    array = ta.from_array(data, chunks=(2, 3))
    args, _ = delayed(arguments)(array + 1, [array]).compute()
    assert type(args[0]) is np.ndarray
    np.testing.assert_array_equal(args[0], data + 1)
    np.testing.assert_array_equal(args[1][0], data)
    np.testing.assert_array_equal(delayed(array).compute(), data)
    assert delayed(array).sum().compute() == data.sum()
    assert isinstance(call_of(delayed(identity)(array)).inputs[0], Whole)


# ---------------------------------------------------------------- operators

BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow, divmod,
    operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor,
    operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
]  # fmt: skip


@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.__name__)
def test_binary_operators(op: Callable[[Any, Any], Any]) -> None:
    seven, two = delayed(identity)(7), delayed(identity)(2)
    assert op(seven, two).compute() == op(7, 2)
    assert op(seven, 2).compute() == op(7, 2)
    assert op(7, two).compute() == op(7, 2)


@pytest.mark.parametrize("op", [operator.neg, operator.pos, operator.abs, operator.invert, round])
def test_unary_operators(op: Callable[[Any], Any]) -> None:
    assert op(delayed(identity)(-7)).compute() == op(-7)


def test_matmul_and_numpy_operands() -> None:
    a, b = np.arange(4.0).reshape(2, 2), np.arange(2.0)
    lazy_a, lazy_b = delayed(a), delayed(b)
    for got, expected in [
        (lazy_a @ lazy_b, a @ b),
        (lazy_a @ b, a @ b),
        (a @ lazy_b, a @ b),
        (a - lazy_b, a - b),
        (np.float64(2) * lazy_b, 2 * b),
        (np.sin(lazy_a), np.sin(a)),
        (np.add.reduce(lazy_a), a.sum(axis=0)),
        (b > lazy_b, b > b),
    ]:
        assert isinstance(got, Delayed)
        np.testing.assert_array_equal(got.compute(), expected)


def test_numpy_does_not_take_a_delayed_apart() -> None:
    with pytest.raises((TypeError, ValueError)):
        np.dtype(delayed(1))


def test_indexing() -> None:
    words = delayed(["a", "b", "c", "d", "e"])
    assert words[1].compute() == "b"
    assert words[1 : delayed(inc)(2)].compute() == ["b", "c"]
    assert words[delayed(inc)(0)].compute() == "b"
    assert delayed(np.eye(3))[1, delayed(inc)(0)].compute() == 1.0


# ---------------------------------------------------------------- nout


def test_nout() -> None:
    lazy = delayed(divmod, nout=2)(17, 5)
    assert len(lazy) == 2
    quotient, rest = lazy
    assert compute(quotient, rest) == (3, 2)
    assert list(delayed(lambda: (), nout=0)()) == []


@pytest.mark.parametrize("nout", [-1, 1.5, "2", True])
def test_bad_nout(nout: Any) -> None:
    with pytest.raises(PlanError, match=re.escape(repr(nout))):
        delayed(inc, nout=nout)


# ---------------------------------------------------------------- purity and keys


def test_calls_are_distinct_unless_pure() -> None:
    counting = Counting()
    f = delayed(counting)
    assert sorted(compute(f(1), f(1))) == [1, 2]
    assert f(1, pure=True).key == f(1, pure=True).key
    g = delayed(Counting(), pure=True)
    assert compute(g(1), g(1), [g(1)]) == (1, 1, [1])
    assert g(1).key != g(2).key
    assert g(1, pure=False).key != g(1, pure=False).key


def test_pure_keys_tell_arguments_apart() -> None:
    f = delayed(arguments, pure=True)
    x, y = delayed(1), delayed(2)
    calls = [
        f(), f(1), f(1.0), f(x), f(y), f(x, y), f(y, x), f(x, 1), f(1, x), f([x]), f([x, y]), f((x,)), f({"a": x}),
        f(a=x), f(a=1), f(b=1), f(1, a=1), f(x, x), f([[x], y]), f([x, [y]]), f("s"), f(Slot), f({x}), f(Point(x)),
        f(slice(x)), f(Pair(x, 1)), f(x.a), f(x.b), f(x + 1), f(x - 1),
    ]  # fmt: skip
    keys = [call.key for call in calls]
    assert len(set(keys)) == len(keys)
    again = [f(x, y), f([x, [y]]), f(a=x), f({x}), f(Point(x)), f(x.a), f(x + 1)]
    assert {d.key for d in again} <= set(keys)


def test_operators_and_attributes_are_pure_and_methods_are_not() -> None:
    x = delayed([3, 1])
    assert (x + 1).key == (x + 1).key
    assert x[0].key == x[0].key
    assert x.count.key == x.count.key
    assert x.count(1).key != x.count(1).key
    assert x.count(1, pure=True).key == x.count(1, pure=True).key
    assert (x + 1).key != (1 + x).key


def test_pure_value_is_named_by_its_contents() -> None:
    assert delayed([1, 2], pure=True).key == delayed([1, 2], pure=True).key
    assert delayed([1, 2]).key != delayed([1, 2]).key
    assert delayed(1, name="one").key == "one"


def test_key_names() -> None:
    assert delayed(inc)(1, tilework_key_name="three").key == "three"
    assert delayed(inc)(1, dask_key_name="three").key == "three"
    assert delayed([1]).count(1, dask_key_name="ones").key == "ones"
    assert delayed(inc, pure=True)(1, tilework_key_name="four").compute() == 2
    assert repr(delayed(inc)(1, tilework_key_name="three")) == "Delayed('three')"
    assert delayed(inc)(1).key.startswith("inc-")
    assert delayed(lambda: 1)().key.startswith("lambda-")


def test_hash_and_use_in_sets() -> None:
    a, b = delayed(inc)(1), delayed(inc)(1)
    assert len({a, b, a}) == 2
    assert {a: 1}[a] == 1


# ---------------------------------------------------------------- what a Delayed refuses


def test_refusals_say_what_to_do() -> None:
    lazy = delayed(inc)(1)
    with pytest.raises(TypeError, match="inside a delayed function"):
        bool(lazy)
    with pytest.raises(TypeError, match="nout="):
        iter(lazy)
    with pytest.raises(TypeError, match="nout="):
        len(lazy)
    with pytest.raises(TypeError, match="immutable"):
        lazy.attribute = 1
    with pytest.raises(TypeError, match="immutable"):
        lazy.node = None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="immutable"):
        lazy[0] = 1  # type: ignore[index]
    with pytest.raises(TypeError, match="immutable"):
        del lazy[0]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="_private"):
        lazy._private  # noqa: B018


def test_is_a_collection() -> None:
    for lazy in (delayed(inc), delayed(inc)(1), delayed(1), delayed(1).real):
        assert is_tilework_collection(lazy)
    assert not hasattr(delayed(1), "__dask_graph__")
    assert "compute" in dir(delayed(1))


# ---------------------------------------------------------------- plan nodes


def test_the_fast_path_is_marked() -> None:
    f, x = delayed(arguments), delayed(1)
    assert call_of(f(x, 2, x)).flat
    assert call_of(f(1, [2])).flat
    assert not call_of(f([x])).flat
    assert not call_of(f(a=1)).flat
    assert call_of(f(x, 2)).args == (Slot(0), 2)
    assert call_of(f(x)).label == "arguments"
    assert call_of(f(x)).inputs == (x.node,)
    assert len(topological([f(x, x).node])) == 2


# ---------------------------------------------------------------- pickle and copy


def test_pickle_round_trip() -> None:
    x = delayed(operator.add)(1, 2)
    both = delayed(divmod, nout=2)(x, 2)
    value = delayed({"a": 1})
    assert value.compute() == {"a": 1}
    for lazy in (x, both, x + 1, x.real, delayed([1, x]), value):
        again = pickle.loads(pickle.dumps(lazy))
        assert again.key == lazy.key
        assert again.compute() == lazy.compute()
    q, r = pickle.loads(pickle.dumps(both))
    assert compute(q, r) == (1, 1)


def test_pickle_of_a_function_and_of_recursive_ones() -> None:
    f = pickle.loads(pickle.dumps(delayed(divmod, pure=True, nout=2)))
    assert f(1, 2).key == delayed(divmod, pure=True)(1, 2).key
    assert len(f(1, 2)) == 2

    @delayed
    def factorial(n: int) -> int:
        return n * factorial.__wrapped__(n - 1) if n else 1

    assert cloudpickle.loads(cloudpickle.dumps(factorial))(5).compute() == 120


def test_pickle_keeps_shared_work_shared() -> None:
    x = delayed(operator.add)(1, 2)
    a, b = pickle.loads(pickle.dumps([x + 1, x + 2]))
    assert call_of(a).inputs[0] is call_of(b).inputs[0]


def test_copies_are_the_same() -> None:
    lazy = delayed(inc)(1)
    assert copy.copy(lazy) is lazy
    assert copy.deepcopy([lazy])[0] is lazy


# ---------------------------------------------------------------- size


def test_deep_chains() -> None:
    f = delayed(operator.add)
    lazy = f(0, 1)
    for _ in range(DEEP - 1):
        lazy = f(lazy, 1)
    assert repr(lazy).startswith("Delayed('add-")
    again = pickle.loads(pickle.dumps(lazy))
    assert len(topological([again.node])) == DEEP
    assert again.compute() == DEEP


def test_deep_chains_of_operators_and_attributes() -> None:
    lazy: Any = delayed(1)
    for _ in range(5_000):
        lazy = (lazy + 1).real
    assert lazy.compute() == 5001


def test_wide_plans() -> None:
    lazy = delayed(sum)([delayed(inc)(i) for i in range(20_000)])
    assert lazy.compute() == sum(range(1, 20_001))


# ---------------------------------------------------------------- the facade


@pytest.mark.parametrize(
    "first",
    [
        "import tilework.delayed",
        "from tilework.delayed import Delayed",
        "import tilework.optimize",
        "import tilework.array",
    ],
)
def test_the_facade_has_functions_not_modules(first: str) -> None:
    code = f"{first}\nimport tilework as tw\nprint(tw.optimize(tw.delayed(len)('abc'))[0].compute())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "3\n", done.stderr


def test_the_facade_is_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(tw)) is tw
