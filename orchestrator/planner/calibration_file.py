"""``calibration.yaml``: read, checked, and written whole or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator import papers
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.files import atomic_write
from orchestrator.plan.perf.calibration import Calibration, Group

NAME = "calibration.yaml"
HEAD = """\
# Written by 'python -m orchestrator calibrate' from this folder's runs; it writes entries of other clusters
# back as they are. A plan takes the entry of its own cluster, GPU and precision, and none of another one's.
# compute_factor: of the time that ranks compute; overhead_s: added to every step; communication_factor: of
# what nothing hides; memory_factor: of activations, logits and fragmentation; memory_offset_bytes: added to
# the framework's own.
"""
_KEYS = "calibrations"
# A group has a dozen values, and there are as many groups as there are clusters.
_MOST_BYTES, _MOST_VALUES = 4 << 20, 100_000
# No factor and no number of seconds comes near; what is far from it overflows when a plan multiplies.
_LARGEST = 1e15


def calibration_path(run_root: str | Path, calibration: str | None) -> Path:
    """The file that the configuration means: ``calibration``, else the one in ``run_root``."""
    return Path(calibration) if calibration else Path(run_root) / NAME


def calibrations_of(config: Config) -> dict[Group, Calibration]:
    """Those that a plan may choose from; none where no file was named and none is there.

    Raises :class:`ConfigError` for a file that was named and is missing, and for one that is not what it
    should be.
    """
    path = calibration_path(config.run_root, config.calibration)
    if config.calibration and not path.is_file():
        raise ConfigError(
            f"calibration={path}: no such file; write it with 'python -m orchestrator calibrate'"
        )
    return read_calibrations(path)


def read_calibrations(path: Path) -> dict[Group, Calibration]:
    """The entries by what they hold for; empty where there is no file. Raises :class:`ConfigError`."""
    try:
        body = papers.yaml_of(papers.read_text(path, _MOST_BYTES), _MOST_VALUES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise _wrong(path, f"cannot be read ({reason})") from None
    entries = body.get(_KEYS) if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise _wrong(path, f"has no list '{_KEYS}'")
    return dict(_entry(path, number, entry) for number, entry in enumerate(entries, 1))


def write_calibrations(path: Path, calibrations: Mapping[Group, Calibration]) -> None:
    """Write beside, then rename: a reader sees the old file or the new one. Raises
    :class:`RunDirectoryError`."""
    entries = [
        {**dataclasses.asdict(group), **dataclasses.asdict(calibrations[group])}
        for group in sorted(calibrations)
    ]
    text = HEAD + yaml.safe_dump({_KEYS: entries}, sort_keys=False, allow_unicode=True, width=120)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text)
    except OSError as error:
        raise RunDirectoryError(
            f"calibration={path}: cannot be written ({error.strerror}); set calibration to a file that you"
            " may write"
        ) from None


def _entry(path: Path, number: int, entry: Any) -> tuple[Group, Calibration]:
    if not isinstance(entry, dict):
        raise _wrong(path, f"entry {number} is no mapping")
    values: dict[str, Any] = {}
    kinds = {field.name: field.type for kind in (Group, Calibration) for field in dataclasses.fields(kind)}
    for name, kind in kinds.items():
        if name not in entry:
            raise _wrong(path, f"entry {number} has no {name}")
        values[name] = _value(path, f"{name} of entry {number}", entry[name], str(kind))
    factors = [value for name, value in values.items() if name.endswith("_factor")]
    if min(factors) <= 0 or values["overhead_s"] < 0:
        raise _wrong(path, f"entry {number} has a factor that is not above 0, or an overhead_s below 0")
    group = Group(**{field.name: values.pop(field.name) for field in dataclasses.fields(Group)})
    return group, Calibration(**values)


def _value(path: Path, what: str, value: Any, kind: str) -> Any:
    fits = {
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "int": isinstance(value, int) and not isinstance(value, bool) and abs(value) <= papers.LARGEST,
        "float": isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST,
    }
    if not fits[kind]:
        raise _wrong(
            path,
            (
                f"{what} is {papers.short(value)} and should be a finite {kind}"
                if kind == "float"
                else f"{what} is {papers.short(value)} and should be a {kind}"
            ),
        )
    return float(value) if kind == "float" else value


def _wrong(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"calibration={path}: {reason}; move the file away and write it anew with 'python -m orchestrator"
        " calibrate'"
    )
