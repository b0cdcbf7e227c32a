"""The process that measures: ``python -m orchestrator.rank.check.program HOST [GPU]``. It reads what is asked
for from standard input, a line each, answers on standard output, and ends with its input."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import IO

import torch
import torch.distributed as dist

from orchestrator.papers import PaperError
from orchestrator.rank.check.compute import measure
from orchestrator.rank.check.exchange import exchange
from orchestrator.rank.check.messages import LINES, Exchange, Exchanged, Failed, Measure, Measured, Ready

_STORE_TIMEOUT_S = 60


def main(host: str, gpu: int | None, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until there is no more to read."""
    store = dist.TCPStore(
        host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=_STORE_TIMEOUT_S)
    )
    _say(Ready(store.port, _versions(gpu)), answers)
    for line in asked:
        _say(_answer(line, gpu, store), answers)


def _answer(line: bytes, gpu: int | None, store: dist.TCPStore) -> Measured | Exchanged | Failed:
    try:
        match LINES.decode(line):
            case Measure() as one:
                return measure(gpu, one.seconds)
            case Exchange() as one:
                return Exchanged(exchange(one, gpu, store))
            case other:
                return Failed(f"{type(other).__name__} is nothing to do")
    except (RuntimeError, ValueError, OSError, PaperError) as error:
        return Failed(next(iter(str(error).splitlines()), type(error).__name__))


def _say(message: Ready | Measured | Exchanged | Failed, answers: IO[bytes]) -> None:
    answers.write(LINES.encode(message))
    answers.flush()


def _versions(gpu: int | None) -> dict[str, str]:
    """That no package's metadata tells."""
    if gpu is None:
        return {}
    return {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}


if __name__ == "__main__":
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None, sys.stdin.buffer, answers)
