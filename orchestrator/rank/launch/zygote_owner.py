"""The owner's side of a zygote: starts it, forks ranks from it, ends it."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from orchestrator.errors import RankStartError
from orchestrator.rank.launch import wire
from orchestrator.rank.launch.fork_client import DEFAULT_PRELOAD, ForkingLauncher, PreloadFailedError
from orchestrator.rank.launch.preload import left_out_words
from orchestrator.rank.launch.process import boot_command
from orchestrator.rank.launch.zygote_key import ZygoteKey

__all__ = ["DEFAULT_PRELOAD", "PreloadFailedError", "ZygoteLauncher", "listening_zygote"]
CLOSE_TIMEOUT_S = 5.0
_MODULE = "orchestrator.rank.launch.zygote"
_ROOT = "/"  # a zygote's own folder; ranks have theirs


def listening_zygote(
    env: Mapping[str, str], preload: Sequence[str] = DEFAULT_PRELOAD, log_path: str = "/dev/null"
) -> tuple[ZygoteLauncher, str]:
    """A zygote from which others of our user on this machine fork too, and the address of its socket.

    The address is an abstract one, of no file: it is gone with the zygote, however that ends.
    """
    address = f"\0orchestrator-zygote-{secrets.token_hex(16)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen()
        return ZygoteLauncher(env, preload, log_path=log_path, listener=listener), address


class ZygoteLauncher(ForkingLauncher):
    """Owns one zygote and forks ranks from it; from one thread only.

    The constructor returns while the zygote still imports. `env` is the zygote's complete
    environment. A module marked `name?` may be missing, any other may not. The zygote's own output
    (warnings at import, for instance) goes to `log_path`. Others may fork from it too when it is
    given a listening socket; the caller closes its own copy.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        preload: Sequence[str] = DEFAULT_PRELOAD,
        python: str | None = None,
        log_path: str = "/dev/null",
        listener: socket.socket | None = None,
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        """``left_out`` are libraries that an earlier one could not import, and why; it tells of them as it
        tells of its own."""
        python = python or sys.executable
        if any(module.partition(".")[0] == "deepspeed" for module in preload) and not env.get(
            "DS_ACCELERATOR"
        ):
            raise RankStartError(
                "DS_ACCELERATOR is unset in the zygote's environment: DeepSpeed would start the device to "
                "find out what it is, which forbids a fork; set it to cuda, or to cpu"
            )
        channel, zygote_end = socket.socketpair()
        super().__init__(channel, ZygoteKey.of(env, preload, python), preload, python)
        handed = [zygote_end.fileno(), *([listener.fileno()] if listener else [])]
        descriptors = [str(zygote_end.fileno()), str(listener.fileno() if listener else -1)]
        told = left_out_words(left_out or {})
        with zygote_end, open(log_path, "ab") as log:
            try:
                self._process = subprocess.Popen(
                    boot_command(
                        python, "orchestrator.rank.launch.zygote", *descriptors, *self._preload, *told
                    ),
                    env={**env, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"},
                    cwd=_ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=handed,
                    start_new_session=True,
                )
            except OSError as error:
                self._channel.close()
                raise RankStartError(f"no zygote can be started by {python!r}: {error}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def usage(self) -> tuple[int, int]:
        """How many other launchers are connected, and how many ranks run. Raises RankStartError."""
        self.wait_ready()
        request_id = self._new_id()
        try:
            wire.send(self._channel, {"op": "usage", "id": request_id})
        except OSError as error:
            raise RankStartError(f"the zygote does not answer: {error}") from error
        answer = self._answer(request_id)
        return answer["launchers"], answer["ranks"]

    def close(self) -> None:
        """End the zygote, which takes all its ranks along."""
        super().close()
        if not self._ready:  # it listens to nobody while it imports, and has no ranks yet
            self._process.kill()
        self._await_end()

    def _how_it_ended(self) -> str:
        return f"the zygote (process {self.pid}) ended with status {self._await_end()}"

    def _await_end(self) -> int:
        try:
            return self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # alive but mute: of no use any more
            self._process.kill()
            return self._process.wait()
