"""What is kept and what is made again: chosen by rules, and measured in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.array.core import Array
from tilework.io.memory import ArraySource
from tilework.optimize.keeping import repeatable, to_make_again, with_inputs
from tilework.optimize.lower import Shared
from tilework.plan import build
from tilework.plan.blocks import AxisChunks, normalize_chunks
from tilework.plan.graph import topological

ROOT = Path(__file__).parents[2]
MB = 10**6


def stored(shape: tuple[int, ...] = (4000, 3000), chunks: Any = 500, label: str = "x") -> Array:
    source = ArraySource(np.broadcast_to(np.float64(1), shape))
    source.free = False
    return Array(build.source(source, normalize_chunks(chunks, shape), label))


def taken(x: Array, n: int) -> Array:
    """``x`` repeated along the first axis, in the blocks of others."""
    return Array(build.take(x.node, np.arange(n) % x.shape[0], 0, AxisChunks((500,) * (n // 500))))


# ---------------------------------------------------------------- rules


def test_what_is_read_or_computed_from_it_element_by_element_is_repeatable() -> None:
    x = stored()
    mean = x.mean(axis=0)
    rows = taken(x[:12], 4000)
    anomaly = np.sqrt(x) - mean - rows
    found = repeatable(topological([anomaly.node]))
    assert {x.node, rows.node, anomaly.node} <= found
    assert mean.node not in found
    own = x.map_blocks(np.sort, dtype="f8")
    assert (own + 1).node not in repeatable(topological([(own + 1).node]))
    assert x.rechunk(300).node not in repeatable(topological([x.rechunk(300).node]))


def test_large_inputs_are_made_again_as_well_small_ones_are_not() -> None:
    x = stored()
    row = ta.random.default_rng(0).random(3000, chunks=500)
    y = x * 2 + row
    again = with_inputs(y.node, repeatable(topological([y.node])))
    assert {y.node, x.node} <= again
    assert row.node not in again


def test_the_cheapest_that_is_enough_else_the_largest() -> None:
    nodes = [stored((n, 1000), 500).node for n in (1000, 2000, 4000)]
    small, middle, large = (Shared(node, 2, k) for k, node in enumerate(nodes))
    everything = [small, middle, large]
    held = np.array([5, 20, 30]) * MB
    assert to_make_again(everything, held, 4 * MB) == [small]
    assert to_make_again(everything, held, 10 * MB) == [middle]
    assert to_make_again(everything, held, 45 * MB) == [large, middle]
    assert to_make_again(everything, held, 100 * MB) == [large, middle, small]
    assert to_make_again([], held, 1) == []
    assert to_make_again([small], np.zeros(3), 1) == []


def kept(*arrays: Array, memory: str) -> dict[str, bool]:
    return {one.label: one.kept for one in tw.explain(arrays, memory=memory, workers=2).shared}


def test_each_alone_fits_but_not_all_together() -> None:
    one, two, three = (stored(label=name) for name in "abc")  # 96 MB each, all wanted to the end
    total = one.mean() + two.mean() + three.mean()
    result = (one + two * 2 + three * 3 - total).max()
    assert kept(result, memory="350MB") == {"a": True, "b": True, "c": True}
    assert sorted(kept(result, memory="250MB").values()) == [False, True, True]
    assert not any(kept(result, memory="90MB").values())


def test_one_after_the_other_they_fit() -> None:
    one, two = stored(label="a"), stored(label="b")
    assert kept((one - one.mean()).max(), (two - two.mean()).max(), memory="120MB") == {"a": True, "b": True}


def test_chains_of_reductions() -> None:
    x = stored()
    y = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    z = (y - y.mean()) / y.std()
    assert tw.explain(z.max(), memory="130MB").read_bytes == x.nbytes
    tight = tw.explain(z.max(), memory="40MB")
    assert tight.predicted_peak < 40 * MB
    assert tight.wanted_peak < 40 * MB  # nothing goes to disk
    assert tight.read_bytes <= 3 * x.nbytes


def test_a_column_at_a_time_is_kept() -> None:
    x = stored()
    anomaly = x - x.mean(axis=0)
    for result in (anomaly, anomaly.max(), anomaly.std(axis=0)):
        plan = tw.explain(result, memory="150MB")
        assert plan.read_bytes == x.nbytes
    assert kept(anomaly.std(axis=0), memory="50MB") == {"x": True}


# ---------------------------------------------------------------- measured

MEASURE = """
import json, os, sys, tempfile
import numpy as np
import tilework as tw, tilework.array as ta
from tilework.diagnostics.listeners import Observer
from tilework.engine.events import RunFinished
from tilework.array.core import Array
from tilework.array.grouping import groupby_reduce
from tilework.plan import build

SHAPE, CHUNKS = (2000, 8000), (250, 1000)
MEMORY, WORKERS = 40_000_000, 2
rng = ta.random.default_rng(0)

class Spilled(Observer):
    bytes = 0
    def start_run(self):
        def listen(event):
            if isinstance(event, RunFinished):
                Spilled.bytes = event.spilled_total
        return listen

def source():
    if sys.argv[1] == "random":
        return rng.random(SHAPE, chunks=CHUNKS)
    if sys.argv[1] == "memory":
        return ta.from_array(np.random.default_rng(0).random(SHAPE), chunks=CHUNKS)
    with tw.config.set(memory=MEMORY):
        rng.random(SHAPE, chunks=CHUNKS).to_zarr(sys.argv[2])
    return ta.from_zarr(sys.argv[2])

def anomaly(x):
    month = np.arange(SHAPE[0]) // 30 % 12
    normal = groupby_reduce(x, month, 12, "mean", 0)
    return x - Array(build.take(normal.node, month, 0, x.node.chunks[0]))

def standard(x):
    return (x - x.mean()) / x.std()

PROGRAMS = {
    "centred": lambda x: (x - x.mean()).max(),
    "standard": lambda x: standard(x).max(),
    "standard of standard": lambda x: standard((x - x.mean(axis=1)[:, None]) / x.std(axis=1)[:, None]).max(),
    "two passes": lambda x: ((x - x.mean()) ** 2).mean(),
    "anomaly": lambda x: anomaly(x).max(),
    "standard anomaly": lambda x: standard(anomaly(x)).max(),
    "shared": lambda x: (x - x.mean()).max() + (np.sqrt(x) - np.sqrt(x).mean()).max() + (x / x.max()).sum(),
}

def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

options = dict(memory=MEMORY, workers=WORKERS)
x = source()
(x - x.mean()).max().compute(**options)  # buffers of the threads, imports
found = {}
with Spilled():
    for name, program in PROGRAMS.items():
        result = program(x)
        open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
        before = rss()
        value = float(result.compute(**options))
        (peak,) = (int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
        found[name] = (peak - before, Spilled.bytes, value)
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are measured with Linux's /proc")
@pytest.mark.parametrize("kind", ["random", "zarr", "memory"])
def test_measured(kind: str, tmp_path: Path) -> None:
    """128 MB in 40 MB: nothing goes to disk, and the process stays inside its budget."""
    if kind == "zarr":
        pytest.importorskip("zarr")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(tmp_path / "x.zarr")],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 7
    for name, (taken_bytes, spilled, value) in found.items():
        assert spilled == 0, name
        assert taken_bytes <= 40 * MB, name
        assert np.isfinite(value), name
    assert found["two passes"][2] == pytest.approx(1 / 12, rel=1e-2)
