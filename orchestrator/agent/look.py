"""A look at the ranks of a node that make no progress: where they are, what they wait for, and for how long
they have done nothing at all.

Counters are read before the ranks are asked for their stacks and after they have answered, since an answer is
work as well. That may take a while where a node has thousands of connections, so it is done in a thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.agent.hang_stacks import (
    Frame,
    Inquiry,
    StackVerdict,
    catches,
    groups_of,
    main_thread,
    other_threads,
)
from orchestrator.agent.messages import RankSeen
from orchestrator.agent.stillness import Sample, Stillness
from orchestrator.agent.vitals import Vitals, vitals
from orchestrator.agent.waits import Wait, wait_of
from orchestrator.rank.launch.process import RankProcess

# Waits that nothing from outside of the run brings to an end.
_ENDABLE = frozenset({Wait.LOCK, Wait.CALL, Wait.WORKERS, Wait.DISK, Wait.STOPPED})
_OF_A_WORKER = _ENDABLE | {Wait.PIPE, Wait.GONE}

_DEBUGGER = re.compile(
    r"/(bdb|pdb|code)\.py$|/(debugpy|pydevd|_pydevd_bundle|IPython|remote_pdb|web_pdb|rpdb)/"
)
_CHILD = re.compile(r"/subprocess\.py$|/asyncio/subprocess\.py$")
_WORKERS = re.compile(r"/multiprocessing/|/torch/utils/data/|/concurrent/futures/process\.py$")
_CONNECTION = re.compile(r"/(socket|ssl)\.py$|/http/client\.py$|/urllib3/|/grpc/_channel\.py$|/paramiko/")
_ACCEPTS = ("accept", "serve_forever")
# What a thread is in that waits for whoever comes: servers, event loops.
_LISTENS = re.compile(r"/(selectors|socketserver|socket|ssl)\.py$|/uvloop/|/grpc/_server\.py$")


@dataclass(frozen=True)
class Measured:
    """Of one rank, by its process id: counters, and what the processes that it has started wait for."""

    vitals: Vitals | None
    wait: Wait
    started: frozenset[Wait]
    answers: bool = True  # it has a handler for the question where it is


def measure(pids: Iterable[int], quiet_port: int | None) -> dict[int, Measured]:
    """Counters and waits of these ranks now."""
    pids = list(pids)
    counted = vitals(pids, quiet_port)
    return {pid: _measured(pid, counted.get(pid)) for pid in pids}


def _measured(pid: int, counted: Vitals | None) -> Measured:
    started = counted.pids - {pid} if counted is not None else frozenset()
    return Measured(counted, wait_of(pid), frozenset(map(wait_of, started)), catches(pid))


class Looks:
    """The looks at one generation of ranks, one after the other."""

    def __init__(
        self,
        measure: Callable[[Iterable[int], int | None], Mapping[int, Measured]] = measure,
        inquiry: Callable[[Mapping[int, RankProcess], float], Inquiry] = Inquiry,
    ) -> None:
        self._measure, self._inquire = measure, inquiry
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="looks")
        self._still: dict[int, Stillness] = {}
        self._ranks: dict[int, RankProcess] = {}
        self._leaving: frozenset[int] = frozenset()
        self._before: Future[Mapping[int, Measured]] | None = None
        self._inquiry: Inquiry | None = None
        self._texts: dict[int, str] = {}
        self._after: Future[Mapping[int, Measured]] | None = None

    def begin(self, ranks: Mapping[int, RankProcess], leaving: Collection[int] = ()) -> None:
        """Look at these, of which those in ``leaving`` have said that their script has ended. One look at a
        time: what is under way is given up."""
        self._ranks, self._leaving = dict(ranks), frozenset(leaving)
        self._inquiry, self._after = None, None
        self._before = self._counters()

    def poll(self, now_s: float) -> tuple[dict[int, str], list[RankSeen]] | None:
        """The ranks' answers as text, and what is seen of each; None as long as it is not complete.

        Which GPU a rank has, its stack and where that is kept is left to the caller.
        """
        if self._before is None or not self._before.done():
            return None
        if self._after is None:
            if self._inquiry is None:
                self._inquiry = self._inquire(self._ranks, now_s)
            texts = self._inquiry.poll(now_s)
            if texts is None:
                return None
            self._texts, self._after = texts, self._counters()
        if not self._after.done():
            return None
        assert self._inquiry is not None
        judged = self._inquiry.judge()
        before, after = self._before.result(), self._after.result()
        self._before = None
        seen = [self._seen(rank, judged[rank], before, after, now_s) for rank in self._ranks]
        return self._texts, seen

    def _counters(self) -> Future[Mapping[int, Measured]]:
        pids = [one.pid for one in self._ranks.values()]
        ports = {one.spec.env.get("MASTER_PORT", "") for one in self._ranks.values()}
        port = ports.pop() if len(ports) == 1 else ""
        return self._thread.submit(self._measure, pids, int(port) if port.isdigit() else None)

    def _seen(
        self,
        rank: int,
        seen: StackVerdict,
        before: Mapping[int, Measured],
        after: Mapping[int, Measured],
        now_s: float,
    ) -> RankSeen:
        pid, text = self._ranks[rank].pid, self._texts[rank]
        stack = main_thread(text)
        one = before[pid]
        others = other_threads(text)
        wait = refined(one.wait, stack, others)
        taken_apart = rank in self._leaving and not (stack or one.answers or after[pid].answers)
        sample = Sample(now_s, tuple(stack), wait, one.vitals, after[pid].vitals, taken_apart)
        still = self._still.setdefault(rank, Stillness()).look(sample)
        endable = wait in _ENDABLE and one.started <= _OF_A_WORKER
        return RankSeen(
            rank=rank,
            node="",
            gpu="",
            wait=wait,
            endable=endable,
            still_s=still.still_s,
            same_place_s=still.same_place_s,
            cpu_share=still.cpu_share,
            where=seen.where,
            entered=seen.entered,
            state=seen.state,
            groups=groups_of(text),
            listens=any(thread and _LISTENS.search(thread[0].file) for thread in others),
        )


def refined(wait: Wait, stack: Sequence[Frame], others: Iterable[Sequence[Frame]]) -> Wait:
    """What the Python stacks say about a wait that the kernel cannot tell: what is behind a lock or a
    pipe."""
    if any(_DEBUGGER.search(frame.file) for frame in stack):
        return Wait.DEBUGGER
    if wait in (Wait.LOCK, Wait.PIPE, Wait.UNKNOWN):
        if any(_CHILD.search(frame.file) for frame in stack):
            return Wait.CHILD
        if any(map(_talks, others)):
            return Wait.SOCKET
    if wait in (Wait.PIPE, Wait.UNKNOWN) and any(_WORKERS.search(frame.file) for frame in stack):
        return Wait.WORKERS
    return wait


def _talks(thread: Sequence[Frame]) -> bool:
    """Whether a thread waits for an answer over a network, as uploads and downloads behind the main thread
    do."""
    return bool(thread) and _CONNECTION.search(thread[0].file) is not None and thread[0].name not in _ACCEPTS
