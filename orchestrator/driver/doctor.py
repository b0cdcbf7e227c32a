"""What a report of a fault has to say of a machine, and what is wrong with it.

It asks what a run asks before it starts (:mod:`~orchestrator.driver.preflight`), so that a machine which is
called well here does not refuse the run. Nothing is started, and nothing is sent anywhere.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator import __version__
from orchestrator.agent import facts
from orchestrator.agent.staging_dir import choose_place, gigabytes
from orchestrator.checkpoint.free_space import room_bytes
from orchestrator.config import hardware, surroundings
from orchestrator.config.schema import Config, Device
from orchestrator.driver.preflight import (
    check_checkpoint_dir,
    check_local_gpus,
    check_staging,
    find_target,
)
from orchestrator.driver.tracking import tracking_problem
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.installation import PACKAGE
from orchestrator.redact import redact
from orchestrator.trust import check_nobody_elses

PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "hydra-core", "numpy")
# A checkpoint of the smallest job, its logs and Ray's own files take less.
_LEAST_FREE_BYTES = 1 << 30
# A run of one node opens some hundred files; Ray asks for more with every worker.
_LEAST_FILES = 4096
_MOST_SKEW_S = 5.0
_VARIABLES = ("RAY_", "NCCL_", "CUDA_", "MLFLOW_", "TORCH_", "SLURM_JOB_ID", "OMP_NUM_THREADS", "PYTHONPATH")
TELEMETRY = "none is sent: there is none of ours, and that of Ray and MLflow is switched off"


@dataclass(frozen=True)
class Finding:
    """What was seen of one part of the machine; ``wrong`` says what is not well with it and what to do."""

    subject: str
    seen: str
    wrong: str = ""


def version() -> str:
    """What ``--version`` prints: ours first, on a line of its own."""
    return "\n".join((f"orchestrator {__version__}", *(f"{one.subject}  {one.seen}" for one in _versions())))


def examine(config: Config) -> list[Finding]:
    """Everything that is looked at, in the order in which a person reads it."""
    looks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("GPU drivers", lambda: _gpu_drivers(config)),
        ("cluster", lambda: _cluster(config)),
        ("token", _token),
        ("ports", _ports),
        ("run root", lambda: _run_root(config)),
        ("checkpoints", lambda: _checkpoints(config)),
        ("staging", lambda: _staging(config)),
        ("temporary files", _temporary_files),
        ("open files", _open_files),
        ("MLflow", lambda: _mlflow(config)),
        ("clock", lambda: _clock(config)),
        ("shell", _shell),
        ("telemetry", lambda: TELEMETRY),
    )
    return [*_versions(), _machine(), *(_looked(subject, look) for subject, look in looks)]


def _looked(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, look())
    except (OrchestratorError, OSError) as error:
        return Finding(subject, "", str(redact(str(error))))


def _own_commit() -> str:
    """Of a clone of ours; an environment may lie in a repository of somebody else's."""
    return facts.git_state(PACKAGE)[0] if (PACKAGE.parent / ".git").exists() else ""


def _versions() -> list[Finding]:
    installed = {name: facts.package_version(name) for name in PACKAGES}
    lacking = [name for name, found in installed.items() if found == "not installed"]
    gpus = hardware.local_gpus()
    names = {gpu.product: sum(one.product == gpu.product for one in gpus) for gpu in gpus}
    return [
        Finding("commit", _own_commit() or "none: installed from a package"),
        Finding("Python", f"{platform.python_version()} on {platform.platform()}"),
        Finding(
            "packages",
            ", ".join(f"{name} {found}" for name, found in installed.items()),
            f"{', '.join(lacking)}: not installed; type 'pip install orchestrator' again" if lacking else "",
        ),
        Finding("GPU", ", ".join(f"{count} × {name}" for name, count in names.items()) or "none"),
    ]


def _machine() -> Finding:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Finding("machine", f"{hardware.cores()} processor cores, {gigabytes(memory_bytes)} of memory")


def _gpu_drivers(config: Config) -> str:
    check_local_gpus(config)
    built_for_processors = facts.package_version("torch").endswith("+cpu")
    if built_for_processors and hardware.local_gpus():
        raise ConfigError("this torch is built for processors alone; install the one for your CUDA")
    return "not needed" if config.gpu.device is Device.cpu else "there"


def _cluster(config: Config) -> str:
    target = find_target(config)
    found = f"answers at {target.address}" if target.address else "starts here, and ends with each run"
    if target.remark:
        raise ConfigError(target.remark)
    return found


def _token() -> str:
    from orchestrator.cluster import ray_env

    path = ray_env.check_token()
    return f"in {path}, for you alone" if path else "none yet; Ray writes one when it starts"


def _ports() -> str:
    """Everything that listens here does so on a port that the kernel gives."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        with socket.create_connection(own.getsockname(), timeout=5.0):
            return "one of 127.0.0.1 can be opened and reached"


def _run_root(config: Config) -> str:
    folder = _there(Path(config.run_root))
    check_nobody_elses(folder)
    return f"{config.run_root}: {_free(folder, 'run_root=… of another disk')}"


def _checkpoints(config: Config) -> str:
    check_checkpoint_dir(config)
    if config.job.checkpoint_dir is None:
        return "in each run's directory"
    folder = _there(Path(config.job.checkpoint_dir))
    return f"{config.job.checkpoint_dir}: {_free(folder, 'job.checkpoint_dir=… of another disk')}"


def _staging(config: Config) -> str:
    check_staging(config)
    place = choose_place(config.snapshot.dirs, None)
    where = str(place.folder) if place.folder else "nowhere: the training waits for the disk at every save"
    return f"{where} ({place.remark})" if place.remark else where


def _temporary_files() -> str:
    folder = Path(tempfile.gettempdir())
    if len(os.fsencode(str(folder))) > surroundings.LONGEST_TMPDIR_BYTES:
        raise ConfigError(f"TMPDIR={folder}: too long for sockets; set a shorter one")
    return f"{folder}: {_free(folder, 'TMPDIR=… of another disk')}"


def _open_files() -> str:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < _LEAST_FILES:
        raise ConfigError(f"at most {most} for one process; type 'ulimit -n 65536' before you start")
    return "as many as there are" if most == resource.RLIM_INFINITY else f"up to {most} for one process"


def _mlflow(config: Config) -> str:
    problem = tracking_problem(config)
    if problem:
        raise ConfigError(f"{problem}; a run goes on without it, and its journal keeps everything")
    return f"{redact(config.tracking.uri)} can be written"


def _clock(config: Config) -> str:
    """That of the disk is another machine's where it is shared."""
    folder, now_s = _there(Path(config.run_root)), time.time()
    with tempfile.TemporaryFile(dir=folder) as file:
        skew_s = os.fstat(file.fileno()).st_mtime - now_s
    if abs(skew_s) > _MOST_SKEW_S:
        raise ConfigError(
            f"{folder} is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine; set both"
            " by the same time server"
        )
    return time.strftime("%Y-%m-%d %H:%M:%S %Z")


def _shell() -> str:
    """Names alone: values may be secrets."""
    named = sorted(name for name in os.environ if name.startswith(_VARIABLES))
    return f"has {', '.join(named)}" if named else "has no variable that Ray, NCCL, CUDA or MLflow read"


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _free(folder: Path, instead: str) -> str:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: cannot be written by you; write {instead}")
    free_bytes = room_bytes(folder)
    if free_bytes < _LEAST_FREE_BYTES:
        raise ConfigError(f"{folder}: {gigabytes(free_bytes)} are free; make room, or write {instead}")
    return f"{gigabytes(free_bytes)} free"
