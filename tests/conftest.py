"""What holds for all tests: reproducible hypothesis, no settings from outside, and none left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

for variable in [name for name in os.environ if name.startswith("TILEWORK_")]:
    del os.environ[variable]  # before tilework reads its settings

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from tilework.base import config  # noqa: E402

hypothesis.settings.register_profile("tilework", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("tilework")


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Settings and tilework's own threads must be as they were."""
    before = config.get()
    yield
    assert config.get() == before, "the test changed the settings for those that follow"
    left = [t.name for t in threading.enumerate() if t.name.startswith("tilework") and not t.daemon]
    assert not left, f"the test left threads running: {left}"
