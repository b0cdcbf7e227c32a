"""A file of prices, which may be written anew while runs go on: times or dates, and what holds from then on.

2026-12-01: 2.10
2026-12-15T18:00: 1.80
"""

from __future__ import annotations

import datetime
import math
from pathlib import Path

from orchestrator import papers
from orchestrator.errors import ConfigError

_MOST_BYTES = 1 << 20
_EXAMPLE = "a line for each price, as '2026-12-01: 2.10' or '18h: 1.20'"


def prices_in(path: str) -> dict[str, float]:
    """By the time or the date, as it is written. Raises :class:`ConfigError`."""
    where = f"cluster.price.file={path}"
    try:
        body = papers.yaml_of(papers.read_bytes(Path(path), _MOST_BYTES).decode())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{where}: cannot be read: {why}; write {_EXAMPLE}") from None
    if not isinstance(body, dict) or not body:
        raise ConfigError(f"{where}: holds no prices; write {_EXAMPLE}")
    return {_key(where, key): _price(where, key, usd) for key, usd in body.items()}


def _key(where: str, key: object) -> str:
    if isinstance(key, datetime.date):  # and a datetime, which is one
        return key.isoformat()
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < 24 * 60:
        return f"{key // 60:02}:{key % 60:02}"  # 18:00 without quotes, which YAML takes for sixty times 18
    if not isinstance(key, str):
        raise ConfigError(f"{where}: {papers.short(key)} is no time; write {_EXAMPLE}")
    return key


def _price(where: str, key: object, usd: object) -> float:
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd <= 1e15 or math.isnan(usd):
        raise ConfigError(
            f"{where}: {papers.short(usd)} from {papers.short(str(key))} on is no price in dollars; write"
            f" {_EXAMPLE}"
        )
    return float(usd)
