"""A price that was typed is the asker's own: the source of the cluster's file is not its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.config.schema import Config, PriceQuality

_OF = "cluster.price."
# The keys of figures, and of what says where each comes from.
_SOURCES = {
    "usd_per_gpu_hour": "source",
    "reserved_usd_per_gpu_hour": "reserved_source",
    "spot_usd_per_gpu_hour": "spot_source",
}
NO_DATE = "not stated"


def with_own_price(config: Config, words: Sequence[str]) -> Config:
    """With the key that was typed as the source of each price that was typed without one."""
    typed = {word.lstrip("+").partition("=")[0] for word in words}
    price = config.cluster.price
    for figure, source in _SOURCES.items():
        if _OF + figure not in typed or _OF + source in typed:
            continue
        changes: dict[str, object] = {source: f"as set by {_OF}{figure}"}
        if source == "source":
            if _OF + "as_of" not in typed:
                changes["as_of"] = NO_DATE
            if _OF + "quality" not in typed:
                changes["quality"] = PriceQuality.quote
        price = replace(price, **changes)  # type: ignore[arg-type]
    config.cluster.price = price
    return config
