"""Manifests: what is refused when one is read, and what verify finds in the files that it names."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint.store import (
    FilePart,
    Manifest,
    attempt_dir,
    publish,
    quarantine,
    refuse_object_store,
    scan,
    verify,
)
from orchestrator.errors import ManifestError
from tests.support.crashes import committed, contents, manifest_of, written

MODEL = "mp_rank_00_model_states.pt"


def valid() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(manifest_of(contents(3), 3, "step-3").to_json())
    return body


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, "manifest has format 3, this version reads 1 and 2"),
        ({"format": 2}, "signature is None and has to be 64 lower-case hex digits"),
        ({"format": 2, "signature": "F" * 64}, "signature is 'FFF"),
        ({"signature": "f" * 64}, "has to be left out in format 1"),
        ({"format": True}, "manifest has format True"),
        ({"attempt": 0}, "attempt is 0 and has to be a whole number from 1"),
        ({"step": 1.5}, "step is 1.5"),
        ({"world_size": "2"}, "world_size is '2'"),
        ({"written_unix_s": float("nan")}, "written_unix_s is nan"),
        ({"run": ""}, "run is ''"),
        ({"files": []}, r"files is \[\] and has to be a map"),
        ({"extra": 1}, "manifest has 'extra', which no format that this version reads knows"),
        ({"tag": "a/b"}, "tag 'a/b' is not a plain name"),
        *(
            ({"files": {path: {"sha256": "0" * 64, "bytes": 1, "rank": 0}}}, "names the file '")
            for path in (
                "/etc/passwd",
                "../up.pt",
                "a/../../b",
                "a//b",
                "./a",
                "a/",
                "",
                ".",
                "manifest.json",
                "a\0b",
            )
        ),
        (
            {"files": {"a.pt": {"sha256": "0" * 63, "bytes": 1, "rank": 0}}},
            "sha256 of a.pt is '000.*64 lower-case",
        ),
        ({"files": {"a.pt": {"sha256": "A" * 64, "bytes": 1, "rank": 0}}}, "sha256 of a.pt"),
        ({"files": {"a.pt": {"sha256": "0" * 64, "bytes": -1, "rank": 0}}}, "bytes of a.pt is -1"),
        ({"files": {"a.pt": {"sha256": "0" * 64, "bytes": 1, "rank": 2}}}, "rank of a.pt is 2 .*from 0 to 1"),
        ({"files": {"a.pt": {"sha256": "0" * 64, "bytes": 1}}}, "file 'a.pt' of the manifest lacks rank"),
        ({"files": {"a.pt": None}}, "files: 'a.pt' is None"),
    ],
)
def test_an_odd_manifest_is_refused_in_one_line_that_names_the_key(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message) as refusal:
        Manifest.from_json(json.dumps({**valid(), **change}))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


@given(key=st.sampled_from([*valid(), "sha256", "bytes", "rank"]), value=json_values, drop=st.booleans())
def test_from_json_gives_a_manifest_that_comes_back_equal_or_a_manifest_error(
    key: str, value: object, drop: bool
) -> None:
    body = valid()
    place = body if key in body else body["files"][MODEL]
    place[key] = value
    if drop:
        del place[key]
    try:
        manifest = Manifest.from_json(json.dumps(body))
    except ManifestError:
        return
    assert not drop
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(
    change=st.sampled_from(
        [
            {"run": "other"},
            {"attempt": 2},
            {"step": 4},
            {"world_size": 3},
            {"written_unix_s": 1.0},
            {"files": {}},
        ]
    ),
    key=st.binary(min_size=16, max_size=64),
)
def test_a_signature_is_of_all_that_a_manifest_says(change: dict[str, Any], key: bytes) -> None:
    manifest = manifest_of(contents(3), 3, "step-3")
    signed = manifest.signed(key)
    assert Manifest.from_json(signed.to_json()) == signed
    assert signed.is_signed_with(key)
    assert not manifest.is_signed_with(key)
    assert not signed.is_signed_with(key + b"1")
    assert not replace(signed, **change).is_signed_with(key)
    assert replace(signed, signature=None) == Manifest.joined([signed]) == manifest
    assert signed.of_ranks({0}).signature is None
    assert signed.signed(key) == signed, "it is finished after a crash as it was begun"


@given(cut=st.integers(0, 600), junk=st.binary(max_size=4))
def test_a_torn_manifest_is_never_taken(cut: int, junk: bytes) -> None:
    text = manifest_of(contents(3), 3, "step-3").to_json().encode()
    with pytest.raises(ManifestError, match="manifest"):
        Manifest.from_json(text[: min(cut, len(text) - 2)] + junk.replace(b"}", b"{"))
    with pytest.raises(ManifestError, match="nests deeper"):
        Manifest.from_json("[" * 100_000)


@pytest.mark.parametrize(
    ("files", "padding", "said"),
    [
        (300_000, 0, "names 300,000 files, and at most 200,000"),
        (0, 128 << 20, "bytes, and at most 134,217,728 are read"),
    ],
)
def test_a_manifest_that_would_cost_a_nodes_memory_is_not_read(files: int, padding: int, said: str) -> None:
    body = {
        "format": 1,
        "run": "r",
        "attempt": 1,
        "step": 1,
        "tag": "t",
        "world_size": 1,
        "written_unix_s": 1.0,
    }
    text = json.dumps(body | {"files": dict.fromkeys(map(str, range(files)), 0)}) + " " * padding
    with pytest.raises(ManifestError, match=said):
        Manifest.from_json(text)


def test_verify_names_each_damaged_file_and_what_is_wrong(tmp_path: Path) -> None:
    manifest = committed(tmp_path, 5)
    folder = tmp_path / "step-5"
    shard = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    (folder / "extra/position.json").unlink()
    os.truncate(folder / shard, 5)
    size = manifest.files[shard].bytes
    wrong = {"extra/position.json": "missing", shard: f"has 5 bytes instead of {size}"}
    assert verify(tmp_path, manifest) == wrong
    assert verify(tmp_path, manifest, [MODEL]) == {}
    assert verify(tmp_path, manifest, ["unknown.pt", shard], threads=1) == {
        "unknown.pt": "not named by the manifest",
        shard: wrong[shard],
    }
    (folder / shard).unlink()
    (folder / shard).mkdir()
    (folder / MODEL).unlink()
    assert verify(tmp_path, manifest)[shard] == "is not a file"
    assert verify(tmp_path, manifest)[MODEL] == "missing"


@settings(max_examples=40)
@given(data=st.data(), path=st.sampled_from(list(contents(5))))
def test_verify_finds_any_flipped_bit_and_any_truncation(data: st.DataObject, path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_dir = Path(folder)
        manifest = manifest_of(contents(5), 5, "step-5")
        for name, content in contents(5).items():
            (save_dir / "step-5" / name).parent.mkdir(parents=True, exist_ok=True)
            (save_dir / "step-5" / name).write_bytes(content)
        damaged = bytearray(contents(5)[path])
        where = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[where] ^= 1 << data.draw(st.integers(0, 7))
            expected = "sha256 differs"
        else:
            expected = f"has {where} bytes instead of {len(damaged)}"
            del damaged[where:]
        (save_dir / "step-5" / path).write_bytes(damaged)
        assert verify(save_dir, manifest, threads=2) == {path: expected}


def test_a_file_larger_than_a_block_is_hashed_whole(tmp_path: Path) -> None:
    content = os.urandom((8 << 20) + 12345)
    manifest = manifest_of({"big.pt": content}, 1, "big")
    (tmp_path / "big").mkdir()
    (tmp_path / "big/big.pt").write_bytes(content)
    assert verify(tmp_path, manifest) == {}
    with (tmp_path / "big/big.pt").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([content[-1] ^ 1]))
    assert verify(tmp_path, manifest) == {"big.pt": "sha256 differs"}


def test_object_stores_are_refused_with_the_remedy_and_paths_are_not() -> None:
    for url in (
        "s3://bucket/run",
        "gs://b",
        "az://c/d",
        "hdfs://nn:8020/x",
        "https://h/x",
        "dbfs:/x",
        "s3:/folded",
    ):
        assert "POSIX file system" in (refuse_object_store(url) or ""), url
        assert "mounted" in (refuse_object_store(url) or "")
    assert "without 'file:'" in (refuse_object_store("file:///data") or "")
    for path in ("/data/run", "runs/x", "./s3", "a:b", "~/x", "C"):
        assert refuse_object_store(path) is None


def test_a_part_cannot_be_made_with_a_rank_outside_the_world() -> None:
    with pytest.raises(ManifestError, match="rank of a is 5"):
        Manifest("r", 1, 1, "t", 2, 0.0, {"a": FilePart("0" * 64, 1, 5)})


@pytest.mark.parametrize(
    "tag", ["", "a/b", "..", ".hidden", "latest", "/abs", " step", "step\n", "x\0", "x" * 201, "\ud800"]
)
def test_a_tag_that_is_no_plain_name_is_refused_by_name(tag: str, tmp_path: Path) -> None:
    for refused in (
        lambda: attempt_dir(tmp_path, 1, 5, tag),
        lambda: manifest_of(contents(1), 1, tag),
        lambda: quarantine(tmp_path, tag, "x"),
    ):
        with pytest.raises(
            ManifestError, match=r"checkpoint tag '.*is not a plain name: use one folder name"
        ):
            refused()


def test_nodes_with_folders_of_their_own_commit_parts_even_empty_ones(tmp_path: Path) -> None:
    whole = written(tmp_path / "0", 5)
    parts = [whole.of_ranks(ranks) for ranks in (range(1), range(1, 2), range(2, 4))]
    assert [len(part.files) for part in parts] == [2, 1, 0]
    written(tmp_path / "1", 5)
    for node, part in enumerate(parts):
        publish(tmp_path / str(node), part, save_latest=True)
    assert Manifest.joined([scan(tmp_path / str(node)).committed[0] for node in range(3)]) == whole
    with pytest.raises(
        ManifestError, match=r"step 7 of attempt 1 on one node and step 5 of attempt 1 on another"
    ):
        Manifest.joined([whole, replace(whole, step=7)])
