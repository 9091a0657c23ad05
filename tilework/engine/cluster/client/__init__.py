"""A client's connection to its cluster, and the engines that run task graphs over it."""
