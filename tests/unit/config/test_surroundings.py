"""A missing home and a long TMPDIR are settled before anything trips over them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from orchestrator.config import surroundings


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a folder of our own is made, and an environment that comes back afterwards."""
    there = tmp_path / "place"
    there.mkdir()
    monkeypatch.setattr(surroundings, "_PLACES", ("/nowhere", str(there)))
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "read-only" and str(path) != "/")
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return there


def no_entry(_uid: int) -> None:
    raise KeyError("getpwuid(): uid not found")


@pytest.mark.parametrize("home", [None, "/"])
def test_who_has_no_home_gets_one_that_nobody_else_may_enter(
    home: str | None, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    if home:
        monkeypatch.setenv("HOME", home)
    surroundings.settle()
    made = Path(os.environ["HOME"])
    assert made == place / f"orchestrator-home-{os.getuid()}"
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert f"{made} is used for caches and as the home" in capsys.readouterr().err


def test_a_home_that_can_only_be_read_stays_and_caches_go_elsewhere(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "read-only"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    surroundings.settle()
    assert os.environ["HOME"] == str(home)
    assert Path(os.environ["XDG_CACHE_HOME"]).is_relative_to(place)


def test_a_folder_that_somebody_else_prepared_is_not_taken(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    theirs = place / f"orchestrator-home-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    surroundings.settle()
    assert os.environ["HOME"] == "/"


def test_what_is_well_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/" + "d" * (surroundings.LONGEST_TMPDIR_BYTES - 1))
    before = dict(os.environ)
    surroundings.settle()
    assert dict(os.environ) == before
    assert list(place.iterdir()) == []


def test_a_tmpdir_that_is_too_long_for_sockets_gives_way(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/" + "d" * surroundings.LONGEST_TMPDIR_BYTES)
    surroundings.settle()
    assert os.environ["TMPDIR"] == str(place)


def test_what_torch_compiles_lies_where_nobody_else_has_made_a_folder_for_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "a/b")
    environment = {"TMPDIR": str(tmp_path), "LOGNAME": "a/b"}
    usual = Path(default_cache_dir())
    assert surroundings.compiled_programs(environment) == {}
    assert stat.S_IMODE(usual.stat().st_mode) == 0o700, "nobody can come before us from here on"
    usual.chmod(0o755)
    assert surroundings.compiled_programs(environment) == {}, "as torch itself makes it"
    usual.chmod(0o777)
    own = place / f"orchestrator-home-{os.getuid()}" / "torchinductor"
    assert surroundings.compiled_programs(environment) == {"TORCHINDUCTOR_CACHE_DIR": str(own)}
    usual.rmdir()
    usual.symlink_to(place)
    assert surroundings.compiled_programs(environment) == {"TORCHINDUCTOR_CACHE_DIR": str(own)}
    assert surroundings.compiled_programs({**environment, "TORCHINDUCTOR_CACHE_DIR": "/mine"}) == {}
