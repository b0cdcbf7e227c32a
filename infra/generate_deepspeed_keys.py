"""Write orchestrator/config/deepspeed_keys.json: every key that the installed DeepSpeed reads from its
config.

    python infra/generate_deepspeed_keys.py

DeepSpeed has no schema. So its own parser is run on a dictionary that notes what it is asked for,
first at the top level, then once per key found with such a dictionary in its place, and so on. Where
a section goes into a pydantic model, the model's fields, aliases and deprecated fields are read
instead; where DeepSpeed takes a section as a whole, any key is allowed in it.

What a value may be is told by a model's fields: by their types, their bounds, and what the model says to -1
and 0, as some of its checks are code. The parser checks nothing: there it is the type of its default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import inspect
import json
import os
import pathlib
import re
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from orchestrator.config.deepspeed_keys import KEYS_FILE

PROBE = "__probe__"
MOST_DEPTH = 5
# Read outside the parser: deepspeed.initialize builds its device mesh from these.
MESH_KEYS = re.compile(r'"(\w+)" in config\b')
# The parser's defaults for these are None, or say nothing of the range. DeepSpeed divides by the first four
# (_set_batch_related_parameters, tput_timer) and compares the last with 0.
TOP_LEVEL_VALUES: dict[str, dict[str, Any]] = {
    "train_batch_size": {"is": "int", "gt": 0},
    "train_micro_batch_size_per_gpu": {"is": "int", "gt": 0},
    "gradient_accumulation_steps": {"is": "int", "gt": 0},
    "steps_per_print": {"is": "int", "gt": 0},
    "gradient_clipping": {"is": "float", "ge": 0, "default": 1.0},
}
KINDS = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    pathlib.Path: "str",
    list: "list",
    tuple: "list",
}


class Recorder(dict[str, Any]):
    """A section that notes which keys are looked up, and whether somebody takes all of it."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[str] = set()
        self.defaults: dict[str, Any] = {}
        self.taken_whole = False

    def _note(self, key: Any) -> None:
        if isinstance(key, str) and key != PROBE:
            self.asked.add(key)

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        self.defaults.setdefault(key, default)
        return super().get(key, default)

    def keys(self) -> Any:
        return _Keys(self)

    def items(self) -> Any:
        self.taken_whole = True
        return super().items()

    def __copy__(self) -> Recorder:
        self.taken_whole = True
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        self.taken_whole = True
        return self


class _Keys:
    """What ``keys()`` gives: a test for a key is a look-up, a walk through it is not."""

    def __init__(self, owner: Recorder) -> None:
        self.owner = owner

    def __contains__(self, key: object) -> bool:
        return key in self.owner

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self.owner)


def generate() -> dict[str, Any]:
    """The content of deepspeed_keys.json."""
    import deepspeed
    from deepspeed.runtime import config as parser

    keys = _section(())
    assert keys is not None
    tree = keys["keys"]
    for name in MESH_KEYS.findall(inspect.getsource(deepspeed.initialize)):
        tree.setdefault(name, {})
    for name in parser._REMOVED_TOP_LEVEL_CONFIG_KEYS:
        tree[name] = {"removed": True}
    for name in parser._REMOVED_ZERO_CONFIG_KEYS:
        tree["zero_optimization"]["keys"][name] = {"removed": True}
    tree["zero_optimization"]["scalar"] = True  # the old form, a boolean
    for name, node in TOP_LEVEL_VALUES.items():
        tree[name] = node
    # Copied whole, but only once they are enabled and complete, which a probe never is.
    data = tree["data_efficiency"]["keys"]
    data["data_sampling"]["keys"]["curriculum_learning"]["open"] = True
    data["data_routing"]["keys"]["random_ltd"]["open"] = True
    tree["pipeline"] = _pipeline()
    tree["expert_parallel"] = _expert_parallel()
    for name in ("optimizer", "scheduler"):
        tree[name]["keys"]["params"] = {"open": True}
    return {
        "deepspeed": deepspeed.__version__,
        "keys": _sorted(tree),
        "optimizers": _optimizers(parser.DEEPSPEED_OPTIMIZERS),
        "schedulers": _schedulers(),
    }


def _section(path: tuple[str, ...]) -> dict[str, Any] | None:
    """Node of one section, {"keys": {...}} or {"open": true}; None when `path` is no section."""
    asked, taken_whole, model, defaults = _trace(path)
    if model is not None:
        return _model(model)
    if path and not asked:
        return {"open": True} if taken_whole else None
    node: dict[str, Any] = {"keys": {}}
    for name in sorted(asked):
        child = _section((*path, name)) if len(path) < MOST_DEPTH else None
        default = defaults.get(name)
        node["keys"][name] = child or (_kind(type(default)) | _default(default) if default != "auto" else {})
    if path and taken_whole:
        node["open"] = True
    return node


def _trace(path: tuple[str, ...]) -> tuple[set[str], bool, type | None, dict[str, Any]]:
    """Run DeepSpeed's parser with a recorder at `path`: keys asked for there, whether it was taken as a
    whole, the pydantic model that it was handed to, and the defaults."""
    from deepspeed.runtime import config as parser
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    leaf = Recorder({PROBE: 1} if path else {"train_batch_size": 1})
    top: Recorder = leaf
    for name in reversed(path):
        top = Recorder({name: top})
    if path:
        dict.__setitem__(top, "train_batch_size", 1)
    models: list[type] = []
    original = DeepSpeedConfigModel.__init__

    def noting(self: Any, strict: bool = False, **data: Any) -> None:
        if PROBE in data:
            models.append(type(self))
        original(self, strict, **{name: value for name, value in data.items() if name != PROBE})

    DeepSpeedConfigModel.__init__ = noting
    try:
        # A probe is no valid value for a scalar: what matters is what was asked for until then.
        with contextlib.suppress(Exception):
            parser.DeepSpeedConfig(top)
    finally:
        DeepSpeedConfigModel.__init__ = original
    return leaf.asked, leaf.taken_whole, models[0] if models else None, leaf.defaults


def _model(model: Any) -> dict[str, Any]:
    """Node of a pydantic model: names, aliases, deprecated fields, bounds, and the models nested in it.

    Such a model leaves out what is "auto", and has its default then.
    """
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        node = _annotation(field.annotation)
        for bound in field.metadata:
            node |= {side: getattr(bound, side) for side in ("gt", "ge", "lt", "le") if hasattr(bound, side)}
        if node.get("is") in ("int", "float") and not node.keys() & {"gt", "ge"}:
            node |= _lower_bound(model, name)
        if node.keys() & {"is", "of"}:
            node |= _default(field.default)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("deprecated"):
            node = {**node, "deprecated": str(extra.get("new_param", ""))}
        keys[name] = node
        if field.alias:
            keys[field.alias] = node
    return {"keys": keys, "auto": True}


def _lower_bound(model: Any, name: str) -> dict[str, Any]:
    """What a model says in code of its own, asked with -1 and 0."""

    def takes(value: int) -> bool:
        try:
            model(**{name: value})
        except ValueError:
            return False
        return True

    if takes(-1) or not takes(1):  # the latter: it depends on other fields
        return {}
    return {"ge": 0} if takes(0) else {"gt": 0}


def _annotation(annotation: Any) -> dict[str, Any]:
    """Node of a field by its type: a nested model, a dictionary with keys of its own, or what a value may
    be."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return _model(annotation)
    origin = typing.get_origin(annotation)
    if annotation is dict or origin is dict:
        return {"open": True}
    if origin is typing.Literal:
        return {"of": list(typing.get_args(annotation))}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"of": [member.value for member in annotation]}
    if origin in (typing.Union, types.UnionType):
        return _union(list(typing.get_args(annotation)))
    return _kind(origin or annotation)


def _union(parts: list[Any]) -> dict[str, Any]:
    nodes = [_annotation(part) for part in parts if part is not type(None)]
    null = {"null": True} if type(None) in parts else {}
    section = next((node for node in nodes if node.keys() & {"keys", "open"}), None)
    if section is not None:
        return section | null
    if len(nodes) == 1:
        return nodes[0] | null if nodes[0] else {}
    kinds = [node.get("is") for node in nodes]
    return {"is": "|".join(map(str, kinds))} | null if all(kinds) else {}


def _default(value: Any) -> dict[str, Any]:
    """For the word that is proposed in place of a wrong one."""
    value = value.value if isinstance(value, enum.Enum) else value
    plain = next((kind for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    return {"default": plain(value)} if plain and value not in ("", "auto") else {}


def _kind(kind: Any) -> dict[str, Any]:
    return {"is": KINDS[kind]} if kind in KINDS else {}


def _pipeline() -> dict[str, Any]:
    """The parser copies any key of `pipeline`; those that mean something are its defaults and what the
    pipeline engine looks up."""
    from deepspeed.runtime import config as parser

    engine = inspect.getsource(importlib.import_module("deepspeed.runtime.pipe.engine"))
    looked_up = re.findall(r"_config\.pipeline(?:\.get\(|\[)'(\w+)'", engine)
    return {"keys": {name: {} for name in {*parser.get_pipeline_config({}), *looked_up}}}


def _expert_parallel() -> dict[str, Any]:
    from deepspeed.module_inject.auto_ep_config import AutoEPConfig

    return {"keys": {field.name: {} for field in dataclasses.fields(AutoEPConfig) if field.init}}


def _optimizers(own: list[str]) -> dict[str, Any]:
    """DeepSpeed's names (any case), torch's (exact), and every parameter that any of them takes."""
    import torch
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
    from deepspeed.ops.lamb import FusedLamb
    from deepspeed.ops.lion import DeepSpeedCPULion, FusedLion
    from deepspeed.runtime import config as parser
    from deepspeed.runtime.zero.muon import muon_optimizer

    named = {name: cls for name, cls in vars(torch.optim).items() if inspect.isclass(cls)}
    torch_names = [
        name for name, cls in named.items() if issubclass(cls, torch.optim.Optimizer) and name != "Optimizer"
    ]
    classes = [named[name] for name in torch_names]
    classes += [DeepSpeedCPUAdagrad, DeepSpeedCPUAdam, FusedAdam, FusedLamb, DeepSpeedCPULion, FusedLion]
    engine = inspect.getsource(importlib.import_module("deepspeed.runtime.engine"))
    popped = re.findall(r"optimizer_parameters\.pop\(['\"](\w+)['\"]", engine)
    muon = re.findall(r"(?:group|param_group|params)\[['\"](\w+)['\"]\]", inspect.getsource(muon_optimizer))
    extra = {parser.TORCH_ADAM_PARAM, parser.ADAM_W_MODE, parser.MAX_GRAD_NORM, *popped, *muon} - {"params"}
    return {
        "names": sorted(own),
        "torch": sorted(torch_names),
        "params": sorted(_parameters(classes) | extra),
    }


def _schedulers() -> dict[str, Any]:
    import torch
    from deepspeed.runtime import lr_schedules

    own = list(lr_schedules.VALID_LR_SCHEDULES)
    base = torch.optim.lr_scheduler.LRScheduler
    named = {n: c for n, c in vars(torch.optim.lr_scheduler).items() if inspect.isclass(c)}
    torch_names = [n for n, c in named.items() if issubclass(c, base) and c is not base and n[0] != "_"]
    classes = [getattr(lr_schedules, name) for name in own] + [named[name] for name in torch_names]
    return {"names": sorted(own), "torch": sorted(torch_names), "params": sorted(_parameters(classes))}


def _parameters(classes: list[Any]) -> set[str]:
    names = {name for cls in classes for name in inspect.signature(cls.__init__).parameters}
    return names - {"self", "args", "kwargs", "params", "model_params", "optimizer"}


def _sorted(node: Any) -> Any:
    return {key: _sorted(node[key]) for key in sorted(node)} if isinstance(node, dict) else node


def main() -> int:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    KEYS_FILE.write_text(json.dumps(generate(), indent=1) + "\n")
    print(f"wrote {KEYS_FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
