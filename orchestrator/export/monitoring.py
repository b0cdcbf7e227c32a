"""``format=monitoring``: what a Prometheus and a Grafana that are there already take to watch runs and the
queue. The same for every cluster and job."""

from __future__ import annotations

from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.export.order import Order
from orchestrator.export.rendered import Rendered
from orchestrator.export.texts import comment, in_yaml
from orchestrator.ledger.monitoring import files, grafana

PROMETHEUS, RULES, TOKEN = "prometheus.yml", "rules.yml", "ray_token"
DASHBOARD, PROVIDER, DATASOURCE = "dashboard.json", "provider.yml", "datasource.yml"
KUBERNETES = "kubernetes.yaml"
PROMETHEUS_URL = "http://127.0.0.1:9090"
_LONGEST_PORT = 5
_ABOUT = {
    PROMETHEUS: (
        f"Prometheus asks Ray's dashboard where the metrics are. {TOKEN} beside this file is the token of"
        " that Ray, as 'ray get-auth-token' prints it."
    ),
    RULES: "The alerts, for rule_files of a Prometheus. The keys monitoring.* say where each begins.",
    PROVIDER: (
        f"For Grafana's provisioning/dashboards: it reads the dashboards in {grafana.DASHBOARDS}, which is"
        f" where {DASHBOARD} belongs."
    ),
    DATASOURCE: "For Grafana's provisioning/datasources: where Prometheus is.",
    KUBERNETES: (
        "For a Kubernetes with Prometheus' operator (kube-prometheus-stack): who is asked, the alerts, and"
        " the dashboard for Grafana's sidecar. Drivers run in head pods, so that these have all gauges."
    ),
}


def render(order: Order) -> Rendered:
    """Each file by itself. Raises :class:`ConfigError` for an address that is none."""
    limits = order.config.monitoring
    _check_address(limits.dashboard)
    found = files.discovery(f"http://{limits.dashboard}", {"credentials_file": TOKEN})
    bodies = {
        PROMETHEUS: files.prometheus(found, RULES),
        RULES: files.rules(limits),
        PROVIDER: grafana.provider(),
        DATASOURCE: grafana.datasource(PROMETHEUS_URL),
    }
    made = {name: comment(_ABOUT[name]) + in_yaml(body) for name, body in bodies.items()}
    made[KUBERNETES] = comment(_ABOUT[KUBERNETES]) + in_yaml(*_on_kubernetes(order))
    return Rendered(
        files={**made, DASHBOARD: files.dashboard_json(indent=1)},
        whole=[RULES],
        next_steps=[
            f"(umask 077; ray get-auth-token > {TOKEN})",
            f"promtool check config {PROMETHEUS}",
            f"prometheus --config.file={PROMETHEUS} --web.listen-address=127.0.0.1:9090",
        ],
        remarks=[f"With --out DIR there is also {DASHBOARD}; in Grafana: Dashboards, New, Import"],
    )


def _on_kubernetes(order: Order) -> list[dict[str, Any]]:
    limits, namespace = order.config.monitoring, order.config.kuberay.namespace

    def made(api: str, kind: str, labels: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        about = {"name": "orchestrator", "namespace": namespace, "labels": labels}
        return {"apiVersion": api, "kind": kind, "metadata": about, **body}

    operators = {"release": limits.release}
    asked = {
        "selector": {"matchLabels": {"ray.io/node-type": "head"}},
        "podMetricsEndpoints": [{"port": "metrics", "interval": files.EVERY}],
    }
    return [
        made("monitoring.coreos.com/v1", "PodMonitor", operators, {"spec": asked}),
        made("monitoring.coreos.com/v1", "PrometheusRule", operators, {"spec": files.rules(limits)}),
        made("v1", "ConfigMap", {"grafana_dashboard": "1"}, {"data": {DASHBOARD: files.dashboard_json()}}),
    ]


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and len(port) <= _LONGEST_PORT and 0 < int(port) < 1 << 16
    if not host or "/" in host or not is_port:
        raise ConfigError(
            f"monitoring.dashboard={address}: is no HOST:PORT; write the address of Ray's dashboard, as"
            " 'status' says it, e.g. monitoring.dashboard=127.0.0.1:8265"
        )
