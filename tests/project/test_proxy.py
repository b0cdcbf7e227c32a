"""The proxy that the soak puts before MLflow does to answers what it says."""

from __future__ import annotations

import http.server
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy, Trouble

SLOW_S = 0.3


class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        one = Proxy(server.server_port, random.Random(1), (SLOW_S, SLOW_S))
        yield one
        one.close()
        server.shutdown()
        thread.join()


def ask(proxy: Proxy, timeout_s: float = 60.0) -> str:
    with urllib.request.urlopen(f"{proxy.uri}/word", timeout=timeout_s) as answer:
        return str(answer.read().decode())


def test_without_trouble_all_is_passed_on(proxy: Proxy) -> None:
    assert ask(proxy) == "/word"


def test_a_slow_answer_comes_late(proxy: Proxy) -> None:
    proxy.trouble = Trouble.SLOW
    begun_s = time.monotonic()
    assert ask(proxy) == "/word"
    assert time.monotonic() - begun_s >= SLOW_S


def test_what_is_stuck_comes_once_it_is_not(proxy: Proxy) -> None:
    proxy.trouble = Trouble.STUCK
    with pytest.raises(OSError, match="timed out"):
        ask(proxy, timeout_s=0.2)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(ask(proxy)))
    thread.start()
    thread.join(0.2)
    assert found == []
    proxy.trouble = Trouble.NONE
    thread.join()
    assert found == ["/word"]


def test_torn_connections_are_errors_and_new_ones_are_well_again(proxy: Proxy) -> None:
    proxy.trouble = Trouble.TORN
    with pytest.raises((OSError, urllib.error.URLError)):
        ask(proxy)
    proxy.trouble = Trouble.NONE
    assert ask(proxy) == "/word"
