"""Servers on loopback that are told of runs: one for HTTP, one for mail. Real ones, which a test may make
slow, busy or unwilling."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

UNTIL_S = 60.0


def until(what: Callable[[], bool]) -> None:
    """Wait for a condition; whatever a busy machine needs."""
    deadline_s = time.monotonic() + UNTIL_S
    while not what():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.02)


@dataclass
class Posted:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class HttpReceiver:
    """Answers 200, or what ``answers`` holds: a status and headers each, in turn."""

    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)


@contextmanager
def http_receiver(port: int = 0, hold: threading.Event | None = None) -> Iterator[HttpReceiver]:
    """With ``hold`` it answers nobody before that is set."""
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if hold is not None:
                hold.wait(UNTIL_S)
            status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
            receiver.posted.append(Posted(self.path, dict(self.headers), json.loads(body)))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        if hold is not None:
            hold.set()
        server.shutdown()
        server.server_close()


@dataclass
class MailReceiver:
    """What it was sent; ``login`` is what a sender has to log in with, ``refuses`` the recipients that it does
    not take."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    login: tuple[str, str] | None = None
    refuses: set[str] = field(default_factory=set)
    certificate: tuple[Path, Path] | None = None


class _Session:
    """One connection: as much of RFC 5321 as Python's client speaks."""

    def __init__(self, receiver: MailReceiver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.receiver, self.reader, self.writer = receiver, reader, writer
        self.encrypted = writer.get_extra_info("ssl_object") is not None
        self.logged_in = receiver.login is None
        self.taken = 0

    async def serve(self) -> None:
        self.say("220 receiver")
        while (line := await self.reader.readline()) and await self.answer(line.decode().strip()):
            await self.writer.drain()
        self.writer.close()

    def say(self, *lines: str) -> None:
        for place, line in enumerate(lines):
            code, _, text = line.partition(" ")
            mark = "-" if place + 1 < len(lines) else " "
            self.writer.write(f"{code}{mark}{text}\r\n".encode())

    async def answer(self, line: str) -> bool:
        """Whether the session goes on."""
        word = line.upper().split(" ")[0]
        if word in ("EHLO", "HELO"):
            offers = ["250 receiver", "250 AUTH PLAIN"]
            if self.receiver.certificate and not self.encrypted:
                offers.append("250 STARTTLS")
            self.say(*offers)
        elif word == "STARTTLS":
            assert self.receiver.certificate
            self.say("220 go on")
            await self.writer.drain()
            await self.writer.start_tls(_tls(self.receiver.certificate))
            self.encrypted = True
        elif word == "AUTH":
            given = base64.b64decode(line.split()[2]).decode().split("\0")[1:]
            self.logged_in = tuple(given) == self.receiver.login
            self.say("235 welcome" if self.logged_in else "535 who are you")
        elif word == "MAIL":
            self.say("250 ok" if self.logged_in else "530 log in first")
        elif word == "RCPT":
            refused = any(who in line for who in self.receiver.refuses)
            self.say("550 nobody of that name" if refused else "250 ok")
        elif word == "DATA":
            self.say("354 go on")
            await self.writer.drain()
            self.receive(await self.reader.readuntil(b"\r\n.\r\n"))
        elif word == "QUIT":
            self.say("221 bye")
            return False
        else:
            self.say("250 ok")
        return True

    def receive(self, data: bytes) -> None:
        mail = message_from_bytes(data.removesuffix(b".\r\n"), policy=policy.default)
        self.receiver.encrypted.append(self.encrypted)
        self.receiver.mails.append(cast(EmailMessage, mail))
        self.say("250 taken")


def _tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@contextmanager
def mail_receiver(smtps: tuple[Path, Path] | None = None) -> Iterator[MailReceiver]:
    """A mail server on a port of its own; with the certificate of ``smtps`` encrypted from the first byte."""
    receiver, loop, ready = MailReceiver(), asyncio.new_event_loop(), threading.Event()
    over = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Session(receiver, reader, writer).serve()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()  # whoever sends has had enough

    async def serve() -> None:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=_tls(smtps) if smtps else None)
        receiver.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await over.wait()
        # whoever is connected still is let go
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def work() -> None:
        with closing(loop):
            loop.run_until_complete(serve())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(UNTIL_S)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(UNTIL_S)
