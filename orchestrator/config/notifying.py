"""The keys of ``notify``, and what of them is refused: who is told of a run, how, and of what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated
from urllib.parse import urlsplit

from orchestrator.config.ranges import Range
from orchestrator.errors import ConfigError, near_miss
from orchestrator.redact import learn, redact_text
from orchestrator.vocabulary import Moment

_ADDRESS = re.compile(r"[!-~]+@[!-~]+")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A path that short names no secret, and would be hidden wherever its letters occur.
_LEAST_SECRET_PATH = 20
MostPerHour = Annotated[int, Range(1, 3600, 20)]
AnswerTime = Annotated[float, Range(0.1, 600, 10)]
RetryTime = Annotated[float, Range(0, 86_400, 600)]
FinishTime = Annotated[float, Range(0, 3600, 30)]
Port = Annotated[int, Range(1, 65_535, 587)]


class WebhookFormat(Enum):
    """What is posted: the fields of a word as JSON, or what Slack or Teams shows."""

    generic = "generic"
    slack = "slack"
    teams = "teams"


class MailSecurity(Enum):
    """How the way to the mail server is kept from others."""

    starttls = "starttls"
    tls = "tls"
    none = "none"


@dataclass
class WebhookConfig:
    """A server that is told by HTTP POST."""

    # http(s)://…, as Slack, Teams or your own service gives it; it is treated as a secret. null: none is told
    url: str | None = None
    format: WebhookFormat = WebhookFormat.generic
    headers: dict[str, str] = field(default_factory=dict)  # sent along; their values are secrets


@dataclass
class EmailConfig:
    """A mail server that is told by SMTP."""

    host: str | None = None  # of the mail server; null: no mail is sent
    port: Port | None = None  # null is 587 with starttls, 465 with tls, 25 with none
    security: MailSecurity = MailSecurity.starttls
    user: str | None = None  # to log in as; null logs in as nobody
    password: str | None = None  # of that user, e.g. ${oc.env:SMTP_PASSWORD}
    sender: str | None = None  # address that mail comes from; null is orchestrator at this machine
    to: list[str] = field(default_factory=list)  # addresses


@dataclass
class NotifyConfig:
    """Who is told when something happens to a run. All of it is off until a webhook's URL, a mail server or a
    command is named; a run never waits for any of them but at its end."""

    # of what: start, fault, recovered, straggler, budget_warning, budget_reached, end
    on: list[str] = field(default_factory=lambda: [moment.value for moment in Moment])
    webhook: WebhookConfig = field(default_factory=WebhookConfig)
    email: EmailConfig = field(default_factory=EmailConfig)
    # run by /bin/sh, with the word as JSON on standard input and in variables ORCHESTRATOR_NOTIFY_*; null:
    # none is run
    command: str | None = None
    # words within an hour; what is beyond is counted in the next one. End and budget are always told
    most_per_hour: MostPerHour = 20
    timeout_s: AnswerTime = 10.0  # for one answer
    retry_for_s: RetryTime = 600.0  # for which a word that could not be told is tried again
    finish_timeout_s: FinishTime = 30.0  # for what has not been told when the run has ended


def is_on(notify: NotifyConfig) -> bool:
    """Whether anybody is to be told."""
    return bool(notify.webhook.url or notify.email.host or notify.command)


def learn_secrets(notify: NotifyConfig) -> None:
    """Whoever has a webhook's address may post there, so it is hidden as a password is."""
    url = notify.webhook.url or ""
    learn([url, *notify.webhook.headers.values()], name="secret")
    path = url.partition("://")[2].partition("/")[2]
    if len(path) >= _LEAST_SECRET_PATH:
        learn(path, name="secret")


def check_notify(notify: NotifyConfig) -> None:
    """Raises :class:`ConfigError` for what would tell nobody, or not what it says."""
    for name in notify.on:
        known = [moment.value for moment in Moment]
        if name not in known:
            raise ConfigError(
                f"notify.on={name}: nothing is told of that{near_miss(name, known)}; choose among"
                f" {', '.join(known)}"
            )
    if is_on(notify) and not notify.on:
        raise ConfigError("notify.on=[]: nobody would be told of anything; name e.g. notify.on=[fault,end]")
    if notify.command is not None and not notify.command.strip():
        raise ConfigError("notify.command: is empty; give a shell command, or null for none")
    _check_webhook(notify.webhook)
    _check_email(notify.email)


def _check_webhook(webhook: WebhookConfig) -> None:
    if not webhook.url:
        if webhook.headers or webhook.format is not WebhookFormat.generic:
            raise ConfigError(
                "notify.webhook.url: no value given, though its format or headers are; set it, e.g."
                " notify.webhook.url=${oc.env:WEBHOOK_URL}"
            )
        return
    if (why := _why_no_url(webhook.url)) is not None:
        raise ConfigError(f"notify.webhook.url: {why}; give http://HOST/PATH or https://HOST/PATH")
    for name, value in webhook.headers.items():
        if not _HEADER.fullmatch(name):
            raise ConfigError(
                f"notify.webhook.headers: {name!a} is no name of a header; letters, digits and '-'"
            )
        if not value.isprintable() or not value.isascii():
            raise ConfigError(f"notify.webhook.headers.{name}: has characters that no header may have")


def _why_no_url(url: str) -> str | None:
    """Why nothing can be posted to an address; it is a secret, and not quoted."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "has characters that no address may have"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return redact_text(str(error))
    if parts.scheme not in ("http", "https") or not host:
        return "is no address of a server"
    if "@" in parts.netloc:
        return "has a user in it; put what logs in into notify.webhook.headers (Authorization)"
    return None


def _check_email(email: EmailConfig) -> None:
    if not email.host:
        if email.to or email.user or email.password or email.sender:
            raise ConfigError(
                "notify.email.host: no value given, though other keys of notify.email are; set it, e.g."
                " notify.email.host=smtp.example.com"
            )
        return
    if not email.to:
        raise ConfigError(
            "notify.email.to: nobody would get mail; set it, e.g. 'notify.email.to=[me@example.com]'"
        )
    for key, address in [*(("to", each) for each in email.to), ("sender", email.sender)]:
        if address is not None and not _ADDRESS.fullmatch(address):
            raise ConfigError(f"notify.email.{key}={address!a}: is no address of mail; give name@host")
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", email.host):
        raise ConfigError(
            f"notify.email.host={email.host!a}: is no name of a host; the port goes into notify.email.port"
        )
    if bool(email.user) != bool(email.password):
        missing = "password" if email.user else "user"
        raise ConfigError(f"notify.email.{missing}: no value given; a login needs both user and password")
    if email.password and email.security is MailSecurity.none and email.host not in _LOOPBACK:
        raise ConfigError(
            "notify.email.security=none: the password would go over the network for all to read; use"
            " starttls or tls"
        )
