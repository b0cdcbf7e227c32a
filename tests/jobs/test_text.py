"""Text into token files: what is read, built once, never taken for whole when it is not."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest

from tests.support.folders import JOBS

sys.path.insert(0, str(JOBS))
text = importlib.import_module("text")


@pytest.fixture
def corpus_dir(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    (root / "sub").mkdir(parents=True)
    (root / "__pycache__").mkdir()
    (root / "b.txt").write_bytes(b"second \xff\x00")
    (root / "a.txt").write_text("first é")
    (root / "sub" / "c.md").write_text("third")
    (root / "__pycache__" / "x.pyc").write_bytes(b"not text")
    (root / ".hidden").write_text("secret")
    return root


def open_bytes(sources: list[Path] | list[str], cache: Path) -> object:
    return text.open_corpus([str(source) for source in sources], text.ByteTokenizer(), cache)


def test_a_directory_becomes_its_files_bytes_each_ended_by_the_end_token(
    corpus_dir: Path, tmp_path: Path
) -> None:
    corpus = open_bytes([corpus_dir], tmp_path / "cache")
    expected = [*"first é".encode(), 256, *b"second \xff\x00", 256, *b"third", 256]
    assert corpus.tokens.tolist() == expected
    assert corpus.tokens.dtype == np.uint16
    assert corpus.documents == 3


def test_files_globs_and_several_sources(corpus_dir: Path) -> None:
    def names(*sources: str) -> list[str]:
        return [document.name for document in text.resolve([str(corpus_dir / source) for source in sources])]

    assert names("b.txt", "a.txt") == ["b.txt", "a.txt"]
    assert names("*.txt") == ["a.txt", "b.txt"]
    assert names("**/*.md", "a.txt") == ["c.md", "a.txt"]


def test_stdlib_is_source_files_without_installed_packages() -> None:
    documents = text.resolve(["stdlib"])
    assert {"ast.py", "json/decoder.py"} <= {document.name for document in documents}
    assert all(document.path.suffix == ".py" for document in documents)
    assert not any("site-packages" in document.path.parts for document in documents)


@pytest.mark.parametrize("source", ["absent.txt", "*.nothing", "empty_dir"])
def test_a_source_without_files_is_named(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty_dir").mkdir()
    with pytest.raises(text.DataError, match=r"names no file: give") as caught:
        text.resolve([str(tmp_path / source)])
    assert source in str(caught.value)


def test_a_corpus_of_empty_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "void.txt").touch()
    with pytest.raises(text.DataError, match=r"void\.txt is empty \(1 files, 0 bytes\)"):
        text.resolve([str(tmp_path / "void.txt")])


def token_files(cache: Path) -> tuple[Path, Path]:
    (header,) = cache.glob("*.json")
    return header, header.with_suffix(".tokens")


def test_the_second_opening_reads_what_the_first_built(corpus_dir: Path, tmp_path: Path) -> None:
    first = open_bytes([corpus_dir], tmp_path / "cache")
    header, tokens = token_files(tmp_path / "cache")
    inode = tokens.stat().st_ino
    again = open_bytes([corpus_dir], tmp_path / "cache")
    assert tokens.stat().st_ino == inode
    assert again.fingerprint == first.fingerprint
    written = json.loads(header.read_text())
    assert written["tokens"] == len(first.tokens)
    assert written["dtype"] == "uint16"
    assert written["fingerprint"] == first.fingerprint


def test_changed_text_is_another_token_file_and_fingerprint(corpus_dir: Path, tmp_path: Path) -> None:
    before = open_bytes([corpus_dir], tmp_path / "cache")
    (corpus_dir / "a.txt").write_text("other")
    after = open_bytes([corpus_dir], tmp_path / "cache")
    assert bytes(after.tokens[:5].astype(np.uint8)) == b"other"
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_is_of_the_text_not_of_its_place_or_date(corpus_dir: Path, tmp_path: Path) -> None:
    before = open_bytes([corpus_dir], tmp_path / "cache")
    os.utime(corpus_dir / "a.txt", (1, 1))
    moved = corpus_dir.rename(tmp_path / "elsewhere")
    assert open_bytes([moved], tmp_path / "cache").fingerprint == before.fingerprint


@pytest.mark.parametrize("damage", ["short tokens", "no tokens", "half a header", "no header"])
def test_a_torn_build_is_rebuilt(corpus_dir: Path, tmp_path: Path, damage: str) -> None:
    whole = open_bytes([corpus_dir], tmp_path / "cache")
    expected, fingerprint = whole.tokens.tolist(), whole.fingerprint
    header, tokens = token_files(tmp_path / "cache")
    if damage == "short tokens":
        os.truncate(tokens, 10)
    elif damage == "no tokens":
        tokens.unlink()
    elif damage == "half a header":
        os.truncate(header, 20)
    else:
        header.unlink()
    Path(f"{tokens}.partial").write_bytes(b"left by a builder that died")
    rebuilt = open_bytes([corpus_dir], tmp_path / "cache")
    assert rebuilt.tokens.tolist() == expected
    assert rebuilt.fingerprint == fingerprint
    assert not list((tmp_path / "cache").glob("*.partial"))


class CountingTokenizer(text.ByteTokenizer):
    """Leaves a line for every file it encodes, slowly enough for others to come in between."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def encode_file(self, path: Path) -> object:
        with self.trace.open("a") as out:
            out.write(f"{path.name}\n")
        for chunk in super().encode_file(path):
            multiprocessing.Event().wait(0.05)
            yield chunk


def build_at_once(source: Path, cache: Path, trace: Path, gate: object, answers: object) -> None:
    gate.wait()
    corpus = text.open_corpus([str(source)], CountingTokenizer(trace), cache)
    answers.put((corpus.fingerprint, corpus.tokens.tolist()))


@pytest.mark.real
def test_concurrent_builders_make_one_whole_file(corpus_dir: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    gate, answers = context.Barrier(4), context.Queue()
    arguments = (corpus_dir, tmp_path / "cache", tmp_path / "trace", gate, answers)
    builders = [context.Process(target=build_at_once, args=arguments) for _ in range(4)]
    for builder in builders:
        builder.start()
    try:
        got = [answers.get(timeout=60) for _ in builders]
    finally:
        for builder in builders:
            builder.join(timeout=10)
            builder.kill()
    assert (tmp_path / "trace").read_text().split() == ["a.txt", "b.txt", "c.md"]
    assert all(answer == got[0] for answer in got)
    assert len(got[0][1]) == len("first é".encode()) + len(b"second ??") + len(b"third") + 3


def test_the_build_streams(tmp_path: Path) -> None:
    size = 24 << 20
    (tmp_path / "large.txt").write_bytes(b"0123456789abcdef" * (size // 16))
    tracemalloc.start()
    try:
        corpus = open_bytes([tmp_path / "large.txt"], tmp_path / "cache")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(corpus.tokens) == size + 1
    assert peak < size / 2


def test_bytes_there_and_back() -> None:
    tokenizer = text.ByteTokenizer()
    ids = tokenizer.encode("naïve 😀")
    assert max(ids) < 256
    assert tokenizer.decode([*ids, tokenizer.end_of_document]) == "naïve 😀"


def test_a_named_tokenizer_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(text.DataError, match=r"needs the package 'tokenizers': pip install"):
        text.make_tokenizer("gpt2")


class Words:
    """Stands in for `tokenizers.Tokenizer`: a word's length is its id."""

    def __init__(self, tokens: dict[str, int], size: int) -> None:
        self.tokens, self.size = tokens, size

    @classmethod
    def from_file(cls, name: str) -> Words:
        if Path(name).read_text() != "words":
            raise Exception("expected value\nat line 1")
        return cls({"</s>": 2}, 70_000)

    def to_str(self) -> str:
        return "words"

    def token_to_id(self, token: str) -> int | None:
        return self.tokens.get(token)

    def get_vocab_size(self, with_added_tokens: bool) -> int:
        assert with_added_tokens
        return self.size

    def encode(self, line: str, add_special_tokens: bool) -> types.SimpleNamespace:
        assert not add_special_tokens
        return types.SimpleNamespace(ids=[len(word) for word in line.split()])

    def decode(self, ids: list[int]) -> str:
        return " ".join("x" * length for length in ids)


def test_a_tokenizer_file_is_used_with_its_own_end_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", types.SimpleNamespace(Tokenizer=Words))
    (tmp_path / "tokenizer.json").write_text("words")
    (tmp_path / "text.txt").write_text("one three\nfive")
    tokenizer = text.make_tokenizer(str(tmp_path / "tokenizer.json"))
    corpus = text.open_corpus([str(tmp_path / "text.txt")], tokenizer, tmp_path / "cache")
    assert corpus.tokens.tolist() == [3, 5, 4, 2]
    assert corpus.tokens.dtype == np.uint32
    (tmp_path / "tokenizer.json").write_text("broken")
    with pytest.raises(text.DataError, match=r"could not be loaded \(expected value at line 1\)"):
        text.make_tokenizer(str(tmp_path / "tokenizer.json"))


def test_a_vocabulary_without_an_end_token_gets_one_more() -> None:
    tokenizer = text.HuggingFaceTokenizer(Words({}, 1000))
    assert (tokenizer.end_of_document, tokenizer.vocab) == (1000, 1001)
