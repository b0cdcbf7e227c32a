"""How a worker's Ray comes to know where its node is: a container before it asks Kubernetes, and leaves a
file.

KubeRay refuses ``labels`` among the words of ``ray start``, and knows only labels that a whole group has; a
file of labels it passes on. The token is shown to that container alone, and not to what trains beside it.
"""

from __future__ import annotations

from typing import Any

from orchestrator.config.kueue_schema import NODE_NAME, SERVICE_ACCOUNT
from orchestrator.export.order import Order

_FOLDER = "/node-labels"
_TOKEN_S = 600  # the least that Kubernetes gives
FILE = f"{_FOLDER}/labels.yaml"


def container(order: Order) -> dict[str, Any]:
    """What runs before Ray does."""
    more = list(order.config.cluster.topology.levels)
    return {
        "name": "node-labels",
        "image": order.image,
        "command": ["python", "-m", "orchestrator.driver.node_labels", FILE, *more],
        "env": [{"name": NODE_NAME, "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            mount(),
            {"name": "node-account", "mountPath": str(SERVICE_ACCOUNT), "readOnly": True},
        ],
    }


def mount(read_only: bool = False) -> dict[str, Any]:
    """Where the file lies, in both containers."""
    found: dict[str, Any] = {"name": "node-labels", "mountPath": _FOLDER}
    return {**found, "readOnly": True} if read_only else found


def volumes() -> list[dict[str, Any]]:
    """The file's, and what the service account shows."""
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_S}}
    authority = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
    return [
        {"name": "node-labels", "emptyDir": {"sizeLimit": "1Mi"}},
        {"name": "node-account", "projected": {"sources": [token, authority]}},
    ]
