"""What plug-ins and their users test with. The conformance suites (submodules) need pytest and hypothesis."""

from tilework.testing.comparing import assert_eq

__all__ = ["assert_eq"]
