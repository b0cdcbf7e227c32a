"""``python -m orchestrator.driver.node_labels FILE [LABEL…]``: where the node of this pod is, for Ray.

It runs before Ray does, in a worker pod of its own container, and writes those labels of the Kubernetes node
that say where in the network it is, as ``ray start --labels-file`` reads them. Kubernetes itself hands a pod
the zone of its node at the most (KEP-4742). LABELs are asked for beside those that are known.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.kueue_schema import NODE_NAME
from orchestrator.driver.kubernetes_api import KubernetesApi, NotAnswered
from orchestrator.errors import ClusterError
from orchestrator.files import atomic_write
from orchestrator.topology.levels import KNOWN

_RAYS_OWN = "ray.io/"


def labels_of(node: Mapping[str, Any], more: Iterable[str]) -> dict[str, str]:
    """Those of a node, as Kubernetes has it, that name a domain. Ray sets its own by itself."""
    found = (node.get("metadata") or {}).get("labels") or {}
    wanted = [label for level in KNOWN for label in level.labels] + list(more)
    return {
        label: str(found[label]) for label in wanted if found.get(label) and not label.startswith(_RAYS_OWN)
    }


def main(file: str, *more: str) -> int:
    """Write the file; returns the exit code."""
    return write_labels(KubernetesApi(), file, more)


def write_labels(api: KubernetesApi, file: str, more: Iterable[str]) -> int:
    """A pod that may not ask does not start, since it was to say where it is."""
    name = os.environ.get(NODE_NAME, "")
    try:
        labels = labels_of(api.node(name), more)
    except NotAnswered as error:
        print(
            f"node {name}: Kubernetes does not say where it is ({error}); apply nodes.yaml, or export with"
            " kuberay.node_labels=false",
            file=sys.stderr,
        )
        return ClusterError.exit_code
    atomic_write(Path(file), json.dumps(labels), 0o644)
    print(f"node {name}: {labels or 'has no label that says where it is'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
