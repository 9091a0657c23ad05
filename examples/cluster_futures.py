"""A search that learns as it goes, on worker processes. Run it with ``python examples/cluster_futures.py``.

How fast may a predator eat before the prey dies out? Each try simulates a small world, in pure Python, which threads
could not do at the same time. Results come back in the order in which they are done, and what they say decides what is
tried next: the interval in which the answer lies gets shorter with every one, and workers never wait for each other.
"""

from __future__ import annotations

import time

from tilework.distributed import Client, LocalCluster, as_completed

YEARS, STEPS = 60, 200


def least_prey(appetite: float) -> float:
    """The least prey that is ever left in a world of Lotka and Volterra, by Heun's method."""
    prey, predators, least = 10.0, 5.0, 10.0
    step = 1 / STEPS

    def change(prey: float, predators: float) -> tuple[float, float]:
        eaten = appetite * prey * predators
        return 1.1 * prey * (1 - prey / 60) - eaten, 0.4 * eaten - 0.4 * predators

    for _ in range(YEARS * STEPS):
        dx, dy = change(prey, predators)
        ex, ey = change(prey + step * dx, predators + step * dy)
        prey, predators = prey + step * (dx + ex) / 2, predators + step * (dy + ey) / 2
        least = min(least, prey)
    return least


def main() -> None:
    low, high = 0.01, 2.0  # with the first the prey lives, with the second less than one animal is left
    start = time.perf_counter()
    with LocalCluster(n_workers=2, threads_per_worker=1) as cluster, Client(cluster) as client:
        print(f"{cluster!r} after {time.perf_counter() - start:.2f} s")
        tried = {}

        def begin(share: float) -> object:
            appetite = low + share * (high - low)
            future = client.submit(least_prey, appetite)
            tried[future.key] = appetite
            return future

        done = 0
        running = as_completed([begin(1 / 4), begin(2 / 4), begin(3 / 4)])
        for future in running:
            appetite = tried.pop(future.key)
            if future.result() < 1:
                high = min(high, appetite)
            else:
                low = max(low, appetite)
            done += 1
            if high - low > 1e-3:
                running.add(begin((1 + done % 3) / 4))  # in other places of what is left
        print(f"{done} worlds in {time.perf_counter() - start:.2f} s: the limit lies between {low:.4f} and {high:.4f}")
    assert least_prey(low) >= 1 > least_prey(high)


if __name__ == "__main__":
    main()
