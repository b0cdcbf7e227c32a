"""The ways to tell somebody. Each sends one word, or says why that cannot be: for now, or for good."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from orchestrator.config.notifying import (
    EmailConfig,
    MailSecurity,
    NotifyConfig,
    WebhookConfig,
    WebhookFormat,
)
from orchestrator.ledger.notify import texts
from orchestrator.ledger.notify.words import Word
from orchestrator.papers import one_line
from orchestrator.redact import redact_text
from orchestrator.text import clean

_PORTS = {MailSecurity.starttls: 587, MailSecurity.tls: 465, MailSecurity.none: 25}
_PAYLOADS: dict[WebhookFormat, Callable[[Word], dict[str, Any]]] = {
    WebhookFormat.generic: texts.generic,
    WebhookFormat.slack: texts.slack,
    WebhookFormat.teams: texts.teams,
}
# Of answers that are errors, those that another try may not get: too slow, too many, or the server's own.
_LATER = (408, 425, 429)
# Of what a server or a command says of itself.
_MOST_SAID_BYTES = 2000


class NotTold(Exception):
    """A word did not arrive; the message is why. With ``for_good`` it never will as things are configured;
    ``after_s`` is how long the server asks to be left alone."""

    def __init__(self, why: str, for_good: bool = False, after_s: float = 0.0) -> None:
        super().__init__(one_line(clean(redact_text(why))))
        self.for_good, self.after_s = for_good, after_s


class Channel(Protocol):
    """One way to tell somebody; ``name`` is for people and holds no secret."""

    name: str

    def send(self, word: Word) -> None:
        """Raises :class:`NotTold`."""


def channels_of(notify: NotifyConfig) -> list[Channel]:
    """All that are configured."""
    found: list[Channel] = []
    if notify.webhook.url:
        found.append(Webhook(notify.webhook, notify.timeout_s))
    if notify.email.host:
        found.append(Email(notify.email, notify.timeout_s))
    if notify.command:
        found.append(Command(notify.command, notify.timeout_s))
    return found


class Webhook:
    """An HTTP POST of JSON; the proxies of the environment are used."""

    def __init__(self, config: WebhookConfig, timeout_s: float) -> None:
        self._config, self._timeout_s = config, timeout_s
        self.name = f"webhook at {urlsplit(config.url or '').hostname}"
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, word: Word) -> None:
        """Raises :class:`NotTold`."""
        assert self._config.url
        headers = {"Content-Type": "application/json", "User-Agent": "orchestrator"}
        body = texts.as_json(_PAYLOADS[self._config.format](word))
        request = urllib.request.Request(
            self._config.url, data=body, headers={**headers, **self._config.headers}, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s):
                return
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise NotTold(str(getattr(reason, "strerror", None) or reason or type(error).__name__)) from None

    def _refused(self, error: urllib.error.HTTPError) -> NotTold:
        said = ""
        with contextlib.suppress(OSError, http.client.HTTPException):
            said = error.read(_MOST_SAID_BYTES).decode(errors="replace")
        why = f"HTTP {error.code} {error.reason}"
        if 300 <= error.code < 400:
            return NotTold(
                f"{why}: it is at another address, which is not followed; set notify.webhook.url", True
            )
        for_good = 400 <= error.code < 500 and error.code not in _LATER
        wait = error.headers.get("Retry-After", "") if error.headers else ""
        after_s = float(wait) if wait.isdigit() else 0.0
        return NotTold(f"{why}: {said}" if said.strip() else why, for_good, after_s)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, which tells nobody anything."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Email:
    """A mail by SMTP, over a connection of its own: minutes lie between two."""

    def __init__(self, config: EmailConfig, timeout_s: float) -> None:
        self._config, self._timeout_s = config, timeout_s
        self._port = config.port or _PORTS[config.security]
        self.name = f"mail server {config.host}:{self._port}"

    def send(self, word: Word) -> None:
        """Raises :class:`NotTold`."""
        config = self._config
        sender = config.sender or f"orchestrator@{socket.getfqdn()}"
        message = texts.mail(word, sender, config.to)
        try:
            with self._connected() as server:
                if config.security is MailSecurity.starttls:
                    server.starttls(context=ssl.create_default_context())
                if config.user and config.password:
                    server.login(config.user, config.password)
                refused = server.send_message(message)
        except smtplib.SMTPNotSupportedError as error:
            raise NotTold(f"{error}; set notify.email.security or the login otherwise", True) from None
        except smtplib.SMTPRecipientsRefused as error:
            raise self._nobody(error.recipients) from None
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            raise NotTold(f"{error.smtp_code} {text}", for_good=error.smtp_code >= 500) from None
        except ssl.SSLCertVerificationError as error:
            raise NotTold(f"its certificate is not trusted: {error.verify_message}", True) from None
        except (OSError, smtplib.SMTPException) as error:
            raise NotTold(str(getattr(error, "strerror", None) or error or type(error).__name__)) from None
        if refused:
            raise self._nobody(refused, "some got it, ")

    def _connected(self) -> smtplib.SMTP:
        assert self._config.host
        if self._config.security is MailSecurity.tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self._config.host, self._port, timeout=self._timeout_s, context=context)
        return smtplib.SMTP(self._config.host, self._port, timeout=self._timeout_s)

    def _nobody(self, refused: dict[str, tuple[int, bytes]], before: str = "") -> NotTold:
        each = (f"{who}: {code} {said.decode(errors='replace')}" for who, (code, said) in refused.items())
        for_good = bool(before) or all(code >= 500 for code, _ in refused.values())
        return NotTold(f"{before}refused are {', '.join(each)}", for_good)


class Command:
    """A shell command of the user's; nothing of a word is ever part of its text."""

    def __init__(self, command: str, timeout_s: float) -> None:
        self._command, self._timeout_s = command, timeout_s
        self.name = "notify.command"

    def send(self, word: Word) -> None:
        """Raises :class:`NotTold`."""
        # In a file and not a pipe: what it leaves running may hold that open.
        with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as given:
            given.write(texts.as_json(texts.generic(word)) + b"\n")
            given.seek(0)
            process = subprocess.Popen(
                ["/bin/sh", "-c", self._command],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **texts.variables(word)},
                start_new_session=True,
            )
            try:
                status = process.wait(self._timeout_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise NotTold(f"it was ended after {self._timeout_s:g} s (notify.timeout_s)") from None
            if status:
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - _MOST_SAID_BYTES))
                said = errors.read().decode(errors="replace").strip()
                raise NotTold(f"it ended with status {status}" + (f": {said}" if said else ""))
