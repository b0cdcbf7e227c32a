"""Orders of exports, composed and planned as the command line does it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from orchestrator.cli.export import config_of, order_of
from orchestrator.config.composing import composed
from orchestrator.config.words import for_hydra
from orchestrator.export.formats import render
from orchestrator.export.order import Order
from orchestrator.export.rendered import Rendered


@functools.cache
def order(*words: str) -> Order:
    made = composed(tuple(for_hydra(list(words))))
    assert made.config is not None
    return order_of(config_of(made.config, words), words)


def rendered(name: str, *words: str, **sections: Mapping[str, Any]) -> Rendered:
    return render(with_keys(order(*words), **sections), name)


def with_keys(base: Order, **sections: Mapping[str, Any]) -> Order:
    """The same order with other keys of the exports' own sections, which no plan depends on."""
    changed = {name: replace(getattr(base.config, name), **keys) for name, keys in sections.items()}
    return replace(base, config=replace(base.config, **changed))


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def only(text: str) -> dict[str, Any]:
    (one,) = documents(text)
    return one
