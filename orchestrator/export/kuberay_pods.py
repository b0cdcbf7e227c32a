"""The pods of a Ray cluster on Kubernetes: a head without work, and workers that reach the fabric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from orchestrator.config.choices import Transport
from orchestrator.config.export_schema import GangScheduler, PodNetwork
from orchestrator.errors import ConfigError
from orchestrator.export import kuberay_nodes
from orchestrator.export.order import Order
from orchestrator.export.room import OBJECT_STORE_BYTES, SHM, memory_bytes, shm_bytes
from orchestrator.export.texts import pairs

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
RUNS = "/runs"
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
# By which device plugins give out accelerators: NVIDIA's own, and AMD's.
_GPU_RESOURCE = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
# What a variable of a fabric names is a file of the node.
_FILES_OF_NODES = ("NCCL_TOPO_FILE",)
# By which libfabric is told to do without huge pages, or with them.
_HUGE_PAGES = "FI_EFA_USE_HUGE_PAGE"
# A pod is asked to end, its Ray leaves within 30 s, and the ranks have saved before.
_LEAVE_S = 60


@dataclass(frozen=True)
class Pods:
    """What the pods of one run have in common."""

    order: Order
    name: str
    claim: str

    def head(self) -> dict[str, Any]:
        """The group of the head. It has no processors to give away, so that nothing but the run's own process
        is there."""
        keys = self.order.config.kuberay
        size = {"cpu": str(keys.head_cpus), "memory": keys.head_memory}
        ports = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
        container = self._container("ray-head", {"requests": size, "limits": {"memory": size["memory"]}})
        container["ports"] = ports
        store = {"object-store-memory": str(OBJECT_STORE_BYTES)}
        return {
            "serviceType": "ClusterIP",
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0", **store},
            "template": self._template("head", container, [_shm(2 * OBJECT_STORE_BYTES)], {}, None),
        }

    def workers(self) -> dict[str, Any]:
        """The group of the workers, one for each node of the run."""
        layout, pods = self.order.plan.layout, self.order.config.fabric.pods
        container = self._container("ray-worker", self._resources())
        mounts, volumes = self._of_the_node()
        container["volumeMounts"] += mounts
        if self._reaches_past_the_kernel():
            container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
        told = self.order.config.kuberay.node_labels
        if told:
            container["volumeMounts"].append(kuberay_nodes.mount(read_only=True))
            volumes += kuberay_nodes.volumes()
        annotations = {**self._topology(), **pairs("fabric.pods.annotations", pods.annotations)}
        return {
            "groupName": "workers",
            "replicas": layout.nodes,
            "minReplicas": layout.nodes,
            "maxReplicas": layout.nodes,
            "rayStartParams": {
                "num-cpus": str(self._cpus()),
                "num-gpus": str(layout.ranks_per_node if self.order.on_gpus else 0),
                "object-store-memory": str(OBJECT_STORE_BYTES),
                **({"labels-file": kuberay_nodes.FILE} if told else {}),
            },
            "template": self._template(
                "worker", container, [_shm(self._shm()), *volumes], annotations, self.network()
            ),
        }

    def _container(self, name: str, resources: dict[str, Any]) -> dict[str, Any]:
        keys = self.order.config.kuberay
        return {
            "name": name,
            "image": self.order.image,
            "resources": resources,
            "env": [
                # Ray would end the agent of a node that runs out of memory, not the rank that grew.
                {"name": "RAY_memory_monitor_refresh_ms", "value": "0"},
                {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
                {"name": "RAY_worker_niceness", "value": "0"},
                # Where a run is that `remote` starts.
                {"name": "ORCHESTRATOR_RUN_ROOT", "value": RUNS},
            ],
            "envFrom": [{"secretRef": {"name": one}} for one in keys.secrets] or None,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": "shm", "mountPath": SHM}, {"name": "runs", "mountPath": RUNS}],
        }

    def _template(
        self,
        component: str,
        container: dict[str, Any],
        volumes: list[dict[str, Any]],
        annotations: dict[str, str],
        network: PodNetwork | None,
    ) -> dict[str, Any]:
        keys = self.order.config.kuberay
        on_host = network is PodNetwork.host
        worker = component == "worker"
        account = self.name if self.order.tells_kueue and not worker else None
        asks = worker and keys.node_labels
        return {
            "metadata": {
                "labels": {INSTANCE: self.name, COMPONENT: component, **self._queue_of_pods()},
                "annotations": annotations or None,
            },
            "spec": {
                "priorityClassName": keys.priority_class,
                "hostNetwork": on_host or None,
                "dnsPolicy": "ClusterFirstWithHostNet" if on_host else None,
                "nodeSelector": (pairs("kuberay.node_selector", keys.node_selector) or None)
                if worker
                else None,
                "tolerations": self._tolerations() if worker else None,
                "affinity": self._one_on_a_node() if worker else None,
                "terminationGracePeriodSeconds": _LEAVE_S + round(self.order.config.recovery.stop_grace_s),
                "serviceAccountName": f"{self.name}-nodes" if asks else account,
                "automountServiceAccountToken": account is not None,
                "securityContext": {
                    "runAsNonRoot": keys.user != 0,
                    "runAsUser": keys.user,
                    "runAsGroup": keys.user,
                    "fsGroup": keys.user,
                    "fsGroupChangePolicy": "OnRootMismatch",
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "initContainers": [kuberay_nodes.container(self.order)] if asks else None,
                "containers": [container],
                "volumes": [
                    *volumes,
                    {"name": "runs", "persistentVolumeClaim": {"claimName": self.claim}},
                ],
            },
        }

    def _resources(self) -> dict[str, Any]:
        """Accelerators, the fabric's devices and huge pages are requested and limited alike, as Kubernetes
        wants it; processors and memory are promised, and not held back."""
        pods, keys = self.order.config.fabric.pods, self.order.config.kuberay
        given = pods.resources if keys.resources is None else keys.resources
        name = "fabric.pods.resources" if keys.resources is None else "kuberay.resources"
        devices = self._devices(pairs(name, given)) if self.order.plan.layout.nodes > 1 else {}
        if self.order.on_gpus:
            maker = "amd" if self.order.config.gpu.name.startswith("AMD") else "nvidia"
            devices = {_GPU_RESOURCE[maker]: str(self.order.plan.layout.ranks_per_node), **devices}
        needed = str(memory_bytes(self.order, self._staged()))
        return {
            "requests": {"cpu": str(self._cpus()), "memory": needed, **devices},
            "limits": devices or None,
        }

    def _devices(self, given: dict[str, str]) -> dict[str, str]:
        """As many as the node has NICs, where that is asked for; no huge pages where the fabric's environment
        does without them."""
        nics = str(self.order.config.cluster.nics_per_node)
        off = self.order.plan.environment.get(_HUGE_PAGES)
        return {
            name: count.replace("{nics}", nics)
            for name, count in given.items()
            if not (name.startswith("hugepages-") and off is not None and off.value == "0")
        }

    def _cpus(self) -> int:
        cluster, layout = self.order.config.cluster, self.order.plan.layout
        return cluster.cpu_threads_per_rank * layout.ranks_per_node

    def _staged(self) -> int | None:
        return None if self.order.config.kuberay.shm else shm_bytes(self.order)

    def _shm(self) -> str | int | None:
        return self.order.config.kuberay.shm or shm_bytes(self.order)

    def _of_the_node(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What a worker sees of its node, read only: the fabric's folders, and the topology file that its
        environment names, which images of providers keep on the node."""
        wanted = pairs("fabric.pods.mounts", self.order.config.fabric.pods.mounts)
        of_folders = [(host, pod, "Directory") for host, pod in wanted.items()]
        settings = [self.order.plan.environment.get(name) for name in _FILES_OF_NODES]
        files = [one.value for one in settings if one is not None]
        of_files = [(path, path, "File") for path in files if not _is_below(path, wanted.values())]
        mounts, volumes = [], []
        for place, (host, pod, kind) in enumerate([*of_folders, *of_files]):
            mounts.append({"name": f"node-{place}", "mountPath": pod, "readOnly": True})
            volumes.append({"name": f"node-{place}", "hostPath": {"path": host, "type": kind}})
        return mounts, volumes

    def _reaches_past_the_kernel(self) -> bool:
        """Whether the fabric pins memory for its adapters."""
        several = self.order.plan.layout.nodes > 1
        return several and self.order.config.fabric.transport is not Transport.sockets

    def network(self) -> PodNetwork:
        keys = self.order.config.kuberay
        return keys.network or self.order.config.fabric.pods.network

    def _topology(self) -> dict[str, str]:
        """What Kueue and Multus read at a worker's pod."""
        keys, found = self.order.config.kuberay, {}
        if keys.topology_label is not None:
            how = "required" if keys.topology_required else "preferred"
            found[f"kueue.x-k8s.io/podset-{how}-topology"] = keys.topology_label
        if self.network() is PodNetwork.multus:
            if not keys.networks:
                raise ConfigError(
                    "kuberay.network=multus: which networks? Write e.g. 'kuberay.networks=[rdma-0,rdma-1]',"
                    " as 'kubectl get network-attachment-definitions' names them"
                )
            found["k8s.v1.cni.cncf.io/networks"] = ",".join(keys.networks)
        return found

    def _queue_of_pods(self) -> dict[str, str]:
        keys = self.order.config.kuberay
        return {"kai.scheduler/queue": str(keys.queue)} if keys.scheduler is GangScheduler.kai else {}

    def _tolerations(self) -> list[dict[str, str]] | None:
        if not self.order.on_gpus:
            return None
        names = [*_GPU_RESOURCE.values(), "sku"]  # AKS taints its pools of GPUs sku=gpu
        return [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in names]

    def _one_on_a_node(self) -> dict[str, Any]:
        """Two workers on one node would be one node's fault that takes two, and share its ports."""
        labels = {INSTANCE: self.name, COMPONENT: "worker"}
        return {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}
                ]
            }
        }


def _shm(size: str | int | None) -> dict[str, Any]:
    limit = None if size is None else str(size)
    return {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": limit}}


def _is_below(path: str, folders: Any) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in folders)
