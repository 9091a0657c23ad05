from __future__ import annotations

import http.client
import json
import re
import select
import time
from contextlib import suppress
from html.parser import HTMLParser
from importlib.resources import files
from urllib.request import HTTPCookieProcessor, Request, build_opener

import pytest

from tests.diagnostics.visitors import BEARER, NOW, TOKEN, connected, get, port, root
from tilework.diagnostics import visit
from tilework.diagnostics.metrics import metrics
from tilework.diagnostics.status import MAX_REQUEST, StatusServer, serve
from tilework.engine.cluster.wire.snapshot import (
    ClientSnapshot,
    EventSnapshot,
    MemorySnapshot,
    OperationSnapshot,
    Snapshot,
    WorkerSnapshot,
)

PAGE = files("tilework.diagnostics").joinpath("status.html")


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
    monkeypatch.setattr(visit, "PATIENCE", 0.3)
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


def test_metrics_with_the_type_that_prometheus_expects(page: StatusServer) -> None:
    request = Request(root(page) + "/metrics", headers={"Authorization": BEARER})
    with build_opener().open(request, timeout=30) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.read().decode() == metrics(NOW)


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
