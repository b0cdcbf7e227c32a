"""Config → plan, with a look at this machine: what is refused here has cost nothing yet."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.agent import corpus
from orchestrator.agent.staging_dir import why_too_much
from orchestrator.config import hardware
from orchestrator.config.hardware_fit import no_gpu_here
from orchestrator.config.load import conf_dir
from orchestrator.config.origin import of_real_hardware
from orchestrator.config.programs import find_command, find_module
from orchestrator.config.schema import Config, Device, SnapshotConfig
from orchestrator.driver.deepspeed_part import literal_of, with_deepspeed_ready
from orchestrator.driver.launch_check import check_forward, working_dir
from orchestrator.driver.script_preload import check_preload
from orchestrator.driver.script_sources import script_sources
from orchestrator.driver.signing import check_signing
from orchestrator.errors import ClusterUnreachable, ConfigError
from orchestrator.plan.layout.layout import check_values
from orchestrator.plan.plan import Plan, make_plan, shared_of
from orchestrator.plan.remarks import not_built
from orchestrator.plan.resuming import resuming
from orchestrator.plan.source import Source
from orchestrator.planner.calibration_file import calibrations_of
from orchestrator.planner.topology_file import said_of_file, tree_of_said
from orchestrator.topology.files import Said
from orchestrator.vocabulary import ProgramKind

if TYPE_CHECKING:
    from orchestrator.cluster.warm.record import WarmCluster
    from orchestrator.planner.budget import LookAtScript

CONNECT_TIMEOUT_S = 5.0
# Of English text and a vocabulary of some 50,000: the usual rule of thumb, for what is remarked on only.
BYTES_PER_TOKEN = 4
# The address that always means a cluster which starts and ends with the run.
LOCAL = "local"


@dataclass(frozen=True)
class Target:
    """The cluster of a run: ``address`` None starts one; ``warm_cluster`` is on record by ``up``; ``remark``
    is for people."""

    address: str | None
    warm_cluster: WarmCluster | None = None
    remark: str | None = None


def asked_address(config: Config) -> str | None:
    """``ray_address``, or where it says nothing ``RAY_ADDRESS``, which Ray sets for the jobs that it is
    handed.

    An HTTP address there is meant for Ray's own job commands.
    """
    named = os.environ.get("RAY_ADDRESS") or None
    return config.ray_address or (None if named and named.startswith("http") else named)


def find_target(config: Config) -> Target:
    """The cluster that a run is to attach to, answering; or none where it is to start its own.

    Raises :class:`ConfigError` and :class:`ClusterUnreachable`.
    """
    from orchestrator.cluster import tls

    target = _target(config)
    tls.check_own() if target.address is None else tls.check_other(target.address)
    return target


def _target(config: Config) -> Target:
    from orchestrator.cluster.warm import record

    known, remark = record.find(), None
    if known is not None and not known.answers():
        remark = (
            f"the cluster that 'up' kept at {known.address} does not answer any more; 'orchestrator down'"
            " clears it"
        )
        known = None
    asked = asked_address(config)
    if asked is not None and asked != LOCAL:
        address = reachable_address(asked)
        return Target(address, known if known and known.address == address else None)
    if known is not None and asked is None:
        return Target(known.address, known)
    if config.launch.node_ids and asked is None:  # as those of a queue do, whose Ray has died just now
        raise ClusterUnreachable(
            "launch.node_ids: names nodes of a cluster that is there, and "
            f"{remark or 'none is kept here'}; start one with 'orchestrator up', or name it with"
            " ray_address=HOST:PORT"
        )
    if config.cluster.name != "local" or config.cluster.nodes > 1:
        local = config.cluster.name == "local"
        what = f"cluster.nodes={config.cluster.nodes}" if local else f"cluster={config.cluster.name}"
        raise ConfigError(
            f"{what}: needs ray_address=host:port of that cluster's Ray ('plan' works without it); "
            "only cluster=local with one node is started here"
        )
    return Target(None, remark=remark)


def plan_of(config: Config, observed: bool = True) -> Plan:
    """The plan of a configuration, with script, corpus and versions as this machine has them.

    Without ``observed`` the plan has no facts: the same is refused, but nothing is hashed. Enough to read,
    not to launch. Raises :class:`ConfigError`.
    """
    return planned(config, observed).plan


@dataclass(frozen=True)
class Planned:
    """A plan, the script's sources that it was made from, and what a file says of where nodes are."""

    plan: Plan
    sources: Sequence[Source]
    places: Sequence[Said] = ()


def planned(config: Config, observed: bool = True) -> Planned:
    """As :func:`plan_of`, for whoever starts it: what else is asked of the script's sources needs no second
    look at them."""
    config = of_real_hardware(config)
    check_values(config)  # first: DeepSpeed's batch sizes come from the job's
    config, program = _with_program(config)
    script, cwd = program.path, program.cwd
    check_local_gpus(config)
    sources, least_bytes = config.job.corpus, least_corpus_bytes(config)
    tokens = _corpus_tokens(config, corpus.find(sources, cwd, least_bytes)) if sources else None
    check_checkpoint_dir(config)
    working_dir(config)
    check_forward(config)
    if config.launch.preload:
        check_preload(config, own_interpreter=starts_here(config))
    check_signing(config)
    places = said_of_file(config)
    facts = {}
    if observed:
        from orchestrator.agent.facts import observe

        facts = observe(script, sources, cwd, least_bytes, alone=program.kind is ProgramKind.COMMAND)
    module = config.job.module if program.kind is ProgramKind.MODULE else None
    plan = make_plan(
        config,
        str(script),
        str(cwd),
        facts,
        calibrations_of(config),
        program.sources,
        program.kind,
        module,
        corpus_tokens=tokens,
        tree=tree_of_said(config, places),
    )
    check_world_size(config, plan)
    return Planned(plan, program.sources, places)


def starts_here(config: Config) -> bool:
    """Whether it is plain, without a word to any Ray, that a run starts a cluster of its own on this
    machine."""
    asked = asked_address(config)
    if config.cluster.name != LOCAL or config.cluster.nodes > 1 or asked not in (None, LOCAL):
        return False
    from orchestrator.cluster.warm import record

    return asked == LOCAL or record.find() is None


def check_world_size(config: Config, plan: Plan) -> None:
    """What other ranks have written as parts cannot be gone on from. Raises :class:`ConfigError`.

    Looked at where it is on this machine; the nodes look at theirs before ranks start.
    """
    folder = checkpoint_folder(config, plan.cwd)
    if folder is None or not folder.is_dir() or not config.snapshot.enabled:
        return
    from orchestrator.checkpoint import world_size

    newest = None if world_size.loads_any_number(plan.deepspeed) else world_size.newest_in(folder)
    if newest is None or world_size.is_converted(newest[0]):
        return
    why = world_size.misfit(newest[1], plan.layout.ranks)
    if why is not None:
        raise ConfigError(world_size.refusal(*newest, why, plan.layout.ranks))


def checkpoint_folder(config: Config, cwd: str) -> Path | None:
    """Where a run's checkpoints will be; None for a run whose name is not drawn yet, which has none."""
    if config.job.checkpoint_dir:
        return Path(cwd, config.job.checkpoint_dir)
    own = config.run_dir or (config.run_name and os.path.join(config.run_root, config.run_name))
    return Path(own, "checkpoints") if own else None


def find_program(config: Config, cwd: Path) -> tuple[ProgramKind, Path]:
    """What every rank runs, and its absolute path. Raises :class:`ConfigError` where it is not one program,
    or not there."""
    job = config.job
    given = [name for name in ("script", "module", "command") if getattr(job, name)]
    if not given:
        raise ConfigError(
            "job.script: no value given; set it, e.g. job.script=…, or job.module=… as for python -m, or"
            " job.command=… for what is no Python"
        )
    if len(given) > 1:
        both = " and ".join(f"job.{name}={getattr(job, name)}" for name in given)
        raise ConfigError(f"{both}: ranks run one of them; leave the other out with job.{given[0]}=null")
    if job.module:
        python_path = {**job.env, **config.env}.get("PYTHONPATH", "")
        return ProgramKind.MODULE, find_module(job.module, cwd, python_path)
    if job.command:
        return ProgramKind.COMMAND, find_command(job.command, cwd)
    return ProgramKind.SCRIPT, find_script(str(job.script), cwd)


def check_before_search(config: Config) -> None:
    """What no layout mends is refused before one is looked for. Raises :class:`ConfigError`."""
    of_real_hardware(config)
    check_values(config)
    _with_program(config)


def look_at_script(config: Config) -> LookAtScript:
    """What a plan would know of the script, refused where a plan would refuse it. Raises
    :class:`ConfigError`."""
    from orchestrator.planner.budget import LookAtScript

    check_values(config)
    _, program = _with_program(config)
    how = resuming(config.job.resume_args, program.sources).how
    return LookAtScript(how, shared_of(config, program.sources), literal_of(config, program.sources))


@dataclass(frozen=True)
class _Program:
    """What every rank runs: its path, the folder that it is run in, and its sources, which are read once for
    all that is asked of them."""

    kind: ProgramKind
    path: Path
    cwd: Path
    sources: Sequence[Source]


def _with_program(config: Config) -> tuple[Config, _Program]:
    """With the DeepSpeed part that the program will train with."""
    cwd = Path(config.job.cwd or os.getcwd()).resolve()
    if not cwd.is_dir():
        raise ConfigError(
            f"job.cwd={config.job.cwd}: no such folder; give one that is there, or job.cwd=null for the one"
            " that the command is run in"
        )
    check_tokenizer(config, cwd)
    check_staging(config)
    kind, path = find_program(config, cwd)
    # Python looks for what a module imports where it is run, and for what a script imports beside it.
    sources = script_sources(path, cwd if kind is ProgramKind.MODULE else None)
    return with_deepspeed_ready(config, path, cwd, sources), _Program(kind, path, cwd, sources)


def find_script(script: str, cwd: Path) -> Path:
    """An absolute path: as given, from ``cwd``, or among the jobs that come with the project. A link to a
    script keeps its own name, by which scripts find what lies beside them."""
    candidates = [cwd / Path(script).expanduser(), conf_dir().parent / script]
    for path in candidates:
        if path.is_file():
            return Path(os.path.abspath(path))
    raise ConfigError(
        f"job.script={script}: no such file (looked at {' and '.join(map(str, dict.fromkeys(candidates)))}); "
        "give the path of a Python script"
    )


def check_tokenizer(config: Config, cwd: Path) -> None:
    """A tokenizer that is named by a path has to be there. Raises :class:`ConfigError`."""
    name = config.job.tokenizer
    if name is None or not (name.startswith(("/", "./", "../", "~")) or name.endswith(".json")):
        return  # a word of the script's own, or a name of a hub
    if not (cwd / Path(name).expanduser()).exists():
        raise ConfigError(
            f"job.tokenizer={name}: no such file (looked in {cwd}); give the path of a tokenizer.json, or"
            " job.tokenizer=null for the script's own"
        )


def check_staging(config: Config) -> None:
    """A folder to stage in that is named for this machine has to be here, and be able to hold what is to be
    parked there; what is there by default need not be. Raises :class:`ConfigError`."""
    if config.cluster.name != "local" or asked_address(config) not in (None, LOCAL):
        return  # the nodes look at theirs, and say what they take instead
    usual = SnapshotConfig().dirs
    for name in config.snapshot.dirs:
        if name not in usual and not (os.path.isdir(name) and os.access(name, os.W_OK)):
            raise ConfigError(
                f"snapshot.dirs=[{name}]: no folder that can be written; make it, or write"
                f" 'snapshot.dirs=[{','.join(usual)}]' for the usual ones"
            )
    if config.snapshot.enabled and (why := why_too_much(config.snapshot.park_bytes, config.snapshot.dirs)):
        raise ConfigError(why)


def check_local_gpus(config: Config) -> None:
    """A local cluster cannot have more GPUs than this machine shows."""
    here = asked_address(config) in (None, LOCAL) and config.cluster.name == "local"
    if not here or config.gpu.device is not Device.cuda:
        return
    visible = len(hardware.local_gpus())
    asked = min(config.job.ranks or config.cluster.gpus_per_node, config.cluster.gpus_per_node)
    if asked > visible:
        raise ConfigError(
            f"cluster.gpus_per_node={config.cluster.gpus_per_node}: this machine shows {visible} GPUs; "
            f"use cluster.gpus_per_node={visible}, or gpu=cpu"
            if visible
            else no_gpu_here(config.gpu.name)
        )


def check_script_builds(config: Config) -> None:
    """A script that builds another model than the one that was planned must not be paid for."""
    found = not_built(config)
    if found is not None:
        name, wanted, built = found
        raise ConfigError(
            f"model={config.model.name if config.model else None}: has {name}={json.dumps(wanted)}, but"
            f" job '{config.job.name}' builds {name}={json.dumps(built)} only; it can be planned, and"
            " trained by a job.script that builds it"
        )


def check_checkpoint_dir(config: Config) -> None:
    """Checkpoints need renames and fsync. Raises :class:`ConfigError` for an object store."""
    from orchestrator.checkpoint.manifest import refuse_object_store

    refused = refuse_object_store(config.job.checkpoint_dir or "") or refuse_object_store(config.run_root)
    if refused:
        raise ConfigError(refused)


def least_corpus_bytes(config: Config) -> int:
    """Bytes of one sequence and the token after it, where tokens are bytes; else one byte."""
    if config.model is None or config.job.tokenizer not in (None, "bytes"):
        return 1
    return config.model.seq_len + 1


def _corpus_tokens(config: Config, files: Sequence[corpus.TextFile]) -> int | None:
    """Tokens of one epoch, where a model is to read them: bytes, or what a tokenizer makes of so many."""
    if config.model is None:
        return None
    size_bytes = sum(file.size_bytes for file in files)
    return size_bytes if config.job.tokenizer in (None, "bytes") else size_bytes // BYTES_PER_TOKEN


def reachable_address(address: str) -> str:
    """host:port of what somebody asked for. A refused address is known at once; Ray itself would try for a
    minute.

    Raises :class:`ClusterUnreachable`.
    """
    import socket

    if address == "auto":
        from orchestrator.cluster.own_rays import auto_address
        from orchestrator.cluster.warm import record

        known = record.find()
        address = auto_address(known.address if known is not None and known.answers() else None)

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise ClusterUnreachable(
            f"ray_address={address}: expected host:port of the cluster's GCS, e.g. 10.0.0.1:6379, or 'auto'"
        )
    try:
        socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterUnreachable(
            f"ray_address={address}: nothing answers there ({error.strerror or error}); start Ray with "
            "'ray start --head' or 'orchestrator up', or leave ray_address out to use a local cluster"
        ) from None
    return address
