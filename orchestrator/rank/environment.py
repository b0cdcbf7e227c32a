"""Which variables of the shell that starts a run reach its ranks: one rule, whatever cluster the run is on.

docs/environment.md has the rule and these lists for people; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from orchestrator.rank.launch.zygote_key import is_read_at_import

# What plan or node own: another machine's, another login's or another cluster's would be wrong there.
OWNED = (
    "PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "USER", "LOGNAME", "SHELL", "HOSTNAME",
    "DISPLAY", "VIRTUAL_ENV", "CONDA_*", "LD_*", "PYTHON*", "LC_*", "LANG", "XDG_*", "SSH_*", "DBUS_*",
    "KUBERNETES_*", "*_SERVICE_HOST", "*_SERVICE_PORT", "CUDA_VISIBLE_DEVICES", "NVIDIA_*", "RAY_*",
    "HYDRA_FULL_ERROR",
)  # fmt: skip
# What launchers leave behind, by which libraries would take a rank for one of theirs. No rank has one of
# these, be it the shell's or the node's.
LEFT_BY_LAUNCHERS = (
    "SLURM_*", "SLURMD_*", "SRUN_*", "SBATCH_*", "OMPI_*", "ORTE_*", "PRTE_*", "PMI*", "MPI_*", "MPIRUN_*",
    "MV2_COMM_WORLD_*", "JSM_*", "LSB_*", "TORCHELASTIC_*", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK",
    "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def reaching_ranks(shell: Mapping[str, str], forward: Iterable[str] = ()) -> dict[str, str]:
    """The shell's variables that travel to the ranks, and those that ``forward`` names.

    What a zygote has read when it imported never does: every shell would ask for a zygote of its own.
    """
    named = set(forward)
    return {
        name: value
        for name, value in shell.items()
        if not is_read_at_import(name) and (name in named or not _is_one_of(name, OWNED + LEFT_BY_LAUNCHERS))
    }


def held_back(shell: Mapping[str, str], planned: Iterable[str]) -> dict[str, str]:
    """What is set for ranks, perhaps, and does not travel as it is read at import, nor does the plan set
    it."""
    own = {
        name: value
        for name, value in shell.items()
        if is_read_at_import(name) and not _is_one_of(name, OWNED)
    }
    return {name: value for name, value in own.items() if name not in set(planned)}


def held_back_remark(shell: Mapping[str, str], node: Mapping[str, str]) -> str | None:
    """Which of what was held back the node has not the same by itself; None where it has."""
    names = sorted(name for name, value in shell.items() if node.get(name) != value)
    if not names:
        return None
    return (
        "read when torch or DeepSpeed are imported, so the ranks do not have this shell's"
        f" {', '.join(names)}; to set it for them write +env.{names[0]}=…"
    )


def without_leftovers(environment: Mapping[str, str]) -> dict[str, str]:
    """A node's environment without what launchers left there."""
    return {name: value for name, value in environment.items() if not _is_one_of(name, LEFT_BY_LAUNCHERS)}


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
