"""Kueue is told what a run would lose, by requests that a real server on loopback looks at."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.kueue_schema import KueueConfig, PriorityBoost, check_kueue
from orchestrator.driver.kubernetes_api import KubernetesApi, NotAnswered
from orchestrator.driver.kueue import KueueBoost, boost_of, change_of
from orchestrator.errors import ConfigError
from orchestrator.event import Event
from orchestrator.events import CheckpointSaved, Record, SnapshotCommitted, StepDone
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.ledger import Ledger
from tests.support.certificates import Authority
from tests.support.kube_api import NAMESPACE, KubeApi, kube_api, workload
from tests.support.ports import free_port
from tests.support.receivers import until

GROUP = "kueue.x-k8s.io/v1beta2"
PATH = f"/apis/{GROUP}/namespaces/{NAMESPACE}/workloads"
OURS = "rayjob-llama-1a2b3"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    with kube_api(tmp_path) as api:
        api.workloads = [
            workload("rayjob-other", "RayJob", "other"),
            workload("job-llama", "Job", "llama"),
            {"metadata": {"name": "nobody-s"}},
            workload(OURS, "RayJob", "llama"),
        ]
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        yield api


def happened(event: Event, usd: float) -> tuple[Record, Bill]:
    return Record(0, 0.0, 0.0, event), dataclasses.replace(Ledger().bill(0.0), cost_usd=usd)


def step(number: int) -> StepDone:
    return StepDone(1, number, 0.1)


def kueue(how: PriorityBoost, **keys: float) -> KueueConfig:
    return KueueConfig(how, job="llama", **keys)  # type: ignore[arg-type]


class Told:
    """A run whose boost is told to ``server``, with an hour or less between two tellings."""

    def __init__(self, server: KubeApi, config: KueueConfig, every_s: float = 0.0) -> None:
        self.said: list[str] = []
        self.boost = KueueBoost(config, self.said.append, lambda: KubernetesApi(server.account), every_s)

    def spent(self, usd: float, event: Event | None = None) -> None:
        self.boost.observe(*happened(event or step(1), usd))


@pytest.mark.parametrize(
    ("how", "change"),
    [
        (PriorityBoost.annotation, {"metadata": {"annotations": {"kueue.x-k8s.io/priority-boost": "41"}}}),
        (PriorityBoost.field, {"spec": {"priorityBoost": {"value": 41}}}),
    ],
)
def test_a_patch_says_what_is_not_saved_in_the_place_that_this_kueue_reads(
    server: KubeApi, how: PriorityBoost, change: dict[str, object]
) -> None:
    told = Told(server, kueue(how))
    told.spent(41.9)
    with told.boost.told():
        until(lambda: bool(server.patches))
    found, patch = server.asked
    assert (found.verb, found.path, found.headers["Authorization"]) == ("GET", PATH, "Bearer first-token")
    assert (patch.verb, patch.path, patch.body) == ("PATCH", f"{PATH}/{OURS}", change)
    assert patch.headers["Content-Type"] == "application/merge-patch+json"
    assert patch.headers["Authorization"] == "Bearer first-token"
    assert told.said == []


def test_it_falls_with_a_commit_and_the_token_is_the_newest(server: KubeApi) -> None:
    told = Told(server, kueue(PriorityBoost.field, boost_per_usd=2.0))
    saved = CheckpointSaved(1, 5, "step-5", "/c", 0.1, staged=True)
    told.spent(100.0)
    with told.boost.told():
        until(lambda: values(server) == [200])
        told.spent(101.0, saved)
        until(lambda: values(server)[-1] == 202)
        server.token("second-token")
        told.spent(103.0, SnapshotCommitted(1, 5, "step-5", "/c", 1, 2.0))
        until(lambda: values(server)[-1] == 4)
    assert server.asked[-1].headers["Authorization"] == "Bearer second-token"


def values(server: KubeApi) -> list[int]:
    return [one["spec"]["priorityBoost"]["value"] for one in server.patches]


def test_one_patch_a_minute_at_most(server: KubeApi) -> None:
    told = Told(server, kueue(PriorityBoost.field), every_s=3600.0)
    told.spent(10.0)
    with told.boost.told():
        until(lambda: bool(server.patches))
        for usd in range(11, 200):
            told.spent(float(usd))
        # were it not held back, each of these would be told within milliseconds
        deadline_s = time.monotonic() + 0.3
        while time.monotonic() < deadline_s:
            assert values(server) == [10]
            time.sleep(0.02)


def test_a_server_that_refuses_or_is_away_harms_nobody_and_is_told_of_once(server: KubeApi) -> None:
    told = Told(server, kueue(PriorityBoost.annotation))
    server.refuses = 403
    told.spent(5.0)
    with told.boost.told():
        until(lambda: len(server.asked) >= 3)
        (said,) = told.said
        assert "HTTP 403" in said
        assert "workloads.kueue.x-k8s.io is forbidden" in said
        assert "needs list and patch of workloads" in said
        server.refuses = 0
        until(lambda: len(told.said) == 2)
    assert told.said[1] == "kueue: the boost is told again"
    assert server.patches[-1] == {"metadata": {"annotations": {"kueue.x-k8s.io/priority-boost": "5"}}}


def test_nobody_answers(server: KubeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(free_port()))
    told = Told(server, kueue(PriorityBoost.annotation))
    told.spent(5.0)
    begun_s = time.monotonic()
    with told.boost.told():
        until(lambda: bool(told.said))
        told.spent(6.0)
    assert "Connection refused" in told.said[0]
    assert time.monotonic() - begun_s < 60.0


def test_a_workload_that_is_another_one_after_an_eviction_is_looked_for_again(server: KubeApi) -> None:
    told = Told(server, kueue(PriorityBoost.field))
    told.spent(1.0)
    with told.boost.told():
        until(lambda: values(server) == [1])
        server.workloads = [workload("rayjob-llama-second", "RayCluster", "llama")]
        server.refuses = 404
        told.spent(2.0)
        until(lambda: bool(told.said))
        server.refuses = 0
        until(lambda: server.asked[-1].path.endswith("/rayjob-llama-second"))


def test_a_server_with_another_certificate_is_not_shown_the_token(server: KubeApi, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign")
    (server.account / "ca.crt").write_bytes(foreign.certificate.read_bytes())
    with pytest.raises(NotAnswered, match="certificate verify failed"):
        KubernetesApi(server.account).objects(GROUP, NAMESPACE, "workloads")
    assert server.asked == []


def test_off_there_is_no_thread_and_nobody_is_asked() -> None:
    before = threading.active_count()
    boost = KueueBoost(KueueConfig(), pytest.fail, pytest.fail)
    with boost.told():
        boost.observe(*happened(step(1), 50.0))
        assert threading.active_count() == before


def test_the_boost_is_whole_dollars_within_bounds() -> None:
    config = kueue(PriorityBoost.field, boost_per_usd=0.5, most_boost=100)
    assert [boost_of(config, usd) for usd in (0.0, 1.9, 2.0, 199.9, 1e9)] == [0, 0, 1, 99, 100]
    assert change_of(PriorityBoost.annotation, 0) == {
        "metadata": {"annotations": {"kueue.x-k8s.io/priority-boost": "0"}}
    }


def test_what_would_tell_nobody_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    check_kueue(KueueConfig(), 0.0, {})
    for config, usd, environment, said in (
        (kueue(PriorityBoost.field), 2.0, {}, "KUBERNETES_SERVICE_HOST is not set; leave it out here"),
        (kueue(PriorityBoost.field), 2.0, pod, "serviceaccount/token is not there"),
    ):
        with pytest.raises(ConfigError, match=rf"^kueue.priority_boost=field: .*{said}"):
            check_kueue(config, usd, environment)
    (tmp_path / "token").write_text("x")
    monkeypatch.setattr("orchestrator.config.kueue_schema.SERVICE_ACCOUNT", tmp_path)
    check_kueue(kueue(PriorityBoost.field), 2.0, pod)
    with pytest.raises(ConfigError, match=r"^kueue.job: no value given; name the RayJob"):
        check_kueue(dataclasses.replace(kueue(PriorityBoost.field), job=None), 2.0, pod)
    with pytest.raises(ConfigError, match=r"^kueue.job='A b': is no name"):
        check_kueue(dataclasses.replace(kueue(PriorityBoost.field), job="A b"), 2.0, pod)
    with pytest.raises(ConfigError, match=r"this cluster costs none; set .*usd_per_gpu_hour=2"):
        check_kueue(kueue(PriorityBoost.field), 0.0, pod)
