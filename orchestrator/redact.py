"""Secrets leave the process only as ``***``: what bears the name of one, what has the form of one, and every
value that is known to be one, wherever it occurs.

Known are the values of secret-looking variables of the environment, and what :func:`learn` has been shown.
Text is hidden where it is written: papers, events, MLflow's fields, and all that is printed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, unquote

HIDDEN = "***"
# Shorter ones, and short words of letters alone, are hidden under their name, and not wherever their letters
# occur.
LEAST_CHARACTERS, LEAST_LETTERS = 5, 8

_T = TypeVar("_T")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = {
    "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "passcode", "pass", "pwd",
    "pat", "credential", "credentials", "cred", "creds", "apikey", "apikeys", "accesskey", "secretkey",
    "privatekey", "authkey", "auth", "authorization", "bearer", "cookie", "cookies", "jwt", "sas", "netrc",
    "kubeconfig",
}  # fmt: skip
_SECRET_ENDS = ("password", "passwd", "secret", "apikey")
# Two words that say so together, whatever follows.
_SECRET_PAIRS = {("access", "key"), ("api", "key"), ("secret", "key"), ("private", "key"),
                 ("access", "token"), ("account", "key"), ("service", "account")}  # fmt: skip
# A name that ends in one of these is about something else: where the secret lies, or how long it is.
_ABOUT = {
    "path", "file", "files", "dir", "folder", "url", "uri", "host", "port", "name", "names", "id", "ids",
    "mode", "type", "types", "kind", "enabled", "required", "length", "len", "size", "count", "num", "dim",
    "index", "provider", "parallelism", "format", "version", "sock", "method", "rate", "ratio", "limit",
    "budget", "time", "timeout", "ttl", "level", "fn", "func", "cls", "class", "tokens", "tokenizer", "cost",
    "loss", "weight", "embedding", "head", "heads", "accuracy", "entropy", "norm", "prob", "probs",
    "logprob", "logprobs", "throughput", "s", "ms", "sec", "seconds",
}  # fmt: skip
# Training terms: "eos_token" is a word of the vocabulary, "text_key" a column, "forward_pass" a computation.
_TRAINING = {
    "token": {"pad", "eos", "bos", "unk", "mask", "sep", "cls", "per", "max", "min", "num", "n", "special",
              "image", "audio", "video", "start", "end", "stop", "next", "first", "last", "prompt", "extra",
              "sample", "think", "decoder", "additional", "usd", "flops", "bytes"},
    "pass": {"forward", "backward", "single", "multi", "first", "second", "last", "one", "two", "per", "low",
             "high", "band", "fwd", "bwd", "n", "num"},
    "key": {"text", "label", "image", "input", "target", "sort", "group", "primary", "foreign", "partition",
            "query", "cache", "metric", "column", "audio", "prompt", "response", "user", "data", "value",
            "source", "feature", "output", "loss", "answer", "question", "message", "messages", "content",
            "chosen", "rejected", "monitor"},
    "pat": set(),
    "auth": set(),
}  # fmt: skip
# In the address of MLflow's page it says which columns to show.
_NAME_OF_A_VIEW = "viewStateShareKey"
_COMMON = {
    "false",
    "true",
    "none",
    "null",
    "token",
    "secret",
    "password",
    "passwd",
    "default",
    "public",
    "basic",
}
_FORMS = re.compile(
    r"""
      (?P<scheme>\b[a-z][a-z0-9+.-]{1,20}+://[^\s:/@"']{0,200}+):[^\s"'<>]{1,500}@  # a password
    | (?P<lone>\b[a-z][a-z0-9+.-]{1,20}+://)[^\s:/@"']{16,500}+@         # a token in the place of a user
    | (?P<query>[?&](?!viewStateShareKey=)[\w.-]{0,40}?
      (?:token|key|secret|sig|signature|password|passwd|auth|credential)=)
      [^&\s"'\#]+
    | (?P<header>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/-]{12,}=*
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | \b(?:hf_|api_org_|gh[opsru]_|npm_|r8_|gsk_|wandb_v1_)[A-Za-z0-9]{20,}
    | \bgithub_pat_\w{20,} | \bglpat-[\w-]{16,} | \bsk-[\w-]{20,} | \bxox[a-z]-[\w-]{10,} | \bnvapi-[\w-]{20,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b | \bAIza[\w-]{35} | \bya29\.[\w-]{20,} | \bdapi[0-9a-f]{32}
    | \bpypi-[\w-]{16,}
    | \beyJ[\w-]{8,}+\.[\w-]{8,}+\.[\w-]*+                               # a JSON web token
    """,
    re.VERBOSE | re.IGNORECASE,
)
# NAME=value, of a shell or an override, and "NAME": "value", of JSON, which it has to stay.
_ASSIGNED = re.compile(
    r"""(?P<before>\b(?P<name>[A-Za-z_][\w.-]{0,100}+)="""
    r"""|(?P<quote>["'])(?P<named>[\w. -]{1,100}+)(?P=quote)\s*:\s*(?=["']))"""
    r"""(?P<value>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+'|[^\s,;"'{}\[\]()&]+)"""
)
_NUMBER = re.compile(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?")
_PASSWORD = re.compile(r"://[^\s:/@]{0,200}+:(?P<password>[^\s]{1,500})@")
# What an address holds besides: a token in the place of a user, and what its query has under a secret's name.
_LONE_TOKEN = re.compile(r"://(?P<token>[^\s:/@\"']{16,500}+)@")
_OF_QUERY = re.compile(r"[?&](?P<name>[\w.-]{1,60}+)=(?P<value>[^&\s\"'#]{1,2000}+)")
_SIGNATURES = ("sig", "signature")

_known: set[str] = set()


def is_secret(name: str) -> bool:
    """Whether a variable or key of this name holds a secret: ``WANDB_API_KEY`` and ``hubPassword`` do,
    ``max_token``, ``text_key`` and ``key_file`` do not."""
    if name == _NAME_OF_A_VIEW:
        return False
    words = _words(name)
    if any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words)):
        return words[-1] not in {"path", "file", "dir"}
    if not words or words[-1] in _ABOUT:
        return False
    for index, word in enumerate(words):
        before = words[index - 1] if index else ""
        if (word in _SECRET_WORDS or word.endswith(_SECRET_ENDS)) and before not in _TRAINING.get(word, ()):
            if word in ("pass", "pwd") and len(words) == 1:  # a pass over the data, the working directory
                return False
            return word not in ("pass", "auth") or index == len(words) - 1
    return words[-1] == "key" and (words[-2] if len(words) > 1 else "") not in _TRAINING["key"]


@functools.lru_cache(4096)
def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(name))


def learn(value: Any, name: str = "") -> None:
    """Know the secrets in a configuration or an environment from now on."""
    found = _worth_hiding(_secrets(value, name))
    if not found <= _known:
        _known.update(found)
        _values.cache_clear()


def known() -> list[str]:
    """What :func:`learn` was shown, for another process of the same run."""
    return sorted(_known)


def redact(value: Any, name: str = "") -> Any:
    """A copy of a structure of dicts, lists and texts without the secrets; ``name`` is what the value goes
    by."""
    return _redacted(value, is_secret(name) if name else False)


def redact_text(text: str) -> str:
    """A text, a line or a page of any format, without the secrets. What was JSON or YAML stays so."""
    if (values := _values()) is not None:
        text = values.sub(HIDDEN, text)
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(_hide_assigned, text)
    return _FORMS.sub(_hide_form, text)


def redact_fields(fact: _T) -> _T:
    """A dataclass without the secrets in its texts and lists of texts; itself where there are none."""
    news = {}
    for field in dataclasses.fields(fact):  # type: ignore[arg-type]
        value = getattr(fact, field.name)
        # what is counted is no secret
        if isinstance(value, str | list) and (hidden := redact(value)) != value:
            news[field.name] = hidden
    return dataclasses.replace(fact, **news) if news else fact  # type: ignore[type-var]


def _redacted(value: Any, hide: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _redacted(inner, hide or is_secret(str(key))) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner, hide) for inner in value]
    if hide and value and isinstance(value, str | int) and not isinstance(value, bool):
        return HIDDEN
    return redact_text(value) if isinstance(value, str) else value


def _secrets(value: Any, name: str, hide: bool = False) -> Iterator[str]:
    """Texts that are secret by name, and what is secret in addresses."""
    hide = hide or (bool(name) and is_secret(name))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(inner, str(key), hide)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner, "", hide)
    elif isinstance(value, str):
        if hide and value != HIDDEN:
            yield value
        for secret in _of_addresses(value):
            yield secret
            yield unquote(secret)


def _of_addresses(text: str) -> Iterator[str]:
    if "://" not in text:
        return
    for match in _PASSWORD.finditer(text):
        yield match["password"]
    for match in _LONE_TOKEN.finditer(text):
        yield match["token"]
    for match in _OF_QUERY.finditer(text):
        if is_secret(match["name"]) or match["name"].lower().endswith(_SIGNATURES):
            yield match["value"]


@functools.cache
def _values() -> re.Pattern[str] | None:
    """All known secrets, in every way that they are written; the longest first."""
    known = _known | _worth_hiding(_secrets(dict(os.environ), ""))
    ways = {
        way
        for text in known
        for way in (text, quote(text, safe=""), json.dumps(text)[1:-1], repr(text)[1:-1])
    }
    return re.compile("|".join(map(re.escape, sorted(ways, key=len, reverse=True)))) if ways else None


def _worth_hiding(texts: Iterable[str]) -> set[str]:
    return {
        text
        for text in texts
        if len(text) >= (LEAST_LETTERS if text.isalpha() and text.islower() else LEAST_CHARACTERS)
        and text.lower() not in _COMMON
        and not _is_path(text)
    }


def _is_path(text: str) -> bool:
    """Where a secret lies is none, and would be hidden in every path below."""
    try:
        return text.startswith("/") and os.path.lexists(text)
    except (OSError, ValueError):
        return False


def _hide_assigned(match: re.Match[str]) -> str:
    value = match["value"]
    name = (match["name"] or match["named"]).rpartition(".")[2]
    if (
        not is_secret(name)
        or (len(_words(name)) == 1 and _words(name)[0] == "key")
        or value in ('""', "''", HIDDEN)
    ):
        return match[0]  # "key" alone is what any table has
    # "token=128" of a training log; one that is a password is known by its value
    if _NUMBER.fullmatch(value):
        return match[0]
    # what a shell puts in, as in "PASSWORD=$(openssl rand -hex 32)": without it the command would not run
    if value == "$" and match.string[match.end() :].startswith(("(", "{")):
        return match[0]
    quoted = value[0] if value[0] in "\"'" else ""
    return f"{match['before']}{quoted}{HIDDEN}{quoted}"


def _hide_form(match: re.Match[str]) -> str:
    if match["scheme"]:
        return f"{match['scheme']}:{HIDDEN}@"
    return f"{match['lone'] or match['query'] or match['header'] or ''}{HIDDEN}{'@' if match['lone'] else ''}"
