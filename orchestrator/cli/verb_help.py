"""``VERB --help``: one verb on a page, printed without composing anything; ``--help`` alone is the whole."""

from __future__ import annotations

import textwrap

from orchestrator.cli.queue_help import QUEUE_HELP
from orchestrator.cli.remote_help import REMOTE_HELP
from orchestrator.cli.verb_page import VerbHelp

SHARED = (
    "Keys are set with KEY=VALUE and options chosen with GROUP=OPTION; --cfg job prints all keys, and"
    " docs/configuration.md says what each means."
)


_JSON = ("--json", "print it as JSON, see docs/reference.md")
_TRUST = ("--trust", "take a run that others could have written too")
_RUN = "RUN is a name below run_root, or a path."
HELP = {
    "run": VerbHelp(
        "[KEY=VALUE ...] [-- COMMAND]",
        "Plans the job, launches it on Ray, keeps it running and records every GPU-hour and dollar. It is"
        " what happens where no verb is given. Ctrl-C stops it, with time to save, and prints the command"
        " that goes on. After -- stands a command of yours, as you would type it without this.",
        (("--multirun, -m", "a run for each of several values: job.args.lr=1e-3,2e-3"), _TRUST),
        (
            "job=tiny_gpt job.steps=50",
            "-- torchrun --nproc_per_node=2 train.py 50 10",
            "-m sweep.minimize=usd_to_loss sweep.loss=2.5 job.args.lr=1e-3,3e-3",
        ),
    ),
    "plan": VerbHelp(
        "[KEY=VALUE ...] [-- COMMAND]",
        "Prints what a run will take and cost, and starts nothing. With layout=auto it looks for the cheapest"
        " layout that fits; with budget_usd or deadline_days for the best model that can be trained so.",
        (("--multirun, -m", "compare the plans of a sweep: a table, and a picture"), _JSON),
        (
            "job=llama3_8b cluster=dgx_h100 cluster.nodes=8",
            "-m job=llama3_8b cluster=aws_p5,azure_nd_h100_v5 cluster.nodes=8,16",
            "budget_usd=500000",
        ),
    ),
    "resume": VerbHelp(
        "RUN [KEY=VALUE ...]",
        "Takes up a run whose driver died, or that was stopped: same journal, same MLflow run, next step."
        f" {_RUN} What a run can go on with may be changed: job.steps, recovery, tracking, launch, the size"
        " of the cluster; the rest is refused by name.",
        (_TRUST,),
        ("night-1", "night-1 job.steps=2000 recovery.max_restarts=9"),
    ),
    "stop": VerbHelp(
        "RUN",
        "Asks a run to save and stop, as Ctrl-C in its own terminal would, from any machine that shares its"
        f" directory, and waits for its end. {_RUN}",
        (
            ("--now", "do not let it save first"),
            ("--no-wait", "ask, and do not wait until it has ended"),
            _TRUST,
        ),
        ("night-1", "night-1 --now"),
    ),
    "runs": VerbHelp(
        "[KEY=VALUE ...]",
        "Lists the runs below run_root, those with the newest word first: what each does or how it ended,"
        " where, how far, and what it has cost.",
        (
            ("--state STATE,…", "only those in such a state"),
            ("--job, --cluster, --owner, --project NAME", "only those of that name"),
            ("--limit N", "so many at most"),
            _JSON,
            _TRUST,
        ),
        ("", "--state=training --owner=ada"),
    ),
    "spend": VerbHelp(
        "[KEY=VALUE ...]",
        "Adds up what the runs below run_root have cost, by who pays and by month: dollars, accelerator-hours"
        " and what of them trained nothing. The hours of a run count in the month in which they were held"
        " (UTC).",
        (
            (
                "--by NAME,…",
                "owner, project, cost_center, cluster, month, bucket (what it was spent on), run",
            ),
            ("--owner, --project, --cost-center, --cluster NAME", "only what is of that name"),
            ("--month 2026-11", "only what was held in that month"),
            ("--csv", "print it as CSV"),
            _JSON,
            _TRUST,
        ),
        ("", "--by project,month", "--by month,bucket --project=lm --csv"),
    ),
    "logs": VerbHelp(
        "RUN",
        f"Prints what a rank has written, of its newest attempt if nothing else is said. {_RUN}",
        (
            ("--rank N", "of that rank; 0 by default"),
            ("--attempt N", "of that attempt"),
            ("--lines N, -n N", "the last N lines"),
            ("--follow, -f", "go on until the run has ended"),
            _TRUST,
        ),
        ("night-1 --rank 3 --follow",),
    ),
    "report": VerbHelp(
        "RUN",
        f"Prints what a run did, what it cost and what broke in it, from its journal alone. {_RUN}",
        (("--html FILE", "a page of it instead, in one file"), _JSON, _TRUST),
        ("night-1", "night-1 --html night-1.html"),
    ),
    "open": VerbHelp(
        "RUN",
        f"Prints the addresses of a run's pages: MLflow, and the Ray dashboard while it goes on. {_RUN}",
        (("--browser", "open them"), _TRUST),
        ("night-1 --browser",),
    ),
    "sync": VerbHelp(
        "RUN",
        "Brings MLflow up to the journal, after the driver of a run died or MLflow was away. Doing it twice"
        f" changes nothing. {_RUN}",
        (_TRUST,),
        ("night-1", "night-1 tracking.uri=http://HOST:5000"),
    ),
    "incidents": VerbHelp(
        "RUN",
        f"Lists what broke in a run, what was done, how long it took and what it cost. {_RUN}",
        (_JSON, _TRUST),
        ("night-1",),
    ),
    "compare": VerbHelp(
        "[KEY=VALUE ...]",
        "Lists the newest runs of an experiment (tracking.experiment) by cost and speed. Keys in which they"
        " differ are columns; the best of a column is starred among runs of the same job and model. A loss"
        " counts as reached at the first step at which the median of five losses is no higher.",
        (
            ("--filter FILTER", "only runs that MLflow's own filter lets through"),
            ("--to-loss LOSS", "dollars, hours and accelerator-hours until a run reached this loss"),
            ("--by KEY,…", "groups with mean and standard deviation instead of runs, by any key"),
            ("--html FILE", "a page of charts and a table that sorts and filters, in one file"),
            ("--png FILE", "its charts as a picture, for slides"),
            _JSON,
            ("--csv", "print it as CSV"),
            ("--sort COLUMN[:asc|:desc]", "best or newest first, or as you say"),
            ("--limit N", "so many runs; 100 where nothing is said, of groups and files 10,000"),
        ),
        (
            "--sort cost_usd",
            "--filter \"tags.cluster = 'aws_p5' and metrics.cost_usd < 100\"",
            "--to-loss 2.5 --by cluster,job.args.lr",
            "--html runs.html",
        ),
    ),
    "calibrate": VerbHelp(
        "[RUN ...]",
        "Fits the planner to this cluster's own runs: all finished ones below run_root, or those named. Later"
        " plans use it, and say so.",
        (_TRUST,),
        ("", "night-1 night-2"),
    ),
    "up": VerbHelp(
        "[KEY=VALUE ...]",
        "Starts Ray here, or joins ray_address, and keeps torch and DeepSpeed imported on every node: later"
        " runs attach by themselves and start in seconds.",
        (),
        ("", "launch.node_address=HEAD"),
    ),
    "status": VerbHelp(
        "", "Prints nodes, zygotes and runs of that cluster, and what they cost so far.", (_JSON,), ("",)
    ),
    "down": VerbHelp(
        "", "Ends what 'up' started.", (("--force", "even while runs are on it"),), ("", "--force")
    ),
    "export": VerbHelp(
        "format=FORMAT [KEY=VALUE ...] [-- COMMAND]",
        "Writes what a cluster's own system takes to run the same job, from the configuration that plans it:"
        " manifests of KubeRay (format=kuberay), a batch script of Slurm that saves before its time limit and"
        " goes on (slurm), the file of Ray's launcher for Azure, AWS and GCP (ray-up), or a compose file of"
        " one machine with MLflow, Prometheus and Grafana (compose). With format=monitoring it is what a"
        " Prometheus and a Grafana take to watch runs and the queue. Without --out it is one text on standard"
        " output.",
        (
            ("--out DIR", "write files into a folder, and say what is typed next"),
            ("--force", "also over files that say something else"),
            ("--multirun, -m", "a job array of Slurm, a task for each of several values"),
        ),
        (
            "format=kuberay cluster=azure_nd_h100_v5 job=llama3_8b --out cluster",
            "format=slurm cluster=dgx_h100 job=llama3_8b slurm.partition=gpu",
            "format=monitoring --out monitoring",
        ),
    ),
    "doctor": VerbHelp(
        "[KEY=VALUE ...]",
        "Prints what a report of a fault needs to say of this machine (versions, GPUs, memory, folders), and"
        " what is wrong with it: it looks at what a run would look at before it starts, and starts nothing."
        " It ends with 1 where something is wrong. Nothing is sent anywhere.",
        (),
        ("", "cluster=dgx_h100 ray_address=HOST:6379"),
    ),
    "check": VerbHelp(
        "[KEY=VALUE ...]",
        "Measures every node of the cluster and the ways between them, in under a minute, and names what is"
        " bad: node, GPU, link, the figure, what is expected, and what it would cost to train on regardless."
        " Nodes on which runs are it leaves alone. It ends with 1 where something is wrong.",
        (
            ("--quick", "measure for less time, and look for slow links only among the first pairs"),
            ("--full", "measure longer, and look for slow links between all nodes; what is done unasked"),
            _JSON,
        ),
        ("", "--quick", "cluster=azure_nd_h100_v5 job=llama3_8b ray_address=HOST:6379"),
    ),
    "nodes": VerbHelp(
        "[KEY=VALUE ...]",
        "Lists what checks and runs of run_root have found of nodes, and why one is avoided: a run with"
        " preflight=quick or full leaves such a node out until a check of it finds nothing, or somebody"
        " forgives it; a queue starts nothing on it.",
        (("--forgive NODE", "use it again"), _JSON),
        ("", "--forgive host-07"),
    ),
    **QUEUE_HELP,
    "remote": REMOTE_HELP,
    "simulate": VerbHelp(
        "--trace FILE [--fleet FILE] | scenario=NAME | --replay QUEUE",
        "Runs a trace of jobs through policies side by side and starts nothing: how long jobs take from"
        " submission to end, how long they wait, what being stopped costs, and what no policy can beat. The"
        " trace is CSV with the columns submit_time_s, duration_s and gpus, or what Philly, Muri, Acme, sacct"
        " -P or kubectl get workloads -o json have. 'ours' is told durations with an error, 'ours_blind'"
        " none; easy, srtf and srsf know the true ones. With --fleet the trace is played on the pools, teams"
        " and policy of a fleet.yaml, and told by team. A scenario of conf/scenario has companies, sites,"
        " power and deliveries over weeks: who waits how long, and where more GPUs or power are worth their"
        " price. A queue has on record what each of its decisions was made upon: they are made again, and"
        " have to come out the same.",
        (
            ("--gpus N", "of the cluster; 64 where nothing is said"),
            ("--fleet FILE", "a fleet.yaml, as runs/fleet.yaml: who would have waited for what, by team"),
            ("--policies NAME,…", "of fifo, easy, srtf, srsf, tiresias_l, ours, ours_blind"),
            ("--profile muri", "by the rules of Muri's simulator, to compare with its paper"),
            ("--restart-s S", "what a start takes after a stop; 3"),
            ("--early SHARE", "of jobs that end before their time; 0"),
            ("--jitter-s S", "by which submissions come sooner or later, at random; 0"),
            ("--seeds N", "so many draws of what is random; 3"),
            ("--by-team", "each team also alone, on its share of the GPUs: who gains by sharing"),
            ("--jobs-csv FILE", "a line for each policy and job"),
            ("--png FILE", "a picture: GPUs in use, who waits, dollars of delay"),
            ("--csv", "of a scenario: a line for each site and week"),
            ("--replay QUEUE", "the folder of a queue, as runs/fleet; exits with 1 where one differs"),
            _JSON,
        ),
        (
            "--trace jobs.csv --gpus 512",
            "--trace jobs.csv --policies fifo,ours --early 0.3 --json",
            "--trace jobs.csv --fleet runs/fleet.yaml",
            "scenario=h100_2023 scenario.weeks=4",
            "--replay runs/fleet",
        ),
    ),
    "completion": VerbHelp(
        "bash|zsh|fish",
        "Prints what your shell evaluates, so that Tab completes verbs, runs, keys and their values.",
        (),
        ("bash",),
    ),
}


def page(verb: str, width: int = 100) -> str:
    """One verb's help, as plain text."""
    asked = HELP[verb]
    lines = [f"Usage: python -m orchestrator {verb} {asked.takes}".rstrip(), ""]
    lines += textwrap.wrap(asked.does, width)
    if asked.flags:
        wide = max(len(flag) for flag, _ in asked.flags)
        lines += ["", *(f"  {flag:{wide}}  {meaning}" for flag, meaning in asked.flags)]
    lines += ["", "Examples", *(f"  python -m orchestrator {verb} {one}".rstrip() for one in asked.examples)]
    if "KEY=VALUE" in asked.takes:
        lines += ["", *textwrap.wrap(SHARED, width)]
    return "\n".join(lines)
