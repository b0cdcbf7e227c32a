"""How well the serving model says what published tables measured, and what ChatGPT was estimated to cost.

    python -m benchmarks.serving_accuracy [--rows] [--json] [--write]

Rows are in benchmarks/serving/throughput.csv, each with its source: tokens of answers a second of one
replica, at a batch and at lengths that do not vary. Nothing is fitted to them but one number for all,
`serve.software_share`: the median, over the tables, of each table's median of measured over predicted at the
roofline itself. Errors are predicted / measured - 1 at that share. `--write` puts the tables into
docs/serving.md.

ChatGPT's figures are SemiAnalysis's (Dylan Patel and Afzal Ahmad, The Inference Cost Of Search Disruption,
9 February 2023): 694,444 dollars a day, 3,617 HGX A100 servers, 28,936 GPUs, from "a GPT-3 dense model
architecture with a size of 175 billion parameters, hidden dimension of 16k, sequence length of 4k, average
tokens per response of 2k, 15 responses per user, 13 million daily active users, FLOPS utilization rates 2x
higher than FasterTransformer at <2000ms latency, int8 quantization, 50% hardware utilization rates due to
purely idle time, and $1 cost per GPU hour".
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is no place to import from
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from omegaconf import OmegaConf

from benchmarks.planner_fit import load_constants
from orchestrator.config.load import conf_dir
from orchestrator.config.schema import (
    ClusterConfig,
    FabricConfig,
    GpuConfig,
    ModelConfig,
    PlannerConfig,
    ServeConfig,
)
from orchestrator.plan.perf.machine import Machine
from orchestrator.plan.serving.request import Load, ServingRequest, ServingResult, Software
from orchestrator.plan.serving.serving import replica_of, serve

ROWS = Path(__file__).parent / "serving" / "throughput.csv"
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- serving_accuracy -->", "<!-- /serving_accuracy -->"
PREFILL_TOKENS = 8192
# Of models without a file in conf/model: what a shape is made of, and where that is published.
SHAPES: dict[str, dict[str, Any]] = {
    # EleutherAI/gpt-j-6b config.json
    "gptj_6b": {"layers": 28, "hidden": 4096, "heads": 16, "kv_heads": 16, "ffn": 16384, "vocab": 50400},
    # tiiuae/falcon-180B config.json
    "falcon_180b": {"layers": 80, "hidden": 14848, "heads": 232, "kv_heads": 8, "ffn": 59392, "vocab": 65024},
    # internlm/internlm-20b config.json
    "internlm_20b": {
        "layers": 60,
        "hidden": 5120,
        "heads": 40,
        "kv_heads": 40,
        "ffn": 13824,
        "vocab": 103168,
    },
}
PLAIN_MLP = ("gptj_6b", "falcon_180b")

SOURCE_USD_PER_DAY, SOURCE_GPUS = 694_444, 28_936
CHATGPT_LOAD = Load(requests_per_day=13e6 * 15, tokens_in=1, tokens_out=2000, peak_to_mean=2.0, ttft_s=2.0)
# 16k wide and 175 billion parameters make 54 layers: 12 x 54 x 16,384² and the embedding.
STATED = ModelConfig(
    name="chatgpt_as_stated", layers=54, hidden=16384, heads=128, kv_heads=128, ffn=65536, vocab=50257,
    seq_len=4096, gated_mlp=False, biases=True, learned_positions=True, tie_embeddings=True,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A published throughput and what is predicted at the roofline."""

    table: str
    model: str
    tp: int
    batch: str  # "" is not given
    tokens_in: float
    tokens_out: float
    measured: float  # tokens of answers a second
    at_roofline: float

    def error(self, share: float) -> float:
        return self.at_roofline * share / self.measured - 1


@dataclass(frozen=True)
class ChatGpt:
    """One reading of the source, and how far its figures are from the source's."""

    reading: str
    gpus: int
    usd_per_day: float

    @property
    def error(self) -> float:
        """Of GPUs and dollars alike, at one dollar an hour."""
        return self.usd_per_day / SOURCE_USD_PER_DAY - 1


def rows(path: Path = ROWS) -> list[Row]:
    """All rows, predicted."""
    constants = load_constants()
    with path.open(newline="") as file:
        return [_predicted(row, constants) for row in csv.DictReader(file)]


def software_share(known: Sequence[Row]) -> float:
    """The median of the tables' medians of measured over predicted."""
    return statistics.median(
        statistics.median(row.measured / row.at_roofline for row in of_one)
        for of_one in by_table(known).values()
    )


def by_table(known: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in known:
        found.setdefault(row.table, []).append(row)
    return found


def chatgpt() -> list[ChatGpt]:
    """The source's load by its own words first, then by what they leave open. At the roofline itself, as the
    source assumes twice what software reached."""
    gpt3 = option("model", "gpt3_175b", ModelConfig, load_constants())
    readings = (
        ("as stated: 54 layers 16,384 wide; weights int8, cache 16 bits", STATED, "fp16", 1),
        ("the cache int8 as well", STATED, "int8", 1),
        ("GPT-3's own shape (96 layers 12,288 wide), cache int8", gpt3, "int8", 1),
        ("GPT-3's own shape, cache 16 bits", gpt3, "fp16", 1),
        ("as stated, and prompts of 500 tokens", STATED, "fp16", 500),
    )
    found = []
    for words, model, kv, tokens_in in readings:
        result = _chatgpt(model, kv, tokens_in)
        found.append(ChatGpt(words, result.gpus, result.usd_per_day))
    return found


def _chatgpt(model: ModelConfig, kv_precision: str, tokens_in: float) -> ServingResult:
    constants = load_constants()
    gpu = option("gpu", "a100_80gb", GpuConfig, constants)
    return serve(
        ServingRequest(
            model=model,
            load=dataclasses.replace(CHATGPT_LOAD, tokens_in=tokens_in),
            software=Software("int8", kv_precision),
            machine=_machine(gpu),
            memory_bytes=gpu.memory_bytes,
            constants=constants,
            usd_per_gpu_hour=1.0,
        )
    )


def _predicted(row: dict[str, str], constants: PlannerConfig) -> Row:
    gpu = option("gpu", row["gpu"], GpuConfig, constants)
    batch = int(row["batch"] or ServeConfig.max_batch)
    load = Load(1.0, float(row["tokens_in"]), float(row["tokens_out"]))
    software = Software(
        row["precision"], row["kv_precision"], memory_share=float(row["memory_share"]), max_batch=batch
    )
    request = ServingRequest(
        _model(row["model"], constants), load, software, _machine(gpu), gpu.memory_bytes, constants, 1.0
    )
    prompts = max(1, min(batch, int(PREFILL_TOKENS / load.tokens_in)))
    replica = replica_of(request, int(row["tp"]), prompts, batch)
    if replica is None:
        raise ValueError(f"{row}: does not fit")
    return Row(
        table=row["table"],
        model=row["model"],
        tp=int(row["tp"]),
        batch=row["batch"],
        tokens_in=load.tokens_in,
        tokens_out=load.tokens_out,
        measured=float(row["tokens_out_per_s"]),
        at_roofline=replica.requests_per_s * load.tokens_out,
    )


def _machine(gpu: GpuConfig) -> Machine:
    node = ClusterConfig(name="node", node_type="eight GPUs", nodes=1, gpus_per_node=8)
    return Machine.of(node, gpu, FabricConfig(name="none"))


def _model(name: str, constants: PlannerConfig) -> ModelConfig:
    if name in SHAPES:
        return ModelConfig(name=name, seq_len=4096, gated_mlp=name not in PLAIN_MLP, **SHAPES[name])
    return option("model", name, ModelConfig, constants)


def option(group: str, name: str, schema: type, constants: PlannerConfig) -> Any:
    if (group, name) not in _OPTIONS:
        _OPTIONS[group, name] = _read_option(group, name, schema, constants)
    return _OPTIONS[group, name]


_OPTIONS: dict[tuple[str, str], Any] = {}  # each file is read once, which takes longer than all arithmetic


def _read_option(group: str, name: str, schema: type, constants: PlannerConfig) -> Any:
    root = OmegaConf.create({"planner": dataclasses.asdict(constants)})
    root[group] = OmegaConf.merge(
        OmegaConf.structured(schema), OmegaConf.load(conf_dir() / group / f"{name}.yaml")
    )
    return OmegaConf.to_object(root[group])


# --- what is told ------------------------------------------------------------------------------


def summary(known: Sequence[Row], share: float) -> list[dict[str, Any]]:
    """Each table, and all of them with the same weight."""
    told = []
    for table, of_one in by_table(known).items():
        errors = [row.error(share) for row in of_one]
        told.append(
            {
                "table": table,
                "rows": len(errors),
                "reached_share": statistics.median(row.measured / row.at_roofline for row in of_one),
                "median_abs_error": statistics.median(map(abs, errors)),
                "mean_abs_error": statistics.mean(map(abs, errors)),
                "bias": statistics.median(errors),
                "within_30_percent": sum(abs(error) <= 0.3 for error in errors) / len(errors),
            }
        )
    return told


def markdown(known: Sequence[Row], share: float) -> str:
    """The tables of docs/serving.md."""
    lines = [
        "| table | rows | reaches of the roofline | median error | mean error | median bias | within 30% |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {one['table']} | {one['rows']} | {one['reached_share']:.0%} | {one['median_abs_error']:.0%} | "
        f"{one['mean_abs_error']:.0%} | {one['bias']:+.0%} | {one['within_30_percent']:.0%} |"
        for one in summary(known, share)
    ]
    lines += [
        "",
        "| ChatGPT in February 2023, as read | GPUs | dollars a day | against the source |",
        "|---|---:|---:|---:|",
    ]
    lines.append(f"| the source | {SOURCE_GPUS:,} | {SOURCE_USD_PER_DAY:,} | |")
    lines += [
        f"| {one.reading} | {one.gpus:,} | {one.usd_per_day:,.0f} | {one.error:+.0%} |" for one in chatgpt()
    ]
    return "\n".join(lines)


def put_between(begin: str, end: str, tables: str) -> None:
    """Into docs/serving.md, in place of what stands between two marks."""
    whole = f"{begin}\n{tables}\n{end}"
    text = re.sub(f"{begin}.*{end}", lambda _: whole, DOCUMENT.read_text(), flags=re.DOTALL)
    DOCUMENT.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="How well the serving model says what was published.")
    parser.add_argument("--rows", action="store_true", help="print every row too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/serving.md")
    args = parser.parse_args()
    known = rows()
    share = ServeConfig.software_share
    if args.json:
        body = {
            "software_share": share,
            "software_share_of_tables": software_share(known),
            "tables": summary(known, share),
            "chatgpt": [dataclasses.asdict(one) | {"error": one.error} for one in chatgpt()],
            "rows": [dataclasses.asdict(row) | {"error": row.error(share)} for row in known],
        }
        print(json.dumps(body, indent=2))
        return 0
    for row in known if args.rows else ():
        print(
            f"{row.table:24} {row.model:13} tp {row.tp}  batch {row.batch or '–':>4} "
            f" {row.tokens_in:>5.0f} in {row.tokens_out:>5.0f} out  measured {row.measured:>9,.1f}  predicted"
            f" {row.at_roofline * share:>9,.1f}  {row.error(share):+.0%}"
        )
    print(f"serve.software_share={share:g}; the tables have {software_share(known):.2f}\n")
    print(markdown(known, share))
    if args.write:
        put_between(BEGIN, END, markdown(known, share))
    return 0


if __name__ == "__main__":
    sys.exit(main())
