"""What is taken for our own work: signed with our key, and where nobody else may write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.checkpoint.store import Manifest
from orchestrator.checkpoint.vouching import why_not_vouched
from tests.support.crashes import committed

KEY = b"a key of sixteen"
WEIGHTS = "mp_rank_00_model_states.pt"


def kept(tmp_path: Path) -> tuple[Path, Manifest]:
    return tmp_path / "step-2", committed(tmp_path, 2).signed(KEY)


def test_ours(tmp_path: Path) -> None:
    folder, manifest = kept(tmp_path)
    assert why_not_vouched(folder, manifest, KEY) is None


def linked(folder: Path) -> None:
    os.replace(folder / WEIGHTS, folder / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder / "elsewhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: folder.chmod(0o777), "{folder} may be written by everybody"),
        (lambda folder: folder.parent.chmod(0o777), "{folder.parent} may be written by everybody"),
        (lambda folder: (folder / WEIGHTS).chmod(0o666), f"{WEIGHTS} may be written by everybody"),
        (linked, f"{WEIGHTS} is not a plain file"),
        (
            lambda folder: (folder / WEIGHTS).unlink(),
            f"{WEIGHTS} cannot be looked at (No such file or directory)",
        ),
        pytest.param(
            lambda folder: os.chown(folder / WEIGHTS, 65534, 65534),
            f"{WEIGHTS} belongs to uid 65534",
            marks=pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away"),
        ),
    ],
)
def test_what_others_could_have_put_there(
    change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    folder, manifest = kept(tmp_path)
    change(folder)
    assert why_not_vouched(folder, manifest, KEY) == said.format(folder=folder)


def test_signed_by_others_or_by_nobody(tmp_path: Path) -> None:
    folder, manifest = kept(tmp_path)
    for other in (manifest.signed(KEY[:-1]), committed(tmp_path / "unsigned", 2)):
        assert why_not_vouched(folder, other, KEY) == "its manifest is not signed with this run's key"
