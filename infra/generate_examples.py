"""Write infra/examples: what `export` makes of some clusters, as it is; and infra/monitoring, what it makes
for Prometheus and Grafana.

python -m infra.generate_examples
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.cli.export import config_of, order_of
from orchestrator.config.composing import composed
from orchestrator.export.formats import render

INFRA = Path(__file__).resolve().parent
TARGET = INFRA / "examples"
MONITORING = INFRA / "monitoring"
# The words after `python -m orchestrator export`, by the folder of what they make.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "kuberay-azure-h100": (
        "format=kuberay", "cluster=azure_nd_h100_v5", "cluster.nodes=8", "job=llama3_8b",
        "kuberay.name=llama", "kuberay.scheduler=kueue", "kuberay.queue=training",
        "kuberay.topology_label=topology.kubernetes.io/zone",
    ),
    "kuberay-aws-p5": ("format=kuberay", "cluster=aws_p5", "job=llama3_8b", "kuberay.name=llama"),
    "slurm-dgx-h100": (
        "format=slurm", "cluster=dgx_h100", "job=llama3_8b", "slurm.job_name=llama", "slurm.partition=gpu",
        "slurm.switches=1", "run_root=/shared/runs",
    ),
    "ray-up-azure-h100": ("format=ray-up", "cluster=azure_nd_h100_v5", "cluster.nodes=1", "job=tiny_gpt"),
    "ray-up-aws-p5": (
        "format=ray-up", "cluster=aws_p5", "job=llama3_8b", "ray_up.subnets=[subnet-0abc]",
        "ray_up.security_groups=[sg-0abc]",
    ),
    "monitoring": ("format=monitoring",),
    "compose-dgx-h100": ("format=compose", "cluster=dgx_h100", "cluster.nodes=1", "job=tiny_gpt"),
}  # fmt: skip
# The interpreter that exports has another path on every machine.
PYTHON = "/opt/orchestrator/bin/python"


def rendered() -> Iterator[tuple[Path, str]]:
    """Each file's place and text."""
    for folder, words in EXAMPLES.items():
        made = composed(words)
        assert made.config is not None
        order = replace(order_of(config_of(made.config, words), words), python=PYTHON)
        for name, text in render(order, str(made.config.format)).files.items():
            yield (MONITORING if folder == MONITORING.name else TARGET / folder) / name, text


def shipped() -> dict[Path, str]:
    """All that is there."""
    files = [path for target in (TARGET, MONITORING) for path in target.rglob("*") if path.is_file()]
    return {path: path.read_text() for path in files}


def main() -> None:
    made = dict(rendered())
    for target in (TARGET, MONITORING):
        shutil.rmtree(target, ignore_errors=True)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"wrote {len(made)} files into {TARGET} and {MONITORING}")


if __name__ == "__main__":
    main()
