"""The keys of ``export``: what the system of a cluster needs beside the cluster, the job and the plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from orchestrator.config.ranges import (
    CountOr0,
    Degree,
    DegreeOr0,
    Hours,
    HoursAbove0,
    Port,
    SecondsAbove0,
    Share,
    UsdAbove0,
)


class PodNetwork(Enum):
    """Which network a worker pod has: that of all pods, the node's own, or several that Multus attaches."""

    pod = "pod"
    host = "host"
    multus = "multus"


class GangScheduler(Enum):
    """Who places all pods of a run at once or none of them; ``none`` is Kubernetes' own scheduler."""

    none = "none"
    kueue = "kueue"
    volcano = "volcano"
    kai = "kai"


class HeadStore(Enum):
    """Where Ray's control store keeps what it knows, so that a head that ends comes back with it."""

    redis = "redis"
    rocksdb = "rocksdb"
    off = "off"


class Cloud(Enum):
    """Whose machines ``ray up`` rents."""

    aws = "aws"
    azure = "azure"
    gcp = "gcp"


@dataclass
class PodsConfig:
    """What Kubernetes has to give a worker pod so that it reaches this fabric; of the clusters' device
    plugins. What it lists is a text each: a name may have dots and slashes."""

    resources: list[str] = field(default_factory=list)  # NAME:COUNT each, requested and limited
    annotations: list[str] = field(default_factory=list)  # NAME:VALUE each, of the pod
    # HOST:POD each, folders of the node that the pod sees, read only
    mounts: list[str] = field(default_factory=list)
    network: PodNetwork = PodNetwork.pod
    why_not: str = ""  # why no manifest alone gives a pod this fabric; empty where one does
    source: str = ""  # where these are described


@dataclass
class MachinesConfig:
    """What Ray's own launcher, ``ray up``, has to know of a provider's machines beside their type."""

    cloud: Cloud | None = None  # null: nobody rents these by ray up
    region: str = ""  # where they are rented
    zone: str = ""  # in it, where the provider wants one
    # of the machine, with drivers and the container's runtime; for Azure PUBLISHER:OFFER:SKU:VERSION
    image: str = ""
    head_type: str = ""  # of the head, which has no GPU
    user: str = "ubuntu"  # of its images
    devices: list[str] = field(
        default_factory=list
    )  # that the container of a worker gets, e.g. /dev/infiniband
    why_not: str = ""  # why they are not rented by ray up; empty where they are
    source: str = ""  # where the image is described


@dataclass
class ContainerConfig:
    """The images that ``export`` names."""

    image: str | None = None  # of head, workers and MLflow; null is orchestrator:VERSION-cuda, or -cpu
    postgres_image: str = "postgres:15.18"  # as `make test-services` has it, of Debian
    prometheus_image: str = "prom/prometheus:v2.42.0"  # the same
    grafana_image: str = "grafana/grafana:12.0.0"  # tried by nobody here
    redis_image: str = "redis:7.4"  # of the head's store; tried by nobody here


@dataclass
class KubeRayConfig:
    """``export format=kuberay``: a RayJob, a RayCluster, and what they need in a namespace of their own."""

    name: str | None = None  # of all objects; null is run_name, else job and cluster
    namespace: str = "orchestrator"  # of Kubernetes, for all objects
    network: PodNetwork | None = None  # of worker pods; null is the fabric's own
    networks: list[str] = field(default_factory=list)  # that Multus attaches, by their names
    resources: list[str] | None = None  # NAME:COUNT each, of a worker; null is the fabric's own
    node_selector: list[str] = field(default_factory=list)  # LABEL:VALUE each, of the workers' nodes
    scheduler: GangScheduler = GangScheduler.none
    queue: str | None = None  # of Kueue (LocalQueue), Volcano or KAI
    topology_label: str | None = None  # of nodes: Kueue places the workers in one of its domains
    topology_required: bool = False  # wait for such a domain, rather than take several
    # a worker says in which zone, block and rack its node is: it may read nodes of Kubernetes for that
    node_labels: bool = False
    priority_class: str | None = None  # of all pods, by its name
    storage_class: str | None = None  # of the volume of runs, which all nodes write to; null is the default
    storage: str = "1Ti"  # of that volume
    claim: str | None = None  # a PersistentVolumeClaim that is there already, instead of that volume
    head_cpus: Degree = 4  # of the head pod, where the run's own process is
    head_memory: str = "16Gi"  # of the head pod
    head_store: HeadStore = HeadStore.redis
    shm: str | None = None  # of a worker's /dev/shm; null is what the plan stages there
    user: DegreeOr0 = 1000  # user and group of every process in the pods
    secrets: list[str] = field(default_factory=list)  # Secrets whose keys become variables of the pods
    mlflow: bool = True  # an MLflow server beside the cluster, where tracking names no other
    keep_s: CountOr0 = 300  # after the run's end until the cluster, and with it the GPUs, is given back


@dataclass
class SlurmConfig:
    """``export format=slurm``: a batch script that starts a Ray over its nodes and goes on by itself."""

    job_name: str | None = None  # null is run_name, else job and cluster
    partition: str | None = None  # of Slurm, as sbatch --partition; null is the site's default
    account: str | None = None  # the same of --account
    qos: str | None = None  # the same of --qos
    constraint: str | None = None  # of nodes, by Slurm's features
    # until the job is requeued and goes on; null is what nine of ten such runs take by the plan, so that
    # short ones fit into gaps, and at most most_time_hours
    time_hours: HoursAbove0 | None = None
    most_time_hours: HoursAbove0 = 24.0  # of a job whose time_hours is null: what the partition allows
    max_requeues: CountOr0 = 100  # of one job, by itself; a lost node counts too
    exclusive: bool = True  # whole nodes
    switches: Degree | None = None  # at most so many leaf switches; null lets Slurm choose
    switches_wait_hours: Hours = 12.0  # so long for them, then any
    gpus: str | None = None  # of a node as Slurm counts them, e.g. gpu:h100:8; null is gpu:COUNT
    python: str | None = None  # the interpreter, the same path on every node; null is the one that exports
    setup: list[str] = field(default_factory=list)  # lines before all else, e.g. module load cuda
    directives: list[str] = field(default_factory=list)  # further lines of #SBATCH, e.g. --reservation=llm
    array_at_once: Degree = 1  # tasks that run at the same time, of the job array that a sweep (-m) becomes


@dataclass
class RayUpConfig:
    """``export format=ray-up``: the file of Ray's own cluster launcher."""

    name: str | None = None  # null is run_name, else job and cluster
    region: str | None = None  # null is cluster.machines.region
    zone: str | None = None  # null is cluster.machines.zone
    image: str | None = None  # of the machines; null is cluster.machines.image
    head_type: str | None = None  # null is cluster.machines.head_type
    resource_group: str = "orchestrator"  # of Azure
    project: str | None = None  # of GCP
    # subnets of the workers' interfaces: one of AWS, for all; of GCP one for each interface, in their order
    subnets: list[str] = field(default_factory=list)
    security_groups: list[str] = field(default_factory=list)  # of AWS, which let EFA's traffic through
    spot: bool = False  # workers that may be taken away
    disk_gb: Degree = 500  # of the system of each machine, with the container's image
    setup: list[str] = field(default_factory=list)  # shell commands of every machine, before its container


@dataclass
class ComposeConfig:
    """``export format=compose``: this project on one machine, with MLflow, Prometheus and Grafana. All ports
    are on loopback."""

    mlflow_port: Port = 5000  # of MLflow's pages
    prometheus_port: Port = 9090  # of Prometheus'
    grafana_port: Port = 3000  # of Grafana's


@dataclass
class MonitoringConfig:
    """``export format=monitoring``, and what ``compose`` brings of it: Prometheus' rules, and Grafana's
    dashboard. Each number is where an alert begins."""

    no_step_s: SecondsAbove0 = 900.0  # a run that holds accelerators, without a step
    goodput: Share = 0.8  # training share of what a run held in the last hour, when it is below this
    cost_usd_per_hour: UsdAbove0 = 1000.0  # of all runs together, when it is above this
    budget: Share = 0.8  # share of a cap of a run's budget, or of a team's month, that is spent
    wait_hours: HoursAbove0 = 24.0  # that a job of the queue has waited
    dashboard: str = "127.0.0.1:8265"  # HOST:PORT of Ray's dashboard, which tells Prometheus where to look
    release: str = "prometheus"  # of Helm, by whose name Prometheus' operator knows what is its own
