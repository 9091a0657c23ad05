"""A first array: made, looked at, explained, computed inside a small memory budget, stored and read back."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import tilework as tw
import tilework.array as ta


def main() -> None:
    rng = ta.random.default_rng(0)
    x = rng.normal(size=(8_000, 2_000), chunks=(1_000, 2_000))
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    print(scaled)

    with tw.config.set(memory="64MB"):
        print(tw.explain(scaled.sum()))
        low, high, spread = tw.compute(scaled.min(), scaled.max(), scaled.std())
    print(f"from {low:.2f} to {high:.2f}, spread {spread:.3f}")

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "scaled.zarr")
        scaled[::100].to_zarr(path)
        back = ta.from_zarr(path)
        np.testing.assert_allclose(back.compute(), scaled[::100].compute())
        print(f"stored and read back: {back}")


if __name__ == "__main__":
    main()
