"""A long write that is interrupted, and taken up where it was: nothing that was written is computed again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import zarr

import tilework as tw
import tilework.array as ta


class Calibrate:
    """A function of blocks that breaks down when it has been called too often."""

    def __init__(self, gain: float) -> None:
        self.gain, self.calls, self.most = gain, 0, 10**9

    def __call__(self, block: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls > self.most:
            raise OSError("the cluster goes down for maintenance")
        return np.asarray(block * self.gain)

    def __tilework_token__(self) -> tuple[str, float]:
        """What makes two of them the same function: not how often they were called."""
        return "calibrate", self.gain


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        raw, out = Path(directory, "raw.zarr"), Path(directory, "calibrated.zarr")
        zarr.create_array(raw, data=np.arange(1e6).reshape(1000, 1000), chunks=(100, 500))

        calibrate = Calibrate(1.5)
        x = ta.from_zarr(raw).map_blocks(calibrate, dtype="f8")

        calibrate.most = 12
        try:
            ta.to_zarr(x, out, resume=True)
        except OSError as error:
            print(f"after 12 of {x.npartitions} blocks: {error}")
        print(f"in its place: {out.exists()}; what was written waits in {next(out.parent.glob('.*.partial')).name}")

        calibrate.calls, calibrate.most = 0, 10**9
        with tw.config.set(progress=False):
            ta.to_zarr(x, out, resume=True)
        print(f"the second run made {calibrate.calls} blocks")
        np.testing.assert_array_equal(ta.from_zarr(out).compute(), 1.5 * np.arange(1e6).reshape(1000, 1000))

        calibrate.calls = 0
        ta.to_zarr(x, out, resume=True)
        print(f"the third run made {calibrate.calls} blocks")


if __name__ == "__main__":
    main()
