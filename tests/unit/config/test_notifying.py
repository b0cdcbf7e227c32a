"""What of ``notify`` is refused, and that its secrets are known as such."""

from __future__ import annotations

from typing import cast

import pytest
from omegaconf import OmegaConf

from orchestrator.config import ranges
from orchestrator.config.notifying import check_notify, is_on
from orchestrator.config.schema import NotifyConfig
from orchestrator.errors import ConfigError
from orchestrator.redact import redact_text
from tests.unit.config.test_conf import composed

URL = "notify.webhook.url=https://hooks.example.com/services/T0/B0/s3cr3tpath"
MAIL = ["notify.email.host=mail.example.com", "notify.email.to=[a@example.com]"]


def notify_of(*words: str) -> NotifyConfig:
    """As Hydra types it, without composing all the rest."""
    given = OmegaConf.from_dotlist([word.lstrip("+").removeprefix("notify.") for word in words])
    made = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(NotifyConfig), given))
    return cast(NotifyConfig, made)


def test_nobody_is_told_unless_somebody_asks() -> None:
    config = notify_of()
    assert not is_on(config)
    check_notify(config)
    for words in ([URL], MAIL, ["notify.command='logger hello'"]):
        config = notify_of(*words)
        assert is_on(config)
        check_notify(config)


def looked_at(notify: NotifyConfig) -> None:
    ranges.check(notify, "notify.")
    check_notify(notify)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([URL, "notify.on=[ends]"], r"notify\.on=ends: .*did you mean 'end'\?; choose among start, fault"),
        ([URL, "notify.on=[]"], r"notify\.on=\[\]: nobody would be told"),
        ([URL, "notify.most_per_hour=0"], r"notify\.most_per_hour=0: must be 1 or more"),
        ([URL, "notify.timeout_s=0"], r"notify\.timeout_s=0: must be 0\.1 or more"),
        ([URL, "notify.retry_for_s=-1"], r"notify\.retry_for_s=-1: must be 0 or more"),
        ([URL, "notify.finish_timeout_s=1e9"], r"notify\.finish_timeout_s=1000000000: must be at most 3600"),
        (["notify.command=' '"], r"notify\.command: is empty"),
        (["notify.webhook.format=slack"], r"notify\.webhook\.url: no value given"),
        (["notify.webhook.url=hooks.example.com/x"], r"notify\.webhook\.url: is no address of a server; give http"),
        (["notify.webhook.url=file:///etc/passwd"], r"notify\.webhook\.url: is no address of a server"),
        (["notify.webhook.url=https://me:pw@example.com/x"], r"notify\.webhook\.url: has a user in it; put .*headers"),
        (["notify.webhook.url='http://h:99999/x'"], r"notify\.webhook\.url: [Pp]ort"),
        ([URL, "+notify.webhook.headers.X='a\tb'"], r"notify\.webhook\.headers\.X: has characters"),
        ([URL, "+notify.webhook.headers={a b: c}"], r"notify\.webhook\.headers: 'a b' is no name"),
        (["notify.email.host=mail.example.com"], r"notify\.email\.to: nobody would get mail"),
        (["notify.email.to=[a@example.com]"], r"notify\.email\.host: no value given"),
        ([MAIL[0], "notify.email.to=[nobody]"], r"notify\.email\.to='nobody': is no address"),
        ([*MAIL, "notify.email.sender='a b@c'"], r"notify\.email\.sender='a b@c': is no address"),
        ([*MAIL, "notify.email.port=0"], r"notify\.email\.port=0: must be 1 or more"),
        (["notify.email.host='h/x'", MAIL[1]], r"notify\.email\.host='h/x': is no name of a host"),
        ([*MAIL, "notify.email.user=ada"], r"notify\.email\.password: no value given"),
        ([*MAIL, "notify.email.user=ada", "notify.email.password=pw", "notify.email.security=none"],
         r"notify\.email\.security=none: the password would go over the network for all to read"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)  # fmt: skip
def test_what_would_tell_nobody_is_refused_with_its_key(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        looked_at(notify_of(*words))
    assert "s3cr3t" not in str(refused.value)


def test_an_address_that_anybody_could_post_to_and_headers_are_secrets() -> None:
    composed("job=tiny_gpt", URL, "+notify.webhook.headers.X-Key=topsecret-header", *MAIL,
             "notify.email.user=ada", "notify.email.password=mail-pa55word")  # fmt: skip
    text = f"{URL} https://hooks.example.com/services/T0/B0/s3cr3tpath topsecret-header mail-pa55word"
    hidden = redact_text(f"{text} path services/T0/B0/s3cr3tpath")
    for secret in ("s3cr3tpath", "topsecret-header", "mail-pa55word"):
        assert secret not in hidden
