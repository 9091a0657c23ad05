from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.diagnostics.visitors import NOW
from tilework.diagnostics import metrics as module
from tilework.diagnostics.metrics import metrics
from tilework.engine.cluster.wire.snapshot import Counters, OperationSnapshot

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{(?P<labels>[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*)\})?'
    r" (?P<value>[-+0-9.e]+)"
)
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> dict[tuple[str, ...], float]:
    """Prometheus's text format, strictly: (name, label, value, ...) → sample."""
    samples: dict[tuple[str, ...], float] = {}
    family, kind = "", ""
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert re.fullmatch(r"# HELP \w+ \S.*\.", line)
            assert not any(key[0] == family for key in samples), f"{family} comes twice"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
            assert (kind == "counter") == family.endswith("_total")
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match["name"] == family
            labels = [
                part
                for name, value in LABEL.findall(match["labels"] or "")
                for part in (name, re.sub(r"\\(.)", lambda found: found[1].replace("n", "\n"), value))
            ]
            key = (family, *labels)
            assert key not in samples, f"{key} comes twice"
            samples[key] = float(match["value"])
    return samples


def test_metrics() -> None:
    samples = parse(metrics(NOW))
    assert samples["tilework_info", "cluster", "mine", "version", "0.1.0"] == 1
    assert samples["tilework_start_time_seconds",] == 1000.0
    assert samples["tilework_memory_held_bytes",] == 500
    assert samples["tilework_workers", "status", "starting"] == 1
    assert samples["tilework_worker_tasks_running", "worker", "0"] == 2
    assert samples["tilework_worker_memory_limit_bytes", "worker", "0"] == 1000
    assert ("tilework_worker_memory_limit_bytes", "worker", "1") not in samples
    assert samples["tilework_tasks", "operation", "sum", "state", "waiting"] == 2
    assert samples["tilework_tasks", "operation", 'load "x"\\y\nz', "state", "failed"] == 3
    assert samples["tilework_tasks_done_total",] == 41
    assert samples["tilework_spilled_bytes_total",] == 7
    assert samples["tilework_client_futures", "client", "notebook", "pid", "99"] == 5


def test_two_of_the_same_name_are_one_sample() -> None:
    twice = replace(NOW, clients=NOW.clients * 2, operations=NOW.operations * 2)
    samples = parse(metrics(twice))
    assert samples["tilework_client_futures", "client", "notebook", "pid", "99"] == 10
    assert samples["tilework_tasks", "operation", "sum", "state", "done"] == 80


def test_an_empty_cluster_has_metrics_too() -> None:
    parse(metrics(replace(NOW, workers=(), operations=(), clients=())))


@given(st.text())
def test_any_label_survives(label: str) -> None:
    samples = parse(metrics(replace(NOW, operations=(OperationSnapshot(label, 1, 2, 3, 4),))))
    assert samples["tilework_tasks", "operation", label, "state", "failed"] == 4


def test_every_counter_is_among_the_metrics() -> None:
    assert set(module._COUNTERS) == set(Counters.__dataclass_fields__)
