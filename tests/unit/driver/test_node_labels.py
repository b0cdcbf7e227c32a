"""A worker pod asks Kubernetes where its node is, and leaves that for Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.config.kueue_schema import NODE_NAME
from orchestrator.driver.kubernetes_api import KubernetesApi
from orchestrator.driver.node_labels import write_labels
from tests.support.kube_api import KubeApi, kube_api

LABELS = {
    "topology.kubernetes.io/zone": "us-east-1a",
    "topology.k8s.aws/network-node-layer-2": "nn-block-7",
    "topology.k8s.aws/network-node-layer-3": "nn-rack-12",
    "kubernetes.io/hostname": "ip-10-0-0-1",
    "ray.io/availability-zone": "Ray's own",
    "site.example/hall": "",
    "site.example/row": "row-3",
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    with kube_api(tmp_path) as api:
        api.nodes = {"ip-10-0-0-1.ec2": LABELS, "bare": {}}
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
        monkeypatch.setenv(NODE_NAME, "ip-10-0-0-1.ec2")
        yield api


def test_what_says_where_a_node_is_is_left_for_ray_and_nothing_else(server: KubeApi, tmp_path: Path) -> None:
    file = tmp_path / "labels.yaml"
    more = ["site.example/hall", "site.example/row"]
    assert write_labels(KubernetesApi(server.account), str(file), more) == 0
    left = yaml.safe_load(file.read_text())
    assert left == {
        "topology.kubernetes.io/zone": "us-east-1a",
        "topology.k8s.aws/network-node-layer-2": "nn-block-7",
        "topology.k8s.aws/network-node-layer-3": "nn-rack-12",
        "site.example/row": "row-3",
    }
    (asked,) = server.asked
    assert (asked.verb, asked.path) == ("GET", "/api/v1/nodes/ip-10-0-0-1.ec2")
    assert asked.headers["Authorization"] == "Bearer first-token"


def test_a_node_that_says_nothing_leaves_an_empty_file(
    server: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NODE_NAME, "bare")
    assert write_labels(KubernetesApi(server.account), str(tmp_path / "labels.yaml"), []) == 0
    assert yaml.safe_load((tmp_path / "labels.yaml").read_text()) == {}


def test_a_pod_that_may_not_ask_does_not_start_and_says_what_to_do(
    server: KubeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refuses = 403
    assert write_labels(KubernetesApi(server.account), str(tmp_path / "labels.yaml"), []) == 3
    assert not (tmp_path / "labels.yaml").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("node ip-10-0-0-1.ec2: Kubernetes does not say where it is (HTTP 403")
    assert line.endswith("apply nodes.yaml, or export with kuberay.node_labels=false")
