"""What the serving model says of a deployment with expert parallelism that was published: DeepSeek's own.

    python -m benchmarks.serving_experts [--json] [--write]

DeepSeek-AI, DeepSeek-V3/R1 Inference System Overview (deepseek-ai/open-infra-index, 202502OpenSourceWeek,
1 March 2025): H800 nodes of 8; prompts on units of 32 GPUs and answers on units of 144, each expert parallel
with attention data parallel; a node reads 73.7k tokens of prompts a second, of which 56.3% were in a cache of
prefixes, or writes 14.8k tokens of answers, at 20 to 22 tokens a second for each request, which have 4,989
tokens behind them on the mean. Nothing is fitted to it. `--write` puts the table into docs/serving.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass

from benchmarks.planner_fit import load_constants
from benchmarks.serving_accuracy import option, put_between
from orchestrator.config.schema import ClusterConfig, FabricConfig, GpuConfig, ModelConfig, ServeConfig
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.serving.request import Load, ServingRequest, Software
from orchestrator.plan.serving.roofline import Stage

BEGIN, END = "<!-- serving_experts -->", "<!-- /serving_experts -->"
CONTEXT_TOKENS = 4_989
READ_PER_S, IN_CACHE = 73_700, 0.563  # of a node
WRITTEN_PER_S = 14_800  # of a node
EACH_PER_S = 21.0  # of a request
READ_RANKS = 32
# Of 144: the model looks at powers of two, of which each rank has as many experts.
WRITTEN_RANKS = 128
PER_NODE = 8


@dataclass(frozen=True)
class Rate:
    """Tokens a second of one node."""

    what: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def rates() -> list[Rate]:
    """Of prompts that are in no cache, and of answers."""
    request = _request()
    read = Stage(request, 1, 1, READ_RANKS)
    prompts = READ_RANKS * request.software.prefill_tokens / CONTEXT_TOKENS
    read_s = read.prefill(prompts, CONTEXT_TOKENS).total_s
    written = Stage(request, 1, 1, WRITTEN_RANKS)
    each = _requests_in_flight(written)
    return [
        Rate(
            f"prompts, expert parallel {READ_RANKS}, in no cache",
            READ_PER_S * (1 - IN_CACHE),
            prompts * CONTEXT_TOKENS / read_s / (READ_RANKS / PER_NODE),
        ),
        Rate(
            f"answers, expert parallel {WRITTEN_RANKS} (of 144), {each:.0f} requests a GPU",
            WRITTEN_PER_S,
            PER_NODE * each * EACH_PER_S,
        ),
    ]


def _requests_in_flight(stage: Stage) -> float:
    """Of one GPU, so that each gets its tokens as fast as was measured."""
    low, high = 1.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        slow = stage.decode(middle * WRITTEN_RANKS, CONTEXT_TOKENS).total_s > 1 / EACH_PER_S
        low, high = (low, middle) if slow else (middle, high)
    return low


def _request() -> ServingRequest:
    constants = load_constants()
    gpu = option("gpu", "h800", GpuConfig, constants)
    node = ClusterConfig(
        name="node", node_type="eight H800", nodes=18, gpus_per_node=PER_NODE, nics_per_node=8,
        nic_bits_per_s=400e9,
    )  # fmt: skip
    return ServingRequest(
        model=option("model", "deepseek_v3", ModelConfig, constants),
        load=Load(1.0, CONTEXT_TOKENS, 1.0),
        software=Software("fp8", share=ServeConfig.software_share),
        machine=Machine.of(node, gpu, option("fabric", "infiniband", FabricConfig, constants)),
        memory_bytes=gpu.memory_bytes,
        constants=constants,
        usd_per_gpu_hour=2.0,
    )


def markdown() -> str:
    """The table of docs/serving.md."""
    lines = [
        "| DeepSeek-V3 on H800, tokens a second of a node | published | predicted | error |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {one.what} | {one.measured:,.0f} | {one.predicted:,.0f} | {one.error:+.0%} |" for one in rates()
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="What the serving model says of DeepSeek's deployment.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="put the table into docs/serving.md")
    args = parser.parse_args()
    if args.json:
        found = [dataclasses.asdict(one) | {"error": one.error} for one in rates()]
        print(json.dumps({"rates": found}, indent=2))
        return 0
    print(markdown())
    if args.write:
        put_between(BEGIN, END, markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
