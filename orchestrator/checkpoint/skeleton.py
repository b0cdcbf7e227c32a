"""Takes the state of a checkpoint apart: the elements of its tensors, and the skeleton of an entry (see
entries.py)."""

from __future__ import annotations

import ctypes
import io
import json
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, BinaryIO

ALIGNMENT = 64
PROTOCOL = 2  # of pickle: what torch.save writes, and all that torch.load reads with weights_only


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


@dataclass(eq=False)
class _Elements:
    """A stretch of memory that tensors share. `source` is dense or will be: `stride` is that of the copy."""

    source: Any
    stride: tuple[int, ...]
    offset: int
    dtype: str
    count: int
    reference: tuple[Any, ...]


@dataclass
class TakenApart:
    """A state dict whose tensors are still where they were."""

    skeleton: bytes
    data_bytes: int
    _elements: list[_Elements]

    def copy_into(self, memory: Any) -> None:
        """Copy all elements into a uint8 tensor of at least `data_bytes`; from a GPU perhaps not before it is
        synchronized."""
        for part in self._elements:
            source = part.source
            count = source.numel() * source.element_size()
            if source.device.type == "cpu" and source.stride() == part.stride:
                # 1.7 times as fast as copy_ with one thread, which is what a rank has: it goes past the
                # caches.
                ctypes.memmove(memory.data_ptr() + part.offset, source.data_ptr(), count)
            else:
                flat = memory[part.offset : part.offset + count].view(source.dtype)
                flat.as_strided(source.shape, part.stride).copy_(source, non_blocking=True)


def take_apart(state_dict: Any, zipfile: bool) -> TakenApart:
    """Separate elements and skeleton; nothing large is copied. Raises what pickling the state raises."""
    file = io.BytesIO()
    pickler = _Pickler(file, zipfile)
    pickler.dump(state_dict)
    head = json.dumps([[part.dtype, part.offset, part.count] for part in pickler.elements])
    return TakenApart(head.encode() + b"\n" + file.getvalue(), aligned(pickler.data_bytes), pickler.elements)


@dataclass
class _Kind:
    """How torch pickles tensors of one dtype: newer ones without a class of storage of their own."""

    rebuild: Any
    storage: Any
    dtype: str
    bytes: int
    more: tuple[Any, ...]


class _Pickler(pickle.Pickler):
    """What it has taken apart it keeps alive: until it is done, an address stands for one tensor."""

    def __init__(self, file: BinaryIO, zipfile: bool) -> None:
        import torch

        super().__init__(file, protocol=PROTOCOL)
        self.elements: list[_Elements] = []
        self.data_bytes = 0
        self._torch = torch
        self._kinds: dict[Any, _Kind] = {}
        self._seen: dict[tuple[Any, ...], _Elements] = {}
        self._reference_end = () if zipfile else (None,)  # the older format can tell of a view here

    def persistent_id(self, obj: Any) -> tuple[Any, ...] | None:
        return obj.reference if type(obj) is _Elements else None

    def reducer_override(self, obj: Any) -> Any:
        """A plain tensor as torch reduces it, but with elements of its own in place of its storage.

        What else is a tensor (quantized, on no device, of a subclass) torch reduces alone: to plain
        tensors, which come back here, or to storages, which are pickled as they are.
        """
        torch = self._torch
        if type(obj) is not torch.Tensor or obj.layout is not torch.strided or obj.is_nested:
            return NotImplemented
        if obj.is_quantized or obj.is_neg() or obj.device.type == "meta":
            return NotImplemented
        if not obj.__dict__:
            return self._reduced(obj)
        around, (_rebuild, kind, _arguments, attributes) = obj.__reduce_ex__(PROTOCOL)
        rebuild, arguments = self._reduced(obj)
        return around, (rebuild, kind, arguments, attributes)

    def _reduced(self, tensor: Any) -> tuple[Any, tuple[Any, ...]]:
        kind = self._kinds.get(tensor.dtype) or self._kind_of(tensor.dtype)
        bare, more = tensor.detach(), kind.more
        size, stride = tuple(bare.shape), bare.stride()
        if bare.is_conj():  # a view that only says so, and torch's reduction says it too
            more, bare = bare.__reduce_ex__(PROTOCOL)[1][6:], bare.conj()
        if 0 in stride:  # expanded: one element stands for all
            for dim in (dim for dim, step in enumerate(stride) if step == 0 and size[dim] > 1):
                bare = bare.narrow(dim, 0, 1)
        elements = self._elements_of(bare, kind)
        steps = elements.stride
        if 0 in stride:
            steps = tuple(0 if step == 0 else dense for step, dense in zip(stride, steps, strict=True))
        return kind.rebuild, (elements, 0, size, steps, tensor.requires_grad, OrderedDict(), *more)

    def _kind_of(self, dtype: Any) -> _Kind:
        torch = self._torch
        sample = torch.empty(0, dtype=dtype)
        rebuild, (storage, _offset, _size, _stride, _requires_grad, _hooks, *more) = sample.__reduce_ex__(
            PROTOCOL
        )
        kind = _Kind(rebuild, torch.UntypedStorage, "uint8", 1, tuple(more))
        if not isinstance(storage, torch.UntypedStorage):
            kind.storage = getattr(torch, storage._pickle_storage_type())
            kind.dtype, kind.bytes = str(dtype).removeprefix("torch."), sample.element_size()
        self._kinds[dtype] = kind
        return kind

    def _elements_of(self, bare: Any, kind: _Kind) -> _Elements:
        stride = bare.stride()
        key = (bare.data_ptr(), bare.dtype, bare.shape, stride, bare.device)
        if key in self._seen and bare.numel():
            return self._seen[key]
        if not bare.is_contiguous():  # the order of the dimensions stays, gaps go
            stride = self._torch.empty_like(bare, device="meta").stride()
        offset, length = aligned(self.data_bytes), bare.numel() * bare.element_size()
        count = length // kind.bytes
        reference = ("storage", kind.storage, str(len(self.elements)), "cpu", count, *self._reference_end)
        elements = _Elements(bare, stride, offset, kind.dtype, count, reference)
        self.data_bytes = offset + length
        self.elements.append(elements)
        self._seen[key] = elements
        return elements
