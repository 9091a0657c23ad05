from __future__ import annotations

import http.client
import json
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import ConfigError
from tilework.diagnostics import status
from tilework.diagnostics.status import MAX_HANDLERS, MAX_REQUEST, StatusServer, metrics, serve
from tilework.engine.cluster.snapshot import (
    ClientSnapshot,
    Counters,
    EventSnapshot,
    MemorySnapshot,
    OperationSnapshot,
    Snapshot,
    WorkerSnapshot,
)

PAGE = files("tilework.diagnostics").joinpath("status.html")
TOKEN = "the-token"
NOW = Snapshot(
    cluster="mine",
    address="tcp://127.0.0.1:8786",
    version="0.1.0",
    started=1000.0,
    time=1060.5,
    workers=(
        WorkerSnapshot("0", 4711, "running", 2, 300, 1000, ("sum", 'load "x"'), 41),
        WorkerSnapshot("1", 4712, "starting", 2, 0, None, (), 0),
    ),
    memory=MemorySnapshot(held=500, reserved=20, limit=2000, on_disk=7),
    operations=(OperationSnapshot("sum", 40, 1, 2, 0), OperationSnapshot('load "x"\\y\nz', 1, 1, 0, 3)),
    clients=(ClientSnapshot("notebook", 99, 1001.0, 5),),
    counters=Counters(tasks_done=41, tasks_failed=3, bytes_spilled=7),
    events=(EventSnapshot(1002.0, "info", "worker 0 started"),),
)


@pytest.fixture
def page() -> Iterator[StatusServer]:
    server = serve(lambda: NOW, token=TOKEN)
    yield server
    server.close()


def root(page: StatusServer) -> str:
    return page.link.partition("/?")[0]


def port(page: StatusServer) -> int:
    return int(root(page).rpartition(":")[2])


def get(page: StatusServer, path: str, opener: OpenerDirector | None = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer."""
    request = Request(root(page) + path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with (opener or build_opener()).open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


BEARER = f"Bearer {TOKEN}"

# ---------------------------------------------------------------- who may see it


def test_the_link_opens_the_page_and_the_cookie_keeps_it_open(page: StatusServer) -> None:
    browser = build_opener(HTTPCookieProcessor())
    with browser.open(page.link, timeout=30) as answer:
        assert answer.url == root(page) + "/"  # the token is not in the address any more
        assert answer.read() == PAGE.read_bytes()
    code, text = get(page, "/status.json", browser)
    assert code == 200
    assert json.loads(text)["cluster"] == "mine"


def test_the_cookie_is_for_this_page_only(page: StatusServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port(page), timeout=30)
    connection.request("GET", f"/?token={TOKEN}")
    answer = connection.getresponse()
    assert answer.status == 303
    assert answer.headers["Location"] == "/"
    assert answer.headers["Set-Cookie"] == f"tilework-{port(page)}={TOKEN}; Path=/; HttpOnly; SameSite=Lax"
    connection.close()


@pytest.mark.parametrize("path", ["/status.json", "/metrics"])
@pytest.mark.parametrize("how", ["bearer", "query"])
def test_programs_may_show_the_token_each_time(page: StatusServer, path: str, how: str) -> None:
    if how == "bearer":
        assert get(page, path, Authorization=BEARER)[0] == 200
    else:
        assert get(page, f"{path}?token={TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/status.json", "/metrics", "/nothing", "/?token=", "/?token=x", "/metrics?token=é"]
)
@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer x"}, {"Cookie": "tilework-{port}=x"}, {"Cookie": '="'}]
)
def test_without_the_token_there_is_nothing_to_see(page: StatusServer, path: str, headers: dict[str, str]) -> None:
    headers = {name: value.replace("{port}", str(port(page))) for name, value in headers.items()}
    code, text = get(page, path.replace("é", "%C3%A9"), **headers)
    assert code == 401
    assert "whole link, token included" in text
    assert TOKEN not in text
    assert "mine" not in text


def test_health_needs_no_token_and_tells_nothing(page: StatusServer) -> None:
    assert get(page, "/health") == (200, "ok\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1:8787", ""])
@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_a_name_of_another_machine_is_refused(page: StatusServer, host: str, path: str) -> None:
    code, text = get(page, path, Host=host, Authorization=BEARER)
    assert code == 421
    assert "this machine only" in text


@pytest.mark.parametrize("host", ["localhost:8787", "127.0.0.1", "LOCALHOST", "[::1]:80"])
def test_a_forwarded_port_is_fine(page: StatusServer, host: str) -> None:
    assert get(page, "/metrics", Host=host, Authorization=BEARER)[0] == 200


def test_no_other_page_may_read_or_embed_it(page: StatusServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port(page), timeout=30)
    connection.request("GET", "/status.json", headers={"Authorization": BEARER, "Origin": "http://evil.example"})
    answer = connection.getresponse()
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Python" not in answer.headers["Server"]
    connection.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "", "10.0.0.1", "example.org", "127.0.0.1:80"])
def test_it_listens_on_this_machine_only(host: str) -> None:
    with pytest.raises(ConfigError, match="for this machine only"):
        serve(lambda: NOW, host=host)


def test_a_port_that_is_taken(page: StatusServer) -> None:
    with pytest.raises(ConfigError, match=rf"cannot listen at 127.0.0.1:{port(page)}: .* use another port"):
        serve(lambda: NOW, port=port(page))


def test_each_page_has_a_token_of_its_own() -> None:
    pages = [serve(lambda: NOW) for _ in range(2)]
    tokens = {server.link.partition("token=")[2] for server in pages}
    assert len(tokens) == 2
    assert all(len(token) >= 32 for token in tokens)
    for server in pages:
        server.close()
        server.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port(server)))


# ---------------------------------------------------------------- what goes wrong


def test_unknown_paths_and_methods(page: StatusServer) -> None:
    assert get(page, "/nothing", Authorization=BEARER) == (404, "There are /, /status.json, /metrics and /health\n")
    for line, code in ((b"POST /status.json", b"501"), (b"GET http://[", b"400")):
        with connected(page) as sock:
            sock.sendall(line + f" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {BEARER}\r\n\r\n".encode())
            assert sock.recv(100).split()[1] == code


def test_a_cluster_that_does_not_answer() -> None:
    def fail() -> Snapshot:
        raise TimeoutError

    page = serve(fail, token=TOKEN)
    assert get(page, "/status.json", Authorization=BEARER) == (503, "The cluster does not answer: TimeoutError()\n")
    assert get(page, "/health") == (200, "ok\n")
    page.close()


def test_many_visitors_ask_the_cluster_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_FRESH", 3600.0)
    asked: list[int] = []

    def ask() -> Snapshot:
        asked.append(1)
        return NOW

    page = serve(ask, token=TOKEN)
    visitors = [
        threading.Thread(target=get, args=(page, "/metrics"), kwargs={"Authorization": BEARER}) for _ in "abcdef"
    ]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert len(asked) == 1
    page.close()


# ---------------------------------------------------------------- strangers


def connected(page: StatusServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port(page)), timeout=30)


def visits() -> int:
    return sum(thread.name == "tilework-visit" for thread in threading.enumerate())


def test_half_open_connections_keep_nobody_out(page: StatusServer) -> None:
    flood = []
    for k in range(100):
        flood.append(connected(page))
        flood[-1].sendall(b"GET / HTTP/1.1\r\n"[: k % 16])
    assert get(page, "/health") == (200, "ok\n")
    assert visits() <= MAX_HANDLERS + 2  # some may be ending
    for sock in flood:
        sock.close()


def test_a_request_that_is_too_long_is_not_read(page: StatusServer) -> None:
    sock = connected(page)
    sent = 0
    with suppress(ConnectionError):
        while sent < 10_000_000:
            sent += sock.send(b"GET / HTTP/1.1\r\nX: " + b"x" * MAX_REQUEST)
    assert sent < 10_000_000
    sock.close()
    assert get(page, "/health") == (200, "ok\n")


def test_who_drips_is_cut_off(page: StatusServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "PATIENCE", 0.3)
    sock = connected(page)
    end = time.monotonic() + 30
    while not select.select([sock], [], [], 0.05)[0]:
        sock.sendall(b"G")
        assert time.monotonic() < end, "it is still served"
    with suppress(ConnectionError):
        assert sock.recv(1) == b""
    sock.close()


# ---------------------------------------------------------------- what is seen


def test_the_json_says_all(page: StatusServer) -> None:
    said = json.loads(get(page, "/status.json", Authorization=BEARER)[1])
    assert said["workers"][0]["running"] == ["sum", 'load "x"']
    assert said["memory"] == {"held": 500, "reserved": 20, "limit": 2000, "on_disk": 7}
    assert said["operations"][1]["failed"] == 3
    assert said["events"][0]["text"] == "worker 0 started"
    assert said["time"] - said["started"] == 60.5


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


def test_metrics_with_the_type_that_prometheus_expects(page: StatusServer) -> None:
    request = Request(root(page) + "/metrics", headers={"Authorization": BEARER})
    with build_opener().open(request, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.read().decode() == metrics(NOW)


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
    assert set(status._COUNTERS) == set(Counters.__dataclass_fields__)


class Resources(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]


def test_the_page_needs_nothing_from_elsewhere_and_makes_no_markup_of_names() -> None:
    text = PAGE.read_text()
    resources = Resources()
    resources.feed(text)
    assert resources.found == ["data:,", "/status.json"]
    assert not re.search(r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", text)


def test_the_page_shows_all_fields() -> None:
    text = PAGE.read_text()
    for kind in (WorkerSnapshot, MemorySnapshot, OperationSnapshot, ClientSnapshot, EventSnapshot):
        missing = [name for name in kind.__dataclass_fields__ if not re.search(rf"\b{name}\b", text)]
        assert not missing, f"the page does not show {missing} of {kind.__name__}"
