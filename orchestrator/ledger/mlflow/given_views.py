"""Which saved views and which note an experiment lacks, or has from an earlier version of ours. Pure.

A tag of the experiment remembers what it was given, by digests: what is still that is ours to replace, and
what somebody has changed or deleted since stays so. An experiment that a later version has been at is left
alone, so that two versions beside each other do not take turns.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.ledger.mlflow.views import NOTE, SHARED_VIEW, VIEWS, note, saved
from orchestrator.papers import json_of

VIEWS_TAG = "orchestrator.views"
# One more whenever a view or the note changes (tests/unit/ledger/test_given_views.py has their digests).
VIEWS_VERSION = 2
_VERSION = "version"
# What the tag "1" stands for, which remembered no digests.
_FIRST: Mapping[str, Collection[str]] = {
    "cost": ("3c20042a095a10c9", "baa144617255f037"),
    "speed": ("83eb0f9f525afb2f", "b54634c36c5d7c12"),
    "reliability": ("905ead6eca37edfe", "8e8343b9e06ab328"),
    NOTE: ("63ea3a6adfb9e798",),
}
# More than any state of a view; a tag is what others write, too.
_MOST_BYTES = 1 << 20


def experiment_tags(known: Mapping[str, str], now_ms: int) -> dict[str, str]:
    """The tags to write to an experiment with those that are ``known``; none where it has been given them."""
    version, given = _given(known.get(VIEWS_TAG))
    if version >= VIEWS_VERSION:
        return {}
    wanted = {view.key: (SHARED_VIEW + view.key, saved(view, now_ms)) for view in VIEWS}
    wanted[NOTE] = (NOTE, note())
    tags = {
        tag: value
        for name, (tag, value) in wanted.items()
        if _is_due(digest(name, known.get(tag)), digest(name, value), given.get(name))
    }
    digests = {name: digest(name, value) for name, (_, value) in wanted.items()}
    return tags | {VIEWS_TAG: json.dumps({_VERSION: VIEWS_VERSION} | digests)}


def digest(name: str, value: str | None) -> str | None:
    """Of the note's words; of a view's name and state, whenever it was made. None for none, and "" for what
    none of ours can be."""
    if not value:
        return None
    if name != NOTE:
        try:
            envelope = json_of(value)
            deflated = base64.b64decode(envelope["state"].removeprefix("deflate;"), validate=True)
            state = zlib.decompressobj().decompress(deflated, _MOST_BYTES).decode()
            value = f"{envelope['name']}\n{state}"
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
            return ""
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def _is_due(has: str | None, wanted: str | None, given: Collection[str] | None) -> bool:
    if given is None:  # it has never been given that one
        return has is None
    return has != wanted and has in given


def _given(told: str | None) -> tuple[int, Mapping[str, Collection[str]]]:
    """By which version, and what."""
    if told is None:
        return 0, {}
    if told == "1":
        return 1, _FIRST
    try:
        body: dict[str, Any] = dict(json_of(told))
        version = int(body.pop(_VERSION))
        return version, {name: (str(value),) for name, value in body.items()}
    except (ValueError, KeyError, TypeError):
        return VIEWS_VERSION, {}  # somebody else's word: nothing is written over theirs
