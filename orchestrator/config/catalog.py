"""The clusters of ``conf/cluster``, each with its GPU and fabric, read without Hydra.

Composing each of two dozen would take longer than planning on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from orchestrator.config import load, ranges
from orchestrator.config.choices import THIS_MACHINE
from orchestrator.config.fabric_schema import ROUTE_VARIABLES
from orchestrator.config.placeholders import INTERPOLATION, asks_for, texts_of
from orchestrator.config.schema import ClusterConfig, FabricConfig, GpuConfig
from orchestrator.errors import ConfigError, near_miss

UNKNOWN_NODES = 0
# the settings of a fabric that no plan looks at: a dozen each, and checking them takes time
NOT_OF_A_PLAN = ("leave_unset",)


@dataclass(frozen=True)
class Machines:
    """A cluster as its file describes it, and the GPU and the fabric that it names."""

    cluster: ClusterConfig
    gpu: GpuConfig
    fabric: FabricConfig


def read_all(
    composed: DictConfig, overrides: Mapping[str, Any], nodes_needed: bool
) -> tuple[dict[str, Machines], dict[str, str]]:
    """Every cluster but this machine by its option's name, and those that cannot be read with the reason.

    ``overrides`` of cluster, gpu and fabric hold for each; other keys of a cluster's file are not looked at.
    ``clusters`` of the configuration names those to read. Raises :class:`ConfigError` for a name of which
    there is no file, and where ``nodes_needed`` and a file leaves the number of nodes open.
    """
    reader = _Reader(composed, overrides)
    read: dict[str, Machines] = {}
    unreadable: dict[str, str] = {}
    for name, path in _chosen(cluster_files(), list(composed.clusters)).items():
        try:
            read[name] = reader.machines(path)
        except (ConfigError, OmegaConfBaseException, OSError, UnicodeError, YAMLError, _NoCluster) as error:
            unreadable[name] = f"{path.name} cannot be read: {str(error).splitlines()[0]}"
            continue
        if read[name].cluster.nodes == UNKNOWN_NODES and nodes_needed:
            raise ConfigError(
                f"cluster={name}: cluster.nodes is not set, and deadline_days alone does not say how many;"
                " set cluster.nodes=…, or budget_usd=… too"
            )
    return read, unreadable


class _NoCluster(ValueError):
    """A file that is no cluster's."""


def _map_of(path: Path) -> DictConfig:
    body = OmegaConf.load(path)
    if not isinstance(body, DictConfig):
        raise _NoCluster("it is no map of keys")
    for key, kind, word in (("defaults", ListConfig, "list"), ("cluster", DictConfig, "map")):
        if not isinstance(body.get(key), kind | None):
            raise _NoCluster(f"its '{key}' is no {word}")
    return body


class _Reader:
    """Plain YAML is merged and resolved first, and checked against the schema once: that is what takes
    time."""

    def __init__(self, composed: DictConfig, overrides: Mapping[str, Any]) -> None:
        self._composed, self._overrides = composed, overrides
        self._planner = OmegaConf.to_container(composed.planner)
        self._empty: dict[type, Any] = {
            kind: OmegaConf.structured(kind) for kind in (ClusterConfig, GpuConfig, FabricConfig)
        }
        self._known: dict[tuple[str, str], tuple[dict[str, Any], Any]] = {}

    def machines(self, path: Path) -> Machines:
        """Raises an error of OmegaConf for what is not as the schema has it, :class:`ConfigError` for numbers
        out of their ranges, OSError and YAMLError for what cannot be read, and :class:`_NoCluster` for what
        has another form."""
        body = _map_of(path)
        named: dict[str, str] = {}
        for entry in body.get("defaults") or []:
            if isinstance(entry, DictConfig):
                named |= {str(key).split("/")[-1]: str(value) for key, value in entry.items()}
        gpu, gpu_config = self._option("gpu", named, GpuConfig)
        _, fabric_config = self._option("fabric", named, FabricConfig)
        plain = {"cluster": OmegaConf.to_container(body.get("cluster") or OmegaConf.create(), resolve=False)}
        if plain["cluster"].setdefault("nodes", UNKNOWN_NODES) == "???":  # type: ignore[union-attr]
            plain["cluster"]["nodes"] = UNKNOWN_NODES  # type: ignore[call-overload, index]
        cluster = self._checked("cluster", plain | {"gpu": gpu}, ClusterConfig)[1]
        return Machines(cluster, gpu_config, fabric_config)

    def _option(self, group: str, named: Mapping[str, str], schema: type) -> tuple[dict[str, Any], Any]:
        """A GPU or fabric, plain and as a dataclass: the one that is named, or chosen on the command line."""
        if group in self._overrides or group not in named:
            chosen = self._composed[group]
            return cast(dict[str, Any], OmegaConf.to_container(chosen, resolve=True)), OmegaConf.to_object(
                chosen
            )
        key = (group, named[group])
        if key not in self._known:
            body = OmegaConf.to_container(_read_option(group, named[group]), resolve=False)
            if isinstance(body, dict):
                body = {name: value for name, value in body.items() if name not in NOT_OF_A_PLAN}
                if group == "fabric" and isinstance(settings := body.get("environment"), dict):
                    body["environment"] = {k: v for k, v in settings.items() if k in ROUTE_VARIABLES}
            self._known[key] = self._checked(group, {group: body}, schema)
        return self._known[key]

    def _checked(self, group: str, plain: Mapping[str, Any], schema: type) -> tuple[dict[str, Any], Any]:
        found = plain[group]
        own = {key: value for key, value in self._overrides.items() if key.startswith(f"{group}.")}
        if own or asks_for(INTERPOLATION, texts_of(found)):
            root = OmegaConf.create({**plain, "planner": self._planner})
            for key, value in own.items():
                OmegaConf.update(root, key, value)
            found = OmegaConf.to_container(root[group], resolve=True)
        made: Any = OmegaConf.to_object(OmegaConf.merge(self._empty[schema], found))
        is_open = isinstance(made, ClusterConfig) and made.nodes == UNKNOWN_NODES
        ranges.check(dataclasses.replace(made, nodes=1) if is_open else made, f"{group}.")
        return found, made


def _folders() -> list[Path]:
    """Where configurations lie: the project's own, and those of ``--config-dir``, which win."""
    folders = [load.conf_dir()]
    if HydraConfig.initialized():
        files = [source for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
        folders += [Path(source.path) for source in files if Path(source.path) != folders[0]]
    return folders


def cluster_files() -> dict[str, Path]:
    """The file of every cluster but this machine, by its option's name."""
    return {name: path for name, path in option_files("cluster").items() if name != THIS_MACHINE}


def option_files(group: str) -> dict[str, Path]:
    """The file of every option of a group, by name."""
    found = {path.stem: path for folder in _folders() for path in (folder / group).glob("*.yaml")}
    return dict(sorted(found.items()))


def value_in(path: Path, key: str) -> Any:
    """What stands in a file under a dotted key; None where nothing does, or the file cannot be read."""
    try:
        return OmegaConf.select(OmegaConf.load(path), key)
    except (OmegaConfBaseException, YAMLError, OSError):
        return None


def _chosen(files: Mapping[str, Path], names: Sequence[str]) -> dict[str, Path]:
    for name in names:
        if name not in files:
            raise ConfigError(
                f"clusters={name}: no such cluster to compare{near_miss(name, files)} (known:"
                f" {', '.join(files)})"
            )
    return {name: path for name, path in files.items() if not names or name in names}


def _read_option(group: str, name: str) -> DictConfig:
    candidates = [folder / group / f"{name}.yaml" for folder in reversed(_folders())]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"names {group}={name}, of which there is no file")
    return cast(DictConfig, OmegaConf.load(path))
