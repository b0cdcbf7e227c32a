"""``format=slurm``: a batch script that starts a Ray over the nodes of its job, runs, and goes on after a
requeue.

Each node has one Ray, with ports, a folder and a token of the job's own: two jobs can share a node, and what
is ended is what the script has started. Ray's own ``symmetric-run`` ends with ``ray stop``, which ends every
Ray of the user on the node, and says nothing of how a worker ended.

What follows from how a run ends:

=====  ==============================================================================================
138    it has saved at the signal before the time limit: the script requeues its job, and the run goes
       on by ``job.resume=auto``
0      it has finished
other  the job ends with that code, and nothing is requeued; a lost node is requeued by Slurm itself
=====  ==============================================================================================
"""

from __future__ import annotations

import math
import shlex

from orchestrator.errors import ConfigError
from orchestrator.export.order import Order
from orchestrator.export.rendered import Rendered
from orchestrator.export.room import SLURM_S, memory_bytes, save_s, shm_bytes
from orchestrator.export.slurm_script import BODY, MANY_NODES, ONE_NODE
from orchestrator.export.texts import comment
from orchestrator.plan.forecast.prediction import Prediction
from orchestrator.text import usd

# From the end of the run to that of its Ray, which the script ends.
_END_RAY_S = 30.0
_RESOURCES = "launch.wait_for_resources_s"
# For the Ray of every node to start: interpreters come from a shared disk that all nodes read at once.
_WAIT_S = 600


def render(order: Order) -> Rendered:
    """One file. Raises :class:`ConfigError` for a time limit in which nothing can be saved."""
    name = _job_name(order)
    lead_s = math.ceil(save_s(order) + _END_RAY_S + SLURM_S)
    hours = _hours(order, lead_s)
    _check_time(order, hours, lead_s)
    file = f"{name}.sbatch"
    text = "#!/bin/bash\n" + _directives(order, name, hours, lead_s) + _about(order, lead_s) + _body(order)
    return Rendered(
        files={file: text},
        whole=[file],
        next_steps=[f"sbatch {file}", "squeue --me"],
        remarks=_remarks(order, hours),
    )


def _job_name(order: Order) -> str:
    name = order.name(order.config.slurm.job_name)
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(f"slurm.job_name={name}: letters, digits, '-', '_' and '.' only; it names files")
    return name


def _hours(order: Order, lead_s: int) -> float:
    """The time limit: what was asked for, else what nine of ten such runs take, and what they are told before
    its end. Slurm lets a short job run in a gap before a large one's start."""
    keys = order.config.slurm
    if keys.time_hours is not None:
        return keys.time_hours
    needed = p90_hours(order.plan.prediction)
    return keys.most_time_hours if needed is None else min(keys.most_time_hours, needed + lead_s / 3600)


def p90_hours(prediction: Prediction) -> float | None:
    """What nine of ten such runs take at most: by the errors of the planner on runs like it, and by the
    interruptions that nine of ten have. None where nothing is predicted."""
    if prediction.hours is None:
        return None
    slow = [1.0]
    if prediction.step_time_s and prediction.step_time_high_s:
        slow.append(prediction.step_time_high_s / prediction.step_time_s)
    slow += [cost.high_usd / cost.usd for cost in prediction.costs[:1] if cost.usd > 0]
    return prediction.hours * max(slow)


def _check_time(order: Order, hours: float, lead_s: int) -> None:
    keys = order.config.slurm
    if math.isfinite(hours) and hours * 3600 <= lead_s:
        name = "time_hours" if keys.time_hours is not None else "most_time_hours"
        raise ConfigError(
            f"slurm.{name}={hours:g}: the run is asked to save {lead_s} s before the job's end"
            f" (recovery.stop_grace_s={order.config.recovery.stop_grace_s:g}, the checkpoint, and the 60 s by"
            f" which Slurm may be early), and would do nothing else; write e.g."
            f" slurm.{name}={max(1, math.ceil(4 * lead_s / 3600))}"
        )


def _directives(order: Order, name: str, hours: float, lead_s: int) -> str:
    keys, layout = order.config.slurm, order.plan.layout
    array = f"0-{len(order.array) - 1}%{keys.array_at_once}" if order.array else None
    switches = None if keys.switches is None else f"{keys.switches}@{_time(keys.switches_wait_hours)}"
    gpus = keys.gpus or (f"gpu:{layout.ranks_per_node}" if order.on_gpus else None)
    lines: list[tuple[str, str | int | None]] = [
        ("job-name", name),
        ("nodes", layout.nodes),
        ("ntasks-per-node", 1),
        ("cpus-per-task", order.config.cluster.cpu_threads_per_rank * layout.ranks_per_node),
        ("gres", gpus),
        ("mem", "0" if keys.exclusive else f"{math.ceil(memory_bytes(order, shm_bytes(order)) / 2**20)}M"),
        ("partition", keys.partition),
        ("account", keys.account),
        ("qos", keys.qos),
        ("constraint", keys.constraint),
        ("switches", switches),
        ("array", array),
        ("time", _time(hours)),
        ("signal", f"B:USR1@{lead_s}"),
        ("open-mode", "append"),
        ("output", f"{name}.%A_%a.txt" if array else f"{name}.%j.txt"),
    ]
    written = [f"--{key}={value}" for key, value in lines if value is not None]
    written += ["--exclusive"] if keys.exclusive else []
    return "".join(f"#SBATCH {line}\n" for line in [*written, "--requeue", *keys.directives])


def _about(order: Order, lead_s: int) -> str:
    plan = order.plan
    return "\n" + comment(
        f"{plan.layout.ranks} {plan.unit}s on {plan.layout.nodes} nodes {plan.node_type}, which cost"
        f" {usd(order.usd_per_hour)} an hour.",
        f"The run is asked to save {lead_s} s before the time limit: what it may take to stop, what its"
        " checkpoint takes to be on the disk, and the minute by which Slurm may be early. Then the job is"
        " requeued and goes on. The folder of runs has to be one that all nodes share.",
    )


def _body(order: Order) -> str:
    keys, layout = order.config.slurm, order.plan.layout
    place = [] if order.has_word(_RESOURCES) else [f"{_RESOURCES}={_WAIT_S}"]
    words = order.run_words(*place, "job.resume=auto")
    return BODY.format(
        setup="".join(f"{line}\n" for line in keys.setup),
        python=shlex.quote(keys.python or order.python),
        words="\n    ".join(shlex.quote(word) for word in words),
        tasks=_tasks(order),
        run_name=_run_name(order),
        most_requeues=keys.max_requeues,
        workers=(MANY_NODES if layout.nodes > 1 else ONE_NODE).format(
            cpus=order.config.cluster.cpu_threads_per_rank * layout.ranks_per_node,
            gpus=layout.ranks_per_node if order.on_gpus else 0,
        ),
    )


def _run_name(order: Order) -> str:
    """The same after every requeue, and another for each task of an array."""
    given = order.config.run_name
    name = shlex.quote(given) if given else "$SLURM_JOB_NAME-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}"
    return f"{name}-$SLURM_ARRAY_TASK_ID" if order.array else name


def _tasks(order: Order) -> str:
    """What each task of the array adds to the words."""
    if not order.array:
        return ""
    cases = [
        f"    {number}) words+=({' '.join(map(shlex.quote, words))}) ;;\n"
        for number, words in enumerate(order.array)
    ]
    return f'case "$SLURM_ARRAY_TASK_ID" in\n{"".join(cases)}esac\n'


def _time(hours: float) -> str:
    """As Slurm takes it: whole minutes."""
    if math.isinf(hours):
        return "UNLIMITED"
    minutes = max(1, math.ceil(hours * 60))
    return f"{minutes // 1440}-{minutes // 60 % 24:02}:{minutes % 60:02}:00"


def _remarks(order: Order, hours: float) -> list[str]:
    keys, found = order.config.slurm, []
    if not order.config.run_root.startswith("/"):
        found.append(
            f"run_root={order.config.run_root} is a folder below the one in which sbatch is typed: that one"
            " has to be on a disk that all nodes share"
        )
    if keys.time_hours is None and hours < keys.most_time_hours:
        found.append(
            f"--time={_time(hours)} is what nine of ten such runs take, by the plan; one that takes longer is"
            " requeued and goes on. Another: slurm.time_hours=…"
        )
    return found
