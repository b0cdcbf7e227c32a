"""What is taken for our own work: signed with our key, and where nobody else may write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.checkpoint.manifest import MANIFEST, Manifest, ManifestError
from orchestrator.checkpoint.vouching import KnownManifests, why_not_vouched
from tests.support.crashes import committed

KEY = b"a key of sixteen"
WEIGHTS = "mp_rank_00_model_states.pt"


def kept(tmp_path: Path) -> tuple[Path, Manifest]:
    folder, manifest = tmp_path / "step-2", committed(tmp_path, 2).signed(KEY)
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder, manifest


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
    known = KnownManifests(KEY).of(folder)
    assert known is not None
    assert known.why_not_vouched(WEIGHTS) is None
    change(folder)
    assert why_not_vouched(folder, manifest, KEY) == said.format(folder=folder)
    assert known.why_not_vouched(WEIGHTS) == said.format(folder=folder), "each file is looked at anew"


def test_signed_by_others_or_by_nobody(tmp_path: Path) -> None:
    folder, manifest = kept(tmp_path)
    for other in (manifest.signed(KEY[:-1]), committed(tmp_path / "unsigned", 2)):
        assert why_not_vouched(folder, other, KEY) == "its manifest is not signed with this run's key"


def test_a_manifest_is_read_and_its_signature_compared_once_while_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = kept(tmp_path)
    compared: list[bytes] = []
    compare = Manifest.is_signed_with
    monkeypatch.setattr(
        Manifest, "is_signed_with", lambda self, key: compared.append(key) or compare(self, key)
    )
    known = KnownManifests(KEY)
    first = known.of(folder)
    assert first is not None
    assert first.manifest == manifest
    assert known.of(folder) is first
    assert compared == [KEY]
    written = folder / "written"
    written.write_text(manifest.signed(b"another key").to_json())
    os.replace(written, folder / MANIFEST)
    second = known.of(folder)
    assert second is not None
    assert second.why_not_vouched(WEIGHTS) == "its manifest is not signed with this run's key"
    assert len(compared) == 2
    (folder / MANIFEST).unlink()
    assert known.of(folder) is None


def test_a_manifest_that_is_none_is_refused_each_time(tmp_path: Path) -> None:
    folder, _ = kept(tmp_path)
    (folder / MANIFEST).write_text("{}")
    known = KnownManifests(KEY)
    for _again in range(2):
        with pytest.raises(ManifestError):
            known.of(folder)
