"""Ask before you run: the same program in three ways to cut it, explained. ``python examples/explain_first.py``.

A year of hourly values lies in a Zarr store, one chunk for every ten days. Wanted: how much each place departs from its
own mean over the year. Nothing is computed until the plan is good.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import tilework as tw
import tilework.array as ta
from tilework.base.errors import MemoryBudgetError

HOURS, PLACES, TEN_DAYS = 8_760, 2_000, 240
MEMORY = "60MB"


def departures(path: Path, chunks: tuple[int, int]) -> ta.Array:
    temperature = ta.from_zarr(str(path), chunks=chunks)
    return (temperature - temperature.mean(axis=0)).std(axis=0)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "temperature.zarr")
        rng = ta.random.default_rng(0)
        ta.to_zarr(rng.normal(15.0, 8.0, size=(HOURS, PLACES), chunks=(TEN_DAYS, PLACES)), str(path))

        print("One block for each place's whole year: too large, and every stored chunk is read eight times.\n")
        columns = departures(path, (-1, 250))
        print(tw.explain(columns, memory=MEMORY, workers=4))

        print("\nWhole weeks: they cut across the chunks in storage.\n")
        weeks = departures(path, (168, PLACES))
        print(tw.explain(weeks, memory=MEMORY, workers=4))

        print("\nThe chunks that storage has.\n")
        good = departures(path, (TEN_DAYS, PLACES))
        plan = tw.explain(good, memory=MEMORY, workers=4)
        print(plan)

        assert not any("cut across" in advice.problem for advice in plan.advice)
        result = good.compute(memory=MEMORY, workers=4)
        print(f"\nDone: departures between {result.min():.2f} and {result.max():.2f} degrees")
        assert np.allclose(result, 8.0, atol=0.5)

        try:
            departures(path, (-1, -1)).compute(memory=MEMORY)
        except MemoryBudgetError as error:
            print(f"\nAnd what can never fit is refused before it starts:\n{error}")


if __name__ == "__main__":
    main()
