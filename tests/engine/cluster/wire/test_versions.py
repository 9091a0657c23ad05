from __future__ import annotations

import pytest

from tilework.base.version import __version__
from tilework.engine.cluster.wire.versions import mismatch, versions


def test_the_same_versions_fit() -> None:
    assert versions()["tilework"] == __version__
    assert mismatch(versions(), versions()) is None


@pytest.mark.parametrize(
    ("name", "here", "there", "fits"),
    [
        ("python", "3.11.7", "3.11.2", True),
        ("python", "3.11.7", "3.12.7", False),
        ("numpy", "2.4.0", "2.1.3", True),
        ("numpy", "2.4.0", "1.26.4", False),
        ("tilework", "0.1.0", "0.1.1", False),
        ("tilework", "0.1.0", None, False),
    ],
)
def test_what_fits(name: str, here: str, there: str | None, fits: bool) -> None:
    client = {**versions(), **({} if there is None else {name: there})}
    if there is None:
        del client[name]
    problem = mismatch({**versions(), name: here}, client)
    assert (problem is None) == fits
    if problem is not None:
        assert f"{name} {here} on the cluster and {there} on the client" in problem
