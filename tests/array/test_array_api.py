"""The namespace of the array API standard, version 2025.12 (which contains 2024.12): names and parameters.

That the functions do what the standard says is for its own suite, which is not part of this repository: see
docs/array-api.md.
"""

import inspect

import numpy as np
import pytest

import tilework.array as ta

MAIN = {
    "x, /": (
        "abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor imag isfinite "
        "isinf isnan log log10 log1p log2 logical_not matrix_transpose negative nonzero positive real reciprocal "
        "round sign signbit sin sinh sqrt square tan tanh trunc unique_all unique_counts unique_inverse "
        "unique_values"
    ),
    "x1, x2, /": (
        "add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide "
        "equal floor_divide greater greater_equal hypot less less_equal logaddexp logical_and logical_or "
        "logical_xor matmul maximum minimum multiply nextafter not_equal pow remainder subtract"
    ),
    "x, /, *, axis, keepdims": "all any argmax argmin count_nonzero max mean min",
    "shape, *, dtype, device": "empty ones zeros",
    "x, /, *, dtype, device": "empty_like ones_like zeros_like",
    "arrays, /, *, axis": "concat stack",
    "type, /": "finfo iinfo",
    "x, /, *, axis": "flip unstack",
    "x, /, *, axis, correction, keepdims": "std var",
    "x, /, *, axis, descending, stable": "argsort sort",
    "x, /, *, axis, dtype, include_initial": "cumulative_prod cumulative_sum",
    "x, /, *, axis, dtype, keepdims": "prod sum",
    "x, /, *, k": "tril triu",
    "x, /, axis": "expand_dims squeeze",
    "x, indices, /, *, axis": "take take_along_axis",
    "*arrays": "broadcast_arrays",
    "*arrays, indexing": "meshgrid",
    "*arrays_and_dtypes": "result_type",
    "*shapes": "broadcast_shapes",
    "condition, x1, x2, /": "where",
    "dtype, kind": "isdtype",
    "from_, to, /": "can_cast",
    "n_rows, n_cols, /, *, k, dtype, device": "eye",
    "obj, /, *, dtype, device, copy": "asarray",
    "shape, fill_value, *, dtype, device": "full",
    "start, /, stop, step, *, dtype, device": "arange",
    "start, stop, /, num, *, dtype, device, endpoint": "linspace",
    "x, /, *, axis, n, prepend, append": "diff",
    "x, /, *, device, copy": "from_dlpack",
    "x, /, axes": "permute_dims",
    "x, /, fill_value, *, dtype, device": "full_like",
    "x, /, min, max": "clip",
    "x, /, shape": "broadcast_to",
    "x, /, shape, *, copy": "reshape",
    "x, /, shift, *, axis": "roll",
    "x, dtype, /, *, copy, device": "astype",
    "x, repeats, /, *, axis": "repeat",
    "x, repetitions, /": "tile",
    "x, source, destination, /": "moveaxis",
    "x1, x2, /, *, axes": "tensordot",
    "x1, x2, /, *, axis": "vecdot",
    "x1, x2, /, *, invert": "isin",
    "x1, x2, /, *, side, sorter": "searchsorted",
}
LINALG = {
    "x, /": "det eig eigh eigvals eigvalsh inv matrix_transpose slogdet svdvals",
    "x1, x2, /": "matmul outer solve",
    "x, /, *, rtol": "matrix_rank pinv",
    "x1, x2, /, *, axis": "cross vecdot",
    "x, /, *, axis, keepdims, ord": "vector_norm",
    "x, /, *, full_matrices": "svd",
    "x, /, *, keepdims, ord": "matrix_norm",
    "x, /, *, mode": "qr",
    "x, /, *, offset": "diagonal",
    "x, /, *, offset, dtype": "trace",
    "x, /, *, upper": "cholesky",
    "x, n, /": "matrix_power",
    "x1, x2, /, *, axes": "tensordot",
}
FFT = {
    "x, /, *, n, axis, norm": "fft hfft ifft ihfft irfft rfft",
    "x, /, *, s, axes, norm": "fftn ifftn irfftn rfftn",
    "n, /, *, d, dtype, device": "fftfreq rfftfreq",
    "x, /, *, axes": "fftshift ifftshift",
}
"""By signature: the functions of the standard. A parameter after ``/`` may be given by place or by name."""

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128"
ATTRIBUTES = "T __array_namespace__ __dlpack__ __dlpack_device__ device dtype mT ndim shape size to_device"
OPERATORS = (
    "abs add and eq floordiv ge gt invert le lshift lt matmul mod mul ne neg or pos pow rshift sub truediv xor "
    "iadd iand ifloordiv ilshift imatmul imod imul ior ipow irshift isub itruediv ixor "
    "radd rand rfloordiv rlshift rmatmul rmod rmul ror rpow rrshift rsub rtruediv rxor "
    "bool complex float getitem index int setitem"
)


TABLES = {"": MAIN, "linalg": LINALG, "fft": FFT}
CASES = [
    pytest.param(module, name, signature, id=f"{module}.{name}".strip("."))
    for module, table in TABLES.items()
    for signature, names in table.items()
    for name in names.split()
]


def accepts(function, signature):
    """Whether a function can be called with the parameters of a signature, each in every way that it allows."""
    if isinstance(function, np.ufunc):
        return signature == {1: "x, /", 2: "x1, x2, /"}[function.nin]
    placed, either, named = [], [], []
    for parameter in signature.split(", "):
        if parameter == "/":
            placed, either = either, []
        elif parameter.startswith("*"):
            placed += ["one", "more"] * (parameter != "*")
            named.append(parameter)
        else:
            (named if named else either).append(parameter)
    own = inspect.signature(function)
    try:
        own.bind(*placed, *either, **dict.fromkeys(named[1:]))
        own.bind(*placed, **dict.fromkeys(either + named[1:]))
    except TypeError:
        return False
    return True


@pytest.mark.parametrize(("module", "name", "signature"), CASES)
def test_functions_take_the_parameters_of_the_standard(module, name, signature):
    function = getattr(getattr(ta, module) if module else ta, name)
    assert accepts(function, signature), f"{name}{inspect.signature(function)} does not take ({signature})"


def test_the_check_sees_what_is_wrong():
    assert not accepts(lambda x: x, "x, /, *, axis")
    assert not accepts(lambda x, y: x, "x, /")
    assert not accepts(lambda x, other: x, "x, /, shape")
    assert not accepts(np.add, "x, /")


def test_constants_dtypes_and_attributes():
    assert (ta.pi, ta.e, ta.inf, ta.newaxis) == (np.pi, np.e, np.inf, None)
    assert np.isnan(ta.nan)
    assert [np.dtype(getattr(ta, name)) for name in DTYPES.split()] == [np.dtype(name) for name in DTYPES.split()]
    missing = [
        name
        for name in [*ATTRIBUTES.split(), *(f"__{name}__" for name in OPERATORS.split())]
        if not hasattr(ta.Array, name)
    ]
    assert missing == []


def test_what_the_namespace_says_about_itself():
    assert ta.__array_api_version__ == "2025.12"
    info = ta.__array_namespace_info__()
    assert info.capabilities() == {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}
    assert info.devices() == ("cpu",)
    assert info.default_device() == ta.ones(1).device == "cpu"
    assert info.default_dtypes(device="cpu") == {
        "real floating": ta.float64, "complex floating": ta.complex128, "integral": ta.int64, "indexing": ta.int64,
    }  # fmt: skip
    assert sorted(info.dtypes()) == sorted(DTYPES.split())
    assert sorted(info.dtypes(kind="signed integer")) == ["int16", "int32", "int64", "int8"]
    assert ta.arange(3).dtype == ta.int64
    assert ta.zeros(3).dtype == ta.float64
    with pytest.raises(ValueError, match="cpu"):
        info.dtypes(device="tpu")


def test_arrays_know_their_namespace():
    x = ta.ones(3)
    assert x.__array_namespace__() is ta
    assert x.__array_namespace__(api_version="2024.12") is ta
    with pytest.raises(ValueError, match=r"api_version='1999\.12'"):
        x.__array_namespace__(api_version="1999.12")
    assert x.to_device("cpu") is x
