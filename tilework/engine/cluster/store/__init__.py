"""Memory that all processes of a cluster share, and values in it."""
