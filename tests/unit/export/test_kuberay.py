"""What the manifests of KubeRay say.

Field names are those of KubeRay's API reference for v1.7 (docs.ray.io): rayVersion, authOptions,
gcsFaultToleranceOptions, headGroupSpec, workerGroupSpecs, and of a RayJob entrypoint, backoffLimit,
shutdownAfterJobFinishes, ttlSecondsAfterFinished, submissionMode, submitterConfig, submitterPodTemplate and
rayClusterSpec.
"""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from orchestrator.config.export_schema import GangScheduler, HeadStore, PodNetwork
from orchestrator.errors import ConfigError
from tests.unit.export.orders import documents, only, rendered

AZURE = ("cluster=azure_nd_h100_v5", "job=llama3_8b", "cluster.nodes=8")
JOB_FIELDS = {
    "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "submissionMode",
    "submitterConfig", "submitterPodTemplate", "rayClusterSpec",
}  # fmt: skip
CLUSTER_FIELDS = {
    "rayVersion", "authOptions", "gcsFaultToleranceOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip


def job(*words: str, **keys: Any) -> dict[str, Any]:
    """The RayJob of these words, with these keys of `kuberay`."""
    return only(rendered("kuberay", *words, kuberay=keys).files["rayjob.yaml"])


def worker(*words: str, **keys: Any) -> dict[str, Any]:
    """The one group of workers."""
    (group,) = job(*words, **keys)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    found: dict[str, Any] = group
    return found


def pod(*words: str, **keys: Any) -> dict[str, Any]:
    found: dict[str, Any] = worker(*words, **keys)["template"]["spec"]
    return found


def test_a_job_ends_by_itself_and_is_not_tried_again_by_anybody_else() -> None:
    made = job(*AZURE)
    assert (made["apiVersion"], made["kind"]) == ("ray.io/v1", "RayJob")
    assert made["spec"].keys() == JOB_FIELDS
    assert made["spec"]["backoffLimit"] == made["spec"]["submitterConfig"]["backoffLimit"] == 0
    assert made["spec"]["shutdownAfterJobFinishes"] is True
    assert made["spec"]["rayClusterSpec"].keys() == CLUSTER_FIELDS


def test_the_job_runs_the_words_that_were_typed_and_is_taken_up_by_its_name() -> None:
    entrypoint = job(*AZURE, "++job.args.lr=1e-3", "run_root=elsewhere", "ray_address=local")["spec"][
        "entrypoint"
    ]
    folder, _, command = entrypoint.partition(" && exec ")
    words = shlex.split(command)
    assert folder == "cd /workspace"
    assert words[:3] == ["python", "-m", "orchestrator"]
    assert {*AZURE, "++job.args.lr=1e-3"} <= set(words)
    assert words[-5:] == [
        "ray_address=auto", "run_root=/runs", "run_name=llama3-8b-azure-nd-h100-v5", "job.resume=auto",
        "tracking.uri=http://llama3-8b-azure-nd-h100-v5-mlflow:5000",
    ]  # fmt: skip
    assert "run_root=elsewhere" not in words
    assert "ray_address=local" not in words


def test_a_worker_is_a_node_of_the_plan() -> None:
    group = worker(*AZURE)
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 8
    assert group["rayStartParams"]["num-gpus"] == "8"
    spec = pod(*AZURE)
    (container,) = spec["containers"]
    devices = {"nvidia.com/gpu": "8", "rdma/ib": "8"}
    assert container["resources"]["limits"] == devices
    assert devices.items() <= container["resources"]["requests"].items()
    assert container["resources"]["requests"]["cpu"] == "64", "eight threads of eight ranks"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert spec["affinity"]["podAntiAffinity"], "two of them are never on one node"


def test_the_topology_file_that_the_fabric_names_is_the_node_s() -> None:
    spec = pod(*AZURE)
    (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if "topo" in one["mountPath"]]
    assert mount == {"name": "node-0", "mountPath": "/opt/microsoft/ndv5-topo.xml", "readOnly": True}
    assert {"name": "node-0", "hostPath": {"path": mount["mountPath"], "type": "File"}} in spec["volumes"]


def shm(*words: str, **keys: Any) -> str | None:
    (volume,) = [one for one in pod(*words, **keys)["volumes"] if one["name"] == "shm"]
    assert volume["emptyDir"]["medium"] == "Memory"
    limit: str | None = volume["emptyDir"].get("sizeLimit")
    return limit


def test_shared_memory_holds_two_generations_of_what_the_plan_stages() -> None:
    # 8.03e9 parameters x 14 bytes, twice, on one of eight nodes, and 9e9 for Ray, NCCL and data loaders
    assert int(str(shm(*AZURE))) == pytest.approx(2 * 8.03e9 * 14 / 8 + 9e9, rel=1e-3)
    assert int(str(shm(*AZURE, "snapshot.dirs=[durable]"))) == 9e9, "where nothing is staged in memory"
    assert shm(*AZURE, shm="64Gi") == "64Gi"


def test_a_checkpoint_that_no_node_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"host_memory_bytes=90000000000: .*snapshot\.dirs=\[durable\]"):
        rendered("kuberay", *AZURE, cluster={"host_memory_bytes": 90_000_000_000})


def test_the_head_has_a_store_a_token_and_no_work() -> None:
    spec = job(*AZURE)["spec"]["rayClusterSpec"]
    assert spec["authOptions"] == {"mode": "token"}
    head = spec["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    store = spec["gcsFaultToleranceOptions"]
    assert store["redisAddress"] == "llama3-8b-azure-nd-h100-v5-redis:6379"
    redis = {one["kind"]: one for one in documents(rendered("kuberay", *AZURE).files["redis.yaml"])}
    secret = {"name": "llama3-8b-azure-nd-h100-v5-redis", "key": "password"}
    (variable,) = redis["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["valueFrom"]["secretKeyRef"] == secret
    assert store["redisPassword"]["valueFrom"]["secretKeyRef"] == secret
    for other, there in ((HeadStore.rocksdb, True), (HeadStore.off, False)):
        spec = job(*AZURE, head_store=other)["spec"]["rayClusterSpec"]
        assert ("gcsFaultToleranceOptions" in spec) is there


def test_nobody_but_the_run_s_own_pods_reaches_rays_ports() -> None:
    policy = only(rendered("kuberay", *AZURE).files["network.yaml"])
    own = {"app.kubernetes.io/instance": "llama3-8b-azure-nd-h100-v5"}
    assert policy["spec"]["podSelector"]["matchLabels"] == own
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    everything, *others = policy["spec"]["ingress"]
    assert everything == {"from": [{"podSelector": {"matchLabels": own}}]}
    assert [[port["port"] for port in rule["ports"]] for rule in others] == [[8265], [8080]]
    made = job(*AZURE)["spec"]
    templates = [
        made["submitterPodTemplate"],
        made["rayClusterSpec"]["headGroupSpec"]["template"],
        made["rayClusterSpec"]["workerGroupSpecs"][0]["template"],
    ]
    assert all(own.items() <= one["metadata"]["labels"].items() for one in templates)


def test_no_process_is_root() -> None:
    for text in rendered("kuberay", *AZURE).files.values():
        for document in documents(text):
            for spec in pods_in(document):
                assert spec["securityContext"]["runAsNonRoot"] is True
                assert spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def pods_in(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, dict):
        found = [node] if "containers" in node else []
        return found + [one for value in node.values() for one in pods_in(value)]
    return [one for value in node for one in pods_in(value)] if isinstance(node, list) else []


QUEUES = {
    GangScheduler.kueue: {"kueue.x-k8s.io/queue-name": "team"},
    GangScheduler.volcano: {
        "ray.io/scheduler-name": "volcano", "volcano.sh/queue-name": "team", "ray.io/priority-class-name": "high",
    },
    GangScheduler.kai: {"kai.scheduler/queue": "team"},
}  # fmt: skip


@pytest.mark.parametrize("scheduler", QUEUES)
def test_a_queue_is_told_as_its_scheduler_reads_it(scheduler: GangScheduler) -> None:
    keys = {"scheduler": scheduler, "queue": "team", "priority_class": "high"}
    assert QUEUES[scheduler].items() <= job(*AZURE, **keys)["metadata"]["labels"].items()
    assert pod(*AZURE, **keys)["priorityClassName"] == "high"
    of_pods = worker(*AZURE, **keys)["template"]["metadata"]["labels"]
    assert ("kai.scheduler/queue" in of_pods) is (scheduler is GangScheduler.kai)


def test_topology_is_asked_of_kueue_at_the_workers() -> None:
    keys = {"scheduler": GangScheduler.kueue, "queue": "q", "topology_label": "cloud/block"}
    found = worker(*AZURE, **keys)["template"]["metadata"]["annotations"]
    assert found == {"kueue.x-k8s.io/podset-preferred-topology": "cloud/block"}
    found = worker(*AZURE, **keys, topology_required=True)["template"]["metadata"]["annotations"]
    assert found == {"kueue.x-k8s.io/podset-required-topology": "cloud/block"}


def test_efa_has_a_device_for_each_nic_and_huge_pages_where_they_are_used() -> None:
    limits = pod("cluster=aws_p5")["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": "8", "vpc.amazonaws.com/efa": "32"}
    limits = pod("cluster=aws_p5", "++env.FI_EFA_USE_HUGE_PAGE=1")["containers"][0]["resources"]["limits"]
    assert limits["hugepages-2Mi"] == "5120Mi"
    one = pod("cluster=aws_p5", "cluster.nodes=1")["containers"][0]["resources"]["limits"]
    assert one == {"nvidia.com/gpu": "8"}, "one node needs no network between nodes"


def test_a_pod_is_on_the_network_that_is_asked_for() -> None:
    host = pod(*AZURE, network=PodNetwork.host)
    assert (host["hostNetwork"], host["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    remarks = rendered("kuberay", *AZURE, kuberay={"network": PodNetwork.host}).remarks
    assert "no NetworkPolicy holds" in " ".join(remarks)
    several = worker(*AZURE, network=PodNetwork.multus, networks=["rdma-0", "rdma-1"])
    assert several["template"]["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": "rdma-0,rdma-1"}


def test_what_the_user_names_is_not_made_beside_it() -> None:
    made = rendered("kuberay", *AZURE, "kuberay.claim=lustre", "tracking.uri=http://mlflow.lab:5000")
    assert {"storage.yaml", "mlflow.yaml"}.isdisjoint(made.files)
    assert "tracking.uri=http://mlflow.lab:5000" in made.files["rayjob.yaml"]
    (volume,) = [one for one in pod(*AZURE, claim="lustre")["volumes"] if one["name"] == "runs"]
    assert volume["persistentVolumeClaim"]["claimName"] == "lustre"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"scheduler": GangScheduler.kueue}, "kuberay.scheduler=kueue: which queue"),
        ({"queue": "team"}, "kuberay.queue=team: of which scheduler"),
        ({"topology_label": "rack"}, "kuberay.topology_label=rack: is read by Kueue alone"),
        ({"network": PodNetwork.multus}, "kuberay.network=multus: which networks"),
        ({"resources": ["rdma/ib"]}, r"kuberay.resources=\[rdma/ib\]: is not NAME:VALUE"),
        ({"name": "Llama_8B"}, "kuberay.name=Llama_8B: Kubernetes takes lower-case letters"),
    ],
)
def test_what_no_manifest_can_be_made_of_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        job(*AZURE, **keys)


def test_a_fabric_that_needs_a_container_of_its_own_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"cluster=gcp_a3_mega: cannot be exported to KubeRay .* daemon"):
        job("cluster=gcp_a3_mega")


def test_a_run_that_tells_kueue_has_an_account_for_that_and_the_others_have_none() -> None:
    words = (*AZURE, "kuberay.scheduler=kueue", "kuberay.queue=team", "kueue.priority_boost=field")
    made = rendered("kuberay", *words)
    spec = only(made.files["rayjob.yaml"])["spec"]
    name = "llama3-8b-azure-nd-h100-v5"
    assert {f"kueue.job={name}", "kueue.priority_boost=field"} <= set(shlex.split(spec["entrypoint"]))
    cluster = spec["rayClusterSpec"]
    head, workers = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    shown = [
        (
            one["template"]["spec"].get("serviceAccountName"),
            one["template"]["spec"]["automountServiceAccountToken"],
        )
        for one in (head, workers)
    ]
    assert shown == [(name, True), (None, False)]
    account, role, binding = documents(made.files["kueue.yaml"])
    assert account["metadata"]["name"] == role["metadata"]["name"] == name
    assert role["rules"] == [
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list", "patch"]}
    ]
    assert binding["roleRef"]["name"] == binding["subjects"][0]["name"] == name
    assert any("-f kueue.yaml" in step for step in made.next_steps)
    assert "kueue.yaml" not in rendered("kuberay", *AZURE).files
    with pytest.raises(ConfigError, match=r"kueue.priority_boost=field: is read by Kueue alone"):
        rendered("kuberay", *AZURE, "kueue.priority_boost=field")


def test_workers_that_are_to_say_where_they_are_ask_before_ray_starts_and_show_the_token_to_nobody_else() -> (
    None
):
    words = (*AZURE, "cluster.topology.levels=[site.example/hall,rack]")
    made = rendered("kuberay", *words, kuberay={"node_labels": True})
    (group,) = only(made.files["rayjob.yaml"])["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    spec = group["template"]["spec"]
    (first,), (ray,) = spec["initContainers"], spec["containers"]
    file = group["rayStartParams"]["labels-file"]
    module = ["python", "-m", "orchestrator.driver.node_labels"]
    assert first["command"] == [*module, file, "site.example/hall", "rack"]
    assert first["image"] == ray["image"]
    (variable,) = first["env"]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    folder = file.rpartition("/")[0]
    reads = [one for one in ray["volumeMounts"] if one["mountPath"] == folder]
    assert reads == [{"name": "node-labels", "mountPath": folder, "readOnly": True}]
    assert {"name": "node-labels", "mountPath": folder} in first["volumeMounts"]
    assert spec["automountServiceAccountToken"] is False
    shown = [one["name"] for one in first["volumeMounts"]]
    assert "node-account" in shown
    assert "node-account" not in [one["name"] for one in ray["volumeMounts"]]
    assert {*shown} <= {one["name"] for one in spec["volumes"]}
    account, role, binding = documents(made.files["nodes.yaml"])
    assert account["metadata"]["name"] == spec["serviceAccountName"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
    assert any("-f nodes.yaml" in step for step in made.next_steps)


def test_who_does_not_ask_for_that_has_none_of_it() -> None:
    made = rendered("kuberay", *AZURE)
    assert "nodes.yaml" not in made.files
    spec = pod(*AZURE)
    assert not spec.get("initContainers")
    assert not spec.get("serviceAccountName")
    assert "labels-file" not in worker(*AZURE)["rayStartParams"]
