"""``format=ray-up``: the file of Ray's own launcher, which rents machines of Azure, AWS or GCP and starts Ray
in a container on each. Its fields are those of Ray's schema (``ray/autoscaler/ray-schema.json``)."""

from __future__ import annotations

from typing import Any

from orchestrator.config.choices import Transport
from orchestrator.config.export_schema import Cloud, MachinesConfig
from orchestrator.errors import ConfigError
from orchestrator.export.order import Order
from orchestrator.export.rendered import Rendered
from orchestrator.export.room import OBJECT_STORE_BYTES, shm_bytes
from orchestrator.export.texts import comment, in_yaml
from orchestrator.text import usd

HEAD, WORKER = "head", "worker"
_HOME = "/home/orchestrator"  # of the image's user
_GCS_PORT = 6379
_START = f"--object-store-memory={OBJECT_STORE_BYTES} --disable-usage-stats"
_ABOUT = (
    "Written by 'export format=ray-up'. Machines are paid for from 'ray up' to 'ray down', whatever runs on"
    " them: as many workers as the run has nodes, never more and never fewer."
)


def render(order: Order) -> Rendered:
    """One file. Raises :class:`ConfigError` for a cluster that nobody rents so."""
    machines = _machines(order)
    name = order.name(order.config.ray_up.name)
    file = f"{name}.ray.yaml"
    text = comment(_ABOUT, _price(order)) + in_yaml(_whole(order, machines, name))
    words = " ".join(["python -m orchestrator", *order.run_words("ray_address=auto")])
    return Rendered(
        files={file: text},
        whole=[file],
        next_steps=[
            "ray get-auth-token --generate",
            f"ray up {file}",
            f"ray exec {file} 'cd /workspace && {words}'",
            f"ray down {file}",
        ],
        remarks=_remarks(order, machines),
    )


def _machines(order: Order) -> MachinesConfig:
    cluster, machines = order.config.cluster, order.config.cluster.machines
    if machines.why_not:
        raise ConfigError(f"cluster={cluster.name}: cannot be rented by 'ray up': {machines.why_not}")
    if machines.cloud is None:
        raise ConfigError(
            f"cluster={cluster.name}: 'ray up' rents machines of Azure, AWS and GCP, and {cluster.node_type} "
            "is none of them; write format=slurm or format=kuberay, or say whose it is:"
            " cluster.machines.cloud=aws, with cluster.machines.image=…"
        )
    return machines


def _whole(order: Order, machines: MachinesConfig, name: str) -> dict[str, Any]:
    nodes = order.plan.layout.nodes
    ray = "RAY_AUTH_MODE=token ray start"
    return {
        "cluster_name": name,
        "max_workers": nodes,
        "idle_timeout_minutes": 60,
        "provider": _provider(order, machines),
        "auth": {"ssh_user": machines.user},
        "docker": _docker(order, machines),
        "head_node_type": HEAD,
        "available_node_types": {
            # Nothing but the run's own process is on the head.
            HEAD: {"resources": {"CPU": 0}, "node_config": _node(order, machines, worker=False)},
            WORKER: {
                "min_workers": nodes,
                "max_workers": nodes,
                "resources": _resources(order),
                "node_config": _node(order, machines, worker=True),
            },
        },
        "file_mounts": {f"{_HOME}/.ray/auth_token": "~/.ray/auth_token"},
        "initialization_commands": list(order.config.ray_up.setup),
        "setup_commands": [f"chmod 600 {_HOME}/.ray/auth_token"],
        "head_start_ray_commands": [
            f"{ray} --head --port={_GCS_PORT} --num-cpus=0 --num-gpus=0 --dashboard-host=127.0.0.1"
            f" --autoscaling-config=~/ray_bootstrap_config.yaml {_START}"
        ],
        "worker_start_ray_commands": [f"{ray} --address=$RAY_HEAD_IP:{_GCS_PORT} {_START}"],
    }


def _provider(order: Order, machines: MachinesConfig) -> dict[str, Any]:
    keys = order.config.ray_up
    region, zone = keys.region or machines.region, keys.zone or machines.zone
    match machines.cloud:
        case Cloud.azure:
            found: dict[str, Any] = {"type": "azure", "location": region}
            found["resource_group"] = keys.resource_group
        case Cloud.aws:
            # Machines that are stopped and kept cost their disks, and come back with yesterday's state.
            found = {"type": "aws", "region": region, "cache_stopped_nodes": False}
        case _:
            if keys.project is None:
                raise ConfigError("ray_up.project=null: GCP wants one; write e.g. ray_up.project=my-project")
            found = {"type": "gcp", "region": region, "project_id": keys.project}
    return {**found, "availability_zone": zone} if zone else found


def _docker(order: Order, machines: MachinesConfig) -> dict[str, Any]:
    shm = shm_bytes(order)
    options = ["--ulimit memlock=-1:-1", "--ulimit nofile=1048576:1048576"]
    several = order.plan.layout.nodes > 1
    past_kernel = several and order.config.fabric.transport is not Transport.sockets
    more = [f"--device={one}" for one in machines.devices] + ["--cap-add=IPC_LOCK"] if past_kernel else []
    topology = order.plan.environment.get("NCCL_TOPO_FILE")
    more += [f"--volume={topology.value}:{topology.value}:ro"] if topology is not None else []
    more += [f"--shm-size={shm}"] if shm is not None else []
    return {
        "image": order.image,
        "container_name": "orchestrator",
        "pull_before_run": True,
        "run_options": options,
        "worker_run_options": ["--gpus=all", *more] if order.on_gpus else more,
        "disable_shm_size_detection": shm is not None,
    }


def _resources(order: Order) -> dict[str, int]:
    cluster, layout = order.config.cluster, order.plan.layout
    cpus = cluster.cpu_threads_per_rank * layout.ranks_per_node
    return {"CPU": cpus, "GPU": layout.ranks_per_node} if order.on_gpus else {"CPU": cpus}


def _node(order: Order, machines: MachinesConfig, *, worker: bool) -> dict[str, Any]:
    match machines.cloud:
        case Cloud.azure:
            return _azure(order, machines, worker=worker)
        case Cloud.aws:
            return _aws(order, machines, worker=worker)
        case _:
            return _gcp(order, machines, worker=worker)


def _azure(order: Order, machines: MachinesConfig, *, worker: bool) -> dict[str, Any]:
    keys, image = order.config.ray_up, order.config.ray_up.image or machines.image
    parts = image.split(":")
    if len(parts) != 4:
        raise ConfigError(
            f"ray_up.image={image}: Azure's are PUBLISHER:OFFER:SKU:VERSION; write e.g."
            " ray_up.image=microsoft-dsvm:ubuntu-hpc:2204:latest"
        )
    names = ("imagePublisher", "imageOffer", "imageSku", "imageVersion")
    size = order.config.cluster.node_type if worker else keys.head_type or machines.head_type
    spot = {"priority": "Spot", "billingProfile": {"maxPrice": -1}} if worker and keys.spot else {}
    parameters = {"vmSize": size, **dict(zip(names, parts, strict=True)), "osDiskSize": keys.disk_gb}
    return {"azure_arm_parameters": {**parameters, **spot}}


def _aws(order: Order, machines: MachinesConfig, *, worker: bool) -> dict[str, Any]:
    keys = order.config.ray_up
    found: dict[str, Any] = {
        "InstanceType": order.config.cluster.node_type if worker else keys.head_type or machines.head_type,
        "ImageId": keys.image or machines.image,
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": keys.disk_gb, "VolumeType": "gp3"}}
        ],
    }
    if worker and order.config.fabric.transport is Transport.efa and order.plan.layout.nodes > 1:
        found["NetworkInterfaces"] = _efa(order)
    if worker and keys.spot:
        found["InstanceMarketOptions"] = {"MarketType": "spot"}
    return found


def _efa(order: Order) -> list[dict[str, Any]]:
    """An interface for each network card: the first has the machine's address, the others carry EFA alone."""
    keys = order.config.ray_up
    if len(keys.subnets) != 1 or not keys.security_groups:
        raise ConfigError(
            f"ray_up.subnets={keys.subnets}: EFA's interfaces want one subnet, and a security group that lets"
            " all traffic of its own members through; write e.g. 'ray_up.subnets=[subnet-0abc]'"
            " 'ray_up.security_groups=[sg-0abc]'"
        )
    return [
        {
            "NetworkCardIndex": card,
            "DeviceIndex": min(card, 1),
            "InterfaceType": "efa" if card == 0 else "efa-only",
            "SubnetId": keys.subnets[0],
            "Groups": list(keys.security_groups),
            "DeleteOnTermination": True,
        }
        for card in range(order.config.cluster.nics_per_node)
    ]


def _gcp(order: Order, machines: MachinesConfig, *, worker: bool) -> dict[str, Any]:
    keys = order.config.ray_up
    image = {"diskSizeGb": keys.disk_gb, "sourceImage": keys.image or machines.image}
    found: dict[str, Any] = {
        "machineType": order.config.cluster.node_type if worker else keys.head_type or machines.head_type,
        "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": image}],
    }
    if worker and order.plan.layout.nodes > 1:
        if len(keys.subnets) < order.config.cluster.nics_per_node:
            raise ConfigError(
                f"ray_up.subnets={keys.subnets}: a worker has an interface in each network of its GPUs,"
                f" {order.config.cluster.nics_per_node} of them, after those of the host; name the"
                " subnetworks of all, in their order"
            )
        found["networkInterfaces"] = [
            {"subnetwork": one, "nicType": "GVNIC" if place < _host_nics(order) else "MRDMA"}
            for place, one in enumerate(keys.subnets)
        ]
    if worker and keys.spot:
        found["scheduling"] = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
    return found


def _host_nics(order: Order) -> int:
    return len(order.config.ray_up.subnets) - order.config.cluster.nics_per_node


def _price(order: Order) -> str:
    plan = order.plan
    return (
        f"{plan.layout.ranks} {plan.unit}s on {plan.layout.nodes} machines {plan.node_type}, which cost"
        f" {usd(order.usd_per_hour)} an hour, without the head."
    )


def _remarks(order: Order, machines: MachinesConfig) -> list[str]:
    found = []
    if machines.cloud is Cloud.azure and order.plan.layout.nodes > 1:
        found.append(
            "Ray's launcher makes each machine of Azure by itself, in no scale set, and InfiniBand joins the"
            " members of one scale set alone: for several nodes take AKS (format=kuberay) or CycleCloud"
            " (format=slurm), or plan with fabric=ethernet"
        )
    if order.config.container.image is None:
        found.append(
            f"container.image is not set: machines pull {order.image}, which has to be where they look"
        )
    return found
