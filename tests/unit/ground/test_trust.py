"""Folders of others, links in their place, and whom this shell's credentials are shown to."""

from __future__ import annotations

import base64
import grp
import os
import pwd
from pathlib import Path

import pytest

from orchestrator import trust
from orchestrator.cli import sync as syncing
from orchestrator.cli.sync import CREDENTIALS
from orchestrator.config.schema import Config, Resume
from orchestrator.driver.cluster_status import other_runs
from orchestrator.driver.resume import to_take_up
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.files import atomic_write
from orchestrator.ledger import run_directory
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.mlflow.credentials import credentials_for
from orchestrator.ledger.run_directory import RunDirectory, find_run
from orchestrator.trust import check_ours, why_not_ours

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
STRANGER = 54321


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "root" / "night"
    path.mkdir(parents=True)
    (path / "journal.jsonl").touch()
    return path


def test_what_is_ours_on_a_way_that_is_ours(run: Path) -> None:
    assert why_not_ours(run) is None
    check_ours(run, "a run")
    assert find_run("night", run.parent) == run


@pytest.mark.parametrize(("mode", "who"), [(0o777, "everybody"), (0o775, "the group of gid 54321")])
@pytest.mark.parametrize("place", ["itself", "above"])
def test_what_others_may_write_is_refused_by_name_with_the_remedy(
    run: Path, place: str, mode: int, who: str
) -> None:
    if mode == 0o775 and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    open_to = run if place == "itself" else run.parent
    if mode == 0o775:
        os.chown(open_to, -1, STRANGER)
    open_to.chmod(mode)
    with pytest.raises(ConfigError, match="--trust if you know who wrote it") as refused:
        find_run("night", run.parent)
    assert f"{open_to} may be written by {who}" in str(refused.value)
    assert find_run("night", run.parent, trust=True) == run


def test_a_folder_open_to_all_on_the_way_may_be_sticky_and_the_run_may_not(run: Path) -> None:
    run.parent.chmod(0o1777)
    assert why_not_ours(run) is None
    run.chmod(0o1777)
    assert "may be written by everybody" in str(why_not_ours(run))


@needs_root
@pytest.mark.parametrize("place", ["itself", "above", "linked"])
def test_what_belongs_to_somebody_else_is_refused(run: Path, tmp_path: Path, place: str) -> None:
    path = run
    if place == "linked":
        path = tmp_path / "link"
        path.symlink_to(run)
        os.chown(path, STRANGER, -1, follow_symlinks=False)
    else:
        os.chown(run if place == "itself" else run.parent, STRANGER, -1)
    assert f"belongs to uid {STRANGER}" in str(why_not_ours(path))


@needs_root
def test_where_a_link_leads_is_looked_at_too(run: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(run)
    assert why_not_ours(link) is None
    os.chown(run.parent, STRANGER, -1)
    assert f"{run.parent} belongs to uid {STRANGER}" in str(why_not_ours(link))


@needs_root
def test_a_random_user_of_roots_group_goes_on_with_its_own(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenShift makes them: no name, group 0, and volumes that this group may write."""
    os.chown(run, STRANGER, 0)
    for place in (run, run.parent):
        place.chmod(0o2775)
    monkeypatch.setattr(trust.os, "geteuid", lambda: STRANGER)
    assert why_not_ours(run) is None
    monkeypatch.setattr(trust.os, "geteuid", lambda: STRANGER + 1)
    assert "belongs to uid" in str(why_not_ours(run))


@needs_root
def test_a_group_of_ones_own_is_nobody_else(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: list[str] = []
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("ada", "x", gid, members)))
    monkeypatch.setattr(
        pwd, "getpwuid", lambda uid: pwd.struct_passwd(("ada", "x", uid, 1, "", "/", "/bin/sh"))
    )
    os.chown(run, -1, STRANGER)
    run.chmod(0o775)
    assert why_not_ours(run) is None
    members.append("eve")
    assert "may be written by the group ada" in str(why_not_ours(run))


@needs_root
def test_in_a_container_that_knows_no_root_the_way_may_be_nobodys(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(run.parent, STRANGER, -1)
    monkeypatch.setattr(trust, "_unmapped", lambda: {STRANGER})
    assert why_not_ours(run) is None
    os.chown(run, STRANGER, -1)
    assert "belongs to" in str(why_not_ours(run))


def test_a_run_begins_in_a_new_folder_or_in_ones_own(tmp_path: Path) -> None:
    place = tmp_path / "runs" / "night"
    trust.check_nobody_elses(place)
    place.mkdir(parents=True)
    for mode in (0o755, 0o775, 0o1775):
        place.chmod(mode)
        trust.check_nobody_elses(place)
    place.chmod(0o1777)
    with pytest.raises(
        ConfigError, match=r"night may be written by everybody; choose another run_name or .*--trust"
    ):
        trust.check_nobody_elses(place)


@needs_root
@pytest.mark.parametrize("linked", [False, True])
def test_a_run_begins_in_no_folder_that_somebody_else_has_put_in_its_place(
    tmp_path: Path, linked: bool
) -> None:
    place, behind = tmp_path / "night", tmp_path / "behind"
    behind.mkdir()
    os.chown(behind, STRANGER, -1)
    if linked:
        place.symlink_to(behind)
    else:
        behind.rename(place)
    with pytest.raises(ConfigError, match=f"belongs to uid {STRANGER}; choose another run_name"):
        trust.check_nobody_elses(place)


@needs_root
def test_nothing_is_read_of_somebody_elses_run_before_it_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "journal.jsonl").unlink()
    os.mkfifo(run / "journal.jsonl")  # whoever opens it waits for ever
    os.chown(run, STRANGER, -1)
    config = Config(run_dir=str(run))
    config.job.resume = Resume.auto
    with pytest.raises(ConfigError, match=f"belongs to uid {STRANGER}"):
        to_take_up(config)
    assert other_runs(run.parent, "a:1", 0.0, set()) == []
    monkeypatch.setattr(run_directory.os, "access", lambda _path, _mode: False)  # root may look into any
    for trusted, said in (
        (False, f"belongs to uid {STRANGER}"),
        (True, "you may not look into it"),
    ):
        with pytest.raises(ConfigError, match=said):
            find_run("night", run.parent, trusted)


def test_links_in_the_place_of_our_files_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    for name in ("lock", "journal.jsonl", "plan.json"):
        folder = tmp_path / name / "run"
        folder.mkdir(parents=True)
        (folder / name).symlink_to(precious)
        if name == "lock":
            with pytest.raises(RunDirectoryError, match="'lock' is a link, which is not followed; remove it"):
                RunDirectory(folder).hold()
        elif name == "journal.jsonl":
            with pytest.raises(RunDirectoryError, match="symbolic links"):
                Journal(folder / name)
        else:
            atomic_write(folder / name, "new")
            assert not (folder / name).is_symlink()
        assert precious.read_text() == "keep me"


def test_a_file_that_is_written_whole_is_its_owners_from_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in (0o600, 0o644):
        path = atomic_write(tmp_path / "secret", "x" * 100_000, mode)
        assert path.stat().st_mode & 0o777 == mode
    monkeypatch.setattr(os, "fsync", lambda fd: os.write(fd, b"x", 3))  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        atomic_write(path, "new")
    assert [each.name for each in tmp_path.iterdir()] == ["secret"], "nothing is left of one that failed"


def test_a_new_run_directory_is_its_owners_alone(tmp_path: Path) -> None:
    for name, group_reads, mode in (("alone", False, 0o700), ("group", True, 0o750)):
        held = RunDirectory(tmp_path / "runs" / name, group_reads)
        held.hold()
        held.release()
        assert (tmp_path / "runs" / name).stat().st_mode & 0o777 == mode
    (tmp_path / "mine").mkdir(mode=0o755)
    held = RunDirectory(tmp_path / "mine")
    held.hold()
    held.release()
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o755, (
        "how an existing one is shared is its owner's choice"
    )


@pytest.mark.parametrize(
    ("uri", "own", "shown"),
    [
        ("https://lab:5000/x", "https://lab:5000", True),
        ("https://ada:pw@lab:5000", "https://lab:5000/", True),
        ("https://evil:5000", "https://lab:5000", False),
        ("http://lab:5000", "https://lab:5000", False),
        ("https://lab:5000@evil", "https://lab:5000", False),
        ("https://evil", None, False),
        ("sqlite:////x/mlflow.db", "sqlite:////x/mlflow.db", True),
    ],
)
def test_credentials_go_to_ones_own_server_only(
    uri: str, own: str | None, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in CREDENTIALS:
        monkeypatch.setenv(name, "mine")
    environment, withheld = syncing._credentials_for(uri, own)
    assert (set(CREDENTIALS) <= set(environment)) == shown
    assert withheld == ([] if shown else list(CREDENTIALS))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert syncing._credentials_for(uri, own)[1] == []


def test_what_mlflows_own_file_has_is_shown_to_ones_own_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would show it to every server."""
    for name in (*CREDENTIALS, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = mine\n"
    )
    environment, withheld = syncing._credentials_for("https://evil", "https://lab:5000")
    assert withheld == ["~/.mlflow/credentials"]
    shown = credentials_for("https://evil", environment).headers()["Authorization"]
    assert shown == "Basic " + base64.b64encode(b"nobody:nobody").decode()
    environment, withheld = syncing._credentials_for("https://lab:5000", "https://lab:5000")
    assert withheld == []
    assert credentials_for("https://lab:5000", environment).source == "~/.mlflow/credentials"
