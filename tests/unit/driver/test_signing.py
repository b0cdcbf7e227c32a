"""The key by which checkpoints are signed: the run's own or the user's, and nobody else's to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchestrator.config.schema import Config
from orchestrator.driver.signing import check_signing, signing_key
from orchestrator.errors import ConfigError
from tests.unit.config.test_conf import composed


def config_of(*overrides: str) -> Config:
    return composed("job=tiny_gpt", *overrides)


def test_a_run_has_a_key_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    key = signing_key(config_of(), first)
    assert (len(key), signing_key(config_of(), first)) == (32, key)
    assert signing_key(config_of(), second) != key
    assert stat.S_IMODE((first / "snapshot.key").stat().st_mode) == 0o600
    (first / "snapshot.key").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"snapshot.key: this is not the key that the run made"):
        signing_key(config_of(), first)


def test_a_users_key_is_for_all_of_his_runs(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("f" * 64 + "\n")
    file.chmod(0o600)
    for config in (
        config_of(f"snapshot.key_file={file}"),
        config_of("snapshot.key_file=key", f"job.cwd={tmp_path}"),
    ):
        check_signing(config)
        assert signing_key(config, tmp_path) == b"f" * 64
    assert not (tmp_path / "snapshot.key").exists()


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (
            None,
            0,
            (
                r"cannot be read \(No such file or directory\); make one by: \(umask 077; openssl rand -hex"
                r" 32 > "
            ),
        ),
        ("f" * 64, 0o640, "others may read it or it is not yours; make one of your own, or chmod 600 "),
        ("f" * 64, 0o604, "others may read it"),
        ("short\n", 0o600, "has 5 bytes, and a key has 16 to 65536"),
        ("f" * 70_000, 0o600, "has 65537 bytes"),
    ],
)
def test_what_is_no_key_is_refused(tmp_path: Path, content: str | None, mode: int, said: str) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=f"^snapshot.key_file={file}: {said}"):
        check_signing(config_of(f"snapshot.key_file={file}"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_anothers_key_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("f" * 64)
    file.chmod(0o600)
    os.chown(file, 65534, 65534)
    with pytest.raises(ConfigError, match="it is not yours"):
        check_signing(config_of(f"snapshot.key_file={file}"))


@pytest.mark.parametrize("name", ["Namespace", "argparse.", "argparse.Name space", "__import__('os')"])
def test_what_names_no_type_is_refused(name: str) -> None:
    config = config_of()
    config.snapshot.allow_types = ["argparse.Namespace", name]
    with pytest.raises(
        ConfigError, match=r"names no type; write its module and name, as in argparse.Namespace"
    ):
        check_signing(config)
