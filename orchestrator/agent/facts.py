"""What a run is made of, as the driver sees it and as each node sees it.

The driver puts its view into the plan; every agent takes its own and names what differs. Versions
come from package metadata, so nothing heavy is imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.agent import corpus as corpus_survey
from orchestrator.config.hardware import local_gpus
from orchestrator.errors import ConfigError
from orchestrator.installation import PACKAGE

OWN, _SCRIPT = "orchestrator sha256", "script sha256"
COMPARED_PACKAGES = ("torch", "deepspeed", "ray", "numpy", "orchestrator")
_PACKAGES = {f"package {name}": name for name in COMPARED_PACKAGES}


def observe(
    script: Path, sources: Sequence[str], cwd: Path, least_bytes: int = 1, alone: bool = False
) -> dict[str, str]:
    """Facts by name: ``python``, ``package <name>``, ``orchestrator sha256``, ``script sha256`` and, if any,
    ``corpus fingerprint``. ``alone``: the script is a program that is no Python, see
    :func:`script_sha256`.

    Raises :class:`ConfigError` when the script or the corpus is not there.
    """
    facts = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    facts |= {fact: package_version(name) for fact, name in _PACKAGES.items()}
    facts[OWN] = own_sha256()
    facts[_SCRIPT] = script_sha256(script, alone)
    if sources:
        facts["corpus fingerprint"] = corpus_survey.survey(sources, cwd, least_bytes).fingerprint
    return facts


def versions(facts: Mapping[str, str]) -> dict[str, str]:
    """What of the facts people compare runs by, packages by their bare names: hashes of sources say nothing
    to them."""
    return {_PACKAGES.get(name, name): value for name, value in facts.items() if name not in (OWN, _SCRIPT)}


def package_version(name: str) -> str:
    """The installed version, or ``not installed``."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def own_sha256() -> str:
    """Hash of our own source: ranks of different ones would not understand each other, and hang."""
    digest, start = hashlib.sha256(), len(str(PACKAGE)) + 1
    # Plain names: a Path for each of hundreds of files takes as long as to read them.
    names = [os.path.join(folder, name) for folder, _, files in os.walk(PACKAGE) for name in files]
    for path in sorted(name for name in names if name.endswith(".py")):
        with open(path, "rb", buffering=0) as source:
            digest.update(path[start:].encode() + b"\0" + source.read())
    return digest.hexdigest()


def script_sha256(script: Path, alone: bool = False) -> str:
    """Hash of the script and of the Python files beside it, which it may import; ``alone`` of itself."""
    if not script.is_file():
        raise ConfigError(f"job.script: no file at {script}; give the path of a Python script")
    digest = hashlib.sha256()
    for path in sorted({script, *(() if alone else script.parent.glob("*.py"))}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def with_script(facts: Mapping[str, str], script: Path, alone: bool = False) -> dict[str, str]:
    """The same facts with the script as it is now; as they were where it is gone."""
    try:
        return {**facts, _SCRIPT: script_sha256(script, alone)} if _SCRIPT in facts else dict(facts)
    except (ConfigError, OSError):
        return dict(facts)


def differences(expected: Mapping[str, str], seen: Mapping[str, str]) -> list[str]:
    """``name: 'a' here, 'b' in the plan`` for every fact of the plan that the node does not share."""
    return [
        f"{name}: '{_short(seen.get(name, 'unknown'))}' there, '{_short(value)}' in the plan"
        for name, value in expected.items()
        if seen.get(name, "unknown") != value
    ]


def gpu_differences(product_names: Sequence[str], count: int) -> list[str]:
    """Why the GPUs that this process sees are not the plan's: too few, or of another type."""
    gpus = local_gpus()
    problems = []
    if len(gpus) < count:
        problems.append(f"GPUs: {len(gpus)} there, {count} in the plan")
    for gpu in gpus[:count]:
        if product_names and not any(name.lower() in gpu.product.lower() for name in product_names):
            problems.append(
                f"GPU {gpu.index}: '{gpu.product}' there, {' or '.join(product_names)} in the plan"
            )
    return problems


def git_state(folder: Path) -> tuple[str, str]:
    """The commit of the folder's repository, with ``+`` when it has changes, and its name; empty outside
    one."""

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *args], capture_output=True, text=True, timeout=10, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        where = git("config", "--get", "remote.origin.url") or git("rev-parse", "--show-toplevel")
        name = re.split(r"[/:]", where.rstrip("/"))[-1].removesuffix(".git")
        changed = "+" if commit and git("status", "--porcelain", "--untracked-files=no") else ""
        return commit + changed, name
    except (OSError, subprocess.TimeoutExpired):
        return "", ""


def _short(value: str) -> str:
    return value[:12] + "…" if len(value) == 64 else value
