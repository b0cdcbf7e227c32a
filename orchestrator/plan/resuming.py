"""How a script goes on from a checkpoint, read from its source. Pure: the source is parsed, and never run.

Most scripts that others wrote go on only when they are told to, by an option each library has its own name
for. A restart with the same words would begin such a script anew.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.config.placeholders import CHECKPOINT, OF_ATTEMPT
from orchestrator.errors import ConfigError, near_miss
from orchestrator.plan.source import Source

# Options by which known scripts are told what to load, the most telling first.
_OPTIONS = (
    "resume_from_checkpoint",  # Hugging Face's Trainer, TRL, accelerate's examples
    "resume-from-checkpoint",
    "resume_from",
    "resume-from",
    "ckpt_path",  # Lightning
    "load_checkpoint_dir",  # DeepSpeed's examples
    "load-checkpoint-dir",
    "resume",  # torchvision, timm
)
# Parsers whose options are the fields of classes, of which a library may have written some.
_PARSERS_OF_CLASSES = {"HfArgumentParser", "TrlParser", "ArgumentParserPlus", "cli", "parse"}
_HUGGING_FACE = {"HfArgumentParser", "TrlParser"}
_TRAINING_ARGUMENTS = re.compile(
    r"(TrainingArguments|SFTConfig|DPOConfig|GRPOConfig|RewardConfig|\w+Config)$"
)
# What a script calls that finds its checkpoint by itself.
_FINDS = ("get_last_checkpoint", "load_checkpoint", "load_state", "latest_checkpoint")
# By what else it reads one, and looks whether there is one; a script that does both is taken to find its own.
_LOADS = ("torch.load", "dcp.load", "checkpoint.load", "load_file", "load_model")
_LOOKS = ("exists", "isfile", "isdir", "is_file", "is_dir", "glob", "listdir", "scandir", "iterdir")
_PLACEHOLDER = re.compile(r"\{[a-z_]+\}")
# Of nanoGPT: a global that its configurator replaces by what follows "--init_from=".
_NANO_GPT = ("init_from", "resume")


@dataclass(frozen=True)
class Resuming:
    """``args`` are added to a rank's words when it goes on from a checkpoint; ``how`` is told to a person, ""
    where nobody has looked at the script."""

    args: tuple[str, ...] = ()
    how: str = ""


def resuming(told: Sequence[str] | None, sources: Sequence[Source]) -> Resuming:
    """How a script goes on: as ``told`` (``job.resume_args``), else as its ``sources`` say, the script's
    first and then those of the modules beside it. Raises :class:`ConfigError`."""
    if told is not None:
        _check(told)
        how = "not by us (job.resume_args=[])" if not told else f"{_with(told)} (job.resume_args)"
        return Resuming(tuple(told), how)
    if not sources:
        return Resuming()
    found = _Found()
    for source in sources:
        for node in source.nodes:
            found.look(node)
    args = found.args()
    if args:
        return Resuming(args, f"{_with(args)}, which the script knows")
    if found.finds:
        return Resuming((), f"with the same command: the script calls {sorted(found.finds)[0]} by itself")
    if found.loads and found.looks:
        return Resuming(
            (),
            f"with the same command, if it looks for its own checkpoint: the script calls {found.loads}"
            f" and {found.looks}",
        )
    return Resuming(
        (),
        "it cannot, and begins anew after a fault: it has no option that is known here and finds no"
        " checkpoint by itself; tell it how with \"job.resume_args=['--OPTION={checkpoint}']\"",
    )


def _with(args: Sequence[str]) -> str:
    return f"with {' '.join(args)} from the second attempt on"


def _check(told: Sequence[str]) -> None:
    for word in told:
        if not word:
            raise ConfigError(
                "job.resume_args: one of its words is empty; write it as"
                " ['--resume_from_checkpoint={checkpoint}']"
            )
        for name in _PLACEHOLDER.findall(word):
            if name not in OF_ATTEMPT:
                raise ConfigError(
                    f"job.resume_args: {word}: there is no {name}{near_miss(name, OF_ATTEMPT)}; it may have"
                    f" {', '.join(OF_ATTEMPT)}"
                )


@dataclass
class _Found:
    """What the sources of a script say of its options. An option's value: whether it is a path, and not a
    flag."""

    options: dict[str, bool] = field(default_factory=dict)
    fields: dict[str, bool] = field(default_factory=dict)  # of classes whose fields may be options
    called: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    finds: set[str] = field(default_factory=set)
    loads: str = ""
    looks: str = ""
    nano_gpt: int = 0

    def look(self, node: ast.AST) -> None:
        match node:
            case ast.Call():
                self._call(node)
            case ast.ClassDef() if any(name_of(each) == "dataclass" for each in node.decorator_list):
                for each in node.body:
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                        self.fields[each.target.id] = "bool" not in ast.dump(each.annotation)
            case ast.Name():
                self.names.add(node.id)
            case ast.Import() | ast.ImportFrom():
                module = getattr(node, "module", None) or ""
                self.modules |= {module, *(alias.name for alias in node.names)}
                self.names |= {alias.name for alias in node.names}
            case ast.Assign(targets=[ast.Name(id="init_from")], value=ast.Constant(value=str())):
                self.nano_gpt |= 1
            case ast.Compare(left=ast.Name(id="init_from"), comparators=[ast.Constant(value="resume")]):
                self.nano_gpt |= 2

    def args(self) -> tuple[str, ...]:
        """What is added to the words of a rank, nothing where no option is known."""
        options = dict(self.options)
        if self.called & _PARSERS_OF_CLASSES:
            options |= self.fields
        if self.called & _HUGGING_FACE and any(map(_TRAINING_ARGUMENTS.search, self.names)):
            options.setdefault("resume_from_checkpoint", True)
        if "LightningCLI" in self.called:
            options.setdefault("ckpt_path", True)
        megatron = any(module.partition(".")[0] == "megatron" for module in self.modules)
        known = (*_OPTIONS, "load") if megatron or {"load", "save"} <= options.keys() else _OPTIONS
        if megatron:
            options.setdefault("load", True)
        for name in known:
            if name in options:
                return (f"--{name}={CHECKPOINT}" if options[name] else f"--{name}",)
        return ("--{}={}".format(*_NANO_GPT),) if self.nano_gpt == 3 else ()

    def _call(self, call: ast.Call) -> None:
        name = name_of(call.func)
        self.called.add(name)
        if name in _FINDS:
            self.finds.add(name)
        if _says(call, "resume_from_checkpoint", {True}) or _says(call, "ckpt_path", {"last", "hpc"}):
            self.finds.add(name)
        full = f"{name_of(call.func.value)}.{name}" if isinstance(call.func, ast.Attribute) else name
        self.loads = self.loads or next((each for each in _LOADS if f".{full}".endswith(f".{each}")), "")
        self.looks = self.looks or (name if name in _LOOKS else "")
        words = [word.value for word in call.args if isinstance(word, ast.Constant)]
        for word in words:
            if isinstance(word, str) and word.startswith("--"):
                self.options[word.removeprefix("--")] = not _is_flag(call)


def name_of(node: ast.AST) -> str:
    """The last name of what is called, or of a decorator."""
    match node:
        case ast.Call(func=func):
            return name_of(func)
        case ast.Attribute(attr=attr):
            return attr
        case ast.Name(id=name):
            return name
    return ""


def _says(call: ast.Call, keyword: str, values: Iterable[object]) -> bool:
    given = [one.value for one in call.keywords if one.arg == keyword]
    return any(isinstance(one, ast.Constant) and one.value in set(values) for one in given)


def _is_flag(call: ast.Call) -> bool:
    """An option that takes no value: argparse's ``store_true`` and its own boolean action, click's flags."""
    for keyword in call.keywords:
        value = ast.unparse(keyword.value)
        if keyword.arg == "action" and ("store_true" in value or "BooleanOptionalAction" in value):
            return True
        if keyword.arg == "is_flag" and value == "True":
            return True
    return False
