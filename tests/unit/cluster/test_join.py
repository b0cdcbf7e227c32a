"""A machine that joins a Ray leaves with it, whatever signals a job manager sends meanwhile."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.warm import join
from orchestrator.cluster.warm.head import hears

WAIT_S = 60.0
BLOCKED = (
    "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print(flush=True); time.sleep(600)"
)

PROGRAM = """#!{python}
import os, sys, time
with open("{said}.new", "w") as file:
    file.write(" ".join([str(os.getpid()), *sys.argv[1:]]))
os.rename("{said}.new", "{said}")
time.sleep(600)
"""


def test_a_process_that_has_a_signal_blocked_does_not_hear_it() -> None:
    with subprocess.Popen([sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not hears(process.pid, signal.SIGTERM)
        assert hears(process.pid, signal.SIGHUP)
        process.kill()


def test_a_node_is_gone_with_its_folder_once_nobody_listens_at_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    program = tmp_path / "ray"
    # Python, as Ray's own is: some shells begin with no signal blocked.
    program.write_text(PROGRAM.format(python=sys.executable, said=str(said)))
    program.chmod(0o755)
    monkeypatch.setattr(join, "ray_program", lambda: str(program))
    monkeypatch.setattr(join, "_LOOK_S", 0.05)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(join.join(address, 2, 1)), daemon=True)
        thread.start()
        looked = threading.Event()
        while not said.exists():
            assert not looked.wait(0.05)
            assert thread.is_alive()
        number, *words = said.read_text().split()
        node = psutil.Process(int(number))
        assert {f"--address={address}", "--num-cpus=2", "--num-gpus=1", "--block"} <= set(words)
        (folder,) = [Path(one.partition("=")[2]) for one in words if one.startswith("--temp-dir=")]
        assert folder.parent.is_dir()
        assert not hears(node.pid, signal.SIGTERM), "its ranks need it until they have saved"
        assert thread.is_alive()
    thread.join(WAIT_S)
    assert codes == [-signal.SIGKILL] or codes == [0]
    assert not node.is_running() or node.status() == psutil.STATUS_ZOMBIE
    assert not folder.parent.exists()


def test_an_address_without_a_port_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert join.main(["head", "--cpus=1"]) == 3
    assert "head: is not HOST:PORT" in capsys.readouterr().err
