"""Two users of one machine: what one of them has going is tried by the other, who is a real other user.

The machine is made of namespaces, so that all that listens and all that lies in /tmp is of these two. Neither
has capabilities: root could read everything, and a mode would prove nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import MARKS
from tests.hosts.hosts import Host, Network, NoHostsError, wait_until
from tests.real.conftest import CPU
from tests.support.folders import PROJECT
from tests.support.processes import running, title
from tests.support.texts import text_so_far

pytestmark = MARKS

OWNER, NEIGHBOUR, COLLEAGUE = 64_101, 64_102, 64_103  # none has an entry in passwd
TIMEOUT_S = 180
PASSWORD = "no-one-else-is-to-read-this"
TORCHS = f"/tmp/torchinductor_uid_{OWNER}"  # where torch would keep, and load, what it compiles for the owner
# What holds real values, and what the process writes that has them: for whoever starts the run alone.
PRIVATE = {
    "resume.json", "tracking.json", "number", "deepspeed.node-0.json", "mlflow_run.json", "mlflow_sink.json",
    "incidents.json", "snapshot.key", "dashboard.json", "stop",
}  # fmt: skip
SCRIPT = """
import os, sys, time
import deepspeed, torch
from torch._inductor.runtime.cache_dir_utils import cache_dir
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)  # DeepSpeed's own would be compiled first
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config={"train_micro_batch_size_per_gpu": 1})
engine.backward(engine(torch.ones(1, 4)).sum())
engine.step()
engine.save_checkpoint(sys.argv[1].partition("=")[2])
print("COMPILES IN", cache_dir())
print("SAVED", os.environ["OWNERS_PASSWORD"], flush=True)
while len(sys.argv) > 2 and not os.path.exists(sys.argv[2].partition("=")[2]):
    time.sleep(0.1)
"""


@dataclass
class Somebody:
    """A user with a home of mode 0755 and a umask of 022, as many systems have them."""

    host: Host
    name: str
    uid: int
    gid: int
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> str:
        return f"/tmp/{self.name}"

    def popen(self, *words: str, env: dict[str, str] | None = None, **options: Any) -> Any:
        entered = ["sh", "-c", 'umask 022; cd "$HOME"; exec "$@"', "sh", *words]
        as_user = [
            "setpriv",
            f"--reuid={self.uid}",
            f"--regid={self.gid}",
            "--clear-groups",
            "--no-new-privs",
        ]
        home = {"HOME": self.home, **self.environment, **(env or {})}
        return self.host.popen([*as_user, *entered], home, text=True, **options)

    def run(
        self, *words: str, env: dict[str, str] | None = None, told: str = ""
    ) -> subprocess.CompletedProcess[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with self.popen(*words, env=env, **pipes) as process:
            try:
                text, _ = process.communicate(told, timeout=TIMEOUT_S)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, text)

    def type(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "orchestrator", *words, env=env)

    def look(
        self, at: Machine, *roots: str, token: str | None = None, everything: bool = True
    ) -> dict[str, Any]:
        """What tests/support/scripts/neighbour.py finds as this user."""
        mine = [str(PROJECT), self.home] if token is None else [str(PROJECT)]
        told = {
            "roots": roots, "mine": mine, "needles": at.secrets, "token": token, "everything": everything,
            "ports": at.ports if everything else [],
        }  # fmt: skip
        done = self.run("python", f"{PROJECT}/tests/support/scripts/neighbour.py", told=json.dumps(told))
        assert done.returncode == 0, done.stdout
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return seen


@dataclass
class Machine:
    """The owner keeps a cluster, has a run going on it, and another that has ended and that her group may
    read."""

    host: Host
    owner: Somebody
    neighbour: Somebody
    secrets: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)

    def outside(self, path: str) -> Path:
        return self.host.seen_from_outside(path)

    def give(self, path: str, to: Somebody, mode: int | None = None) -> None:
        """A folder or file becomes somebody's."""
        self.host.run(["chown", "-R", f"{to.uid}:{to.gid}", path], check=True)
        if mode is not None:
            self.host.run(["chmod", f"{mode:o}", path], check=True)


@pytest.fixture(scope="module")
def machine(empty_database: Path) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("only root starts processes of two other users")
    try:
        network = Network()
    except NoHostsError as error:
        pytest.skip(str(error))
    with network:
        host = network.add_host(for_all_users=True)
        made = Machine(
            host, Somebody(host, "owner", OWNER, OWNER), Somebody(host, "eve", NEIGHBOUR, NEIGHBOUR)
        )
        for one in (made.owner, made.neighbour):
            host.run(["mkdir", "-m", "755", one.home], check=True)
            made.give(one.home, one)
        # Not by setpriv itself: that one still has root's capabilities when it executes a program.
        found = made.neighbour.run("python", "-c", "import orchestrator, ray")
        if found.returncode != 0:
            pytest.skip(
                f"other users of this machine cannot use this environment: {found.stdout.strip()[-200:]}"
            )
        yield from _going(made, empty_database)


def _going(made: Machine, empty_database: Path) -> Iterator[Machine]:
    owner, home = made.owner, made.owner.home
    owner.run("mkdir", "runs")
    made.outside(f"{home}/runs/mlflow.db").write_bytes(empty_database.read_bytes())
    made.outside(f"{home}/train.py").write_text(SCRIPT)
    made.give(f"{home}/runs/mlflow.db", owner, 0o600)
    made.neighbour.run("mkdir", "-m", "777", TORCHS)
    up = owner.type("up", *CPU, "launch.dashboard=true")
    assert up.returncode == 0, up.stdout
    owner.environment["OWNERS_PASSWORD"] = PASSWORD
    common = [*CPU, "job=script", "job.script=train.py", "job.ranks=1", "+job.args.save='{checkpoint_dir}'"]
    ended = owner.type(*common, "run_name=ended", "run_group_reads=true")
    assert ended.returncode == 0, ended.stdout
    assert "MLflow could not" not in ended.stdout
    going = owner.popen("python", "-m", "orchestrator", *common, "run_name=going", f"+job.args.until={home}/go",
                        f"job.checkpoint_dir={home}/checkpoints", "tracking.uri=http://127.0.0.1:9")  # fmt: skip
    try:
        log, saved = (
            made.outside(f"{home}/runs/going/logs/attempt-1.rank-0.log"),
            made.outside(f"{home}/checkpoints"),
        )
        wait_until(
            lambda: (saved / "latest").exists() and "SAVED" in text_so_far(log), TIMEOUT_S, "a run is going"
        )
        made.secrets = {
            "the token": made.outside(f"{home}/.ray/auth_token").read_text(),
            "the password": PASSWORD,
        }
        # Who asks a rank's ports disturbs it, which nothing is said against.
        lines = made.host.run("ss -Hltnp", check=True).stdout.splitlines()
        heard = (line.split()[3] for line in lines if "orchestrator ra" not in line)
        made.ports = sorted({int(address.rpartition(":")[2]) for address in heard})
        yield made
        assert going.poll() is None, "the neighbour has ended it"
        owner.run("touch", "go")
        assert going.wait(TIMEOUT_S) == 0
        down = owner.type("down")
        assert down.returncode == 0, down.stdout
    finally:
        going.kill()


@pytest.fixture(scope="module")
def seen(machine: Machine) -> dict[str, Any]:
    """What the neighbour finds."""
    return machine.neighbour.look(machine, "/tmp", "/dev/shm", "/var/tmp", "/run")


@pytest.fixture(scope="module")
def own(machine: Machine) -> dict[str, Any]:
    """What the owner finds by the same means: it is there to be found."""
    owner = machine.owner
    return owner.look(machine, owner.home, token=machine.secrets["the token"])


def test_nothing_that_the_neighbour_can_read_has_a_token_or_a_password(
    machine: Machine, seen: dict[str, Any], own: dict[str, Any]
) -> None:
    assert seen["found"] == []
    assert any(where.startswith("the token in /tmp/owner/.ray/") for where in own["found"])
    assert any(where.startswith("the password in /proc/") for where in own["found"])
    assert any("the password in /tmp/owner/runs/mlartifacts/" in where for where in own["found"]) is False, (
        "hidden"
    )
    theirs = {str(process.pid) for process in machine.host.processes() if process.uids().real == OWNER}
    assert theirs
    given = seen["processes"]
    assert len(given["cmdline"]) > 10
    assert {kind for kind, pids in given.items() if pids} == {"cmdline"}, "of any process but one's own"
    assert {"environ", "maps", "fd", "cwd"} <= set(own["processes"])


def test_of_a_run_and_of_its_ray_and_of_what_mlflow_keeps_the_neighbour_reads_nothing(
    seen: dict[str, Any], own: dict[str, Any]
) -> None:
    closed = re.compile(
        r"/tmp/orc-ray-|/tmp/owner/(\.ray|runs/(going|ended|mlartifacts|mlflow\.db$))|/tmp/owner/\.local/state/orchestrator"
        r"|/tmp/(pymp-|orchestrator-|torchinductor)|/dev/shm/."
    )
    assert [path for path in seen["readable"] if closed.match(path)] == []
    assert len([path for path in own["readable"] if closed.match(path)]) > 20
    assert any("/mlartifacts/" in path for path in own["readable"])


def test_the_neighbour_writes_nowhere(machine: Machine, seen: dict[str, Any], own: dict[str, Any]) -> None:
    assert set(seen["writable"]) - {"/tmp", "/dev/shm", "/var/tmp", "/run"} == {TORCHS}, (
        "but in what is the neighbour's"
    )
    assert {"/tmp/owner/runs/going", "/tmp/owner/checkpoints"} <= set(own["writable"])
    log = machine.outside("/tmp/owner/runs/ended/logs/attempt-1.rank-0.log").read_text()
    assert f"COMPILES IN /tmp/orchestrator-home-{OWNER}/torchinductor" in log


def test_without_the_token_nothing_of_ray_answers(
    machine: Machine, seen: dict[str, Any], own: dict[str, Any]
) -> None:
    refused, let_in = dict(seen["ports"]), own["ports"]
    answers = {(port, asked, answer) for port, all_of in refused.items() for asked, answer in all_of.items()}
    called = {answer for port, _, answer in answers if port.endswith("gRPC")}
    assert called == {"UNAUTHENTICATED", "UNIMPLEMENTED"}
    for call in {call for all_of in let_in.values() for call in all_of if call.startswith("ray.rpc.")}:
        by_all = {all_of[call] for all_of in refused.values() if call in all_of}
        assert "UNAUTHENTICATED" in by_all, f"somebody has the service of {call}, and refuses"
    assert sum("OK" in all_of.values() for all_of in let_in.values()) >= 4, "with the token they answer"
    fetched = {(asked, answer) for port, asked, answer in answers if port.endswith("HTTP")}
    # Ray's metrics ask for no token, as SECURITY.md says: they show the same at every path, and take no
    # orders.
    metrics = {port for port, all_of in refused.items() if all_of.get("GET /logs") == "200"}
    assert all(refused[port]["POST /api/jobs/"] == "405" for port in metrics)
    asked_for = {
        port: all_of for port, all_of in refused.items() if port.endswith("HTTP") and port not in metrics
    }
    assert len(asked_for) == 3, "the dashboard, its agent and that of environments"
    assert {answer for all_of in asked_for.values() for answer in all_of.values()} == {"401"}, fetched
    assert any(
        all_of.get("GET /api/version") == "200" for port, all_of in let_in.items() if port in asked_for
    )
    assert not machine.outside("/tmp/a-job-was-here").exists()


def test_no_socket_of_the_owners_answers_the_neighbour(seen: dict[str, Any], own: dict[str, Any]) -> None:
    assert set(seen["sockets"].values()) == {"hangs up", "is out of reach"}
    zygotes = [name for name in seen["sockets"] if name.startswith("@orchestrator-zygote-")]
    assert zygotes
    assert {seen["sockets"][name] for name in zygotes} == {"hangs up"}
    assert {own["sockets"][name] for name in zygotes} == {"answers"}


def test_the_group_reads_a_run_that_is_opened_to_it_but_not_what_has_real_values(machine: Machine) -> None:
    colleague = Somebody(machine.host, "colleague", COLLEAGUE, OWNER)
    runs = "/tmp/owner/runs"
    looked = colleague.look(machine, f"{runs}/ended", f"{runs}/going", everything=False)
    readable = {path.removeprefix(f"{runs}/ended/") for path in looked["readable"]}
    there = {str(path.relative_to(machine.outside(f"{runs}/ended")))
             for path in machine.outside(f"{runs}/ended").rglob("*") if path.is_file()}  # fmt: skip
    assert {"journal.jsonl", "config.yaml", "plan.txt", "logs/attempt-1.rank-0.log"} <= readable
    assert there - readable == PRIVATE
    assert [where for where in looked["found"] if "/logs/" not in where] == [], (
        "logs have what a script prints"
    )
    assert looked["writable"] == []


def test_nobody_takes_the_others_ray_nor_believes_the_others_record(machine: Machine) -> None:
    owner, eve = machine.owner, machine.neighbour
    record = ".local/state/orchestrator/cluster.json"
    kept = machine.outside(f"{owner.home}/{record}").read_text()
    eve.run("mkdir", "-p", ".local/state/orchestrator", "state/orchestrator")
    for place in (record, "state/orchestrator/cluster.json"):
        machine.outside(f"{eve.home}/{place}").write_text(kept)
        machine.give(f"{eve.home}/{place}", eve)
    of_note = re.compile(r"orchestrator (zygote|rank)|ray::|.*/(raylet|gcs_server) ")
    before = {process for process in machine.host.processes() if of_note.match(title(process))}
    auto = eve.type("status", "ray_address=auto")
    assert (auto.returncode, "that of another user is not taken" in auto.stdout) == (3, True), auto.stdout
    ended = eve.type("down", "--force")
    assert (ended.returncode, f"another user (uid {OWNER}) and is left" in ended.stdout) == (
        0,
        True,
    ), ended.stdout
    assert len(before) > 5
    assert all(map(running, before))
    # What the neighbour calls a raylet, and a record in the neighbour's folder, are nothing to the owner.
    forged = (
        "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1],"
        " flush=True)"
    )
    forged += "; time.sleep(600)"
    eve.run("sh", "-c", 'ln -s "$(command -v python)" raylet')
    with eve.popen(
        f"{eve.home}/raylet", "-c", forged, "--gcs-address=127.0.0.1:1", stdout=subprocess.PIPE
    ) as raylet:
        try:
            # A Ray that the owner had joined once was there, and is gone.
            joined = {
                **json.loads(kept),
                "address": f"127.0.0.1:{raylet.stdout.readline().strip()}",
                "head_pid": None,
            }
            owner.run("mkdir", "-p", "joined/orchestrator")
            record = f"{owner.home}/joined/orchestrator/cluster.json"
            machine.outside(record).write_text(json.dumps({**joined, "heard_uids": [OWNER]}))
            machine.give(record, owner)
            gone = owner.type("status", env={"XDG_STATE_HOME": f"{owner.home}/joined"})
            taken = owner.type("status", "ray_address=auto", "--json")
            believed = owner.type("status", env={"XDG_STATE_HOME": f"{eve.home}/state"})
        finally:
            raylet.kill()
    assert json.loads(taken.stdout)["address"] == json.loads(kept)["address"], taken.stdout
    assert (gone.returncode, "does not answer any more" in gone.stdout) == (3, True), gone.stdout
    assert (believed.returncode, "no cluster is up" in believed.stdout) == (3, True), believed.stdout


TAKE_A_RUN = ("resume", "sync", "incidents", "calibrate")


def test_what_the_neighbour_may_have_written_is_taken_for_no_run_of_the_owners(machine: Machine) -> None:
    owner, eve = machine.owner, machine.neighbour
    ended = f"{owner.home}/runs/ended"
    machine.host.run(["sh", "-euc", f"""
        cp -r {ended} {eve.home}/trap; cp -r {ended} {eve.home}/shut; mkdir {owner.home}/open {eve.home}/night
        mkdir -m 1777 /tmp/all-runs; cp -r {ended} {owner.home}/open/mine; mkfifo {eve.home}/night/journal.jsonl
        mv {eve.home}/night /tmp/all-runs; mkdir {eve.home}/fresh; mv {eve.home}/fresh /tmp/all-runs
    """], check=True)  # fmt: skip
    machine.give(f"{eve.home}/trap", eve, 0o755)
    machine.give(f"{eve.home}/shut", eve, 0o700)
    machine.give(f"{owner.home}/open", owner, 0o777)
    machine.give("/tmp/all-runs/night", eve, 0o755)
    machine.give("/tmp/all-runs/fresh", eve, 0o777)
    theirs = f"belongs to uid {NEIGHBOUR}"
    tried: dict[tuple[str, ...], str] = {(verb, f"{eve.home}/trap"): theirs for verb in TAKE_A_RUN}
    tried |= {(verb, f"{owner.home}/open/mine"): "may be written by everybody" for verb in TAKE_A_RUN}
    tried[("resume", f"{eve.home}/shut")] = theirs
    new = (*CPU, "job=script", "job.script=train.py", "run_root=/tmp/all-runs")
    tried[(*new, "run_name=night", "job.resume=auto")] = theirs
    tried[(*new, "run_name=fresh")] = theirs
    refused: Callable[..., subprocess.CompletedProcess[str]] = lambda words: owner.type(*words)  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        for (words, reason), done in zip(tried.items(), pool.map(refused, tried), strict=True):
            assert done.returncode == 2, (words, done.stdout)
            (line,) = done.stdout.splitlines()
            assert reason in line, words
            assert "--trust" in line, words
