"""Stores that a test opens and hands on, closed at its end: two descriptors each, and a property opens dozens."""

from __future__ import annotations

from typing import TypeVar

from orchestrator.dispatch.store import Store

S = TypeVar("S", bound=Store)

_OPENED: list[Store] = []


def until_the_end(store: S) -> S:
    """Of this test."""
    _OPENED.append(store)
    return store


def close_all() -> None:
    while _OPENED:
        _OPENED.pop().close()
