"""Two drivers that draw on one shared budget at once: together they never have more than there is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.errors import EXIT_BUDGET_REACHED
from orchestrator.events import BudgetSettled, RunEnded, SharedBudgetWarned, Status
from orchestrator.ledger.journal import replay
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.pools import CLAIM_S
from orchestrator.supervise.spending import Cap
from tests.faults.runs import COMMON, TIMEOUT_S, UNTRACKED, User

pytestmark = pytest.mark.real

USD_PER_S = 0.25
# The first driver claims a quarter of an hour and the second to save in; the other one gets what is left.
SAVE_S = 8
CLAIM_USD = USD_PER_S * (CLAIM_S + SAVE_S)
LEFT_USD = 7.0  # 28 seconds
NAMES = ("one", "two")


def test_two_drivers_share_a_budget_without_a_server(tmp_path: Path, kept: dict[str, str]) -> None:
    user = User(tmp_path)
    user.environment = kept
    root = user.folder / "runs"
    (root / "budgets.yaml").write_text(f"- {{project: lm, usd: {CLAIM_USD + LEFT_USD}}}\n")
    words = [
        *COMMON, UNTRACKED, "cluster.gpus_per_node=1", f"cluster.price.usd_per_gpu_hour={USD_PER_S * 3600}",
        "project=lm", f"budget.first_save_s={SAVE_S}", "job.steps=100000", "job.args.checkpoint_every=20",
    ]  # fmt: skip
    drivers = {}
    for name in NAMES:
        with (tmp_path / f"{name}.out").open("w") as out:
            drivers[name] = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", *words, f"run_name={name}"],
                cwd=user.folder, env=kept, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while all(driver.poll() is None for driver in drivers.values()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        said = {name: (tmp_path / f"{name}.out").read_text() for name in NAMES}
        (poor,) = [name for name, driver in drivers.items() if driver.poll() is not None]
        assert drivers[poor].returncode == EXIT_BUDGET_REACHED, said[poor]
        (rich,) = [name for name in NAMES if name != poor]
        stopped = user.command("stop", rich)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        drivers[rich].wait(TIMEOUT_S)
    finally:
        for driver in drivers.values():
            driver.kill()
            driver.wait()
    (claims,) = [
        json.loads(path.read_text()) for path in (root / "spend" / "claims").glob("project=lm.*.json")
    ]
    bills = {name: Ledger().fold_all(replay(root / name / "journal.jsonl")).bill() for name in NAMES}
    for name, bill in bills.items():
        assert claims[name]["spent_usd"] == pytest.approx(bill.cost_usd), (
            "given back, and counted to the cent"
        )
        assert claims[name]["claimed_usd"] == 0
    events = [record.event for record in replay(root / poor / "journal.jsonl")]
    (settled,) = [event for event in events if isinstance(event, BudgetSettled)]
    assert (settled.key, settled.cap) == (Cap.SHARED_USD, pytest.approx(LEFT_USD))
    assert bills[poor].cost_usd <= LEFT_USD
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status is Status.BUDGET_REACHED
    assert not [event for event in events if isinstance(event, SharedBudgetWarned)], "most of it is left"
