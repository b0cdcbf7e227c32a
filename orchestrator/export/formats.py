"""The formats of an export, and what is refused of every one."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.errors import ConfigError, near_miss
from orchestrator.export import compose, kuberay, monitoring, ray_up, slurm
from orchestrator.export.order import Order, key_of
from orchestrator.export.rendered import Rendered
from orchestrator.redact import HIDDEN, redact_text

FORMATS: dict[str, Callable[[Order], Rendered]] = {
    "kuberay": kuberay.render,
    "slurm": slurm.render,
    "ray-up": ray_up.render,
    "compose": compose.render,
    "monitoring": monitoring.render,
}


def check_format(name: str | None) -> str:
    """Raises :class:`ConfigError` for one that is not there, or for none."""
    known = ", ".join(FORMATS)
    if name is None:
        raise ConfigError(f"export: to what? Write format=NAME, one of {known}; e.g. format=kuberay")
    if name not in FORMATS:
        raise ConfigError(f"format={name}: no such format ({known}){near_miss(name, FORMATS)}")
    return name


def render(order: Order, name: str) -> Rendered:
    """All files of a format. Raises :class:`ConfigError` for what cannot be exported, with the reason."""
    check_format(name)
    _ = order.plan.billed_by
    _check_network(order)
    _check_secrets(order)
    return FORMATS[name](order)


def _check_network(order: Order) -> None:
    config = order.config
    if order.plan.layout.nodes > 1 and config.fabric.name == "loopback":
        raise ConfigError(
            f"fabric=loopback: joins no machines, and cluster.nodes={order.plan.layout.nodes}; write the"
            " fabric of their network, e.g. fabric=ethernet (TCP sockets) or fabric=infiniband"
        )


def _check_secrets(order: Order) -> None:
    """A file that is exported is shown around."""
    words = [word for words in (order.words, *order.array) for word in words]
    for word in words:
        if HIDDEN in redact_text(word):
            key = key_of(word)
            raise ConfigError(
                f"{key}={HIDDEN}: is a secret, and would stand in the file for whoever reads it; leave it"
                " out, and give it to the run there: as a variable of the shell that submits, or for"
                " Kubernetes in a Secret, 'kuberay.secrets=[NAME]'"
            )
