"""What the arguments of a job become on a node."""

from __future__ import annotations

from pathlib import Path

from orchestrator.agent.assignment import rank_specs
from orchestrator.agent.resumed import Origin
from tests.support.assignments import assignment

ARGS = [
    "--dir={checkpoint_dir}", "--json={deepspeed_config}", "--run={run_dir}/x", "--skip={skip_batches}",
    "--mtbf={mtbf_s}", "--own={mine}",
]  # fmt: skip


def arguments(run_dir: Path, skip_batches: tuple[int, ...] = (), **changes: object) -> list[str]:
    """Of the last rank of the second node."""
    there = assignment(run_dir=str(run_dir), checkpoint_dir=str(run_dir / "kept"), args=ARGS, **changes)
    (run_dir / "logs").mkdir(exist_ok=True)
    specs = rank_specs(there, 1, Origin(2), "10.0.0.1", 29500, skip_batches=skip_batches)
    assert [spec.rank for spec in specs] == [2, 3]
    assert specs[0].args == specs[1].args
    return specs[1].args


def test_placeholders_become_paths_on_the_node_and_what_the_attempt_is_told(tmp_path: Path) -> None:
    filled = arguments(tmp_path, (3, 17), mtbf_s=22815000.0)
    assert filled == [
        f"--dir={tmp_path}/kept", f"--json={tmp_path}/deepspeed.node-1.json", f"--run={tmp_path}/x",
        "--skip=3,17", "--mtbf=22815000.0", "--own={mine}",
    ]  # fmt: skip
    assert (tmp_path / "kept").is_dir()


def test_a_rank_is_told_what_torchrun_tells_it(tmp_path: Path) -> None:
    there = assignment(
        run_dir=str(tmp_path), checkpoint_dir=str(tmp_path / "c"), args=["--local_rank={local_rank}"],
        environment={"ROLE_NAME": "mine"}, began_unix_s=7.5,
    )  # fmt: skip
    first, second = rank_specs(there, 1, Origin(3), "10.0.0.1", 29500)
    assert (first.args, second.args) == (["--local_rank=0"], ["--local_rank=1"])
    told = {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2", "ROLE_NAME": "mine", "ROLE_RANK": "3", "ROLE_WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "r",
        "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "False",
    }  # fmt: skip
    assert {name: second.env.get(name) for name in told} == told
    assert second.began_unix_s == 7.5


def test_loggers_of_rank_0_have_one_history_over_all_attempts(tmp_path: Path) -> None:
    def told(attempt: int, node: int = 0, **own: str) -> list[dict[str, str]]:
        there = assignment(run_dir=str(tmp_path), checkpoint_dir=str(tmp_path / "c"), environment=own)
        specs = rank_specs(there, node, Origin(attempt), "10.0.0.1", 29500)
        names = ("TENSORBOARD_LOGGING_DIR", "WANDB_RUN_ID", "WANDB_RESUME")
        return [{name: spec.env[name] for name in names if name in spec.env} for spec in specs]

    first, other = told(1)
    assert first["TENSORBOARD_LOGGING_DIR"] == f"{tmp_path}/tensorboard"
    assert first["WANDB_RESUME"] == "allow"
    assert told(2)[0] == first
    assert [other, *told(1, node=1)] == [{}] * 3, "who logs on every rank makes a run for each"
    own = told(1, WANDB_SWEEP_ID="s", TENSORBOARD_LOGGING_DIR="/logs")
    assert own == [{"TENSORBOARD_LOGGING_DIR": "/logs"}] * 2, "what the user has set stays"


def test_nothing_to_skip_and_a_failure_rate_that_nobody_knows(tmp_path: Path) -> None:
    assert arguments(tmp_path)[3:5] == ["--skip=", "--mtbf=0.0"]
