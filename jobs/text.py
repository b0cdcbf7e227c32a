"""Text for language-model training: files, memory-mapped tokens, batches in a seeded order.

Token files are built once per node and cache directory and then only ever mapped, so a corpus may be
far larger than memory. Which sample comes at which position is arithmetic on (seed, position): nothing
about the data has to be saved for a run to resume, or to go on with another number of ranks.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import itertools
import json
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

CHUNK_BYTES = 1 << 20


class DataError(Exception):
    """The corpus cannot be used as asked; the message is one line that says what to change."""


# --- tokenizers ---------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """What the token builder needs. `name` enters the cache key, so it must change with the vocabulary."""

    name: str
    vocab: int
    end_of_document: int

    def encode_file(self, path: Path) -> Iterator[np.ndarray]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


class ByteTokenizer:
    """UTF-8 bytes as tokens 0-255; token 256 ends a document."""

    name = "bytes"
    vocab = 257
    end_of_document = 256

    def encode_file(self, path: Path) -> Iterator[np.ndarray]:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield np.frombuffer(chunk, dtype=np.uint8)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class HuggingFaceTokenizer:
    """A `tokenizers` vocabulary; its own end-of-text token ends a document, or one token more than it has."""

    END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.name = "hf-" + hashlib.sha256(inner.to_str().encode()).hexdigest()[:16]
        known = [inner.token_to_id(token) for token in self.END_TOKENS]
        size = inner.get_vocab_size(with_added_tokens=True)
        self.end_of_document = next((token for token in known if token is not None), size)
        self.vocab = max(size, self.end_of_document + 1)

    def encode_file(self, path: Path) -> Iterator[np.ndarray]:
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            # readlines(hint) stops at a line's end, so no word is cut in two between chunks.
            while lines := stream.readlines(CHUNK_BYTES):
                yield np.asarray(self.encode("".join(lines)), dtype=np.int64)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.inner.decode([token for token in tokens if token != self.end_of_document])
        return text


def make_tokenizer(name: str) -> Tokenizer:
    """`bytes`, the path of a tokenizer.json, or a name on the Hugging Face hub."""
    if name == "bytes":
        return ByteTokenizer()
    try:
        from tokenizers import Tokenizer as Inner
    except ImportError:
        raise DataError(
            f"tokenizer {name!r} needs the package 'tokenizers': pip install 'orchestrator[tokenizers]', "
            "or use --tokenizer=bytes"
        ) from None
    try:
        inner = Inner.from_file(name) if Path(name).is_file() else Inner.from_pretrained(name)
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for every failure
        reason = " ".join(str(error).split())
        raise DataError(
            f"tokenizer {name!r} could not be loaded ({reason}): give a tokenizer.json or a known name"
        ) from None
    return HuggingFaceTokenizer(inner)


# --- which files --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Document:
    """A file of the corpus; `name` is relative to the source it came from, equal on every node."""

    name: str
    path: Path


def resolve(sources: Sequence[str]) -> list[Document]:
    """Files, directories (recursive, without hidden files), globs, or `stdlib`, in a fixed order.

    `stdlib` is the Python standard library's own source, text that every node has already.

    Raises:
        DataError: a source names nothing, or nothing in it holds a byte.
    """
    documents: list[Document] = []
    for source in sources:
        root = Path(source).expanduser()
        if source == "stdlib":
            root = Path(sysconfig.get_paths()["stdlib"])
            found = [path for path in _walk(root, "*.py") if "site-packages" not in path.parts]
        elif root.is_dir():
            found = _walk(root, "*")
        elif root.is_file():
            found, root = [root], root.parent
        else:
            found = sorted(
                Path(name) for name in glob.glob(str(root), recursive=True) if os.path.isfile(name)
            )
            root = Path(os.path.commonpath([path.parent for path in found])) if found else root
        if not found:
            raise DataError(
                f"--data={source} names no file: give an existing file, directory, glob or 'stdlib'"
            )
        documents += [Document(path.relative_to(root).as_posix(), path) for path in found]
    if not any(document.path.stat().st_size for document in documents):
        raise DataError(
            f"--data={','.join(sources)} is empty ({len(documents)} files, 0 bytes): name other text"
        )
    return documents


def _walk(root: Path, pattern: str) -> list[Path]:
    def wanted(path: Path) -> bool:
        parts = path.relative_to(root).parts
        return path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in parts)

    return sorted(path for path in root.rglob(pattern) if wanted(path))


# --- token files --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """A whole, memory-mapped token file. `fingerprint` is the SHA-256 of its tokens, the same on every
    node with the same text whatever its files are dated."""

    tokens: np.ndarray
    fingerprint: str
    documents: int


def open_corpus(sources: Sequence[str], tokenizer: Tokenizer, cache_dir: Path) -> Corpus:
    """Map the token file of these sources; the first process of the node to ask builds it, the rest wait."""
    documents = resolve(sources)
    stem = cache_dir / f"{tokenizer.name}-{_cache_key(documents, tokenizer)}"
    if corpus := _read_whole(stem):
        return corpus
    cache_dir.mkdir(parents=True, exist_ok=True)
    with open(f"{stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read_whole(stem) is None:
            _build(documents, tokenizer, stem)
    corpus = _read_whole(stem)
    if corpus is None:
        raise DataError(f"token file {stem}.tokens was damaged while it was opened: start again")
    return corpus


def _cache_key(documents: Sequence[Document], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"{tokenizer.name} {tokenizer.vocab}\n".encode())
    for document in documents:
        status = document.path.stat()
        digest.update(f"{document.name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def _read_whole(stem: Path) -> Corpus | None:
    """The corpus if its header is there and the token file has the size the header promises."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        header = json.loads(Path(f"{stem}.json").read_bytes())
        tokens = np.memmap(f"{stem}.tokens", dtype=header["dtype"], mode="r")
        if len(tokens) == header["tokens"]:
            return Corpus(tokens, header["fingerprint"], header["documents"])
    return None


def _build(documents: Sequence[Document], tokenizer: Tokenizer, stem: Path) -> None:
    """Stream all documents into one token file. The header is written last and makes the file whole."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab <= 1 << 16 else np.uint32)
    digest, count = hashlib.sha256(), 0
    with _replacing(Path(f"{stem}.tokens")) as out:
        for document in documents:
            end = np.array([tokenizer.end_of_document])
            for ids in itertools.chain(tokenizer.encode_file(document.path), (end,)):
                data = ids.astype(dtype).tobytes()
                digest.update(data)
                out.write(data)
                count += len(ids)
    header = {
        "tokens": count,
        "dtype": dtype.name,
        "fingerprint": digest.hexdigest(),
        "tokenizer": tokenizer.name,
        "documents": len(documents),
    }
    with _replacing(Path(f"{stem}.json")) as out:
        out.write(json.dumps(header, indent=1).encode())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write beside, make durable, rename: `path` is either what it was or entirely new."""
    beside = path.with_name(path.name + ".partial")
    with open(beside, "wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
    os.replace(beside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
