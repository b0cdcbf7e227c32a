"""What the zygote imports for a script: heavy libraries that its source imports, or ``launch.preload``."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.machinery import PathFinder

from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.plan.plan import Plan
from orchestrator.plan.source import Source
from orchestrator.rank.launch.preload import OPTIONAL, library
from orchestrator.vocabulary import ProgramKind

# Libraries of training whose import takes long, and is nothing but an import.
HEAVY = frozenset(
    {
        "accelerate", "datasets", "diffusers", "evaluate", "lightning", "pandas", "peft", "pytorch_lightning",
        "scipy", "sentence_transformers", "sklearn", "timm", "torchaudio", "torchmetrics", "torchvision",
        "transformers", "trl",
    }
)  # fmt: skip
# Variables that libraries read when they use them, and not when they are imported.
_READ_WHEN_USED = (
    "TOKENIZERS_PARALLELISM", "MASTER_ADDR", "MASTER_PORT", "NCCL_*", "WANDB_PROJECT", "WANDB_NAME",
    "WANDB_DISABLED", "WANDB_API_KEY", "HF_TOKEN", "CUDA_LAUNCH_BLOCKING",
)  # fmt: skip
_FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*(,[A-Za-z_]\w*)*)?")
_CHANGING = frozenset({"update", "setdefault", "pop", "popitem", "clear", "__setitem__"})
_CHANGING_PATH = frozenset({"insert", "append", "extend", "remove", "pop", "clear"})


def script_preload(config: Config, plan: Plan, sources: Sequence[Source]) -> list[str]:
    """Names like ``transformers:Trainer,TrainingArguments``, in the order in which the script imports them.

    None of what lies beside the script, which may change from run to run. ``sources`` are those that the plan
    was made from.
    """
    named = config.launch.preload
    if plan.program is ProgramKind.COMMAND:
        return list(named or ())
    found = preloadable(sources)
    first = plan.cwd if plan.module is not None else os.path.dirname(os.path.realpath(plan.script))
    if named is None:  # which is there or not, the script sees for itself
        heavy = [one for one in found if library(one) in HEAVY and not _lies_in(library(one), first)]
        return [one + OPTIONAL for one in heavy]
    names: list[str] = []
    for name in named:  # of one that is named as a whole, what the script takes of it
        of_source = [one for one in found if library(one) == name]
        names += [one for one in of_source or [name] if one not in names]
    return names


def check_preload(config: Config, own_interpreter: bool) -> None:
    """``launch.preload`` names what can be imported, as far as it can be seen from here: on a cluster of
    others' a node may have what this machine has not, and says so where it has not. Raises
    :class:`ConfigError`."""
    for name in config.launch.preload or ():
        if not _FORM.fullmatch(name):
            raise ConfigError(
                f"launch.preload: {name!r} is no name of a module; write e.g. launch.preload=[transformers],"
                " or launch.preload=['transformers:Trainer'] for one that loads its parts when they are taken"
            )
        if own_interpreter and not _is_found(library(name), config):
            raise ConfigError(
                f"launch.preload={name}: there is no module {library(name)!r} among the installed packages"
                " nor in PYTHONPATH (what lies beside the script is imported by the ranks); leave it out, or"
                " set env.PYTHONPATH=…"
            )


def preloadable(sources: Sequence[Source]) -> list[str]:
    """What a script and the modules beside it import and take, the script's source first.

    What is imported after the source has changed ``os.environ``, ``sys.path`` or ``sys.modules`` is left out:
    it would have been imported without that.
    """
    files = [one for one in map(_read, sources) if one is not None]
    taken: dict[str, list[str]] = {}
    for file in files:
        others_change = any(other.changes_at_import for other in files if other is not file)
        anyone_changes = any(other.changes for other in files)
        for one in file.imports:
            before = any(line < one.line for line in file.changes)
            if others_change or before or (one.in_function and anyone_changes):
                continue
            names = taken.setdefault(one.module, [])
            names += [name for name in one.names if name not in names]
    return [f"{module}:{','.join(names)}" if names else module for module, names in taken.items()]


@dataclass(frozen=True)
class _Import:
    module: str
    names: tuple[str, ...]
    line: int
    in_function: bool


@dataclass
class _File:
    imports: list[_Import] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)  # lines
    changes_at_import: bool = False


def _read(source: Source) -> _File | None:
    if source.tree is None:
        return None
    file, uses = _File(), _attributes(source.tree)
    for node, in_function in _walk(source.tree, in_function=False):
        match node:
            case ast.Import():
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    whole = alias.asname is not None or "." not in alias.name
                    names = tuple(uses.get(bound, ())) if whole else ()
                    file.imports.append(_Import(alias.name, names, node.lineno, in_function))
            case ast.ImportFrom(module=str(module), level=0):
                names = tuple(alias.name for alias in node.names if alias.name != "*")
                file.imports.append(_Import(module, names, node.lineno, in_function))
            case _ if _changes(node):
                file.changes.append(node.lineno)  # type: ignore[attr-defined]  # statements and calls have one
                file.changes_at_import |= not in_function
    return file


def _walk(node: ast.AST, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All that may run, in the order of the text, and whether it waits in a function for that."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _name(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            continue
        yield child, in_function
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, in_function or inner)


def _attributes(tree: ast.AST) -> dict[str, list[str]]:
    """Which attributes are taken of each name."""
    uses: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of_name = uses.setdefault(node.value.id, [])
            if node.attr not in of_name:
                of_name.append(node.attr)
    return uses


def _changes(node: ast.AST) -> bool:
    """Whether it changes what later imports find or read."""
    match node:
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            return any(map(_is_changed, targets))
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            return _is_changed(target)
        case ast.Call(func=ast.Attribute(value=owner, attr=attr)):
            if attr == "putenv" or attr == "load_dotenv":
                return True
            place = _name(owner)
            if place in ("os.environ", "environ"):
                return attr in _CHANGING and not _read_later(node.args[:1] if attr != "update" else ())
            return place == "sys.path" and attr in _CHANGING_PATH
        case ast.Call(func=ast.Name(id="load_dotenv" | "putenv")):
            return True
    return False


def _is_changed(target: ast.AST) -> bool:
    if isinstance(target, ast.Subscript):
        place = _name(target.value)
        if place in ("os.environ", "environ"):
            return not _read_later([target.slice])
        return place in ("sys.path", "sys.modules")
    return _name(target) in ("os.environ", "sys.path")


def _read_later(keys: Iterable[ast.AST]) -> bool:
    names = [one.value for one in keys if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return bool(names) and all(any(fnmatchcase(name, each) for each in _READ_WHEN_USED) for name in names)


def _name(node: ast.AST) -> str:
    """``os.environ`` of such an expression; "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _name(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def _lies_in(name: str, folder: str) -> bool:
    return PathFinder.find_spec(name, [folder]) is not None


def _is_found(name: str, config: Config) -> bool:
    own = {**config.job.env, **config.env}.get("PYTHONPATH") or os.environ.get("PYTHONPATH", "")
    path = [entry for entry in own.split(os.pathsep) if entry]
    return PathFinder.find_spec(name, path) is not None or PathFinder.find_spec(name) is not None
