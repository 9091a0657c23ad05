"""Clusters and futures: ``Client``, ``LocalCluster``, ``as_completed``, ``wait`` and their kin."""
