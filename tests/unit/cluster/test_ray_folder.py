"""The folder of a Ray that we start: of our user alone, short enough for sockets, and gone with its owner."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster import ray_env, ray_folder
from orchestrator.cluster.warm import record
from orchestrator.cluster.warm.head import make_token
from orchestrator.errors import ClusterError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one place that is looked at."""
    monkeypatch.setattr(ray_folder, "_places", lambda: [tmp_path])
    # pytest's folders are longer than Ray would take
    monkeypatch.setattr(ray_folder, "_LONGEST_PLACE_BYTES", 80)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_may_enter_it_or_read_its_token(place: Path) -> None:
    before = os.umask(0)
    try:
        with ray_folder.ray_folder() as folder:
            folder.write_token()
            assert folder.path.parent == folder.parent
            assert mode(folder.parent) == 0o700
            assert mode(folder.token_path) == 0o600
            assert len(folder.token_path.read_text()) == 64
    finally:
        os.umask(before)
    assert list(place.iterdir()) == []


def test_one_process_has_one_token_as_ray_reads_it_once(place: Path) -> None:
    with ray_folder.ray_folder() as first, ray_folder.ray_folder() as second:
        first.write_token()
        second.write_token()
        assert first.token_path.read_text() == second.token_path.read_text()


def test_what_a_killed_owner_left_is_swept_and_a_live_one_s_is_not(place: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _MAKES_ONE, str(place)],
        check=True,
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    with ray_folder.ray_folder() as live:
        assert not left.exists()
        with ray_folder.ray_folder():
            assert live.parent.is_dir()
    assert list(place.iterdir()) == []


_MAKES_ONE = """
import os, sys
from pathlib import Path
from orchestrator.cluster import ray_folder
ray_folder._places = lambda: [Path(sys.argv[1])]
ray_folder._LONGEST_PLACE_BYTES = 80
print(ray_folder.make_ray_folder().parent, flush=True)
os._exit(0)
"""


def test_whoever_inherits_the_lock_owns_the_folder(place: Path) -> None:
    folder = ray_folder.make_ray_folder()
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(folder.lock_fd,))
    folder.let_go()
    ray_folder.sweep(place)
    assert folder.parent.is_dir()
    heir.communicate()
    ray_folder.sweep(place)
    assert not folder.parent.exists()


def test_a_long_tmpdir_is_no_place_and_the_next_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", f"/tmp/{'d' * 90}")
    with ray_folder.ray_folder() as folder:
        assert len(os.fsencode(folder.path)) <= ray_folder.LONGEST_BYTES
        assert folder.parent.parent == Path("/tmp")


def test_where_no_place_will_do_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = Path("/nowhere")
    monkeypatch.setattr(ray_folder, "_places", lambda: [tmp_path / ("d" * 90), nowhere])
    with pytest.raises(ClusterError, match=r"/nowhere: No such file or directory\); set TMPDIR to a folder"):
        ray_folder.make_ray_folder()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and a user id without an entry in passwd."""
    for name in ("HOME", "XDG_STATE_HOME", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_uid: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_no_cluster_is_kept_and_keeping_one_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert record.find() is None
    assert record.token_path() is None
    with pytest.raises(
        ClusterError, match=r"HOME is not set.*set XDG_STATE_HOME to a folder that you may write"
    ):
        record.make_state_dir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    make_token()
    token = tmp_path / "state" / "orchestrator" / "auth_token"
    assert record.token_path() == token
    assert mode(token) == 0o600


def test_a_home_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    with pytest.raises(ClusterError, match=r"/proc/nowhere/orchestrator cannot be made.*set XDG_STATE_HOME"):
        record.make_state_dir()


def test_a_token_of_ray_s_own_is_closed_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    make_token()
    made = token.read_text()
    assert mode(token) == 0o600
    token.chmod(0o644)
    make_token()
    assert mode(token) == 0o600
    assert token.read_text() == made


def test_a_token_that_others_may_read_is_not_shown_to_a_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    # what is prepared is not for the tests after this one
    monkeypatch.setattr(os, "environ", dict(os.environ))
    make_token()
    token = tmp_path / ".ray" / "auth_token"
    token.chmod(0o644)
    with pytest.raises(ClusterError, match=f"others may read this token.*type 'chmod 600 {token}'"):
        ray_env.prepare_to_attach("10.0.0.1:6379")
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    token.chmod(0o600)
    ray_env.prepare_to_attach("10.0.0.1:6379")
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token)
