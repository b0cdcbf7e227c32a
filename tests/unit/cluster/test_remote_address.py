"""The address of a dashboard, before Ray is asked: a real server on loopback that is not what was meant."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.remote_address import check_address, is_overheard, token
from orchestrator.errors import ClusterError, ConfigError
from tests.support.certificates import Authority
from tests.support.ports import free_port

VERSION = json.dumps({"version": "4", "ray_version": "2.60.0"})
Answer = Callable[[dict[str, str]], tuple[int, str, dict[str, str]]]


@contextmanager
def dashboard(answer: Answer, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text, headers = answer({**dict(self.headers), "path": self.path})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asking_for(secret: str) -> Answer:
    """As Ray's own: 401 without a token, 403 with another."""

    def answer(asked: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        shown = asked.get("Authorization")
        assert asked["path"] == "/api/version"
        return 401 if shown is None else 200 if shown == f"Bearer {secret}" else 403, VERSION, {}

    return answer


def saying(status: int, text: str = VERSION, **headers: str) -> AbstractContextManager[str]:
    return dashboard(lambda _: (status, text, headers))


def refusal(address: str, ca: str | None = None, shown: str | None = None) -> str:
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as refused:
        check_address(address, ca, shown)
    return str(refused.value)


def test_the_token_that_fits_and_those_that_do_not() -> None:
    with dashboard(asking_for("right")) as address:
        check_address(address, None, "right")
        assert refusal(address).startswith(
            f"{address}: the cluster asks for a token (HTTP 401); set RAY_AUTH"
        )
        assert "asks for a token, and this is not it (HTTP 403); set RAY" in refusal(address, shown="wrong")


def test_a_certificate_that_a_cluster_has_signed_itself(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    with dashboard(asking_for("right"), authority.sign("head", "127.0.0.1")) as address:
        said = refusal(address, shown="right")
        assert "its certificate is not trusted (" in said
        assert "--ca FILE" in said
        check_address(address, str(authority.certificate), "right")
        foreign = Authority(tmp_path / "foreign")
        assert "is not trusted" in refusal(address, str(foreign.certificate), "right")
        assert "--ca" in refusal(address, str(tmp_path / "none.crt"), "right")
        plain = address.replace("https", "http")
        assert f"does not speak http; is it {address}?" in refusal(plain)
    with saying(200) as address:
        assert f"does not speak https; is it {address}?" in refusal(address.replace("http", "https"))


def test_what_answers_is_no_dashboard() -> None:
    with saying(404) as address:
        assert "something else than Ray's dashboard" in refusal(address)
    with saying(200, "<html>") as address:
        assert "something else than Ray's dashboard" in refusal(address)
    with saying(503) as address:
        assert "answers with HTTP 503" in refusal(address)


def test_a_token_is_for_the_address_that_was_given() -> None:
    seen: list[dict[str, str]] = []

    def answer(asked: dict[str, str]) -> tuple[int, str, dict[str, str]]:
        seen.append(asked)
        return 200, VERSION, {}

    with dashboard(answer) as elsewhere, saying(302, Location=elsewhere) as address:
        assert f"is at another address, '{elsewhere}'" in refusal(address, shown="right")
    assert seen == []


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.0.1:8265", "expected the address of the cluster's dashboard, http://HOST:8265"),
        ("ray://head:10001", "expected the address of the cluster's dashboard"),
        ("http://head:6379", "port of Ray's control store"),
        ("http://head:x", "is no address"),
        ("https://ada:pass@head", "an address with a password in it is seen by everybody"),
    ],
)
def test_what_is_no_address_of_a_dashboard(address: str, said: str) -> None:
    assert said in refusal(address)


def test_nobody_is_there() -> None:
    said = refusal(f"http://127.0.0.1:{free_port()}")
    assert "nothing answers there (Connection refused)" in said
    assert "ssh -N -L" in said


def test_where_the_token_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert token() is None
    own, other = tmp_path / ".ray" / "auth_token", tmp_path / "other"
    own.parent.mkdir()
    own.write_text("of-the-home\n")
    own.chmod(0o644)
    with pytest.raises(ClusterError, match="chmod 600"):
        token()
    own.chmod(0o600)
    assert token() == "of-the-home"
    other.write_text("of the file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    with pytest.raises(ConfigError, match=r"holds no token, which is one word"):
        token()
    other.write_text("of-the-file")
    assert token() == "of-the-file"
    other.unlink()
    with pytest.raises(ConfigError, match=r"No such file.*name a file with the cluster's token"):
        token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-shell")
    assert token() == "of-the-shell"


def test_who_can_read_what_is_sent() -> None:
    shown = {address: is_overheard(address) for address in (
        "http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", "https://ray.example.org",
        "http://10.0.0.1:8265", "http://head:8265",
    )}  # fmt: skip
    assert list(shown.values()) == [False, False, False, False, True, True]
