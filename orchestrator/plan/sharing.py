"""How the ranks of a script share weights, gradients and optimizer states, read from its source, its words
and its environment. Pure: the source is parsed, and never run.

A plan has DeepSpeed's ZeRO stages for it. A script that makes no engine has other names for two of them: with
DDP every rank holds all (stage 0), with FSDP all of it is shared (stage 3).
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.schema import Config
from orchestrator.plan.resuming import name_of
from orchestrator.plan.source import Source
from orchestrator.vocabulary import StateSharing

# What is called, in the library's own names, where a script decides by itself.
_CALLED = {
    "DistributedDataParallel": StateSharing.DDP,
    "DDPStrategy": StateSharing.DDP,
    "fully_shard": StateSharing.FSDP,
    "FullyShardedDataParallel": StateSharing.FSDP,
    "FullyShardedDataParallelPlugin": StateSharing.FSDP,
    "FSDPStrategy": StateSharing.FSDP,
    "ModelParallelStrategy": StateSharing.FSDP,
    "DeepSpeedPlugin": StateSharing.DEEPSPEED,
    "DeepSpeedStrategy": StateSharing.DEEPSPEED,
}
_USUAL_SHORT = {"DDP": "DistributedDataParallel", "FSDP": "FullyShardedDataParallel"}
# Lightning's words for it, and what they begin with.
_STRATEGIES = {
    "ddp": StateSharing.DDP,
    "fsdp": StateSharing.FSDP,
    "deepspeed": StateSharing.DEEPSPEED,
}
# What accelerate's launcher puts into the environment.
_VARIABLES = {
    "ACCELERATE_USE_DEEPSPEED": StateSharing.DEEPSPEED,
    "ACCELERATE_USE_FSDP": StateSharing.FSDP,
}
_OF_STAGE = {StateSharing.DDP: 0, StateSharing.FSDP: 3}
# Those that wrap a model into DDP where nobody says otherwise.
_LIGHTNING, _WRAPS = ("lightning", "pytorch_lightning"), ("transformers", "trl", "accelerate")


@dataclass(frozen=True)
class Sharing:
    """``by`` is what says so, "" where nothing does."""

    how: StateSharing
    by: str = ""


def sharing(
    sources: Sequence[Source], words: Sequence[str], environment: Mapping[str, str], hands_deepspeed: bool
) -> Sharing:
    """``words`` are the script's arguments; ``hands_deepspeed``: one of them names a DeepSpeed file."""
    if hands_deepspeed:
        return Sharing(StateSharing.DEEPSPEED)
    for name, how in _VARIABLES.items():
        if environment.get(name, "").lower() in ("true", "1"):
            return Sharing(how, name)
    if (told := _of_words(words)) is not None:
        return told
    found = dict(itertools.chain.from_iterable(map(_of_source, sources)))
    kinds = set(found.values())
    if len(kinds) > 1:
        return Sharing(StateSharing.UNKNOWN, " or ".join(found))
    if kinds:
        by, how = next(iter(found.items()))
        return Sharing(how, by)
    return _of_trainer(sources)


def with_sharing(config: Config, shared: Sharing) -> Config:
    """The same configuration, with the ZeRO stage that comes to the same."""
    stage = _OF_STAGE.get(shared.how)
    if stage is None:
        return config
    return dataclasses.replace(config, deepspeed={**config.deepspeed, "zero_optimization": {"stage": stage}})


def literal_deepspeed(sources: Sequence[Source]) -> dict[str, Any] | None:
    """The dictionary that is handed to ``deepspeed.initialize``, where the source spells it out, alone."""
    found = []
    for source in sources:
        nodes = source.nodes
        calls = [node for node in nodes if isinstance(node, ast.Call) and _initializes(node)]
        for call in calls:
            given = next((one.value for one in call.keywords if one.arg in ("config", "config_params")), None)
            found.append(_literal(given, nodes))
    return found[0] if len(found) == 1 else None


def _initializes(call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id="deepspeed"), attr="initialize"):
            return True
    return False


def _literal(given: ast.expr | None, nodes: Sequence[ast.AST]) -> dict[str, Any] | None:
    """The value of a dictionary, or of a name that gets one once and is not changed by any statement."""
    if isinstance(given, ast.Name):
        named = given.id
        if any(_changes(node, named) for node in nodes):
            return None
        values = [
            node.value
            for node in nodes
            if isinstance(node, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == named for target in node.targets)
        ]
        given = values[0] if len(values) == 1 else None
    try:
        value = ast.literal_eval(given) if isinstance(given, ast.Dict) else None
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None
    return value if value and all(isinstance(key, str) for key in value) else None


def _changes(node: ast.AST, named: str) -> bool:
    """``named[…] = …``, ``del named[…]``, ``named.update(…)``, ``named |= …``."""
    match node:
        case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
            return name == named
        case ast.Subscript(value=ast.Subscript(value=ast.Name(id=name)), ctx=ast.Store() | ast.Del()):
            return name == named
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            return name == named
        case ast.AugAssign(target=ast.Name(id=name)):
            return name == named
    return False


def _of_words(words: Sequence[str]) -> Sharing | None:
    """Options of transformers' and Lightning's command lines."""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name.lstrip("-") == "fsdp" and value and not value.startswith("-"):
            return Sharing(StateSharing.FSDP, name)
        if name.lstrip("-") in ("strategy", "trainer.strategy") and (how := _of_strategy(value)) is not None:
            return Sharing(how, f"{name}={value}")
    return None


def _of_strategy(value: object) -> StateSharing | None:
    if not isinstance(value, str):
        return None
    return next((how for name, how in _STRATEGIES.items() if value.startswith(name)), None)


def _of_source(source: Source) -> Iterator[tuple[str, StateSharing]]:
    nodes = source.nodes
    own_names = dict(_USUAL_SHORT)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            own_names |= {alias.asname: alias.name for alias in node.names if alias.asname}
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        name = own_names.get(name, name)
        if name in _CALLED:
            yield name, _CALLED[name]
        if _initializes(node):
            yield "deepspeed.initialize", StateSharing.DEEPSPEED
        for given in node.keywords:
            value = given.value.value if isinstance(given.value, ast.Constant) else None
            if given.arg == "strategy" and (how := _of_strategy(value)) is not None:
                yield f"strategy={value!s}", how


def _of_trainer(sources: Sequence[Source]) -> Sharing:
    """A trainer that nobody tells otherwise wraps its model into DDP."""
    for source in sources:
        modules: dict[str, str] = {}
        called, told = set(), False
        for node in source.nodes:
            match node:
                case ast.ImportFrom(module=str(module)):
                    modules |= {alias.asname or alias.name: module.partition(".")[0] for alias in node.names}
                case ast.Import():
                    modules |= {
                        alias.asname or alias.name: alias.name.partition(".")[0] for alias in node.names
                    }
                case ast.Call(func=func):
                    called.add(ast.unparse(func))
                    told |= any(one.arg in ("strategy", "deepspeed", "fsdp") for one in node.keywords)
        for call in sorted(called):
            library = modules.get(call.partition(".")[0])
            name = call.rpartition(".")[2]
            if library in (*_LIGHTNING, *_WRAPS) and (name.endswith("Trainer") or name == "Accelerator"):
                return Sharing(StateSharing.UNKNOWN if told else StateSharing.DDP, f"{name} of {library}")
    return Sharing(StateSharing.UNKNOWN)
