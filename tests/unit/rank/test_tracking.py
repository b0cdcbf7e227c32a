"""What MLflow finds in a rank: our store, by its own way to look for plugins, and nothing before it is asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.installation import PACKAGE
from orchestrator.rank import link as rank_link
from orchestrator.rank.messages import Tracked, decode
from orchestrator.rank.tracking import AddressWatch, without_password
from tests.support.rank_harness import environment

# A rank as far as MLflow can tell, whose script has a package that is called as ours is.
RANK = """
import json, sys
from orchestrator.rank import runner, tracking

class Link:
    open = True
    def offer(self, source):
        while (message := source()) is not None:
            said.append([message.metrics, message.params])

said = []
facts = dict(run_id=tracking.script_run_id("/r"), run_name="r", experiment="e", forward=True, artifacts="/r/a")
tracking.offer_to_mlflow(Link(), facts)
runner._forget_ourselves()
sys.path[:] = [path for path in sys.path if path != {package!r}]
sys.path.insert(0, {script!r})
assert not [name for name in sys.modules if name.partition(".")[0] == "mlflow"]
import orchestrator
import mlflow
with mlflow.start_run() as run:
    mlflow.log_metric("a", 1.5, step=2, timestamp=7)
    mlflow.log_param("p", 1)
try:
    mlflow.register_model("runs:/x/m", "m")
except mlflow.MlflowException as error:
    refused = str(error)
assert orchestrator.MINE and sys.modules["orchestrator"] is orchestrator
print(json.dumps([said, run.info.run_id, refused]))
"""


def test_mlflow_finds_the_store_of_the_rank(tmp_path: Path) -> None:
    theirs = tmp_path / "script" / "orchestrator"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("MINE = True\n")
    code = RANK.format(package=str(PACKAGE.parent), script=str(theirs.parent))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment(PYTHONPATH=str(PACKAGE.parent), MLFLOW_TRACKING_URI="orchestrator://run"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, run_id, refused = json.loads(done.stdout.splitlines()[-1])
    assert said == [[{"a": [[2, 7, 1.5]]}, {}], [{}, {"p": "1"}]]
    assert len(run_id) == 32
    assert "no model registry" in refused
    assert sorted(os.listdir(tmp_path)) == ["script"], "no database beside the script"


def test_an_address_of_the_scripts_own_is_told_once_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Link:
        def __init__(self) -> None:
            self.sent: list[object] = []

        def send(self, message: object) -> None:
            self.sent.append(message)

    link = Link()
    watch = AddressWatch(link)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mlflow", object())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "orchestrator://run")
    watch.look()
    assert not link.sent
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@mine:5000/x?token=hush")
    watch.look()
    watch.look()
    assert [getattr(one, "uri", "") for one in link.sent] == ["http://mine:5000/x"]
    assert without_password("http://[") == "http"
    assert without_password("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"


def test_what_waits_at_the_end_is_delivered_to_an_agent_that_reads_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rank_link, "FLUSH_TIMEOUT_S", 1.0)
    theirs, ours = socket.socketpair()
    link = rank_link.RankLink(theirs, lifeline_fd=-1)
    threading.Thread(target=link._deliver, daemon=True).start()
    left = list(range(40))
    link.offer(lambda: Tracked({}, {"n": str(left.pop(0)), "long": "x" * 100_000}, {}) if left else None)
    read = bytearray()

    def read_slowly() -> None:
        while data := ours.recv(1 << 17):
            read.extend(data)
            time.sleep(0.1)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    link.close()
    theirs.close()
    reader.join()
    ours.close()
    told = [decode(line) for line in bytes(read).splitlines()]
    assert [one.params["n"] for one in told if isinstance(one, Tracked)] == [str(n) for n in range(40)]
