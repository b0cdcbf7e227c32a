"""What a file says of where nodes are: in YAML of our own, as Slurm has it, or as Kubernetes tells it.

Our own is a map ``nodes`` of each node's labels, by its host name or address::

    nodes:
      host-01: {block: b1, rack: r1}

Of Slurm it is ``topology.conf`` or what ``scontrol show topology`` prints, of Kubernetes what ``kubectl get
nodes -o json`` prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator import papers
from orchestrator.papers import PaperError

# Labels of nodes, near to far, that stand for the switches of a tree which Slurm knows by their names alone.
SWITCHES = ("rack", "block", "core")
_WORD = re.compile(r"(\w+)=(\S*)")
_SLURM = re.compile(r"^\s*(SwitchName|BlockName)=", re.IGNORECASE | re.MULTILINE)
_BRACKETS = re.compile(r"^(.*?)\[([0-9,\-]+)\](.*)$")
# Of one file, so that a range of digits costs neither memory nor time.
_MOST_NODES = 200_000
# What Kubernetes says of a node is some 300 values, most of them names of images.
_MOST_VALUES = 5_000_000
MOST_BYTES = 128 << 20


@dataclass(frozen=True)
class Said:
    """What a file says of one node: what it may be called, and its labels."""

    names: tuple[str, ...]
    labels: Mapping[str, str]


def read(text: str) -> list[Said]:
    """Raises :class:`~orchestrator.papers.PaperError`."""
    if _SLURM.search(text):
        return _slurm(text)
    body = _value(text)
    if isinstance(body, dict) and isinstance(body.get("items"), list):
        return [_kubernetes(item) for item in body["items"]]
    nodes = body.get("nodes") if isinstance(body, dict) else None
    if not isinstance(nodes, dict) or not nodes:
        raise PaperError(
            "it is neither a map 'nodes' of labels by node, nor Slurm's topology.conf, nor what 'kubectl get"
            " nodes -o json' prints"
        )
    return [Said((str(name),), _labels(str(name), labels)) for name, labels in nodes.items()]


def _value(text: str) -> Any:
    """JSON is YAML too, and is read a hundred times faster for itself."""
    if text.lstrip().startswith("{"):
        try:
            return papers.json_of(text, _MOST_VALUES)
        except papers.NotJsonError:
            pass
    return papers.yaml_of(text)


def _labels(name: str, labels: Any) -> dict[str, str]:
    plain = isinstance(labels, dict) and all(isinstance(each, str | int | float) for each in labels.values())
    if not plain:
        raise PaperError(
            f"node '{papers.one_line(name)}' has to have a map of labels, as {{block: b1, rack: r1}}"
        )
    return {str(label): str(value) for label, value in labels.items()}


def _kubernetes(item: Any) -> Said:
    try:
        meta, addresses = item["metadata"], item.get("status", {}).get("addresses", [])
        names = [str(meta["name"]), *(str(one["address"]) for one in addresses)]
        return Said(tuple(dict.fromkeys(names)), _labels(names[0], meta.get("labels") or {}))
    except (LookupError, TypeError, AttributeError):
        raise PaperError("an item of it is no node as 'kubectl get nodes -o json' prints it") from None


def _slurm(text: str) -> list[Said]:
    """The leaf switch of a node is its rack, what that hangs on its block; a block of Slurm's is a block."""
    parents: dict[str, str] = {}
    leaves: dict[str, str] = {}
    blocks: dict[str, str] = {}
    for line in text.splitlines():
        words = {name.lower(): value for name, value in _WORD.findall(line.partition("#")[0])}
        nodes = list(host_names(words.get("nodes", "")))
        if name := words.get("blockname"):
            blocks |= dict.fromkeys(nodes, name)
        elif name := words.get("switchname"):
            if below := list(host_names(words.get("switches", ""))):
                parents |= dict.fromkeys(below, name)
            else:  # 'scontrol show topology' names the nodes of upper switches too
                leaves |= dict.fromkeys(nodes, name)
        if len(leaves) + len(blocks) > _MOST_NODES:
            raise PaperError(f"it names more than {_MOST_NODES:,} nodes")
    labels = {node: _switches(leaf, parents) for node, leaf in leaves.items()}
    for node, block in blocks.items():
        labels.setdefault(node, {})["block"] = block
    return [Said((node,), each) for node, each in labels.items()]


def _switches(leaf: str, parents: Mapping[str, str]) -> dict[str, str]:
    way = [leaf]
    while (above := parents.get(way[-1])) is not None and len(way) < len(SWITCHES):
        if above in way:
            raise PaperError(f"switch '{papers.one_line(above)}' hangs on itself")
        way.append(above)
    return dict(zip(SWITCHES, way, strict=False))


def host_names(text: str) -> Iterator[str]:
    """``tux[0-2,12],n1`` as the names that it stands for, as Slurm writes them. Raises PaperError."""
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        found = _BRACKETS.match(part)
        if found is None:
            yield part
            continue
        before, numbers, after = found.groups()
        for number in _numbers(numbers):
            yield from host_names(f"{before}{number}{after}")


def _numbers(text: str) -> Iterator[str]:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not dash:
            yield first
            continue
        if not (first.isdigit() and last.isdigit()) or not 0 <= int(last) - int(first) <= _MOST_NODES:
            raise PaperError(f"[{papers.one_line(text)}] is no range of numbers that can be counted")
        yield from (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))


def labels_of_job(address: str, pattern: str) -> dict[str, str]:
    """The labels of the node that a task of Slurm's is on, by what Slurm tells it in ``SLURM_TOPOLOGY_ADDR``
    and its pattern: switches far to near and the node, as ``core1.leaf2.tux3`` and ``switch.switch.node``."""
    parts, kinds = address.split("."), pattern.split(".")
    if len(parts) != len(kinds):
        return {}
    switches = [part for part, kind in zip(parts, kinds, strict=True) if kind == "switch" and part]
    labels = dict(zip(SWITCHES, reversed(switches), strict=False))
    blocks = [part for part, kind in zip(parts, kinds, strict=True) if kind == "block" and part]
    return labels | ({"block": blocks[-1]} if blocks else {})
