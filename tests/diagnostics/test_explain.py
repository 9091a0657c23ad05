"""Explanations: the numbers are those of the run, the advice helps, and the predicted peak is what is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilework as tw
import tilework.array as ta
from tilework.array.core import Array
from tilework.base.errors import MemoryBudgetError
from tilework.diagnostics.explain import Explanation
from tilework.io.memory import ArraySource
from tilework.plan import build
from tilework.plan.blocks import normalize_chunks

ROOT = Path(__file__).parents[2]
MB = 10**6


def stored(shape: tuple[int, ...], chunks: Any, unit: tuple[int, ...] | None = None, label: str = "tas") -> Array:
    """An array in storage that is never really there."""
    source = ArraySource(np.broadcast_to(np.float64(1), shape))
    source.free, source.storage_chunks = False, unit
    return Array(build.source(source, normalize_chunks(chunks, shape), label))


def explain(x: Any, memory: str = "1GB", workers: int = 2) -> Explanation:
    return tw.explain(x, memory=memory, workers=workers)


# ---------------------------------------------------------------- the numbers


def test_a_plan_in_numbers() -> None:
    x = stored((4000, 3000), 1000)
    e = explain(((x + 1) * 2).sum(axis=0))
    assert [(s.label, s.tasks) for s in e.stages] == [("sum", 12), ("sum", 3)]
    assert e.stages[0].operations == ("tas", "add", "multiply")
    assert e.stages[0].block == (1000, 1000)
    assert (e.n_tasks, e.n_operations) == (15, 5)
    assert (e.read_bytes, e.write_bytes) == (4000 * 3000 * 8, 0)
    assert (e.budget, e.workers) == (10**9, 2)
    assert 2 * 8 * MB < e.predicted_peak == e.wanted_peak < 3 * 8 * MB + 8 * MB
    assert e.refusal is None
    assert e.advice == ()


def test_only_what_runs_is_counted() -> None:
    x = stored((4000, 3000), 1000)
    e = explain(x.map_blocks(np.sort, dtype="f8")[:1000, 0])
    assert e.n_tasks == 2
    assert e.read_bytes == 1000 * 1000 * 8


def test_several_things_are_explained_as_one_plan() -> None:
    x = stored((4000, 3000), 1000)
    together = tw.explain(x.sum(), [x.mean(), {"std": x.std()}], 5)
    assert [s.label for s in together.stages] == ["sum+mean+std", "sum", "mean", "std"]
    assert together.read_bytes == x.nbytes
    assert tw.explain(x.sum(), x.sum()).n_tasks == tw.explain(x.sum()).n_tasks


def test_delayed_calls() -> None:
    e = tw.explain([tw.delayed(abs)(k) for k in range(7)], workers=2)
    assert (e.n_tasks, e.stages[0].label, e.stages[0].block) == (7, "abs", None)
    assert e.parallelism == 7
    assert e.predicted_peak == 0


def test_nothing_to_do() -> None:
    e = tw.explain(5)
    assert (e.n_tasks, e.stages, e.predicted_peak) == (0, (), 0)
    assert "0 tasks" in str(e)
    assert e._repr_html_()


def test_collections_explain_themselves() -> None:
    x = stored((4000, 3000), 1000)
    assert x.explain(memory="1GB").n_tasks == 12
    assert tw.delayed(abs)(1).explain().n_tasks == 1


def test_explaining_runs_nothing() -> None:
    def fail(*args: Any) -> Any:
        raise AssertionError

    tw.explain(ta.ones(4, chunks=2).map_blocks(fail, dtype="f8"), tw.delayed(fail)(1))


@pytest.mark.parametrize(
    ("program", "least", "most"),
    [
        (lambda x: x.sum(), 90, 101),
        (lambda x: x.sum(axis=0), 60, 101),
        (lambda x: x.cumsum(axis=0), 20, 101),
        (lambda x: x.rechunk(-1).map_blocks(np.sort, dtype="f8"), 1, 2),
    ],
)
def test_parallelism_of_arrays(program: Any, least: float, most: float) -> None:
    x = ta.ones((10000, 1000), chunks=(100, 1000)).map_blocks(np.sqrt, dtype="f8")
    assert least <= explain(program(x), "10GB").parallelism <= most


def test_parallelism_of_a_chain_is_one() -> None:
    value = tw.delayed(0)
    for _ in range(100):
        value = value + 1
    assert explain(value).parallelism == 1


def test_a_million_tasks() -> None:
    e = explain((ta.ones((1000, 1000), chunks=1) + 1).sum())
    assert e.n_tasks > 10**6
    assert e.parallelism > 1000


# ---------------------------------------------------------------- memory


def test_more_than_the_budget_is_said_and_never_predicted() -> None:
    y = stored((8000, 1000), (1000, 1000), (1000, 1000)).map_blocks(np.sort, dtype="f8")
    e = explain((y - y.mean()).sum(), "60MB")
    assert e.predicted_peak == 60 * MB < e.wanted_peak
    assert "without that limit" in str(e)
    assert "'sort' for 2 stages: 61.0 MiB at a time, more than fits, but making it again would cost more" in str(e)


def test_what_would_be_refused_is_said_in_the_same_words() -> None:
    x = stored((8000, 1000), (8000, 1000)).map_blocks(np.sort, dtype="f8", name="sort").sum()
    e = explain(x, "100MB")
    assert e.refusal is not None
    with pytest.raises(MemoryBudgetError) as error:
        x.compute(memory="100MB")
    assert e.refusal == str(error.value)
    assert f"This plan will be refused: {e.refusal}" in str(e)
    assert "more than the 95.4 MiB there are" in str(e)


# ---------------------------------------------------------------- advice


def advice(e: Explanation, about: str) -> str:
    (found,) = (str(a) for a in e.advice if a.about == repr(about))
    return found


def test_blocks_too_large_for_the_workers() -> None:
    x = stored((8000, 1000), (2000, 1000))
    e = explain((x + 1).sum(), "30MB")
    text = advice(e, "sum")
    assert "only 1 of 2 workers can run in 28.6 MiB" in text
    chunks = chunks_in(text)
    better = explain((stored((8000, 1000), chunks) + 1).sum(), "30MB")
    assert better.advice == ()


def test_blocks_too_large_for_the_budget() -> None:
    x = stored((8000, 1000), (8000, 250)).map_blocks(np.sort, dtype="f8")
    e = explain(x.sum(), "50MB")
    text = advice(e, "sum")
    assert "none can run" in text
    assert chunks_in(text)[0] == -1  # what is whole stays whole: a function may need it so
    better = stored((8000, 1000), chunks_in(text)).map_blocks(np.sort, dtype="f8")
    assert explain(better.sum(), "50MB").refusal is None


def test_larger_blocks_of_something_that_is_not_read() -> None:
    x = ta.from_delayed(tw.delayed(np.ones)((4000, 4000)), (4000, 4000), "f8")
    e = explain(x.map_blocks(np.sort, dtype="f8").sum(), "300MB")
    assert ".rechunk((" in " ".join(str(a) for a in e.advice)


def test_blocks_too_small() -> None:
    x = stored((20000, 20000), (100, 100))
    text = advice(explain(x.sum(), "10GB"), "sum")
    assert "40,000 tasks on blocks of 78.1 KiB" in text
    better = stored((20000, 20000), chunks_in(text))
    assert 16 * 2**20 <= np.prod(better.chunksize) * 8 <= 64 * 2**20
    assert explain(better.sum(), "10GB").advice == ()


def test_small_blocks_of_a_small_array_are_nobodys_problem() -> None:
    assert explain(stored((900, 900), (10, 10)).sum()).advice == ()


@pytest.mark.parametrize(
    ("chunks", "unit", "times", "better"),
    [
        ((1000, 1000), (900, 1000), "1.8", (900, 1000)),
        ((100, 4000), (400, 4000), "4.0", (400, -1)),
        ((1000, -1), (300, 4000), "1.2", (900, -1)),
        ((500, 500), (1000, 1000), "4.0", (1000, 1000)),
        ((1500, 4000), (1000, 4000), "1.4", (2000, -1)),
    ],
)
def test_blocks_that_cut_across_storage(chunks: Any, unit: Any, times: str, better: Any) -> None:
    e = explain(stored((8000, 4000), chunks, unit).sum(), "10GB")
    text = advice(e, "tas")
    assert f"in storage, each of which is read {times} times" in text
    assert chunks_in(text) == better
    assert explain(stored((8000, 4000), chunks_in(text), unit).sum(), "10GB").advice == ()


def test_advice_on_size_keeps_to_the_chunks_in_storage() -> None:
    x = stored((8760, 2000), (-1, 250), (240, 2000))
    e = explain(x.std(axis=0), "60MB", 4)
    made = [a.instead for a in e.advice if "chunks=" in a.instead]
    assert made == ["make 'tas' with chunks=(480, -1)"]  # one way to make it, though two things are wrong
    better = stored((8760, 2000), (480, -1), (240, 2000))
    assert explain(better.std(axis=0), "60MB", 4).advice == ()


def test_functions_of_whole_axes_get_them_from_blocks_that_suit_storage() -> None:
    x = stored((8760, 2000), (-1, 500), (240, 2000)).map_blocks(np.sort, dtype="f8")
    e = explain(x.sum(), "200MB", 4)
    assert [a.instead for a in e.advice] == ["put .rechunk((-1, 134)) before it", "make it with chunks=(2160, -1)"]


@pytest.mark.parametrize("chunks", [(1000, 1000), (2000, 4000), (8000, 1000)])
def test_blocks_along_storage_need_no_advice(chunks: Any) -> None:
    assert explain(stored((8000, 4000), chunks, (1000, 1000)).sum(), "10GB").advice == ()


def test_a_read_is_aligned_by_its_place_in_storage() -> None:
    x = stored((8000, 1000), (1000, 1000), (1000, 1000))[500:]
    assert explain(x.sum()).advice == ()  # blocks keep to the chunks, wherever they begin


def test_what_several_stages_need_is_kept_if_it_fits() -> None:
    x = stored((8000, 4000), 1000)
    e = explain((x - x.mean(axis=0)).std(axis=0), "400MB")
    assert e.read_bytes == x.nbytes
    (kept,) = e.shared
    assert (kept.label, kept.users, kept.nbytes, kept.kept) == ("tas", 2, x.nbytes, True)
    assert kept.held_bytes <= 9 * 8 * MB  # a column of blocks
    assert "kept         'tas' for 2 stages: 61.0 MiB at a time, which fits" in str(e)


def test_what_several_stages_need_is_read_again_if_it_does_not_fit() -> None:
    x = stored((8000, 4000), 1000)
    y = (x - x.mean()).std()
    e = explain(y, "200MB")
    assert e.read_bytes == 2 * x.nbytes
    (again,) = e.shared
    assert (again.label, again.users, again.kept) == ("tas", 2, False)
    assert again.held_bytes == x.nbytes
    assert "made again   'tas' for 2 stages: keeping it, 244.1 MiB at a time, would take" in str(e)
    assert "more than the budget of 190.7 MiB" in str(e)
    assert explain(y, "300MB").read_bytes == x.nbytes


def chunks_in(text: str) -> tuple[int, ...]:
    """The chunks that an advice writes out."""
    start = text.index("(", max(text.rfind("chunks="), text.rfind("rechunk(")) + len("chunks="))
    found = text[start : text.index(")", start) + 1]
    return eval(found)  # type: ignore[no-any-return]


# ---------------------------------------------------------------- what it looks like


def test_as_text() -> None:
    x = stored((4000, 3000), 1000)
    lines = str(explain((x + 1).sum(axis=0))).splitlines()
    assert lines[0] == "4 operations in 2 stages, 15 tasks"
    assert lines[2].split() == ["operation", "tasks", "block", "memory", "per", "task", "kept", "read"]
    assert lines[3].split()[:6] == ["sum", "(tas,", "add)", "12", "1000", "×"]
    assert len({len(line) for line in lines[2:4]}) == 1
    text = "\n".join(lines)
    for fact in ("read         91.6 MiB", "written      nothing", "of 953.7 MiB", "keeps 2 of 2 workers busy"):
        assert fact in text
    assert repr(explain(x.sum())).startswith("3 operations")


def test_unknown_sizes_are_marked() -> None:
    x = ta.ones(10, chunks=5)
    assert "?" in str(explain(x[x > 0].map_blocks(np.sort, dtype="f8")))


class Checker(HTMLParser):
    """Raises where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""


def test_as_html() -> None:
    x = stored((8000, 4000), (100, 4000), (400, 4000), label="<tas> & co")
    e = explain(x.map_blocks(np.sort, dtype="f8").sum(), "5MB")
    checker = Checker()
    checker.feed(e._repr_html_())
    assert not checker.open
    assert "'<tas> & co'" in checker.text
    assert e.refusal is not None
    assert e.refusal in checker.text
    assert "chunks=(400, -1)" in checker.text


def test_html_takes_the_colours_around_it() -> None:
    style = explain(stored((4, 4), 2).sum())._repr_html_().partition("</style>")[0]
    assert "color: inherit" in style
    assert "black" not in style
    assert "white" not in style


# ---------------------------------------------------------------- predicted and measured

PROGRAMS = {
    "generated and reduced": "R((20000, 4000), (2000, 4000), 'f4').std(axis=0)",
    "drawn and reduced": "rng.gamma(2.0, size=(4000, 4000), chunks=(1000, 4000)).std(axis=0)",
    "a result in memory": "R((5000, 4000), (500, 4000)) * 2 + 1",
    "rechunked": "R((4000, 5000), (4000, 250)).rechunk((250, 5000)).map_blocks(np.sort, dtype='f8').sum(axis=1)",
    "kept for its mean": "X - X.mean(axis=0)",
    "read again for its mean": "(Y - Y.mean(axis=0)).std()",
    "halos": "X.map_overlap(lambda b: b + 1, depth=3, boundary='reflect', dtype='f8').sum(axis=0)",
    "a product": "(X[:2000] @ X[:2000].T).sum()",
    "cumulated": "R((8000, 2000), (500, 2000)).cumsum(axis=0).max()",
    "shuffled": "X[np.random.default_rng(0).permutation(4000)].sum(axis=1)",
    "reshaped": "R((4000, 4000), (1000, 4000)).reshape(400, 10, 4000).mean(axis=1)",
}

MEASURE = """
import gc, os, sys
import numpy as np
import tilework as tw, tilework.array as ta

rng = ta.random.default_rng(0)
R = lambda shape, chunks, dtype="f8": rng.random(shape, chunks=chunks, dtype=dtype)
X, Y = R((4000, 4000), (400, 4000)), R((9000, 9000), (900, 9000))
options = dict(workers=int(sys.argv[2]), memory="1GB")
(ta.ones((1000, 1000), chunks=300) + 1).map_blocks(np.sort, dtype="f8").sum().compute(**options)
program = eval(sys.argv[1])
predicted = tw.explain(program, **options).predicted_peak
gc.collect()
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
result = program.compute(**options)
(peak,) = (int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(predicted, peak - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are measured with Linux's /proc")
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_predicted_peak_is_what_is_measured(name: str, workers: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, PROGRAMS[name], str(workers)],
        capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    predicted, measured = map(int, done.stdout.split())
    assert measured <= 1.15 * predicted + 50 * MB
    assert predicted <= 3 * measured + 20 * MB
