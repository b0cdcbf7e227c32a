"""What marks a key of the schema that has no default."""

from __future__ import annotations

from typing import Any

# What has to be given: OmegaConf knows it by this string, and the schema is of use without OmegaConf.
MISSING: Any = "???"
