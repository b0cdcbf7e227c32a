"""The table of runs as it is read at three widths, to the letter."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest

from orchestrator.cli.show.runs_table import print_groups, print_table
from orchestrator.cli.show.screen import Screen
from orchestrator.ledger.mlflow.run_groups import grouped
from orchestrator.ledger.mlflow.runs import RunRow


def row(name: str, seed: int, **changes: Any) -> RunRow:
    plain: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(RunRow))
    same = {
        "run_id": name, "name": name, "status": "finished", "job": "gpt", "model": "tiny", "cluster": "aws_p5",
        "gpu_type": "H100", "gpus": 16, "unit": "GPU", "tokens": 10**9, "tokens_per_s": 5e4, "mfu": 0.4,
        "gpu_hours": 10.0, "cost_usd": 120.0, "cost_usd_per_million_tokens": 0.12, "goodput": 0.9, "restarts": 1,
        "final_loss": 2.5, "predicted_cost_usd": 100.0, "actual_over_predicted_cost": 1.2,
        "settings": {"job.args.lr": "1e-3", "job.args.seed": str(seed)}, "bucket_usd": {},
    }  # fmt: skip
    return RunRow(**{**plain, **same, **changes})


ROWS = [
    row("night-1", 0, usd_to_loss=80.0, gpu_hours_to_loss=6.5, hours_to_loss=0.4, best_loss=2.5),
    row("night-2", 1, cost_usd=90.0, final_loss=2.71, best_loss=2.7),
    row("night-3 [red]", 2, status="failed", cost_usd=12.0, final_loss=None, cluster="lab"),
]
TABLES = {
    60: """
run              lr  seed  cluster  GPUs     status
   $ to loss   h to loss   tokens/s      cost   $/M tokens
night-1        1e-3     0  aws_p5   16 H100  finished
      $80.00         0.4        50k*  $120.00       $0.120*
night-2        1e-3     1  aws_p5   16 H100  finished
  best 2.700           –        50k*   $90.00*      $0.120*
night-3 [red]  1e-3     2  lab      16 H100  failed
           –           –        50k    $12.00       $0.120
* best of the finished runs; not shown for lack of width: GPU-hours, GPU-h to loss, final loss, goodput, MFU, tokens, restarts, actual/plan
""",
    80: """
run              lr  seed  GPU-h to loss   cluster  GPUs     status      MFU
   $ to loss   h to loss   tokens/s   GPU-hours     cost   $/M tokens   goodput
night-1        1e-3     0            6.5   aws_p5   16 H100  finished  40.0%*
      $80.00         0.4        50k*         10  $120.00       $0.120*    90.0%*
night-2        1e-3     1              –   aws_p5   16 H100  finished  40.0%*
  best 2.700           –        50k*         10   $90.00*      $0.120*    90.0%*
night-3 [red]  1e-3     2              –   lab      16 H100  failed    40.0%
           –           –        50k          10   $12.00       $0.120     90.0%
* best of the finished runs; not shown for lack of width: final loss, tokens, restarts, actual/plan
""",
    120: """
run              lr  seed  cluster  GPUs     status    tokens  actual/plan  restarts
   $ to loss   GPU-h to loss   h to loss   tokens/s     MFU   GPU-hours     cost   $/M tokens   final loss   goodput
night-1        1e-3     0  aws_p5   16 H100  finished      1B         1.20         1
      $80.00             6.5         0.4        50k*  40.0%*         10  $120.00       $0.120*       2.500*    90.0%*
night-2        1e-3     1  aws_p5   16 H100  finished      1B         1.20         1
  best 2.700               –           –        50k*  40.0%*         10   $90.00*      $0.120*       2.710     90.0%*
night-3 [red]  1e-3     2  lab      16 H100  failed        1B         1.20         1
           –               –           –        50k   40.0%          10   $12.00       $0.120            –     90.0%
* best of the finished runs
""",
}
GROUPS = """
cluster  runs    GPU-hours  tokens/s           MFU       goodput  actual/plan
  spent in all  reached  $ to loss  h to loss              cost      $/M tokens      final loss
aws_p5   2          10 ± 0   50k ± 0  40.0% ± 0.0%  90.0% ± 0.0%  1.20 ± 0.00
       $210.00   1 of 2     $80.00        0.4  $105.00 ± $21.21  $0.120 ± $0.00  2.605 ± 0.1485
lab      0 (+1)          –         –             –             –            –
        $12.00   0 of 1          –          –                 –               –               –
mean ± standard deviation of the finished runs; (+n): others, whose cost is in 'spent in all' alone
"""


def shown(width: int, what: Any, rows: Any) -> str:
    screen = Screen(file=(file := io.StringIO()), width=width)
    what(rows, screen)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


@pytest.mark.parametrize("width", TABLES)
def test_a_table_of_runs(width: int) -> None:
    assert shown(width, print_table, ROWS) == TABLES[width].strip("\n")


def test_a_table_of_groups() -> None:
    assert shown(100, print_groups, grouped(ROWS, ["cluster"])) == GROUPS.strip("\n")
