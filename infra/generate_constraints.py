"""Writes down what this environment has: infra/constraints.txt, by which `make` installs, and
docs/dependencies.md.

`make constraints` runs it in a new environment that was made without constraints. Versions are those of the
public index: a local part ("+cpu") says how torch was built here, and another machine needs another build.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS, DOCUMENT = ROOT / "infra" / "constraints.txt", ROOT / "docs" / "dependencies.md"
# What an environment brings along or is itself.
NOT_OURS = {"orchestrator", "pip", "setuptools", "wheel"}
# Builds for GPUs come with torch's own, and are not there everywhere.
OF_TORCH = re.compile(r"^(nvidia-(?!ml-py$)|triton$|cuda-)")
# Others than these are looked at by a person before they are taken.
PERMISSIVE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Unlicense|0BSD|Zlib|CC0|Public Domain|MPL|Mozilla|"
    r"HPND|LGPL|Lesser General Public",
    re.IGNORECASE,
)  # fmt: skip
# Not even beside one that is, unless there is a choice.
COPYLEFT = re.compile(r"\bA?GPL|\bGNU (?:Affero )?General Public")
# Without a word in their metadata, or with one that says too little: what their source says, looked up by
# hand.
LOOKED_UP = {"huey": "MIT", "skops": "MIT"}
_LONGEST = 60


@dataclass(frozen=True, order=True)
class Package:
    name: str
    version: str
    licence: str


def packages() -> list[Package]:
    """All that is installed here, but for the project and what installs it; sorted by name."""
    found = {_name(each): each for each in distributions()}
    return sorted(
        Package(name, each.version.partition("+")[0], LOOKED_UP.get(name) or licence_of(each))
        for name, each in found.items()
        if name not in NOT_OURS and not OF_TORCH.match(name)
    )


def licence_of(distribution: Distribution) -> str:
    """As its metadata say: an expression, else classifiers, else the first words of a text; "" where there is
    none."""
    about = distribution.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classes = [
        str(value) for value in about.get_all("Classifier") or [] if str(value).startswith("License ::")
    ]
    named = [value.rpartition(" :: ")[2] for value in classes if value != "License :: OSI Approved"]
    if named:
        return ", ".join(dict.fromkeys(named))
    first = next((line.strip() for line in str(about.get("License") or "").splitlines() if line.strip()), "")
    return first if len(first) <= _LONGEST else f"{first[: _LONGEST - 1]}…"


def _name(distribution: Distribution) -> str:
    return re.sub(r"[-_.]+", "-", str(distribution.metadata["Name"])).lower()


def constraints(found: list[Package]) -> str:
    """For pip: what is installed has these versions, whoever asks for it."""
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    head = (
        f"# Written by 'make constraints' with {python}: what was tested together. Ranges are in"
        " pyproject.toml.\n"
    )
    return head + "".join(f"{package.name}=={package.version}\n" for package in found)


def document(found: list[Package]) -> str:
    """The table of docs/dependencies.md."""
    rows = "".join(f"| {package.name} | {package.version} | {package.licence} |\n" for package in found)
    return (
        "# Dependencies\n\nWhat `make run` and `make test` install, directly and through others: the"
        " versions that were tested together\n(`infra/constraints.txt`) and their licences, as their own"
        " metadata say. Written by `make constraints`,\nwhich takes the newest that `pyproject.toml` allows."
        " A wheel installed by hand takes any of these.\nTorch's builds for GPUs bring packages of NVIDIA's"
        " under NVIDIA's own licences; they are not listed.\n\n| package | version | licence"
        f" |\n|---|---|---|\n{rows}"
    )


def refused(found: list[Package]) -> list[str]:
    """Whose licence is not among those that are taken without a look."""
    return [f"{package.name}: {package.licence or 'no licence is told'}" for package in found
            if not PERMISSIVE.search(package.licence)
            or (COPYLEFT.search(package.licence) and " OR " not in package.licence)]  # fmt: skip


def main() -> int:
    found = packages()
    if wrong := refused(found):
        print(
            "look at these licences, then add what you found to LOOKED_UP:",
            *wrong,
            sep="\n  ",
            file=sys.stderr,
        )
        return 1
    CONSTRAINTS.write_text(constraints(found))
    DOCUMENT.write_text(document(found))
    print(f"wrote {CONSTRAINTS} and {DOCUMENT}: {len(found)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
