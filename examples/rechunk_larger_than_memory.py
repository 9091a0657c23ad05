"""An array of rows becomes one of columns, in less memory than it has: through scratch space on disk."""

import tilework as tw
import tilework.array as ta

rows = ta.random.default_rng(0).random((4_000, 10_000), chunks=(100, 10_000))
columns = rows.rechunk((4_000, 250))
median = ta.median(columns, axis=0)

with tw.config.set(memory="100MB"):
    print(f"{rows.nbytes / 1e6:.0f} MB in {rows.npartitions} rows of blocks, to {columns.npartitions} columns")
    print(median.explain())
    values = median.compute(progress=True)
print(f"medians between {values.min():.3f} and {values.max():.3f}")
