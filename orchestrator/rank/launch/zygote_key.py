"""What a zygote has already settled by having imported its modules, and whether a job fits it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import site
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from itertools import islice
from pathlib import Path

from orchestrator.rank.launch.preload import OF_SCRIPT, library

# Variables that the loader, the interpreter, the BLAS and OpenMP runtimes, torch or DeepSpeed read
# while they are loaded. Changing one of these after the import has no effect, or half of one.
READ_AT_IMPORT_PREFIXES = (
    "ATEN_",
    "DNNL_",
    "DS_",
    "GOMP_",
    "KMP_",
    "LC_",
    "LD_",
    "MALLOC_",
    "MKL_",
    "NUMEXPR_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTHON",
    "PYTORCH_",
    "TORCH",
    "TRITON_",
)
READ_AT_IMPORT = frozenset({"CUDA_HOME", "CUDA_MODULE_LOADING", "GLIBC_TUNABLES", "LANG", "ROCM_HOME"})
# Set by every launcher for every rank, or told to each rank anew: no part of the key.
READ_LATER_PREFIXES = ("TORCHELASTIC_",)
READ_LATER = frozenset({"PYTORCH_NVML_BASED_CUDA_CHECK"})
_OURS = "orchestrator"
_MOST_FILES = 2000


def is_read_at_import(name: str) -> bool:
    if name in READ_LATER or name.startswith(READ_LATER_PREFIXES):
        return False
    return name in READ_AT_IMPORT or name.startswith(READ_AT_IMPORT_PREFIXES)


@dataclass(frozen=True)
class ZygoteKey:
    """Identity of a zygote: a rank may be forked from it only when its own key is equal.

    `CUDA_VISIBLE_DEVICES` and the `NCCL_` variables are read when CUDA or NCCL start, which never
    happens in a zygote, so they are free to differ. `PYTHONHASHSEED` left out means one random
    seed for all ranks of a zygote, where separate interpreters would draw one each.
    """

    python: str
    path: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]
    imports: tuple[str, ...] = ()  # the script's own, in their order
    # of those that are no installed package, and of the folders of installed ones: when they last changed
    sources: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, env: Mapping[str, str], modules: Iterable[str], python: str | None = None) -> ZygoteKey:
        """Key of a process that would be started now with `env` and import `modules`.

        Interpreter and installed packages are those of the calling process unless `python` names
        another executable.
        """
        # Ours too: a rank speaks as its zygote has learnt to, and the agent that hears it may be of a later
        # version.
        modules = list(modules)
        distributions = sorted({_OURS, *(library(module) for module in modules)})
        sites = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
        own_path = list(filter(None, env.get("PYTHONPATH", "").split(os.pathsep)))
        imports = tuple(one.removesuffix(OF_SCRIPT) for one in modules if one.endswith(OF_SCRIPT))
        changed = {library(one): _last_change(library(one), own_path) for one in imports}
        if imports:  # what they need has versions too, and is not named
            changed["installed packages"] = _when_changed(sites)
        return cls(
            python=f"{python or sys.executable} ({platform.python_version()})",
            path=(*own_path, *sites),
            environment=tuple(sorted((name, env[name]) for name in env if is_read_at_import(name))),
            packages=tuple((name, _installed_version(name)) for name in distributions),
            imports=imports,
            sources=tuple((name, when) for name, when in changed.items() if when),
        )

    def difference(self, job: ZygoteKey) -> list[str]:
        """What differs between this key (a zygote's) and a job's, one line for each name."""
        lines = [
            f"{name}: {_shown(ours)} in the zygote, {_shown(theirs)} in the job"
            for name, ours, theirs in (
                ("python", self.python, job.python),
                ("sys.path", os.pathsep.join(self.path), os.pathsep.join(job.path)),
                ("imports", _libraries(self.imports), _libraries(job.imports)),
            )
            if ours != theirs
        ]
        if self.imports != job.imports and _libraries(self.imports) == _libraries(job.imports):
            lines.append("imports: others of the same libraries in the zygote than in the job")
        changed = sorted({name for name, _ in set(self.sources) ^ set(job.sources)})
        lines += [f"{name}: changed since the zygote has imported" for name in changed]
        for ours_by_name, theirs_by_name in (
            (dict(self.environment), dict(job.environment)),
            (dict(self.packages), dict(job.packages)),
        ):
            for name in sorted({**ours_by_name, **theirs_by_name}):
                mine, wanted = ours_by_name.get(name), theirs_by_name.get(name)
                if mine != wanted:
                    lines.append(f"{name}: {_shown(mine)} in the zygote, {_shown(wanted)} in the job")
        return lines


def _shown(value: str | None) -> str:
    return "unset" if value is None else repr(value)


def _libraries(imports: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(map(library, imports))) or "none beside torch and DeepSpeed"


def _last_change(name: str, path: list[str]) -> str:
    """Of a module or package in one of these folders; "" where it is in none. Installed ones have a
    version."""
    spec = PathFinder.find_spec(name, path) if path else None
    if spec is None:
        return ""
    places = list(spec.submodule_search_locations or ())
    files = [Path(spec.origin)] if spec.origin and not places else []
    for place in places:
        files += islice(Path(place).rglob("*.py"), _MOST_FILES)
    with contextlib.suppress(OSError):  # one was taken away at this moment
        return str(max((file.stat().st_mtime_ns for file in files), default=0))
    return ""


def _when_changed(folders: Iterable[str]) -> str:
    """When something was last put into one of these folders or taken out."""
    return str(max((Path(one).stat().st_mtime_ns for one in folders if os.path.isdir(one)), default=0))


def _installed_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not a distribution"
