"""One checkpoint file as it lies in memory: the elements of its tensors, then a skeleton that puts them
together.

The skeleton is the pickle that `torch.save` would make of the same state, with the tensors' storages named
and left out. So a file for the disk is made without unpickling: the process that writes it needs none of the
script's classes. Views are kept by their own elements, never with the whole buffer that they look into.

An entry's bytes are contiguous: elements, each tensor's at a multiple of 64, and behind them the
skeleton: one line of JSON, `[[dtype, offset, count], ...]` for each storage, then the pickle.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
from typing import Any, BinaryIO, TypedDict

from orchestrator.checkpoint.skeleton import PROTOCOL


class Entry(TypedDict):
    """Where one file lies. Offsets count from the start of the slot."""

    path: str
    skeleton_offset: int
    skeleton_bytes: int
    data_offset: int
    data_bytes: int
    zipfile: bool


def load_entry(fd: int, offset: int, entry: Entry) -> Any:
    """The state dict, its tensors in CPU memory of their own. See :func:`write_entry` for `offset`."""
    skeleton, flats = _parts(fd, offset, entry)
    storages = [_storage(flat.clone()) for flat in flats]
    return _Unpickler(io.BytesIO(skeleton), storages).load()


def write_entry(fd: int, offset: int, entry: Entry, file: BinaryIO) -> None:
    """Write the file that `torch.save` would have; `file` needs `write` and `flush`.

    The entry begins at `offset` of the file `fd`; of its own offsets only the distances count. No tensor is
    copied, so what is written is what lies there while it is written.
    """
    import torch

    skeleton, flats = _parts(fd, offset, entry)
    replay = _Replay(skeleton, [_storage(flat) for flat in flats], entry["zipfile"])
    torch.save(None, file, pickle_module=replay, _use_new_zipfile_serialization=entry["zipfile"])


def _parts(fd: int, offset: int, entry: Entry) -> tuple[bytes, list[Any]]:
    """The pickle, and each storage's elements as a flat view into a private mapping."""
    import torch

    skeleton_offset = entry["skeleton_offset"] - entry["data_offset"]
    spare = offset % mmap.PAGESIZE
    length = spare + skeleton_offset + entry["skeleton_bytes"]
    if os.fstat(fd).st_size < offset - spare + length:
        raise EOFError(f"the memory of {entry['path']} ends before the file does")
    mapping = mmap.mmap(
        fd, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=offset - spare
    )
    head, _, skeleton = mapping[spare + skeleton_offset :].partition(b"\n")
    flats = []
    for name, start, count in json.loads(head):
        dtype = getattr(torch, name)
        flats.append(
            torch.frombuffer(mapping, dtype=dtype, count=count, offset=spare + start)
            if count
            else torch.empty(0, dtype=dtype)
        )
    return skeleton, flats


def _storage(flat: Any) -> Any:
    """The storage of a plain tensor, in the class in which torch pickles it."""
    return flat.__reduce_ex__(PROTOCOL)[1][0]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: list[Any]) -> None:
        super().__init__(file)
        self._storages = storages

    def persistent_load(self, reference: Any) -> Any:
        return self._storages[int(reference[2])]


class _Replay:
    """The pickle module that `torch.save` is given: pickles the skeleton that is there already.

    `torch.save` makes the container and fills in the storages that its pickler was shown. In zip files it
    counts them, as we do. In the older format it names them by their addresses, in a list behind the pickle:
    that list is written with our names.
    """

    __name__ = "pickle"

    def __init__(self, skeleton: bytes, storages: list[Any], zipfile: bool) -> None:
        names: dict[str, str] = {}

        class Pickler:
            def __init__(self, file: BinaryIO, protocol: int) -> None:
                self._file = file

            def persistent_id(self, _storage: Any) -> Any:
                raise NotImplementedError  # torch.save derives a class that has it

            def dump(self, _nothing: None) -> None:
                for number, storage in enumerate(storages):
                    names[self.persistent_id(storage)[2]] = str(number)
                if zipfile and any(name != ours for name, ours in names.items()):
                    raise RuntimeError(f"torch.save names storages in an unknown way: {list(names)[:3]}")
                self._file.write(skeleton)

        self.Pickler = Pickler
        self._names = names

    def dump(self, value: Any, file: BinaryIO, protocol: int) -> None:
        if isinstance(value, list):
            value = [self._names[name] for name in value]
        pickle.dump(value, file, protocol=protocol)
