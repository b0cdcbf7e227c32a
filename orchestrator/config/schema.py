"""The typed schema of the whole configuration.

One root structured config (:class:`Config`) type-checks every group file below it. What leaves
``load.py`` are these dataclasses with plain values. What a number can be stands in its type, and is looked at
in ``ranges.py``; checks that need arithmetic over several keys live in ``plan/``, those that need the machine
in ``preflight.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.budget_schema import BudgetConfig as BudgetConfig
from orchestrator.config.check_schema import CheckConfig as CheckConfig
from orchestrator.config.choices import MISSING as MISSING
from orchestrator.config.choices import Device as Device
from orchestrator.config.choices import FlagStyle as FlagStyle
from orchestrator.config.choices import Preflight as Preflight
from orchestrator.config.choices import PriceKind as PriceKind
from orchestrator.config.choices import PriceQuality as PriceQuality
from orchestrator.config.choices import Resume as Resume
from orchestrator.config.choices import TrackedRanks as TrackedRanks
from orchestrator.config.evidence import PlannerEvidence
from orchestrator.config.export_schema import (
    ComposeConfig,
    ContainerConfig,
    KubeRayConfig,
    MachinesConfig,
    MonitoringConfig,
    RayUpConfig,
    SlurmConfig,
)
from orchestrator.config.fabric_schema import FabricConfig as FabricConfig
from orchestrator.config.fabric_schema import SettingConfig as SettingConfig
from orchestrator.config.kueue_schema import KueueConfig as KueueConfig
from orchestrator.config.model_keys import JobVariants, LayoutVariants, ModelVariants
from orchestrator.config.notifying import NotifyConfig as NotifyConfig
from orchestrator.config.placement_schema import PlacementConfig, TopologyConfig
from orchestrator.config.price_schema import PriceConfig as PriceConfig
from orchestrator.config.ranges import (
    Bytes,
    BytesOr0,
    Count,
    CountOr0,
    Days,
    Degree,
    DegreeOr0,
    Factor,
    FactorAbove1,
    FactorOr0,
    HoursAbove0,
    Pue,
    Rate,
    RateOr0,
    Seconds,
    SecondsAbove0,
    Seed,
    Share,
    ShareOr0,
    UsdAbove0,
    Watts,
)  # fmt: skip  # isort: skip
from orchestrator.config.scenario_schema import ScenarioConfig as ScenarioConfig
from orchestrator.config.serving import ServeConfig as ServeConfig
from orchestrator.config.snapshot_schema import SnapshotConfig as SnapshotConfig
from orchestrator.config.sweep_schema import SweepConfig as SweepConfig
from orchestrator.config.tracking_schema import MetricsConfig as MetricsConfig
from orchestrator.config.tracking_schema import TrackingConfig as TrackingConfig


@dataclass
class GpuConfig:
    """One accelerator. Rates are dense peaks in FLOP/s by precision; bandwidths are one direction.
    ``matmul_efficiency`` is fitted to published training runs, see ``docs/planner_model.md``."""

    name: str = MISSING  # as printed
    device: Device = Device.cuda
    unit: str = "GPU"  # what plan, bill and summary call one of them
    memory_bytes: Bytes = MISSING  # of one accelerator; a plan that needs more is refused
    memory_bandwidth_bytes_per_s: Rate | None = None  # to its own memory
    # dense FLOP/s by precision: bf16, fp16, tf32, fp32, fp8
    peak_flops: dict[str, Rate] = field(default_factory=dict)
    nvlink_bytes_per_s: Rate | None = None  # to the other GPUs of the node
    architecture: str = ""  # ampere, hopper, …: key of planner.matmul_efficiency
    multiprocessors: Degree = 1  # that tiles of a matrix product are spread over
    tdp_w: Watts | None = None  # thermal design power, the power of an owned GPU
    # share of the dense peak that a large matrix product sustains in training, by precision; a precision
    # without one has no predicted step time. The files here take planner.matmul_efficiency of their
    # architecture
    matmul_efficiency: dict[str, Share] = field(default_factory=dict)
    # parts of NVML's product name; a node with other GPUs is refused
    product_names: list[str] = field(default_factory=list)
    # for a cluster without a price of its own
    reference_price: PriceConfig = field(default_factory=PriceConfig)
    source: str = MISSING  # where memory, bandwidth and peaks come from


@dataclass
class ClusterConfig:
    """Node type x count. ``nic_bits_per_s`` is one NIC's line rate."""

    name: str = MISSING  # as printed
    node_type: str = MISSING  # as the provider calls it
    nodes: Degree = MISSING  # of one run, all of the same type
    gpus_per_node: DegreeOr0 = MISSING  # also the ranks per node
    # what a node can have: options of gpu by name, each with the counts of them; another choice is refused.
    # Empty is anything, as on a cluster of your own
    gpus: dict[str, list[Degree]] = field(default_factory=dict)
    # plan a node that nobody sells, with GPUs or counts that are not among these: without name, power and
    # price of the one that it is after, and what is assumed of it is said
    hypothetical: bool = False
    assumed: str = ""  # of such a node; filled in
    cpu_threads_per_rank: Degree = 8  # becomes OMP_NUM_THREADS
    nics_per_node: DegreeOr0 = 0  # of the compute network
    nic_bits_per_s: RateOr0 = 0.0
    host_memory_bytes: Bytes | None = None  # of a node, for offload; null is not checked
    # that all nodes together write to the storage of checkpoints; null is not known, and a plan says what it
    # takes
    storage_bytes_per_s: Rate | None = None
    host_link_bytes_per_s: Rate = 25.0e9  # of one accelerator to its node's memory, for offload
    node_power_w: Watts | None = None  # of one node at most; null is estimated from gpu.tdp_w
    # power usage effectiveness of the building, 1 or more; the default is Uptime's average of 2023
    pue: Pue = 1.58
    power_limit_w: Watts | None = None  # of the site, for all nodes with PUE; a plan above it is refused
    # what the site's electricity emits, grams of CO2 a kilowatt-hour, with its source; null tells no CO2
    grid_gco2_per_kwh: FactorOr0 | None = None
    grid_source: str | None = None
    source: str = ""  # where node type and network are described
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    machines: MachinesConfig = field(default_factory=MachinesConfig)
    price: PriceConfig = field(default_factory=PriceConfig)


@dataclass
class ModelConfig(ModelVariants):
    """A decoder-only transformer's shape. ``gated_mlp``: SwiGLU (three matrices) or GELU (two). With
    ``experts`` above 1 every layer has that many MLPs, of which a router gives each token
    ``experts_per_token``; ``ffn`` is then the inner width of one expert."""

    name: str = MISSING  # as printed
    layers: Degree = MISSING  # transformer blocks
    hidden: Degree = MISSING  # width of the residual stream
    heads: Degree = MISSING  # query heads
    kv_heads: Degree = MISSING  # key and value heads; as many as heads without grouped queries
    ffn: Degree = MISSING  # inner width of the MLP, of one expert where there are several
    vocab: Count = MISSING  # rows of the embedding
    seq_len: Count = MISSING  # tokens of one sequence
    gated_mlp: bool = True
    biases: bool = False  # in linear layers and norms, as in GPT-2
    learned_positions: bool = False  # instead of rotary ones
    tie_embeddings: bool = False  # the output layer is the embedding
    rope_theta: Factor = 10000.0  # base of the rotary frequencies
    norm_eps: FactorOr0 = 1e-5  # keeps the norm from dividing by 0
    head_dim: Degree | None = None  # width of one head; null is hidden / heads
    qkv_biases: bool = False  # of queries, keys and values only, as in Qwen2
    qk_norms: bool = False  # a norm over each head of queries and keys, as in Qwen3
    sliding_window: Count | None = None  # positions that a token attends to; null is all before it
    experts: Degree = 1  # MLPs of a layer, among which a router chooses; 1 is a dense model
    experts_per_token: Degree = 1  # how many of them compute a token
    source: str = ""  # where the shape is published


@dataclass
class LayoutConfig(LayoutVariants):
    """Degrees of parallelism; data parallel follows from the ranks. With ``auto`` the planner chooses them,
    the micro-batch, recomputation and DeepSpeed's ``zero_optimization``: the cheapest that fits."""

    auto: bool = False  # layout=auto sets it
    tp: Degree = 1  # tensor parallel ranks
    pp: Degree = 1  # pipeline stages
    sp: Degree = 1  # sequence parallel ranks
    ep: Degree = 1  # expert parallel ranks, which divide dp
    vp: Degree = 1  # interleaved pipeline stages of one rank; DeepSpeed's own pipeline engine has 1
    recompute: bool = False  # activations in backward instead of keeping them


@dataclass
class JobConfig(JobVariants):
    """What to train: ``script``, ``module`` or ``command``, one of them. It gets ``argv`` and then ``args``,
    which become ``--name=value`` or what ``flag_style`` says; ``{run_dir}``, ``{deepspeed_config}``,
    ``{checkpoint_dir}``, ``{skip_batches}``, ``{mtbf_s}`` and ``{local_rank}`` in both are filled in on the
    node. ``ranks`` null means the whole cluster, ``supports`` null that the script can do every kind of
    parallelism. ``builds`` names the choices of ``model`` that the script makes for itself, e.g.
    ``gated_mlp: true`` or ``experts: 1``."""

    name: str = MISSING  # part of the run's name
    script: str | None = None  # looked up from cwd, then among the jobs that come with the project
    module: str | None = None  # by its dotted name, as python -m runs it; looked up as Python does, from cwd
    # a program that is no Python script, a shell script say; looked up from cwd where it has a slash, else on
    # PATH
    command: str | None = None
    argv: list[str] = field(default_factory=list)  # its arguments, one word each, as they are
    args: dict[str, Any] = field(default_factory=dict)
    # how args become words. equals: --name=value, lists joined by commas. flags, as argparse has them:
    # --name value, --name alone for true and nothing for false, each item of a list a word. dotted: the same,
    # with a nested map as --outer.inner value. python: equals with True and False. hydra: outer.inner=value
    flag_style: FlagStyle = FlagStyle.equals
    env: dict[str, str] = field(default_factory=dict)  # environment of the ranks; the root's env wins over it
    cwd: str | None = None  # of every rank; null is where the command is run
    ranks: Degree | None = None
    steps: Count | None = None  # optimizer steps, for prediction and progress; null is unknown
    global_batch: Count | None = None  # sequences a step over all ranks; null follows from the other two
    micro_batch: Count = 1  # sequences a rank takes at once
    gradient_accumulation: Count | None = None  # micro-batches a step; null follows from global_batch
    # of the global batch, for tokens/s and the price of a million; null follows from the model, if any
    tokens_per_step: Count | None = None
    precision: str = "auto"  # bf16, fp16, fp32, fp8, or auto: bf16 where the accelerator has it
    seed: Seed = 0  # for the script's arguments
    # files, directories, globs or stdlib; checked to be the same on every node
    corpus: list[str] = field(default_factory=list)
    tokenizer: str | None = None  # for the script's arguments; null is its own default
    checkpoint_dir: str | None = None  # shared by all nodes; null is checkpoints in the run directory
    # added to the script's arguments when an attempt goes on from a checkpoint, with {checkpoint},
    # {resume_step} and {attempt}; null is recognised from the script's source, [] is nothing
    resume_args: list[str] | None = None
    # auto takes up a run of this name that has not finished; needs run_name or run_dir
    resume: Resume = Resume.never
    supports: list[str] | None = None
    builds: dict[str, Any] = field(default_factory=dict)


@dataclass
class RecoveryConfig:
    """What happens after a fault and at a stop."""

    # after faults of ranks, of one run; 0 ends it at the first. Faults of nodes do not count
    max_restarts: CountOr0 = 3
    # faults in a row, of whatever kind, without a new step between them
    max_faults_without_progress: CountOr0 = 5
    stop_grace_s: Seconds = 30.0  # from SIGTERM to SIGKILL at a stop: time to save
    # what asks the run to stop, beside Ctrl-C: SIGTERM by most job managers, SIGHUP by a terminal that is
    # closed, SIGUSR1 by Slurm's --signal=USR1@120. A second one stops at once
    stop_signals: list[str] = field(default_factory=lambda: ["TERM", "HUP", "USR1"])
    kill_grace_s: Seconds = 2.0  # the same for the other ranks after one was lost
    sigkill_timeout_s: Seconds = 15.0  # a rank that outlives SIGKILL by so long is a fault of its node
    wait_for_node_s: Seconds = 600.0  # for a lost node to come back or another to take its place
    hang_factor: Factor = 3.0  # no progress for so many medians of the current phase is looked into
    hang_floor_s: SecondsAbove0 = 60.0  # but never earlier than this
    # the same for a phase without history: import, initialize, first step, load
    hang_timeout_cold_s: SecondsAbove0 = 90.0
    # an attempt is ended when the ranks that others wait for, or that are left when all others have ended
    # well, have done nothing at all for so long
    hang_evidence_s: SecondsAbove0 = 120.0
    # no progress for so long ends it too, whatever an idle rank waits for (a timer, a child, a connection);
    # null: never
    hang_after_s: SecondsAbove0 | None = None
    agent_timeout_s: SecondsAbove0 = 30.0  # an agent that does not answer for so long is lost
    straggler_factor: Factor = 1.5  # a rank whose own work takes so many times that of the others is named
    straggler_steps: Count = 20  # over so many steps
    # nothing is said of it in the first so many seconds of steps of an attempt
    straggler_after_s: Seconds = 300.0
    # a loss above so many medians, and scatters, of those before is rejected like NaN
    loss_spike: FactorAbove1 | None = 3.0
    max_skips: CountOr0 = 3  # rejected losses of one run after which it goes back and skips the batch
    skip_batches: Count = 1  # how many batches, the rejected one first
    # until one fails: 54 days of 16,384 H100 with 419 interruptions make 50,700 (Llama 3, arXiv 2407.21783)
    gpu_hours_per_failure: HoursAbove0 = 50700.0


@dataclass
class PlannerConfig(PlannerEvidence):
    """Constants of the step-time and memory model, each with a meaning, fitted to published training runs by
    ``benchmarks/planner_fit.py``. See ``docs/planner_model.md``."""

    fitted: str = MISSING  # when, and to what
    # mean of |predicted / measured - 1| of step times over tables of published runs, each left out of the fit
    step_time_error: FactorOr0 = MISSING
    # share of the dense peak that a large matrix product sustains in training, by architecture and precision
    matmul_efficiency: dict[str, dict[str, Share]] = field(default_factory=dict)
    wave_tail: FactorOr0 = MISSING  # waves of tiles whose time the end of a matrix product loses
    ramp_depth: FactorOr0 = MISSING  # inner dimension that takes as long as a tile's prologue and epilogue
    attention_efficiency: Factor = MISSING  # of fused attention, relative to a large matrix product
    # on Hopper, of fused attention that does without its instructions
    attention_before_hopper: Factor = MISSING
    score_efficiency: Factor = MISSING  # the same of the batched products of unfused attention
    # how much slower where a head's width is no multiple of 8, which tensor cores do not take
    misaligned_factor: Factor = MISSING
    hbm_efficiency: Share = MISSING  # share of the memory bandwidth that memory-bound kernels reach
    # reads and writes of the residual stream in one layer's forward pass, eager
    stream_passes: FactorOr0 = MISSING
    fp8_passes: FactorOr0 = MISSING  # reads and writes more with fp8: scales, casts and transposes
    host_s_per_layer: Seconds = MISSING  # that the host needs to start one pass of one layer, eager
    host_share_of_tp: FactorOr0 = MISSING  # more of it for each doubling of the tensor parallel ranks
    host_s_per_step: Seconds = MISSING  # between steps: optimizer, logging, the next batch
    link_efficiency: Share = MISSING  # of NVLink's rate that a large collective reaches
    link_latency_s: Seconds = MISSING  # of one step of a collective inside a node
    tp_hidden_share: ShareOr0 = MISSING  # of tensor parallel communication, in software that overlaps it
    # of the compute beside it, in which data parallel communication can hide
    dp_hidden_share: ShareOr0 = MISSING
    # by which hidden communication slows the compute beside it, share of its time
    contention: FactorOr0 = MISSING


@dataclass
class LaunchConfig:
    """How ranks are started."""

    # fork ranks from a process with torch and DeepSpeed imported; false starts interpreters
    zygote: bool = True
    # of the script's own imports, those that this process has too: null is the heavy ones that its source
    # imports, [] none; others by name
    preload: list[str] | None = None
    wait_for_resources_s: Seconds = 60.0  # for the cluster to have the nodes free
    start_timeout_s: SecondsAbove0 = 300.0  # for agents and ranks to start
    poll_s: SecondsAbove0 = 0.1  # between two looks at the agents
    dashboard: bool = True  # of a cluster started here, on loopback
    # by which other nodes reach the Ray that `up` starts here; null is loopback: this machine alone
    node_address: str | None = None
    idle_timeout_s: SecondsAbove0 = 1800.0  # after which a warm zygote of a kept cluster goes, unused
    # variables of the shell that starts the run which its ranks get though docs/environment.md leaves them
    # out
    forward: list[str] = field(default_factory=list)
    # of the disk that the log of one rank and attempt may take; beyond that what lies between its first and
    # last lines is left out. At least 4194304; null or 0 is no bound
    log_max_bytes: BytesOr0 | None = 1073741824
    # folder that Ray ships to the nodes, with script, cwd and corpus below it; null: they have them
    working_dir: str | None = None
    # ids that Ray has given to nodes (`status --json` has them): the run is on these and no others, and waits
    # for them; at least cluster.nodes of them. Empty is any
    node_ids: list[str] = field(default_factory=list)


@dataclass
class Config:
    """Root of the configuration."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    gpu: GpuConfig = field(default_factory=GpuConfig)
    fabric: FabricConfig = field(default_factory=FabricConfig)
    model: ModelConfig | None = None
    job: JobConfig = field(default_factory=JobConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    # DeepSpeed's own configuration; misspelt keys are refused. deepspeed=FILE.json takes a file of one's own
    deepspeed: dict[str, Any] = field(default_factory=dict)
    # that file, or one that an argument of the script names: set by these, to say where deepspeed is from
    deepspeed_file: str | None = None
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    snapshot: SnapshotConfig = field(default_factory=SnapshotConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    check: CheckConfig = field(default_factory=CheckConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    kueue: KueueConfig = field(default_factory=KueueConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    # what 'export' writes: kuberay, slurm, ray-up, compose or monitoring
    format: str | None = None
    container: ContainerConfig = field(default_factory=ContainerConfig)
    kuberay: KubeRayConfig = field(default_factory=KubeRayConfig)
    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    ray_up: RayUpConfig = field(default_factory=RayUpConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    scenario: ScenarioConfig | None = None
    # environment of the ranks; wins over job.env and the fabric's
    env: dict[str, str] = field(default_factory=dict)
    # host:port or auto of a running cluster; null is RAY_ADDRESS, else the cluster that `up` keeps, else one
    # that starts and ends with the run on this machine; local is always the latter
    ray_address: str | None = None
    run_root: str = "runs"  # folder of the runs
    # file that `calibrate` wrote; null is calibration.yaml in run_root, if it is there
    calibration: str | None = None
    budget_usd: UsdAbove0 | None = None  # 'plan' then answers what can be trained for so much
    deadline_days: Days | None = None  # 'plan' then answers what can be trained in that time
    clusters: list[str] = field(default_factory=list)  # that such plans compare, as cluster=A,B; [] is all
    own: bool = False  # 'plan' then answers whether owned hardware pays off against renting it, and when
    # check the cluster's nodes before a run takes them, and leave out those that are bad or were found so
    # before: quick or full, as the verb check does. It takes ten seconds of a launch and more, so it is off
    preflight: Preflight = Preflight.off
    run_name: str | None = None  # null is time, eight random characters and the job
    # a new run directory is 0750 instead of 0700: its group may read what is in it
    run_group_reads: bool = False
    run_dir: str | None = None  # null is run_root/run_name; on every node the same path
    # who pays, in run_root/spend/RUN.json, which the group of run_root may read; null is the user who starts
    # the run
    owner: str | None = None
    project: str | None = None  # and for what
    cost_center: str | None = None
    # file of what owners, projects and cost centres may spend in a month; null is budgets.yaml in run_root,
    # if it is there
    budgets: str | None = None
