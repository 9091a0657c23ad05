"""Products against NumPy's, in all ways to chunk them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework as tw
import tilework.array as ta
from tilework.base import config
from tilework.base.errors import PlanError


def chunked(data, draw):
    return ta.from_array(data, chunks=tuple(draw(st.integers(1, max(1, n))) for n in data.shape))


def values(shape, dtype="f8"):
    return (np.arange(np.prod(shape, dtype=int)) % 13 - 5).reshape(shape).astype(dtype)


def check(lazy, expected):
    assert lazy.shape == np.shape(expected)
    assert lazy.dtype == np.asarray(expected).dtype
    np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_matmul(data):
    i, j, k, *batch = data.draw(st.lists(st.integers(1, 4), min_size=3, max_size=5))
    left = [n if data.draw(st.booleans()) else 1 for n in batch][data.draw(st.integers(0, len(batch))) :]
    a = values(
        (*left, i, k) if data.draw(st.booleans()) else (k,), data.draw(st.sampled_from(["f8", "i4", "?", "c16"]))
    )
    b = values((*batch, k, j) if data.draw(st.booleans()) else (k,))
    check(ta.matmul(chunked(a, data.draw), chunked(b, data.draw)), np.matmul(a, b))


EINSUMS = [
    "ij,jk->ik", "ij,jk", "ij->ji", "ii->i", "ii", "ij->", "i,j", "ij,ij->i", "bij,bjk->bik", "ij,jk,kl->il",
    "ij,jk,kl,lm", "...i,i->...", "...ij,...jk", "...", "i...->...", "a,abc->bc", "ij,ij,ij", "i,i,i->i", "iij,jk->ik",
    "ba,ca->", "...i,...i->i...", "i ,  j -> ji",
]  # fmt: skip
SIZES = dict(zip("abcijklm", [3, 4, 2, 3, 4, 5, 2, 3], strict=True))


@pytest.mark.parametrize("subscripts", EINSUMS)
@settings(deadline=None, max_examples=8)
@given(st.data())
def test_einsum(subscripts, data):
    operands = []
    for part in subscripts.replace(" ", "").split("->")[0].split(","):
        before, dots, after = part.partition("...")
        extra = data.draw(st.sampled_from([(), (2,), (3, 2)])) if dots and not operands else (2,) if dots else ()
        operands.append(values((*(SIZES[n] for n in before), *extra, *(SIZES[n] for n in after))))
    lazy = [chunked(x, data.draw) for x in operands]
    check(ta.einsum(subscripts, *lazy), np.einsum(subscripts, *operands))
    check(ta.einsum(subscripts, *lazy, optimize=False), np.einsum(subscripts, *operands))


def test_einsum_with_numbers_for_axes():
    a, b = values((3, 4)), values((4, 5))
    x, y = ta.from_array(a, chunks=2), ta.from_array(b, chunks=2)
    check(ta.einsum(x, [0, 1], y, [1, 2], [2, 0]), np.einsum(a, [0, 1], b, [1, 2], [2, 0]))
    check(ta.einsum(x, [0, 1], y, [1, 2]), a @ b)
    check(ta.einsum(x, [..., 1], y, [1, 2], [..., 2]), a @ b)


def test_einsum_broadcasts_axes_of_length_one():
    a, b = values((3, 1)), values((5,))
    check(ta.einsum("ij,j->i", ta.from_array(a, chunks=1), ta.from_array(b, chunks=2)), np.einsum("ij,j->i", a, b))


def test_einsum_dtype():
    a = values((3, 4), "f4")
    x = ta.from_array(a, chunks=2)
    check(ta.einsum("ij,kj", x, x, dtype="f8"), np.einsum("ij,kj", a, a, dtype="f8"))
    with pytest.raises(PlanError, match="cannot be cast"):
        ta.einsum("ij->i", x, dtype="i4")
    yes = ta.from_array(a > 0, chunks=2)
    check(ta.einsum("ij->i", yes), np.einsum("ij->i", a > 0))


@pytest.mark.parametrize(
    ("subscripts", "message"),
    [
        ("ij,jk->ik", "2 subscripts are given for 1 arrays"),
        ("ijk", "3 subscripts are given for an array of 2"),
        ("ij->k", "'k' stands in the output, but in no operand"),
        ("ij->ii", "more than once"),
        ("i1->i", "no subscript"),
        ("i...->i", "lacks the ellipsis"),
        ("...i...->i", "no subscript"),
        ("ij->i->j", "no subscript"),
    ],
)
def test_einsum_refuses(subscripts, message):
    with pytest.raises(PlanError, match=message):
        ta.einsum(subscripts, ta.ones((3, 4)))


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_tensordot(data):
    a, b = values((3, 4, 2)), values((4, 3, 5))
    axes = data.draw(st.sampled_from([0, ((0, 1), (1, 0)), (1, 0), ([0], [1]), ((1, -3), (0, -2)), ((), ())]))
    check(ta.tensordot(chunked(a, data.draw), chunked(b, data.draw), axes=axes), np.tensordot(a, b, axes=axes))


@pytest.mark.parametrize(
    "shapes",
    [
        ((4,), (4,)),
        ((3, 4), (4,)),
        ((4,), (4, 2)),
        ((3, 4), (4, 2)),
        ((2, 3, 4), (5, 4, 2)),
        ((), (3,)),
        ((3, 2), ()),
    ],
)
def test_dot(shapes):
    a, b = map(values, shapes)
    check(ta.dot(ta.from_array(a, chunks=2), ta.from_array(b, chunks=3)), np.dot(a, b))


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((3, 4), (4,)), ((3, 4), (2, 4)), ((2, 3, 4), (5, 4)), ((), (3,))])
def test_inner(shapes):
    a, b = map(values, shapes)
    check(ta.inner(ta.from_array(a, chunks=2), ta.from_array(b, chunks=3)), np.inner(a, b))


def test_vdot_conjugates_and_flattens():
    a, b = values((3, 4)) + 1j, values((3, 4)) - 2j
    x, y = ta.from_array(a, chunks=2), ta.from_array(b, chunks=3)
    check(ta.vdot(x, y), np.vdot(a, b))
    check(ta.vdot(x, y.reshape(4, 3)), np.vdot(a, b))
    with pytest.raises(PlanError, match="equally many"):
        ta.vdot(x, y[1:])


def test_vecdot():
    a, b = values((2, 3, 4)) + 1j, values((3, 4))
    x, y = ta.from_array(a, chunks=2), ta.from_array(b, chunks=3)
    check(ta.vecdot(x, y), np.vecdot(a, b))
    check(ta.vecdot(x, x, axis=1), np.vecdot(a, a, axis=1))


def test_outer():
    a, b = values((3, 2)), values((4,), "i4")
    check(ta.outer(ta.from_array(a, chunks=2), ta.from_array(b, chunks=3)), np.outer(a, b))


@pytest.mark.parametrize("shape", [((3, 4), (3, 4)), ((4,), (3,)), ((2, 1), (3, 2))])
def test_mismatched_lengths(shape):
    a, b = (ta.ones(s, chunks=2) for s in shape)
    with pytest.raises(PlanError, match="differ in length"):
        ta.matmul(a, b)


def test_products_of_arrays_without_dimensions():
    with pytest.raises(PlanError, match="no dimensions"):
        ta.matmul(ta.ones(()), ta.ones(3))


def test_contracted_axes_are_added_up_by_a_tree():
    """Two operations however many blocks are contracted, and none of them joins blocks of the operands."""
    x = ta.ones((8, 1000), chunks=(4, 10))
    product = ta.matmul(x, x.T)
    assert product.node.label == "matmul"
    assert product.node.inputs[0].chunks == ((1,) * 100, (4, 4), (4, 4))
    np.testing.assert_array_equal(product.compute(), np.full((8, 8), 1000.0))


def test_short_blocks_of_matrices_are_joined_for_blas_and_the_product_is_cut_back():
    a, b = np.random.default_rng(0).random((2, 600, 600))
    x, y = ta.from_array(a, chunks=(50, 40)), ta.from_array(b, chunks=(30, 70))
    product = ta.matmul(x, y)
    assert product.chunks == (x.chunks[0], y.chunks[1])
    assert product.node.inputs[0].grid == (1, 1)
    np.testing.assert_allclose(product.compute(), a @ b, rtol=1e-12)
    tensors = ta.tensordot(x.reshape(2, 300, 600), y.reshape(600, 10, 60), axes=1)
    np.testing.assert_allclose(tensors.compute().reshape(600, 600), a @ b, rtol=1e-12)


def test_blocks_of_matrices_are_joined_within_bounds():
    n = 100_000
    product = ta.matmul(ta.ones((2_000, n), chunks=500), ta.ones((n, 2_000), chunks=500))
    assert product.chunksize == (500, 500)
    (call,) = product.node.inputs[0].inputs[0].inputs[:1]
    assert call.chunks[0].largest <= 1024
    assert call.chunks[0].largest * call.chunks[1].largest * 8 <= 32 << 20
    with config.set(memory="64MB", workers=2):
        product = ta.matmul(ta.ones((2_000, n), chunks=500), ta.ones((n, 2_000), chunks=500))
        assert tw.explain(product.sum()).refusal is None


def test_small_blocks_do_not_make_a_huge_one():
    with config.set(chunk_size="8kB"):
        x = ta.ones(1000, chunks=1000)
        product = ta.outer(x, x)
        assert max(a * b for a in product.chunks[0] for b in product.chunks[1]) <= 1000
        wide = ta.einsum("i,j->ij", x, x)
        assert wide.chunksize[0] * wide.chunksize[1] <= 1000
        assert wide.sum().compute() == 1e6
