"""The wheels that `make gpu-check` needs on a machine that has PyTorch and reaches no package index:
python -m infra.gpu_wheels [--there FILE] [--python 3.12] [--out .gpu-wheels]

What is needed is what this environment's packages name, at the versions that are installed here; what is
there already stands in a file, one name a line (`pip list --format=freeze` of the machine will do). Such a
machine may take little, so Ray's Java half and the web pages of Ray and MLflow are left out, the rest is
packed as tightly as can be, and more than --most-mib ends with exit code 1.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
THERE = Path(__file__).with_name("gpu_machine.txt")
PROJECT = "orchestrator"
# The check's own, beside what the project needs to run.
BESIDE = ("pytest", "pytest-timeout")
# Of manylinux, newest first; pip takes each as it is written.
GLIBC = ("2_28", "2_27", "2_24", "2_17", "2014", "2010", "1", "2_5", "2_12", "2_34", "2_31")
# What serves pages and other languages: files of a package, and packages that are for nothing else.
UNUSED_FILES = {
    "ray": re.compile(r"ray/(jars|rllib|dashboard/client/build/static/js)/"),
    "mlflow": re.compile(r"mlflow/server/js/"),
}
UNUSED = ("virtualenv", "py-spy")
MOST_MIB = 60


def needed(there: Iterable[str], python: str) -> dict[str, str]:
    """Names and versions of all that is not there, with what they need themselves."""
    known = {canonicalize_name(name) for name in (*there, *UNUSED)}
    found: dict[str, str] = {}
    marks = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    left = [Requirement(PROJECT), *map(Requirement, BESIDE)]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in known or name in found:
            continue
        metadata = importlib.metadata.distribution(name)
        if name != PROJECT:
            found[name] = metadata.version
        for text in metadata.requires or ():
            requirement = Requirement(text)
            extras = {"", *one.extras}
            if requirement.marker is None or any(
                requirement.marker.evaluate(marks | {"extra": extra}) for extra in extras
            ):
                left.append(requirement)
        known.add(name)
    return found


def fetch(packages: Mapping[str, str], python: str, folder: Path) -> None:
    """Wheels for that Python on x86-64; what is published as source only is built, where it is pure."""
    platforms = [f"--platform=manylinux{'_' if '_' in one else ''}{one}_x86_64" for one in GLIBC]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    for name, version in sorted(packages.items()):
        wanted = ["--no-deps", "--quiet", "--disable-pip-version-check", f"{name}=={version}"]
        pip = [sys.executable, "-m", "pip"]
        there_is = subprocess.run(
            [*pip, "download", f"--dest={folder}", *target, *wanted], capture_output=True, check=False
        )
        if there_is.returncode:
            build = [f"--wheel-dir={folder}", "--no-build-isolation"]
            subprocess.run([*pip, "wheel", *build, *wanted], check=True)
    built_here = [path.name for path in folder.glob("*.whl") if not _runs_on(path.name, python)]
    if built_here:
        raise SystemExit(f"{', '.join(built_here)}: made for this Python; run this with Python {python}")


def _runs_on(wheel: str, python: str) -> bool:
    tags = parse_wheel_filename(wheel)[3]
    return any(
        tag.interpreter in ("py3", f"cp{python.replace('.', '')}") or tag.abi == "abi3" for tag in tags
    )


def pack(wheel: Path, target: Path) -> None:
    """The same wheel without what is never used, compressed as well as the zip format allows."""
    name = canonicalize_name(wheel.name.partition("-")[0])
    unused = UNUSED_FILES.get(name)
    with zipfile.ZipFile(wheel) as read, zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as written:
        for entry in read.infolist():
            if unused is None or not unused.match(entry.filename):
                written.writestr(_entry(entry), read.read(entry))


def _entry(of: zipfile.ZipInfo) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(of.filename, of.date_time)
    entry.external_attr, entry.compress_type = of.external_attr, zipfile.ZIP_LZMA
    return entry


def names_in(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        if name := re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line):
            yield name[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--there", type=Path, default=THERE, help="what the machine has; default: %(default)s"
    )
    parser.add_argument("--python", default="3.12", help="of that machine; default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu-wheels")
    parser.add_argument("--most-mib", type=float, default=MOST_MIB)
    args = parser.parse_args()
    packages = needed(names_in(args.there), args.python)
    with tempfile.TemporaryDirectory() as place:
        fetch(packages, args.python, Path(place))
        shutil.rmtree(args.out, ignore_errors=True)
        args.out.mkdir()
        for wheel in sorted(Path(place).glob("*.whl")):
            pack(wheel, args.out / wheel.name)
    sizes = {path.name: path.stat().st_size / 2**20 for path in args.out.glob("*.whl")}
    for name, mib in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
        print(f"{mib:6.1f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total:6.1f} MiB  in all, {len(sizes)} wheels in {args.out}")
    if total > args.most_mib:
        print(f"that is more than {args.most_mib:g} MiB: name more of what is there in {args.there}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
