"""How a run is asked to stop from outside: which signals, what they do in its own process, and its exit
code."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from orchestrator.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, SIGNALLED
from orchestrator.supervise.loop import StopRequest

_CTRL_C = "Ctrl-C"


@contextmanager
def asked_by_signals(stop: StopRequest, numbers: Sequence[int]) -> Iterator[None]:
    """Ctrl-C and these signals ask to stop; the second time, at once. What is ignored when we start (`nohup`)
    stays so."""
    taken = [number for number in (signal.SIGINT, *numbers) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.getsignal(number) for number in taken}
    take(stop, taken)
    stop.signals = tuple(taken)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take(stop: StopRequest, numbers: Sequence[int]) -> None:
    """Set the handlers; once more when Ray, which sets handlers of its own, has connected."""

    def ask(number: int, _frame: FrameType | None) -> None:
        stop.ask(_CTRL_C if number == signal.SIGINT else signal.Signals(number).name)

    for number in numbers:
        signal.signal(number, ask)


def exit_code(stop: StopRequest) -> int:
    """As a shell tells it of a process that a signal ended: 128 and the number of the first. Who asks by the
    stop file asks as SIGTERM does."""
    if stop.by in ("", _CTRL_C):
        return EXIT_INTERRUPTED
    return SIGNALLED + signal.Signals.__members__.get(stop.by, signal.SIGTERM)


def leave_on_sigterm() -> None:
    """From here on SIGTERM ends this process by an exception, so that what was begun is undone on the way
    out."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, leave)
