"""Signals by which job managers announce that a run has to end: to all processes of it, or to some.

The run's own process asks the ranks to stop, by SIGTERM, in its own time. What reaches a rank beside that
must not end it before it has saved; and the script must not be able to tell that anything was done about it.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import signal
from collections.abc import Iterable


def prepare(numbers: Iterable[int]) -> None:
    """In a rank, before its script: signals other than SIGTERM do nothing unless the script handles them, and
    its children hear none of them but from their parent."""
    numbers = frozenset(numbers)
    for number in numbers - {signal.SIGTERM}:
        _do_nothing_at(number)
    os.register_at_fork(after_in_child=lambda: _listen_to_parent_alone(numbers))


def _do_nothing_at(number: int) -> None:
    """A handler that Python does not know of, as if there were none: `signal.getsignal` says what it always
    did, a handler of the script's own takes its place, and a program that it starts has the default again."""
    _set(number, ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p))


def ignore(number: int) -> None:
    """The same, for a signal that no program which is started meanwhile is to hear."""
    _set(number, ctypes.c_void_p(int(signal.SIG_IGN)))


def _set(number: int, handler: ctypes.c_void_p) -> None:
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal(number, handler)


def _listen_to_parent_alone(numbers: frozenset[int]) -> None:
    """In a forked child of a rank, a data loader's worker say.

    A signal for all would end it while its parent still needs its data to come to where it saves; and a
    handler of the script, which it has inherited, is the rank's: it must not save. Its parent ends it by
    SIGTERM as ever.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    _thread.start_new_thread(_listen, (numbers,))


def _listen(numbers: frozenset[int]) -> None:
    while True:
        heard = signal.sigwaitinfo(numbers)
        if heard.si_pid == os.getppid():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            # this thread alone takes it, and does what the process would
            os.kill(os.getpid(), heard.si_signo)
            signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
