"""Runs task graphs. Below: events → protocol → taskgraph → kernels → (local | remote | simulate)."""
