"""Secrets leave the process only as ``***``."""

from __future__ import annotations

import re
from typing import Any

_SECRET_NAME = re.compile(r"(token|secret|password|passwd|api_?key|access_?key|credential)", re.IGNORECASE)
# Names that look like secrets and are training terms.
_PLAIN_NAME = re.compile(r"(tokenizer|tokens|TOKENIZERS_PARALLELISM|per_token|max_token)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://[^/:@\s]*):[^@/\s]+@")

HIDDEN = "***"


def redact(value: Any, name: str = "") -> Any:
    """A copy in which values under secret-looking names, and passwords in URLs, are hidden."""
    if isinstance(value, dict):
        return {key: redact(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner, name) for inner in value]
    if value and isinstance(value, str | int) and not isinstance(value, bool) and is_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\g<scheme>:{HIDDEN}@", value)
    return value


def is_secret(name: str) -> bool:
    """Whether a variable or key of this name holds a secret."""
    return bool(_SECRET_NAME.search(_PLAIN_NAME.sub("", name)))
