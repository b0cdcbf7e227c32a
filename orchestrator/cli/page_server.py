"""A page served to this machine's own browser, to whoever has its token.

It listens on loopback. A page of another site could still have the browser ask for it, by a name that it
turns into 127.0.0.1 once it is loaded: such a question names that site as its host, and is refused. The
token, in a file for its owner alone, is shown once, in the address; from then on the browser has it as a
cookie that no script reads.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from html import escape
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from orchestrator import papers
from orchestrator.errors import ConfigError, OrchestratorError, RunDirectoryError
from orchestrator.files import atomic_write, make_folder

LOOPBACK = "127.0.0.1"
PORT = 8270
TOKEN = "page.token"
# Of the address. What is called a token is hidden in all that we print, and this one has to be read.
_SHOWN = "page"
_TOKEN_BYTES, _MOST_TOKEN_BYTES = 24, 200
_FRESH_S = 2.0  # several tabs are shown one look
_SILENT_S = 10.0  # after so long a connection on which nothing is asked is closed
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def page_token(folder: Path) -> str:
    """The one in a folder, made where there is none; one that others may read is made anew.

    Raises :class:`RunDirectoryError` where it cannot be written.
    """
    path = folder / TOKEN
    try:
        if not path.stat().st_mode & 0o077:
            found = papers.read_bytes(path, _MOST_TOKEN_BYTES).decode().strip()
            if len(found) >= _TOKEN_BYTES:
                return found
    except (OSError, ValueError):
        pass
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        make_folder(folder)
        atomic_write(path, f"{token}\n", 0o600)
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: {error.strerror}; mend that, or write the page with --html FILE"
        ) from None
    return token


class PageServer(ThreadingHTTPServer):
    """Serves what ``make`` returns, at ``/`` alone. One look is shown to all who ask within two seconds."""

    daemon_threads = True

    def __init__(self, make: Callable[[], str], token: str, port: int | None = None) -> None:
        """``port`` None: the one that is the default, or any where that is taken.

        Raises :class:`ConfigError` for one that is taken.
        """
        self._make, self.token = make, token
        self._lock, self._made, self._made_at_s = threading.Lock(), "", float("-inf")
        try:
            super().__init__((LOOPBACK, PORT if port is None else port), _Handler)
        except OSError as error:
            if port is not None:
                raise ConfigError(f"--port {port}: {error.strerror}; choose another") from None
            super().__init__((LOOPBACK, 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """To be opened by whoever may see it."""
        return f"http://{LOOPBACK}:{self.port}/?{_SHOWN}={self.token}"

    def page(self) -> str:
        with self._lock:
            if time.monotonic() - self._made_at_s > _FRESH_S:
                self._made = self._make()
                self._made_at_s = time.monotonic()
            return self._made

    def handle_error(self, _request: object, _client: object) -> None:
        """A browser that has gone away is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "orchestrator", ""
    timeout = _SILENT_S

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        names = {f"{name}:{self.server.port}" for name in (LOOPBACK, "localhost")}
        if self.headers.get("Host", "") not in names:
            self._answer(403, _said("This page is of this machine alone: ask for it as 127.0.0.1."))
        elif asked.path != "/":
            self._answer(404, _said("There is one page here, at /."))
        elif self._knows(shown := parse_qs(asked.query).get(_SHOWN, [""])[0]):
            cookie = f"{self._cookie}={shown}; HttpOnly; SameSite=Lax; Path=/"
            self._answer(303, "", {"Location": "/", "Set-Cookie": cookie})
        elif self._knows(self._from_cookie()) or self._knows(self._from_header()):
            self._answer_page()
        else:
            said = "Open the address that 'orchestrator fleet page' has printed, with its token."
            self._answer(401, _said(said), {"WWW-Authenticate": "Bearer"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer_page(self) -> None:
        try:
            self._answer(200, self.server.page())
        except OrchestratorError as error:
            self._answer(503, _said(str(error)))

    @property
    def _cookie(self) -> str:
        """Browsers do not tell ports of a machine apart."""
        return f"orchestrator_{self.server.port}"

    def _from_cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _from_header(self) -> str:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""

    def _knows(self, shown: str) -> bool:
        return bool(shown) and hmac.compare_digest(shown.encode(), self.server.token.encode())

    def _answer(self, code: int, body: str, headers: dict[str, str] | None = None) -> None:
        content = body.encode()
        self.send_response(code)
        for name, value in {**_HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, _format: str, *_args: object) -> None:
        """Nobody wants to read who asked, and the address has the token in it."""


def _said(text: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>orchestrator</title><p style='font:16px system-ui;margin:3em'>{escape(text)}</p></html>\n"
    )
