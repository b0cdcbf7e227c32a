"""``format=compose``: one machine with the run, MLflow on PostgreSQL, Prometheus and Grafana.

All are on the machine's own network, and listen on loopback alone: a Ray of one machine has every port
there, and Prometheus has to reach them. PostgreSQL has a socket and no port. Secrets are in ``.env``, which
is made by hand.
"""

from __future__ import annotations

from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.export.order import Order
from orchestrator.export.rendered import Rendered
from orchestrator.export.room import shm_bytes
from orchestrator.export.texts import comment, in_yaml
from orchestrator.ledger.monitoring import files, grafana
from orchestrator.text import usd

FILE = "compose.yaml"
SECRETS = ("RAY_AUTH_TOKEN", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD")
DASHBOARD_PORT = 8265
_RUNS, _SOCKET = "/runs", "/var/run/postgresql"
_RULES, _PROVISIONING = "/etc/prometheus/rules.yml", "/etc/grafana/provisioning"
_LEAVE_S = 30
# A Ray that is there before the run, whose dashboard has a port that Prometheus knows.
_UP_AND_RUN = 'python -m orchestrator up ray_address=local "$@" && exec python -m orchestrator "$@"'
_ABOUT = (
    "Written by 'export format=compose'. 'docker compose up --detach' starts all of it; a run that has ended"
    " is taken up again by 'docker compose up run'. Every port is on loopback."
)


def render(order: Order) -> Rendered:
    """One file. Raises :class:`ConfigError` for a cluster of several machines."""
    if order.plan.layout.nodes > 1:
        raise ConfigError(
            f"cluster.nodes={order.plan.layout.nodes}: compose is for one machine; write cluster.nodes=1, or"
            " format=kuberay or slurm"
        )
    body = {
        "name": order.name(None),
        "services": {
            "run": _run(order),
            "mlflow": _mlflow(order),
            "postgres": _postgres(order),
            "prometheus": _prometheus(order),
            "grafana": _grafana(order),
        },
        "volumes": {name: {} for name in ("runs", "artifacts", "database", "socket", "metrics", "grafana")},
        "configs": _configs(order),
    }
    made = "; ".join(f'echo "{name}=$(openssl rand -hex 32)"' for name in SECRETS)
    return Rendered(
        files={FILE: comment(_ABOUT, _price(order)) + in_yaml(body)},
        whole=[FILE],
        next_steps=[
            f"(umask 077; {{ {made}; }} > .env)",
            "docker compose up --detach",
            "docker compose logs --follow run",
        ],
    )


def _run(order: Order) -> dict[str, Any]:
    keys, shm = order.config.compose, shm_bytes(order)
    name = order.config.run_name or order.name(None)
    place = [f"run_root={_RUNS}", f"run_name={name}", "job.resume=auto"]
    if not order.has_word("tracking"):
        place += [f"tracking.uri=http://127.0.0.1:{keys.mlflow_port}"]
    gpus = [{"driver": "nvidia", "count": order.plan.layout.ranks_per_node, "capabilities": ["gpu"]}]
    return {
        "image": order.image,
        "command": [_as_it_is(word) for word in ["sh", "-c", _UP_AND_RUN, "sh", *order.run_words(*place)]],
        "working_dir": "/workspace",
        "network_mode": "host",
        "environment": {"RAY_AUTH_TOKEN": _secret("RAY_AUTH_TOKEN")},
        # Asked to stop, it has time to save; what its ranks leave behind somebody has to bury.
        "init": True,
        "stop_grace_period": f"{_LEAVE_S + round(order.config.recovery.stop_grace_s)}s",
        "shm_size": shm,
        "ulimits": {"memlock": -1, "nofile": 1048576},
        "security_opt": ["no-new-privileges:true"],
        "cap_drop": ["ALL"],
        "deploy": {"resources": {"reservations": {"devices": gpus}}} if order.on_gpus else None,
        "volumes": [f"runs:{_RUNS}"],
        "depends_on": {"mlflow": {"condition": "service_healthy"}},
        "restart": "no",
    }


def _mlflow(order: Order) -> dict[str, Any]:
    port = order.config.compose.mlflow_port
    asks = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/health', timeout=3)"
    return {
        "image": order.image,
        "command": [
            "mlflow", "server", "--host=127.0.0.1", f"--port={port}",
            f"--backend-store-uri=postgresql+psycopg://mlflow@/mlflow?host={_SOCKET}",
            "--artifacts-destination=/artifacts",
        ],
        "network_mode": "host",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": ["artifacts:/artifacts", f"socket:{_SOCKET}"],
        "depends_on": {"postgres": {"condition": "service_healthy"}},
        "healthcheck": {"test": ["CMD", "python", "-c", asks], "interval": "5s", "retries": 24},
        "restart": "unless-stopped",
    }  # fmt: skip


def _postgres(order: Order) -> dict[str, Any]:
    return {
        "image": order.config.container.postgres_image,
        "command": ["postgres", "-c", "listen_addresses="],
        "network_mode": "none",
        "environment": {
            "POSTGRES_USER": "mlflow", "POSTGRES_DB": "mlflow",
            "POSTGRES_PASSWORD": _secret("POSTGRES_PASSWORD"),
        },
        "volumes": ["database:/var/lib/postgresql/data", f"socket:{_SOCKET}"],
        "healthcheck": {"test": ["CMD", "pg_isready", "-U", "mlflow"], "interval": "2s", "retries": 60},
        "restart": "unless-stopped",
    }  # fmt: skip


def _prometheus(order: Order) -> dict[str, Any]:
    return {
        "image": order.config.container.prometheus_image,
        "command": [
            "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
            f"--web.listen-address=127.0.0.1:{order.config.compose.prometheus_port}",
        ],
        "network_mode": "host",
        "configs": [
            {"source": "prometheus", "target": "/etc/prometheus/prometheus.yml"},
            {"source": "rules", "target": _RULES},
        ],
        "volumes": ["metrics:/prometheus"],
        "restart": "unless-stopped",
    }  # fmt: skip


def prometheus_configuration(dashboard: str = f"127.0.0.1:{DASHBOARD_PORT}") -> dict[str, Any]:
    """Ray's dashboard says where its metrics are, to whoever has the token."""
    found = files.discovery(f"http://{dashboard}", {"credentials": _secret("RAY_AUTH_TOKEN")})
    return files.prometheus(found, _RULES)


def _grafana(order: Order) -> dict[str, Any]:
    return {
        "image": order.config.container.grafana_image,
        "network_mode": "host",
        "environment": {
            "GF_SERVER_HTTP_ADDR": "127.0.0.1",
            "GF_SERVER_HTTP_PORT": str(order.config.compose.grafana_port),
            "GF_SECURITY_ADMIN_PASSWORD": _secret("GRAFANA_PASSWORD"),
            "GF_ANALYTICS_REPORTING_ENABLED": "false",
        },
        "configs": [
            {"source": "datasource", "target": f"{_PROVISIONING}/datasources/prometheus.yaml"},
            {"source": "provider", "target": f"{_PROVISIONING}/dashboards/orchestrator.yaml"},
            {"source": "dashboard", "target": f"{grafana.DASHBOARDS}/orchestrator.json"},
        ],
        "volumes": ["grafana:/var/lib/grafana"],
        "restart": "unless-stopped",
    }


def _configs(order: Order) -> dict[str, Any]:
    address = f"http://127.0.0.1:{order.config.compose.prometheus_port}"
    return {
        "prometheus": {"content": in_yaml(prometheus_configuration())},
        "rules": {"content": _as_it_is(in_yaml(files.rules(order.config.monitoring)))},
        "datasource": {"content": in_yaml(grafana.datasource(address))},
        "provider": {"content": in_yaml(grafana.provider())},
        "dashboard": {"content": _as_it_is(files.dashboard_json())},
    }


def _secret(name: str) -> str:
    """What compose fills in from ``.env``, and refuses to do without."""
    return f"${{{name}:?make .env first, as export said}}"


def _as_it_is(word: str) -> str:
    """Compose would fill in what follows a dollar."""
    return word.replace("$", "$$")


def _price(order: Order) -> str:
    plan = order.plan
    return f"{plan.layout.ranks} {plan.unit}s, which cost {usd(order.usd_per_hour)} an hour."
