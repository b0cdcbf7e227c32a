"""What a run on Kubernetes needs beside its Ray: a volume for runs, an MLflow server, a store for the head,
and rules about who may speak to whom."""

from __future__ import annotations

from typing import Any

from orchestrator.export.kuberay_pods import COMPONENT, INSTANCE, RUNS
from orchestrator.export.order import Order

MLFLOW_PORT, REDIS_PORT, DASHBOARD_PORT, METRICS_PORT = 5000, 6379, 8265, 8080
# The label that KubeRay's Helm chart gives its operator, which asks the dashboard how the job goes.
_OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}


def volume(order: Order, name: str, namespace: str) -> dict[str, Any]:
    """Runs and checkpoints, which all nodes write to."""
    keys = order.config.kuberay
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _named(name, namespace, name),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": keys.storage_class,
            "resources": {"requests": {"storage": keys.storage}},
        },
    }


def mlflow(order: Order, name: str, namespace: str, claim: str) -> list[dict[str, Any]]:
    """A server whose database and artifacts are on the volume of runs. One at a time has the database."""
    command = [
        "mlflow", "server", "--host=0.0.0.0", f"--port={MLFLOW_PORT}",
        f"--backend-store-uri=sqlite:///{RUNS}/mlflow/mlflow.db", "--serve-artifacts",
        f"--artifacts-destination={RUNS}/mlflow/artifacts",
        f"--allowed-hosts={name}-mlflow,{name}-mlflow:{MLFLOW_PORT},localhost:*,127.0.0.1:*",
    ]  # fmt: skip
    return _server(
        order, name, namespace, "mlflow", MLFLOW_PORT,
        {
            "name": "mlflow",
            "image": order.image,
            "command": ["sh", "-c", f'mkdir -p {RUNS}/mlflow && exec "$@"', "sh", *command],
            "readinessProbe": {"httpGet": {"path": "/health", "port": MLFLOW_PORT}, "periodSeconds": 5},
            "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
            "volumeMounts": [{"name": "runs", "mountPath": RUNS}],
        },
        [{"name": "runs", "persistentVolumeClaim": {"claimName": claim}}],
        order.config.kuberay.user,
    )  # fmt: skip


def redis(order: Order, name: str, namespace: str) -> list[dict[str, Any]]:
    """Where Ray's control store keeps what it knows, on a volume of its own, with a password of a Secret."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _named(f"{name}-redis", namespace, name),
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    container = {
        "name": "redis",
        "image": order.config.container.redis_image,
        "command": ["sh", "-c", 'exec redis-server --dir /data --appendonly yes --requirepass "$PASSWORD"'],
        "env": [{"name": "PASSWORD", "valueFrom": redis_password(name)}],
        "readinessProbe": {"tcpSocket": {"port": REDIS_PORT}, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": f"{name}-redis"}}]
    return [claim, *_server(order, name, namespace, "redis", REDIS_PORT, container, volumes, 999)]


def redis_password(name: str) -> dict[str, Any]:
    """Where the password lies: in no file of ours."""
    return {"secretKeyRef": {"name": f"{name}-redis", "key": "password"}}


def policies(name: str, namespace: str) -> list[dict[str, Any]]:
    """Nobody reaches a pod of the run but the run's own; KubeRay's operator asks the dashboard, and whoever
    collects metrics in this namespace reads those. Pods on the network of their node are beyond such rules:
    there the node's own firewall has to close the ports."""
    own = {"podSelector": {"matchLabels": {INSTANCE: name}}}
    operator = {"namespaceSelector": {}, "podSelector": {"matchLabels": _OPERATOR}}
    scraper = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    rules = [
        {"from": [own]},
        {"from": [operator], "ports": [{"protocol": "TCP", "port": DASHBOARD_PORT}]},
        {"from": [scraper], "ports": [{"protocol": "TCP", "port": METRICS_PORT}]},
    ]
    return [
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": _named(name, namespace, name),
            "spec": {
                "podSelector": {"matchLabels": {INSTANCE: name}},
                "policyTypes": ["Ingress"],
                "ingress": rules,
            },
        }
    ]


def kueue_account(name: str, namespace: str) -> list[dict[str, Any]]:
    """What the run's own process shows to Kubernetes: it may look for its Workload and change it. Kubernetes
    cannot let it change that one alone, whose name Kueue makes; a namespace is one team's."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    rules = [{"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list", "patch"]}]
    about = _named(name, namespace, name)
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": about,
            "automountServiceAccountToken": False,
        },
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": about, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": about,
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def nodes_account(name: str, namespace: str) -> list[dict[str, Any]]:
    """What a worker shows to Kubernetes before its Ray starts: it may look at nodes, and at nothing else."""
    account, role = f"{name}-nodes", f"{namespace}-{name}-nodes"
    group = "rbac.authorization.k8s.io"
    about = {"name": role, "labels": {INSTANCE: name}}  # nodes are in no namespace
    return [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": _named(account, namespace, name),
            "automountServiceAccountToken": False,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": about,
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": about,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    ]


def _server(
    order: Order,
    name: str,
    namespace: str,
    component: str,
    port: int,
    container: dict[str, Any],
    volumes: list[dict[str, Any]],
    user: int,
) -> list[dict[str, Any]]:
    labels = {INSTANCE: name, COMPONENT: component}
    full = f"{name}-{component}"
    container = {
        **container,
        "ports": [{"containerPort": port}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": user != 0, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "priorityClassName": order.config.kuberay.priority_class,
        "containers": [container],
        "volumes": volumes,
    }  # fmt: skip
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": _named(full, namespace, name),
            "spec": {
                "replicas": 1,
                "strategy": {"type": "Recreate"},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _named(full, namespace, name),
            "spec": {"selector": labels, "ports": [{"port": port, "targetPort": port}]},
        },
    ]


def _named(full: str, namespace: str, instance: str) -> dict[str, Any]:
    return {"name": full, "namespace": namespace, "labels": {INSTANCE: instance}}
