from threadpoolctl import threadpool_info

from tilework.base import machine
from tilework.engine.local import blas


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_gets_its_share_while_runs_overlap_and_all_afterwards() -> None:
    before = blas_threads()
    assert before, "NumPy comes with a BLAS"
    first, second = blas.shared_by(machine.cores()), blas.shared_by(machine.cores())
    with first:
        assert blas_threads() == [1] * len(before)
        second.__enter__()
    assert blas_threads() == [1] * len(before)
    second.__exit__(None, None, None)
    assert blas_threads() == before


def test_few_workers_leave_blas_more() -> None:
    with blas.shared_by(1):
        assert all(n == max(1, machine.cores()) for n in blas_threads())
