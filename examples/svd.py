"""Principal components of a data set that is larger than the memory it gets. ``python examples/svd.py``.

Half a million samples of forty features are drawn, block by block: three hidden signals and noise. The singular values
of the centred data show how many signals there are, and the first right singular vectors which.
"""

from __future__ import annotations

import numpy as np

import tilework as tw
import tilework.array as ta

SAMPLES, FEATURES, SIGNALS = 500_000, 40, 3
MEMORY = "120MB"


def main() -> None:
    rng = ta.random.default_rng(0)
    directions = np.linalg.qr(np.random.default_rng(1).standard_normal((FEATURES, SIGNALS))).Q
    signals = rng.normal(size=(SAMPLES, SIGNALS), chunks=(20_000, SIGNALS)) * np.array([9.0, 6.0, 4.0])
    data = signals @ directions.T + rng.normal(size=(SAMPLES, FEATURES), chunks=(20_000, FEATURES))
    print(f"{data.nbytes / 1e6:.0f} MB of data, {MEMORY} of memory")

    centred = data - data.mean(axis=0)
    _, values, components = ta.linalg.svd(centred)
    print(tw.explain(values, components, memory=MEMORY))

    values, components = tw.compute(values, components, memory=MEMORY)
    variances = values**2 / SAMPLES
    print("variances:", variances[: SIGNALS + 2].round(2))
    assert np.allclose(variances[:SIGNALS], np.array([81, 36, 16]) + 1, rtol=0.02)
    assert np.allclose(variances[SIGNALS:], 1, rtol=0.02)

    found = abs(components[:SIGNALS] @ directions)
    print("hidden directions found to", f"{1 - found.diagonal().min():.1e}")
    assert np.allclose(found, np.eye(SIGNALS), atol=0.02)


if __name__ == "__main__":
    main()
