"""Starts ranks by forking them from a zygote, which this process starts and owns."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.rank import control
from orchestrator.rank.key import ZygoteKey
from orchestrator.rank.process import AgentEnd, RankProcess, RankStartError, boot_command, kill_group
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
FORK_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 5.0
_ROOT = "/"  # a zygote's own folder; ranks have theirs


class PreloadFailedError(RankStartError):
    """A module could not be imported in the zygote, or did there what forbids a fork."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(module, reason)
        self.module = module
        self.reason = reason

    def __str__(self) -> str:
        return f"preloading {self.module} failed in the zygote: {self.reason}"


class ZygoteLauncher:
    """Owns one zygote and forks ranks from it; from one thread only.

    The constructor returns while the zygote still imports; `wait_ready`, or the first `start`,
    waits for it. `env` is the zygote's complete environment: a rank's must agree with it in all
    that is read at import (`key`). A module marked `name?` may be missing, any other may not.
    The zygote's own output (warnings at import, for instance) goes to `log_path`.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        preload: Sequence[str] = DEFAULT_PRELOAD,
        python: str | None = None,
        log_path: str = "/dev/null",
    ) -> None:
        self._preload = tuple(preload)
        self._python = python or sys.executable
        if any(module.partition(".")[0] == "deepspeed" for module in preload) and not env.get("DS_ACCELERATOR"):
            raise RankStartError(
                "DS_ACCELERATOR is unset in the zygote's environment: DeepSpeed would start the device to "
                "find out what it is, which forbids a fork; set it to cuda, or to cpu"
            )
        self.key = self._key(env)
        self.skipped: list[str] = []
        self._channel, zygote_end = socket.socketpair()
        self._ready = False
        self._loss: str | None = None
        self._running: dict[int, _ForkedRank] = {}
        self._started: list[_ForkedRank] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._next_id = 0
        with zygote_end, open(log_path, "ab") as log:
            try:
                self._process = subprocess.Popen(
                    boot_command(self._python, "zygote", str(zygote_end.fileno()), *self._preload),
                    env={**env, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
                    cwd=_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(zygote_end.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                self._channel.close()
                raise RankStartError(f"no zygote can be started by {self._python!r}: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        """Whether the zygote is there; False from the moment that its end has been noticed."""
        self._take_events(timeout_s=0)
        return self._loss is None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for the imports. Raises PreloadFailedError, or RankStartError if it takes too long."""
        deadline = time.monotonic() + timeout_s
        while not self._ready:
            self._take_events(max(0.0, deadline - time.monotonic()))
            if self._loss is not None:
                raise RankStartError(self._loss)
            if not self._ready and time.monotonic() >= deadline:
                raise RankStartError(f"the zygote was not ready after {timeout_s:g} s of importing; see its log")

    def start(self, spec: RankSpec) -> RankProcess:
        """Fork one rank. Raises RankStartError if the job does not fit, or the zygote must not fork."""
        if difference := self.key.difference(self._key(spec.env)):
            raise RankStartError(
                f"rank {spec.rank} cannot be forked from this zygote, which has read at import: "
                f"{'; '.join(difference)}. Start another zygote with the job's environment"
            )
        self.wait_ready()
        self._next_id += 1
        request_id, ends = self._next_id, AgentEnd()
        try:
            control.send(self._channel, {"op": "fork", "id": request_id, "spec": asdict(spec)}, ends.rank_fds)
            answer = self._answer(request_id)
        except (OSError, RankStartError) as error:
            ends.close()
            raise RankStartError(f"rank {spec.rank} was not forked: {self._loss or error}") from error
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
        """End the zygote, which takes all its ranks along."""
        self._channel.close()
        self._loss = self._loss or "the launcher was closed"
        if not self._ready:  # it listens to nobody while it imports, and has no ranks yet
            self._process.kill()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lose_ranks()
        for rank in self._started:
            rank.close()

    def _key(self, env: Mapping[str, str]) -> ZygoteKey:
        return ZygoteKey.of(env, self._preload, self._python)

    def _answer(self, request_id: int) -> dict[str, Any]:
        deadline = time.monotonic() + FORK_TIMEOUT_S
        while request_id not in self._answers:
            self._take_events(max(0.0, deadline - time.monotonic()))
            if self._loss is not None or time.monotonic() >= deadline:
                raise RankStartError(self._loss or f"no answer from the zygote within {FORK_TIMEOUT_S:g} s")
        return self._answers.pop(request_id)

    def _take_events(self, timeout_s: float) -> None:
        """Take in what the zygote has said, waiting at most `timeout_s` for the first word."""
        while self._loss is None and select.select([self._channel], [], [], timeout_s)[0]:
            timeout_s = 0
            try:
                received = control.receive(self._channel)
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
            case "failed":
                self._loss = f"preloading {event['module']} failed in the zygote: {event['reason']}"
                raise PreloadFailedError(event["module"], event["reason"])
            case "exit":
                rank = self._running.pop(event["id"])
                rank.status = event["status"]
                try:
                    control.send(self._channel, {"op": "bury", "pid": rank.pid})
                except OSError:
                    self._lose_zygote()
            case _:
                self._answers[event["id"]] = event

    def _lose_zygote(self) -> None:
        try:
            status = self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # alive but mute: of no use any more
            self._process.kill()
            status = self._process.wait()
        when = "" if self._ready else " before it was ready"
        self._loss = f"the zygote (process {self.pid}) ended with status {status}{when}; see its log"
        self._lose_ranks()

    def _lose_ranks(self) -> None:
        """Its ranks died with the zygote, by the kernel's hand. Their workers did not."""
        for rank in self._running.values():
            kill_group(rank.pid)
            rank.loss = self._loss
            rank.status = -signal.SIGKILL
        self._running.clear()


class _ForkedRank(RankProcess):
    def __init__(self, spec: RankSpec, pid: int, agent_end: AgentEnd, launcher: ZygoteLauncher) -> None:
        super().__init__(spec, pid, agent_end)
        self.status: int | None = None
        self._launcher = launcher

    def _ended(self) -> int | None:
        if self.status is None:
            self._launcher.alive()
        return self.status
