"""Starts ranks by forking them from a zygote: what a launcher says to one, whoever owns it."""

from __future__ import annotations

import abc
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from orchestrator.errors import RankStartError
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.preload import Preloaded
from orchestrator.rank.launch.process import AgentEnd, RankProcess, kill_group
from orchestrator.rank.launch.zygote_key import ZygoteKey
from orchestrator.rank.spec import RankSpec

# All that a small ZeRO-0/1/2/3 job was seen to import in a rank, most of it inside
# `deepspeed.initialize`. Modules private to torch or DeepSpeed are optional (`?`): they may move.
DEFAULT_PRELOAD = (
    "torch",
    "deepspeed",
    "torch._dynamo",
    "torch._inductor",
    "torch._inductor.compile_fx?",
    "torch._dynamo.repro.after_dynamo?",
    "torch._dynamo.testing?",
    "torch._functorch.aot_autograd?",
    "torch._subclasses.schema_check_mode?",
    "torch.profiler._cupti_monitor?",
    "torch.utils.serialization.config?",
    "deepspeed.comm.mori?",
    "deepspeed.module_inject.auto_ep_layer?",
    "deepspeed.ops.op_builder.all_ops?",
    "deepspeed.runtime.superoffload.superoffload_stage3?",
    "deepspeed.runtime.zero.muon.muon_optimizer?",
    "deepspeed.utils.pin_memory?",
)
READY_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 30.0


class PreloadFailedError(RankStartError):
    """A module could not be imported in the zygote, or did there what forbids a fork."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(module, reason)
        self.module = module
        self.reason = reason

    def __str__(self) -> str:
        return f"preloading {self.module} failed in the zygote: {self.reason}"


class ForkingLauncher(abc.ABC):
    """One end of a channel to a zygote; from one thread only.

    The zygote may still import: `wait_ready`, or the first `start`, waits for it. A rank's
    environment must agree with the zygote's in all that is read at import (`key`).
    """

    def __init__(
        self, channel: socket.socket, key: ZygoteKey, preload: Sequence[str], python: str | None
    ) -> None:
        self.key = key
        self.skipped: list[str] = []
        self.preloaded = Preloaded()
        self._channel = channel
        self._preload = tuple(preload)
        self._python = python or sys.executable
        self._ready = False
        self._exit_reason: str | None = None
        self._running: dict[int, _ForkedRank] = {}
        self._started: list[_ForkedRank] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 0

    @property
    def ready(self) -> bool:
        """Whether the zygote has imported everything, as far as was heard."""
        return self._ready

    @property
    def exit_reason(self) -> str | None:
        """How the zygote ended, in words; None as long as it lives."""
        return self._exit_reason

    def alive(self) -> bool:
        """Whether the zygote is there; False from the moment that its end has been noticed."""
        self._take_events(timeout_s=0)
        return self._exit_reason is None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for the imports. Raises PreloadFailedError, or RankStartError if it takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            self._take_events(max(0.0, deadline - time.monotonic()))
            if self._exit_reason is not None:
                raise RankStartError(self._exit_reason)
            if not self._ready and time.monotonic() >= deadline:
                raise RankStartError(
                    f"the zygote was not ready after {timeout_s:g} s of importing; see its log, and with"
                    " launch.preload=[] it imports nothing of the script's"
                )

    def start(self, spec: RankSpec) -> RankProcess:
        """Fork one rank. Raises RankStartError if the job does not fit, or the zygote must not fork."""
        # A source that has changed since is no reason: this run goes on with what it began with.
        if difference := replace(self.key, sources=()).difference(replace(self._key(spec.env), sources=())):
            raise RankStartError(
                f"rank {spec.rank} cannot be forked from this zygote, which has read at import: "
                f"{'; '.join(difference)}. Start another zygote with the job's environment"
            )
        self.wait_ready()
        request_id, ends = self._new_id(), AgentEnd()
        try:
            wire.send(self._channel, {"op": "fork", "id": request_id, "spec": asdict(spec)}, ends.rank_fds)
            answer = self._answer(request_id)
        except (OSError, RankStartError) as error:
            ends.close()
            raise RankStartError(f"rank {spec.rank} was not forked: {self._exit_reason or error}") from error
        finally:
            ends.close_rank_fds()
        if answer["event"] == "refused":
            ends.close()
            raise RankStartError(f"the zygote refuses to fork rank {spec.rank}: {answer['reason']}")
        rank = _ForkedRank(spec, answer["pid"], ends, self)
        self._running[request_id] = rank
        self._started = [*(other for other in self._started if not other.closed), rank]
        return rank

    def close(self) -> None:
        """Let go of the zygote, which kills every rank that was forked for this launcher."""
        self._exit_reason = self._exit_reason or "the launcher was closed"
        self._lose_ranks()  # while the zygote keeps their process ids from being reused
        self._channel.close()
        for rank in self._started:
            rank.close()

    @abc.abstractmethod
    def _how_it_ended(self) -> str:
        """The zygote's end in words, after its channel was closed from the other side."""

    def _key(self, env: Mapping[str, str]) -> ZygoteKey:
        return ZygoteKey.of(env, self._preload, self._python)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _answer(self, request_id: int) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        while request_id not in self._answers:
            self._take_events(max(0.0, deadline - time.monotonic()))
            if self._exit_reason is not None or time.monotonic() >= deadline:
                raise RankStartError(
                    self._exit_reason or f"no answer from the zygote within {ANSWER_TIMEOUT_S:g} s"
                )
        return self._answers.pop(request_id)

    def _take_events(self, timeout_s: float) -> None:
        """Take in what the zygote has said, waiting at most `timeout_s` for the first word."""
        while self._exit_reason is None and select.select([self._channel], [], [], timeout_s)[0]:
            timeout_s = 0
            try:
                received = wire.receive(self._channel)
            except OSError:
                received = None
            if received is None:
                self._lose_zygote()
            else:
                self._take(received[0])

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "ready":
                self._ready, self.skipped = True, event["skipped"]
                told = event["preloaded"]
                self.preloaded = Preloaded(**told | {"imported": tuple(told["imported"])})
            case "failed":
                self._exit_reason = f"preloading {event['module']} failed in the zygote: {event['reason']}"
                raise PreloadFailedError(event["module"], event["reason"])
            case "exit":
                rank = self._running.pop(event["id"])
                rank.status = event["status"]
                try:
                    wire.send(self._channel, {"op": "bury", "pid": rank.pid})
                except OSError:
                    self._lose_zygote()
            case _:
                self._answers[event["id"]] = event

    def _lose_zygote(self) -> None:
        self._exit_reason = (
            f"{self._how_it_ended()}{'' if self._ready else ' before it was ready'}; see its log"
        )
        self._lose_ranks()

    def _lose_ranks(self) -> None:
        """Its ranks died with the zygote, by the kernel's hand. Their workers did not."""
        for rank in self._running.values():
            kill_group(rank.pid)
            rank.exit_reason = self._exit_reason
            rank.status = -signal.SIGKILL
        self._running.clear()


class _ForkedRank(RankProcess):
    def __init__(self, spec: RankSpec, pid: int, agent_end: AgentEnd, launcher: ForkingLauncher) -> None:
        super().__init__(spec, pid, agent_end)
        self.status: int | None = None
        self._launcher = launcher

    def _ended(self) -> int | None:
        if self.status is None:
            self._launcher.alive()
        return self.status
