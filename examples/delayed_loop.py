"""A slow loop made parallel with ``delayed``: how certain is a mean? Run it with ``python examples/delayed_loop.py``.

For each of many skewed samples the 95 % confidence interval of the mean is found by bootstrap: draw from the sample
with replacement a few thousand times, and look how much the means scatter. The samples have nothing to do with each
other, so the loop over them can run in parallel. NumPy lets go of Python's lock while it computes: threads are enough.
"""

from __future__ import annotations

import time

import numpy as np

from tilework import compute, delayed


def draw_sample(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(sigma=1.0, size=2_000)


def bootstrap_means(sample: np.ndarray, draws: int) -> np.ndarray:
    rng = np.random.default_rng(len(sample))
    picks = rng.integers(len(sample), size=(draws, len(sample)))
    return sample[picks].mean(axis=1)


def interval(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def hits(intervals: list[tuple[float, float]], truth: float) -> int:
    return sum(low <= truth <= high for low, high in intervals)


def main() -> None:
    seeds, draws, truth = range(40), 1_000, float(np.exp(0.5))

    # The loop as it was ...
    start = time.perf_counter()
    intervals = []
    for seed in seeds:
        sample = draw_sample(seed)
        means = bootstrap_means(sample, draws)
        intervals.append(interval(means))
    expected = hits(intervals, truth)
    print(f"plain loop:  {time.perf_counter() - start:.2f} s, {expected} of {len(seeds)} intervals hold the truth")

    # ... and with each call delayed.
    start = time.perf_counter()
    lazy = []
    for seed in seeds:
        sample = delayed(draw_sample)(seed)
        means = delayed(bootstrap_means)(sample, draws)
        lazy.append(delayed(interval)(means))
    count = delayed(hits)(lazy, truth)
    print(f"recorded:    {time.perf_counter() - start:.4f} s, nothing has run yet: {count}")
    got = count.compute()
    print(f"in parallel: {time.perf_counter() - start:.2f} s, {got} of {len(seeds)} intervals hold the truth")
    assert got == expected
    assert compute(*lazy) == tuple(intervals)


if __name__ == "__main__":
    main()
