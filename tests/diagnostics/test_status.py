from __future__ import annotations

import socket
import subprocess
import sys
import threading

import pytest

from tests.diagnostics.visitors import BEARER, NOW, TOKEN, connected, get, port
from tilework.base.errors import ConfigError
from tilework.diagnostics import status
from tilework.diagnostics.status import MAX_HANDLERS, StatusServer, serve
from tilework.engine.cluster.wire.snapshot import Snapshot


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


def test_http_is_loaded_when_somebody_looks() -> None:
    program = (
        "import sys\n"
        "from tilework.diagnostics.status import serve\n"
        "serve(lambda: None)\n"
        "assert 'http.server' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
