"""Runs task graphs and futures on worker processes of this machine. See docs/design/cluster.md."""
