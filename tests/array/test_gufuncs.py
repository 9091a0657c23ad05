"""Generalized ufuncs against NumPy's."""

import numpy as np
import pytest

import tilework.array as ta
from tilework import session
from tilework.array.gufuncs import parse_signature
from tilework.base.errors import BlockResultError, ChunkError, DTypeError, PlanError
from tilework.testing import assert_eq


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(size=(4, 6, 5))


@pytest.mark.parametrize(
    ("text", "ins", "outs", "several"),
    [
        ("(i,j),(j)->(i)", [("i", "j"), ("j",)], [("i",)], False),
        (" ( i ) -> ( ) , (i)", [("i",)], [(), ("i",)], True),
        ("(),(n)->(),", [(), ("n",)], [()], True),
        ("->()", [], [()], False),
        ("(dim0_x,dim1)->()", [("dim0_x", "dim1")], [()], False),
    ],
)
def test_signatures(text, ins, outs, several):
    assert parse_signature(text) == (ins, outs, several)


@pytest.mark.parametrize("text", ["", "i->j", "(i)", "(i)->", "(i)(j)->()", "(i)->()->()", "(i-1)->()"])
def test_what_is_no_signature(text):
    with pytest.raises(PlanError, match="no gufunc signature"):
        parse_signature(text)


def test_one_output(cube):
    x = ta.from_array(cube, chunks=(2, 3, 5))
    y = ta.apply_gufunc(lambda b: b.mean(axis=-1), "(i)->()", x)
    assert y.chunks == ((2, 2), (3, 3))
    np.testing.assert_allclose(y.compute(), cube.mean(axis=-1))


def test_broadcasting_loops_and_shared_core(cube):
    x = ta.from_array(cube, chunks=(2, 3, 5))
    y = ta.from_array(cube[0], chunks=(3, 5))
    z = ta.apply_gufunc(lambda a, b: np.einsum("...i,...j->...ij", a, b), "(i),(j)->(i,j)", x, y)
    assert z.shape == (4, 6, 5, 5)
    np.testing.assert_allclose(z.compute(), np.einsum("abi,bj->abij", cube, cube[0]))


def test_matrix_multiplication_with_scalars_beside(cube):
    x = ta.from_array(cube, chunks=(2, 6, 5))
    y = ta.apply_gufunc(lambda a, b, s: a @ b * s[..., None, None], "(i,j),(j,k),()->(i,k)", x, cube[0].T, 3.0)
    np.testing.assert_allclose(y.compute(), cube @ cube[0].T * 3)


def test_several_outputs_come_from_one_call_a_block(cube):
    calls = []

    def stats(block):
        calls.append(block.shape)
        return block.mean(axis=-1), block.max(axis=-1).astype("f4"), block[..., ::-1], np.stack([block, -block], -1)

    x = ta.from_array(cube, chunks=(2, 3, 5))
    results = ta.apply_gufunc(
        stats, "(i)->(),(),(i),(i,two)", x, output_dtypes=[float, "f4", float, float], output_sizes={"two": 2}
    )
    assert [r.shape for r in results] == [(4, 6), (4, 6), (4, 6, 5), (4, 6, 5, 2)]
    mean, most, back, both = session.compute(*results)
    assert sorted(calls) == [(2, 3, 5)] * 4
    np.testing.assert_allclose(mean, cube.mean(axis=-1))
    np.testing.assert_allclose(most, cube.max(axis=-1).astype("f4"))
    np.testing.assert_allclose(back, cube[..., ::-1])
    np.testing.assert_allclose(both, np.stack([cube, -cube], -1))


def test_a_tuple_of_one(cube):
    results = ta.apply_gufunc(lambda b: (b.sum(-1),), "(i)->(),", ta.from_array(cube, chunks=(2, 3, 5)))
    assert isinstance(results, tuple)
    np.testing.assert_allclose(results[0].compute(), cube.sum(-1))


@pytest.mark.parametrize(
    ("signature", "options", "expected"),
    [
        ("(i)->()", {"axis": 0}, lambda c: c.sum(0)),
        ("(i)->()", {"axis": 1, "keepdims": True}, lambda c: c.sum(1, keepdims=True)),
        ("(i)->()", {"axes": [1]}, lambda c: c.sum(1)),
        ("(i)->()", {"axes": [(1,), ()]}, lambda c: c.sum(1)),
        ("(i)->()", {"axes": [(1,), (-1,)], "keepdims": True}, lambda c: c.sum(1)[..., None]),
        ("(i)->(i)", {"axes": [0, 2]}, lambda c: np.moveaxis(c, 0, 2)),
        ("(i)->(i)", {"axis": 0}, lambda c: c),
    ],
)
def test_axes(cube, signature, options, expected):
    def function(block):
        return block.sum(axis=-1) if signature.endswith("()") else block

    y = ta.apply_gufunc(function, signature, ta.from_array(cube, chunks=6), **options)
    np.testing.assert_allclose(y.compute(), expected(cube))


def test_axes_of_two_core_dimensions(cube):
    y = ta.apply_gufunc(
        lambda b: np.swapaxes(b, -1, -2), "(i,j)->(j,i)", ta.from_array(cube, chunks=6), axes=[(2, 0), (0, 1)]
    )
    np.testing.assert_allclose(y.compute(), np.transpose(cube, (0, 2, 1)))


def test_vectorize(cube):
    x = ta.from_array(cube, chunks=(2, 3, 5))
    y = ta.apply_gufunc(lambda row, n: row[: int(n)].sum(), "(i),()->()", x, 2, vectorize=True, output_dtypes=float)
    np.testing.assert_allclose(y.compute(), cube[..., :2].sum(-1))
    low, high = ta.apply_gufunc(lambda row: (row.min(), row.max()), "(i)->(),()", x, vectorize=True)
    np.testing.assert_allclose((high - low).compute(), np.ptp(cube, axis=-1))


def test_core_dimensions_are_one_block(cube):
    x = ta.from_array(cube, chunks=(2, 3, 2))
    with pytest.raises(ChunkError, match=r"core dimension 'i' consists of multiple chunks, 3.*allow_rechunk=True"):
        ta.apply_gufunc(np.sum, "(i)->()", x, output_dtypes=float)
    y = ta.apply_gufunc(lambda b: b.sum(-1), "(i)->()", x, allow_rechunk=True)
    np.testing.assert_allclose(y.compute(), cube.sum(-1))


def test_inference_needs_a_function_that_works_on_little():
    def third(block):
        return block[..., 2]

    x = ta.ones((4, 3), chunks=(2, 3))
    with pytest.raises(DTypeError, match="pass output_dtypes="):
        ta.apply_gufunc(third, "(i)->()", x)
    assert ta.apply_gufunc(third, "(i)->()", x, meta=np.empty(0, "i2")).dtype == "i2"


@pytest.mark.parametrize(
    ("signature", "options", "message"),
    [
        ("(i),(j)->()", {}, "2 inputs, but 1 arrays"),
        ("(a,b,c,d)->()", {}, "fewer than its core dimensions"),
        ("(i)->(k)", {}, "give its length in output_sizes"),
        ("(i)->()", {"axis": 0, "axes": [0]}, "not both"),
        ("(i)->()", {"axes": [0, 1, 2]}, "3 entries"),
        ("(i)->()", {"axes": [(0, 1), ()]}, "names 2 axes"),
        ("(i)->(i)", {"keepdims": True}, "keepdims"),
        ("(i,j)->()", {"axis": 0}, "one core dimension"),
        ("(i)->()", {"output_dtypes": [float, float]}, "2 output types"),
        ("(i)->()", {"meta": np.empty(0)}, "not both"),
    ],
)
def test_wrong_arguments(cube, signature, options, message):
    x = ta.from_array(cube, chunks=6)
    with pytest.raises(PlanError, match=message):
        ta.apply_gufunc(lambda b: b.sum(-1), signature, x, **{"output_dtypes": float, **options})


def test_lengths_that_differ(cube):
    x = ta.from_array(cube, chunks=6)
    with pytest.raises(PlanError, match="core dimension 'i' has different lengths in arrays: 5 and 6"):
        ta.apply_gufunc(np.add, "(i),(i)->(i)", x, cube[0, :, 0], output_dtypes=float)
    with pytest.raises(PlanError, match="loop dimension -1 has different lengths in arrays: 6 and 4"):
        ta.apply_gufunc(np.add, "(i),()->(i)", x, cube[:, 0, 0], output_dtypes=float)


def test_several_outputs_of_wrong_shape(cube):
    x = ta.from_array(cube, chunks=6)
    a, _ = ta.apply_gufunc(lambda b: (b.sum(-1), b), "(i)->(),()", x, output_dtypes=[float, float])
    with pytest.raises(BlockResultError, match="output 1 of the function has shape"):
        a.compute()


def test_bound_gufuncs(cube):
    @ta.as_gufunc("(i)->()", output_dtypes=float, axis=0)
    def spread(block):
        """How far."""
        return np.ptp(block, axis=-1)

    x = ta.from_array(cube, chunks=6)
    assert spread.__doc__ == "How far."
    np.testing.assert_allclose(spread(x).compute(), np.ptp(cube, axis=0))
    np.testing.assert_allclose(spread(x, axis=1).compute(), np.ptp(cube, axis=1))
    with pytest.raises(PlanError, match="signature is missing"):
        ta.gufunc(np.ptp)


def test_square_matrices():
    a = np.random.default_rng(0).random((6, 5, 5))
    x = ta.from_array(a, chunks=(2, 5, 5))
    assert_eq(ta.apply_gufunc(np.linalg.inv, "(n,n)->(n,n)", x), np.linalg.inv(a))
    assert_eq(ta.apply_gufunc(np.linalg.inv, "(n, n)->(n, n)", x.rechunk(2), allow_rechunk=True), np.linalg.inv(a))
    assert_eq(ta.apply_gufunc(np.linalg.det, "(n,n)->()", x), np.linalg.det(a))
    for mine, theirs in zip(
        ta.apply_gufunc(lambda m: tuple(np.linalg.eigh(m)), "(n,n)->(n),(n,n)", x), np.linalg.eigh(a), strict=True
    ):
        assert_eq(mine, theirs)


def test_a_dimension_that_outputs_repeat():
    a = np.arange(12.0).reshape(4, 3)
    x = ta.from_array(a, chunks=(2, 3))
    squares = ta.apply_gufunc(lambda v: v[..., :, None] * v[..., None, :], "(n)->(n,n)", x)
    assert_eq(squares, a[:, :, None] * a[:, None, :])


def test_a_dimension_that_gets_another_length():
    a = np.arange(60.0).reshape(3, 5, 4) ** 2
    x = ta.from_array(a, chunks=2)
    found = ta.apply_gufunc(np.diff, "(i)->(i)", x, axis=1, output_sizes={"i": 4}, allow_rechunk=True)
    assert_eq(found, np.diff(a, axis=1))
