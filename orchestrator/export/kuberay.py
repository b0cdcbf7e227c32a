"""``format=kuberay``: a RayJob that runs to its end, a RayCluster for several runs, and what both need.

Field names are those of KubeRay's API reference, v1.7 (docs.ray.io, "KubeRay CRD API reference"); queues,
topology and gang scheduling are as Kueue's, Volcano's and KAI's pages there have them.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from orchestrator.config.export_schema import GangScheduler, HeadStore, PodNetwork
from orchestrator.errors import ConfigError
from orchestrator.export import kuberay_services as services
from orchestrator.export.kuberay_pods import COMPONENT, INSTANCE, RUNS, Pods
from orchestrator.export.order import Order
from orchestrator.export.rendered import Rendered
from orchestrator.export.texts import comment, in_yaml
from orchestrator.text import usd

# KubeRay adds words to a RayJob's name, and Kubernetes takes 63 characters of a label.
_MOST_NAME = 40
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
# In the order in which they are applied, those that are there.
_FIRST = ("storage", "network", "mlflow", "redis", "kueue", "nodes", "rayjob")
_FOLDER = "/workspace"  # of the image, where the project lies


def render(order: Order) -> Rendered:
    """All files, by name. Raises :class:`ConfigError` for what no manifest can be made of."""
    keys, name = order.config.kuberay, _name(order)
    _check(order)
    pods = Pods(order, name, keys.claim or f"{name}-runs")
    spec = _cluster_spec(order, pods)
    files = {
        "network.yaml": _whole(_ABOUT["network"], *services.policies(name, keys.namespace)),
        "rayjob.yaml": _whole(_about_job(order), _job(order, name, spec)),
        "raycluster.yaml": _whole(_ABOUT["cluster"], _cluster(order, name, spec)),
    }
    if keys.claim is None:
        claim = services.volume(order, f"{name}-runs", keys.namespace)
        files["storage.yaml"] = _whole(_ABOUT["storage"], claim)
    if _has_mlflow(order):
        server = services.mlflow(order, name, keys.namespace, pods.claim)
        files["mlflow.yaml"] = _whole(_ABOUT["mlflow"], *server)
    if keys.head_store is HeadStore.redis:
        files["redis.yaml"] = _whole(_ABOUT["redis"], *services.redis(order, name, keys.namespace))
    if order.tells_kueue:
        files["kueue.yaml"] = _whole(_ABOUT["kueue"], *services.kueue_account(name, keys.namespace))
    if keys.node_labels:
        files["nodes.yaml"] = _whole(_ABOUT["nodes"], *services.nodes_account(name, keys.namespace))
    first = [f"{one}.yaml" for one in _FIRST]
    return Rendered(
        files={one: files[one] for one in (*first, "raycluster.yaml") if one in files},
        whole=[one for one in first if one in files],
        next_steps=_steps(order, name),
        remarks=_remarks(order, pods),
    )


def _name(order: Order) -> str:
    name = order.name(order.config.kuberay.name)
    if not _NAME.fullmatch(name) or len(name) > _MOST_NAME:
        raise ConfigError(
            f"kuberay.name={name}: Kubernetes takes lower-case letters, digits and '-', a letter first, and"
            f" KubeRay at most {_MOST_NAME} of them; write e.g. kuberay.name=llama-8b"
        )
    return name


def _check(order: Order) -> None:
    keys, fabric = order.config.kuberay, order.config.fabric
    if order.config.cluster.name == "local" and order.on_gpus:
        raise ConfigError(
            "cluster=local: is whatever machine composes it, and the head pod has no GPU; write the cluster"
            " that the pods are on, e.g. cluster=azure_nd_h100_v5"
        )
    if fabric.pods.why_not and order.plan.layout.nodes > 1:
        raise ConfigError(
            f"cluster={order.config.cluster.name}: cannot be exported to KubeRay over several nodes:"
            f" {fabric.pods.why_not}"
        )
    if keys.scheduler is not GangScheduler.none and not keys.queue:
        raise ConfigError(
            f"kuberay.scheduler={keys.scheduler.value}: which queue? Write e.g. kuberay.queue=training"
        )
    if keys.scheduler is GangScheduler.none and keys.queue:
        raise ConfigError(
            f"kuberay.queue={keys.queue}: of which scheduler? Write e.g. kuberay.scheduler=kueue (or volcano,"
            " kai)"
        )
    if order.tells_kueue and keys.scheduler is not GangScheduler.kueue:
        raise ConfigError(
            f"kueue.priority_boost={order.config.kueue.priority_boost.value}: is read by Kueue alone; write"
            " kuberay.scheduler=kueue and kuberay.queue=…, or leave it out"
        )
    if keys.topology_label and keys.scheduler is not GangScheduler.kueue:
        raise ConfigError(
            f"kuberay.topology_label={keys.topology_label}: is read by Kueue alone; write"
            " kuberay.scheduler=kueue and kuberay.queue=…, or leave it out"
        )


def _cluster_spec(order: Order, pods: Pods) -> dict[str, Any]:
    return {
        "rayVersion": order.ray_version,
        # The operator makes a Secret with a random token and hands it to every pod.
        "authOptions": {"mode": "token"},
        "gcsFaultToleranceOptions": _head_store(order, pods.name),
        "headGroupSpec": pods.head(),
        "workerGroupSpecs": [pods.workers()],
    }


def _head_store(order: Order, name: str) -> dict[str, Any] | None:
    keys = order.config.kuberay
    if keys.head_store is HeadStore.off:
        return None
    if keys.head_store is HeadStore.rocksdb:
        return {"backend": "rocksdb", "storage": {"size": "1Gi", "deletionPolicy": "DeleteWithCluster"}}
    return {
        "redisAddress": f"{name}-redis:{services.REDIS_PORT}",
        "redisPassword": {"valueFrom": services.redis_password(name)},
    }


def _cluster(order: Order, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _metadata(order, name),
        "spec": spec,
    }


def _job(order: Order, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    keys = order.config.kuberay
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _metadata(order, name),
        "spec": {
            "entrypoint": entrypoint(order, name),
            # A run restarts by itself, from its newest checkpoint; a second one beside it would not.
            "backoffLimit": 0,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": keys.keep_s,
            "submissionMode": "K8sJobMode",
            "submitterConfig": {"backoffLimit": 0},
            "submitterPodTemplate": _submitter(order, name),
            "rayClusterSpec": spec,
        },
    }


def entrypoint(order: Order, name: str) -> str:
    """What the head runs: the words that were typed, on this Ray, with the run's folder on the volume, and
    taken up again where a run of that name has not finished."""
    place = ["ray_address=auto", f"run_root={RUNS}", f"run_name={name}", "job.resume=auto"]
    if order.tells_kueue:
        place += [f"kueue.job={name}"]
    if _has_mlflow(order):
        place += [f"tracking.uri=http://{name}-mlflow:{services.MLFLOW_PORT}"]
    words = shlex.join(["python", "-m", "orchestrator", *order.run_words(*place)])
    return f"cd {_FOLDER} && exec {words}"


def _submitter(order: Order, name: str) -> dict[str, Any]:
    """The pod that hands the job to the head and prints its log."""
    user = order.config.kuberay.user
    container = {
        "name": "submit",
        "image": order.image,
        "resources": {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "metadata": {"labels": {INSTANCE: name, COMPONENT: "submitter"}},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": user != 0, "runAsUser": user, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }  # fmt: skip


def _metadata(order: Order, name: str) -> dict[str, Any]:
    keys = order.config.kuberay
    labels = {INSTANCE: name}
    match keys.scheduler:
        case GangScheduler.kueue:
            labels["kueue.x-k8s.io/queue-name"] = str(keys.queue)
        case GangScheduler.volcano:
            labels |= {"ray.io/scheduler-name": "volcano", "volcano.sh/queue-name": str(keys.queue)}
            if keys.priority_class:
                labels["ray.io/priority-class-name"] = keys.priority_class
        case GangScheduler.kai:
            labels["kai.scheduler/queue"] = str(keys.queue)
    return {"name": name, "namespace": keys.namespace, "labels": labels}


def _has_mlflow(order: Order) -> bool:
    """Whether runs are told to a server beside the cluster: where nobody has named another."""
    chosen = order.has_word("tracking") or not order.config.tracking.uri.startswith("sqlite:")
    return order.config.kuberay.mlflow and not chosen


_ABOUT = {
    "network": "Closes every port of the run's pods to all that are not of the run. It needs a network plugin"
    " that keeps such rules, and pods that are not on the network of their node.",
    "cluster": "A Ray cluster that stays, for several runs one after the other: apply this or rayjob.yaml,"
    " not both. Its GPUs are held, and paid for, until it is deleted.",
    "storage": "Runs, checkpoints and MLflow's database, on a volume that all nodes write to. Its class has"
    " to have rename and fsync (NFS, Lustre, CephFS, Azure Files over NFS, FSx, Filestore): no object store.",
    "mlflow": "MLflow, for the runs of this namespace. Reach it with 'kubectl port-forward'.",
    "kueue": "By which the run tells Kueue what it would lose if it were stopped now (kueue.priority_boost).",
    "nodes": "By which a worker asks Kubernetes where its node is (kuberay.node_labels): it may look at"
    " nodes, before Ray starts. Somebody has to apply it who may write a ClusterRole.",
    "redis": "What Ray's control store knows, so that a head that ends comes back to workers that are still"
    " there. The password is in a Secret that is made by hand, once.",
}


def _about_job(order: Order) -> str:
    plan = order.plan
    return (
        f"One run: {plan.layout.ranks} {plan.unit}s on {plan.layout.nodes} nodes {plan.node_type}, which cost"
        f" {usd(order.usd_per_hour)} an hour. A run that has not finished is taken up again when this is"
        " deleted and applied anew."
    )


def _whole(about: str, *documents: dict[str, Any]) -> str:
    return comment(about) + in_yaml(*documents)


def _steps(order: Order, name: str) -> list[str]:
    keys = order.config.kuberay
    steps = [f"kubectl create namespace {keys.namespace}"]
    if keys.head_store is HeadStore.redis:
        steps += [
            f"kubectl --namespace {keys.namespace} create secret generic {name}-redis"
            ' --from-literal=password="$(openssl rand -hex 32)"'
        ]
    files = [one for one in _FIRST if _is_there(order, one)]
    steps += ["kubectl apply " + " ".join(f"-f {one}.yaml" for one in files)]
    return [*steps, f"kubectl --namespace {keys.namespace} get rayjob {name} --watch"]


def _is_there(order: Order, one: str) -> bool:
    keys = order.config.kuberay
    there = {
        "storage": keys.claim is None,
        "mlflow": _has_mlflow(order),
        "redis": keys.head_store is HeadStore.redis,
        "kueue": order.tells_kueue,
        "nodes": keys.node_labels,
    }
    return there.get(one, True)


def _remarks(order: Order, pods: Pods) -> list[str]:
    found = []
    if pods.network() is PodNetwork.host:
        found.append(
            "workers are on the network of their nodes, where no NetworkPolicy holds: close Ray's ports"
            " (6379, 8265, 10001 to 19999, 52365) in the nodes' firewall"
        )
    if order.config.kuberay.head_store is HeadStore.rocksdb:
        found.append("kuberay.head_store=rocksdb is alpha in Ray and KubeRay")
    if order.config.container.image is None:
        found.append(
            f"container.image is not set: pods ask for {order.image}, which has to be where they look"
        )
    if order.plan.model is None and order.config.kuberay.shm is None:
        found.append(
            "/dev/shm has no limit: without a model nobody knows what is staged there; kuberay.shm=…"
        )
    return found
