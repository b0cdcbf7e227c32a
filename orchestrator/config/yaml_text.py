"""Values as YAML text that OmegaConf, and so Hydra, reads as the same: as OmegaConf writes it, by libyaml.

OmegaConf's own way makes a node of each value and has Python write it, which takes a tenth of a launch's time
until its first word to Ray.
"""

from __future__ import annotations

from typing import Any

import yaml

# Which libyaml writes as they are, and some readers take for truth values.
_BOOLEANS = frozenset({"y", "Y", "n", "N"})


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """PyYAML is built without libyaml in places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: Any, text: str) -> Any:
    style = "'" if text in _BOOLEANS or _is_number(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _is_number(text: str) -> bool:
    """Also where YAML has a point before an exponent and OmegaConf has none, as in ``1e-3``."""
    try:
        float(text)
    except ValueError:
        return False
    return True


_Dumper.add_representer(str, _represent)


def yaml_text(values: Any) -> str:
    """Plain dicts, lists and scalars in block style, in their order."""
    written: str = yaml.dump(
        values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False
    )
    return written
