"""What a committed checkpoint consists of: every file with its size, hash and the rank that wrote it.

The manifest is both the mark of a committed checkpoint and the list of what may be loaded: loading runs
what a pickle says, so a file that no manifest names is not opened.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator import papers
from orchestrator.errors import ManifestError

# Format 2 is format 1 with a signature; what has none is still written as 1.
FORMAT, SIGNED = 1, 2
# Two files a rank make 40,000 of 20,000 ranks. Somebody else's manifest must not cost a node its memory.
MOST_FILES, MOST_BYTES = 200_000, 128 << 20
# A file has three, and its path may have commas.
MOST_VALUES = 10 * MOST_FILES
MANIFEST = "manifest.json"
_HEX = "64 lower-case hex digits"
_BLOCK_BYTES = 8 << 20
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one slash: pathlib folds two into one


@dataclass(frozen=True)
class FilePart:
    """One file of a checkpoint; ``sha256`` in lower-case hex digits, ``rank`` the one that wrote it."""

    sha256: str
    bytes: int
    rank: int


@dataclass(frozen=True)
class Manifest:
    """A checkpoint of ``world_size`` ranks; ``files`` by their path relative to the tag's folder.

    Every value is checked when it is made: ManifestError names the first that cannot be.
    """

    run: str
    attempt: int
    step: int
    tag: str
    world_size: int
    written_unix_s: float
    files: dict[str, FilePart]
    signature: str | None = None

    def __post_init__(self) -> None:
        check_tag(self.tag)
        _check(isinstance(self.run, str) and self.run != "", "run", self.run, "the name of a run")
        _check(_is_count(self.attempt, 1), "attempt", self.attempt, "a whole number from 1")
        _check(_is_count(self.step, 0), "step", self.step, "a whole number from 0")
        _check(_is_count(self.world_size, 1), "world_size", self.world_size, "a number of ranks from 1")
        written = self.written_unix_s
        is_time = isinstance(written, int | float) and not isinstance(written, bool) and 0 <= written < 1e12
        _check(is_time, "written_unix_s", written, "seconds since 1970")
        _check(isinstance(self.files, dict), "files", self.files, "a map of paths")
        _check(self.signature is None or _is_hex(self.signature), "signature", self.signature, _HEX)
        for path, part in self.files.items():
            _check_path(path)
            _check(_is_hex(part.sha256), f"sha256 of {path}", part.sha256, _HEX)
            _check(_is_count(part.bytes, 0), f"bytes of {path}", part.bytes, "a whole number from 0")
            ranks = f"a rank from 0 to {self.world_size - 1}"
            _check(
                _is_count(part.rank, 0) and part.rank < self.world_size, f"rank of {path}", part.rank, ranks
            )

    @property
    def total_bytes(self) -> int:
        return sum(part.bytes for part in self.files.values())

    def of_ranks(self, ranks: Container[int]) -> Manifest:
        """The part that these ranks wrote, perhaps no file: what a node commits in a folder of its own.
        Unsigned."""
        of_ranks = {path: part for path, part in self.files.items() if part.rank in ranks}
        return replace(self, files=of_ranks, signature=None)

    def signed(self, key: bytes) -> Manifest:
        """The same, with a signature over all of it (HMAC with SHA-256 over its JSON with sorted keys)."""
        return replace(self, signature=self._signature(key))

    def is_signed_with(self, key: bytes) -> bool:
        return self.signature is not None and hmac.compare_digest(self.signature, self._signature(key))

    def _signature(self, key: bytes) -> str:
        body = {**asdict(self), "signature": None}
        return hmac.new(key, json.dumps(body, sort_keys=True).encode(), hashlib.sha256).hexdigest()

    @staticmethod
    def joined(parts: Sequence[Manifest]) -> Manifest:
        """The whole of which nodes committed parts, unsigned. Raises ManifestError for parts of different
        checkpoints."""
        whole = replace(parts[0], signature=None)
        for part in parts[1:]:
            if replace(part, files={}, signature=None) != replace(whole, files={}):
                raise ManifestError(
                    f"{part.tag} is step {part.step} of attempt {part.attempt} on one node and step"
                    f" {whole.step} of attempt {whole.attempt} on another: not all nodes had committed it"
                )
            whole = replace(whole, files=whole.files | part.files)
        return whole

    def to_json(self) -> str:
        body = asdict(self)
        if self.signature is None:
            del body["signature"]
        return json.dumps({"format": FORMAT if self.signature is None else SIGNED, **body}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest in a file. Raises OSError, and ManifestError as :meth:`from_json` does."""
        try:
            text = papers.read_bytes(path, MOST_BYTES)
        except papers.PaperError as error:
            raise ManifestError(f"manifest {str(error).removeprefix('it ')}") from None
        return cls.from_json(text)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Raises ManifestError on anything that :meth:`to_json` of this version does not write."""
        if len(text) > MOST_BYTES:
            raise ManifestError(f"manifest has {len(text):,} bytes, and at most {MOST_BYTES:,} are read")
        try:
            body = papers.json_of(text, MOST_VALUES)
        except papers.PaperError as error:
            raise ManifestError(
                f"manifest {str(error).removeprefix('it ')}: it was damaged or cut off"
            ) from None
        found = body.get("format") if isinstance(body, dict) else f"a {type(body).__name__}"
        if type(found) is not int or found not in (FORMAT, SIGNED):
            raise ManifestError(
                f"manifest has format {_short(found)}, this version reads {FORMAT} and {SIGNED}: "
                "use the version of orchestrator that wrote it"
            )
        del body["format"]
        if found == FORMAT:
            _check("signature" not in body, "signature", body.get("signature"), "left out in format 1")
            body["signature"] = None
        else:
            _check(_is_hex(body.get("signature")), "signature", body.get("signature"), _HEX)
        _check_keys(body, cls, "manifest")
        _check(isinstance(body["files"], dict), "files", body["files"], "a map of paths")
        if len(body["files"]) > MOST_FILES:
            raise ManifestError(
                f"manifest names {len(body['files']):,} files, and at most {MOST_FILES:,} are read"
            )
        parts = {}
        for path, part in body.pop("files").items():
            _check(isinstance(part, dict), f"files: {_short(path)}", part, "a map")
            _check_keys(part, FilePart, f"file {_short(path)} of the manifest")
            parts[path] = FilePart(**part)
        return cls(**body, files=parts)


def check_tag(tag: str) -> None:
    """A tag is one visible folder below the checkpoint directory. Raises ManifestError."""
    plain = isinstance(tag, str) and 0 < len(tag.encode(errors="replace")) <= 200 and tag.isprintable()
    if not plain or "/" in tag or tag.startswith(".") or tag != tag.strip() or tag == "latest":
        raise ManifestError(
            f"checkpoint tag {_short(tag)} is not a plain name: use one folder name of at most 200 bytes, "
            "not 'latest', without '/', a leading '.' or spaces around it"
        )


def misfits(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Files of ``folder`` that are missing or of another size, with what is wrong: no file is read."""
    found = {path: _size_fault(folder / path, part) for path, part in manifest.files.items()}
    return {path: fault for path, fault in found.items() if fault}


def refuse_misfits(folder: Path, manifest: Manifest) -> None:
    """Raise ManifestError, with the first of the :func:`misfits`, when there are any."""
    wrong = misfits(folder, manifest)
    if wrong:
        path, fault = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more of {len(manifest.files)} files" if len(wrong) > 1 else ""
        raise ManifestError(
            f"{folder} cannot be committed: {path} {'is ' * (fault == 'missing')}{fault}{more}; the folder"
            " has to hold what the ranks wrote, on a file system that all nodes share"
        )


def verify(
    save_dir: Path, manifest: Manifest, files: Iterable[str] | None = None, threads: int = 4
) -> dict[str, str]:
    """Read ``files`` (all, when None) of a committed checkpoint; what is wrong by path, empty when good."""
    folder = save_dir / manifest.tag

    def fault(path: str) -> str | None:
        part = manifest.files.get(path)
        if part is None:
            return "not named by the manifest"
        wrong_size = _size_fault(folder / path, part)
        if wrong_size:
            return wrong_size
        try:
            return None if sha256_of(folder / path) == part.sha256 else "sha256 differs"
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    # Largest first: at the end no thread then waits for one that took a big file last.
    paths = sorted(
        set(manifest.files if files is None else files),
        key=lambda path: -manifest.files[path].bytes if path in manifest.files else 0,
    )
    with ThreadPoolExecutor(max(1, threads)) as pool:
        faults = dict(zip(paths, pool.map(fault, paths), strict=True))
    return {path: fault for path, fault in faults.items() if fault}


def refuse_object_store(path: str) -> str | None:
    """Why ``path`` cannot hold checkpoints when it is a URL, None when it is a path."""
    url = _URL.match(path)
    if url is None:
        return None
    if url[1].lower() == "file":
        return f"checkpoints cannot go to {path}: write the path itself, without 'file:'"
    return (
        f"checkpoints cannot go to {path}: a commit needs rename and fsync of a POSIX file system, which"
        f" {url[1]} does not have; use a folder of a local or shared file system, or the folder where the"
        " store is mounted"
    )


def _size_fault(path: Path, part: FilePart) -> str | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    return None if status.st_size == part.bytes else f"has {status.st_size} bytes instead of {part.bytes}"


def sha256_of(path: Path) -> str:
    """Hash of a whole file, in lower-case hex digits. Raises OSError."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(min(_BLOCK_BYTES, max(1, path.stat().st_size))))
    with path.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def _check(good: bool, key: str, value: object, expected: str) -> None:
    if not good:
        raise ManifestError(f"manifest: {key} is {_short(value)} and has to be {expected}")


def _check_path(path: str) -> None:
    plain = isinstance(path, str) and path.isprintable() and not path.startswith("/")
    if not plain or ".." in path.split("/") or str(PurePosixPath(path)) != path or path in (".", MANIFEST):
        raise ManifestError(
            f"manifest names the file {_short(path)}: a file is named by its plain path below the tag's"
            " folder"
        )


def _check_keys(body: dict[str, Any], kind: type[Manifest | FilePart], what: str) -> None:
    known = kind.__dataclass_fields__.keys()
    if missing := known - body.keys():
        raise ManifestError(f"{what} lacks {', '.join(sorted(missing))}")
    if unknown := body.keys() - known:
        raise ManifestError(
            f"{what} has {', '.join(map(_short, sorted(unknown)))}, which no format that this version reads"
            " knows"
        )


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
