"""The page that is served: to this machine's own browser, and to whoever has its token."""

from __future__ import annotations

import http.client
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cli.cli import main
from orchestrator.cli.page_server import LOOPBACK, TOKEN, PageServer, page_token
from orchestrator.cli.show.screen import Screen
from orchestrator.errors import ConfigError
from orchestrator.redact import redact_text

PAGE = "<p>all is well</p>"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    with PageServer(lambda: PAGE, page_token(tmp_path)) as one:
        thread = threading.Thread(target=one.serve_forever, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def ask(server: PageServer, path: str = "/", **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=60)
    try:
        connection.request(
            "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def test_the_address_gives_a_cookie_and_the_cookie_the_page(server: PageServer) -> None:
    code, _, headers = ask(server, f"/?page={server.token}")
    assert (code, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    code, text, headers = ask(server, Cookie=cookie.partition(";")[0])
    assert (code, text) == (200, PAGE)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert ask(server, Authorization=f"Bearer {server.token}")[:2] == (200, PAGE)


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/", {}, 401),
        ("/?page=wrong", {}, 401),
        ("/", {"Authorization": "Bearer wrong"}, 401),
        ("/", {"Cookie": "orchestrator=x; y"}, 401),
        ("/etc/passwd?page=TOKEN", {}, 404),
        # A site whose name has been turned into 127.0.0.1 meanwhile.
        ("/?page=TOKEN", {"Host": "evil.example"}, 403),
        ("/?page=TOKEN", {"Host": "evil.example:PORT"}, 403),
        ("/?page=TOKEN", {"Host": "localhost:PORT"}, 303),
    ],
)
def test_whoever_else_asks_gets_nothing(
    server: PageServer, path: str, headers: dict[str, str], code: int
) -> None:
    told = {name: text.replace("PORT", str(server.port)) for name, text in headers.items()}
    found, text, _ = ask(server, path.replace("TOKEN", server.token), **told)
    assert found == code
    assert PAGE not in text
    assert server.token not in text


def test_what_cannot_be_looked_at_is_told_and_not_thrown(tmp_path: Path) -> None:
    def refuse() -> str:
        raise ConfigError("fleet.yaml: <is not there>")

    with PageServer(refuse, "t" * 32) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        code, text, _ = ask(one, Authorization=f"Bearer {'t' * 32}")
        one.shutdown()
    assert code == 503
    assert "fleet.yaml: &lt;is not there&gt;" in text


def test_the_token_is_kept_and_is_its_owners_alone(tmp_path: Path) -> None:
    token = page_token(tmp_path)
    assert page_token(tmp_path) == token
    assert stat.S_IMODE((tmp_path / TOKEN).stat().st_mode) == 0o600
    (tmp_path / TOKEN).chmod(0o644)
    other = page_token(tmp_path)
    assert other != token
    assert stat.S_IMODE((tmp_path / TOKEN).stat().st_mode) == 0o600


def test_the_address_is_printed_as_it_is(server: PageServer, capsys: pytest.CaptureFixture[str]) -> None:
    Screen(soft_wrap=True, highlight=False).print(server.address)
    assert redact_text(server.address) == server.address
    assert capsys.readouterr().out.strip() == f"http://{LOOPBACK}:{server.port}/?page={server.token}"


def test_a_port_that_is_taken_is_refused_where_it_was_asked_for(server: PageServer) -> None:
    with pytest.raises(ConfigError, match=rf"--port {server.port}: Address already in use; choose another"):
        PageServer(lambda: PAGE, "x", server.port)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fleet", "pages"], "fleet pages: there is no such word; did you mean 'page'?; type 'fleet page'"),
        (["fleet", "page", "--port", "80"], "'80' is not a port from 1024 to 65535"),
        (["fleet", "page", "--html", "no/x.html"], "--html no/x.html: there is no folder no"),
        (["fleet", "page", "--html", "x.html", "--browser"], "--browser: is of a page that is served"),
        (["fleet", "page"], "fleet.yaml: is not there"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
