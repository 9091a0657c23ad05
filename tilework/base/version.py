"""The version of tilework, for the facade and for clusters, whose two ends must have the same."""

__version__ = "0.1.0"
