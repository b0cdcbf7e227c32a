"""What may be changed of a run that is taken up, what follows it, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import orchestrator as orc
from orchestrator.config import load
from orchestrator.config.composing import composed
from orchestrator.config.resume_changes import Changed, Wishes, references_of, wishes_of, with_changes
from orchestrator.errors import ConfigError

CPU = ("gpu=cpu", "cluster.gpus_per_node=2", "cluster.cpu_threads_per_rank=1")


class SavedRun:
    """A run as its directory keeps it."""

    def __init__(self, folder: Path, *words: str) -> None:
        config = orc.compose(*CPU, *words)
        self.path, self.saved, self.references = folder, load.to_container(config), references_of(config)
        (folder / "plan.json").write_text(json.dumps({"layout": {"global_batch": 8}}))

    def resumed(self, *words: str, by_name: bool = True, references: dict[str, str] | None = None) -> Changed:
        wishes = Wishes(words, composed(words).config, by_name)
        known = self.references if references is None else references
        return with_changes(json.loads(json.dumps(self.saved)), known, self.path, wishes)


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    return SavedRun(tmp_path, "job.steps=100", "job.args.lr=0.002", "env.NOTE=${job.name}")


def test_without_a_wish_it_goes_on_as_it_was(run: SavedRun) -> None:
    kept = with_changes(run.saved, run.references, run.path, None)
    assert (load.to_container(kept.config), kept.words) == (run.saved, ())
    same = run.resumed("job.steps=100", "run_root=elsewhere")
    assert (load.to_container(same.config), same.words) == (run.saved, ())


def test_what_follows_a_key_follows_it_still(run: SavedRun) -> None:
    changed = run.resumed("job.steps=52", "recovery.max_restarts=7", "tracking.required=true")
    assert changed.words == ("job.steps=52", "recovery.max_restarts=7", "tracking.required=true")
    assert (changed.config.job.steps, changed.config.job.args["steps"]) == (52, 52)
    assert (changed.config.recovery.max_restarts, changed.config.tracking.required) == (7, True)
    expected: Any = json.loads(json.dumps(run.saved))
    expected["job"]["steps"] = expected["job"]["args"]["steps"] = 52
    expected["recovery"]["max_restarts"], expected["tracking"]["required"] = 7, True
    assert load.to_container(changed.config) == expected, "and nothing else is other than it was"


def test_only_what_follows_a_key_that_may_change_is_kept(run: SavedRun) -> None:
    assert run.references["job.args.steps"] == "${job.steps}"
    assert not {"job.args.layers", "env.NOTE"} & run.references.keys()


def test_a_chain_of_keys_is_followed_to_its_end(tmp_path: Path) -> None:
    chained = SavedRun(tmp_path, "+job.args.warm=${job.args.steps}", "+job.args.note='of ${job.args.warm}'")
    args = chained.resumed("job.steps=52").config.job.args
    assert (args["steps"], args["warm"], args["note"]) == (52, 52, "of 52")


def test_another_size_of_the_cluster_trains_on_as_many_sequences_a_step(run: SavedRun) -> None:
    changed = run.resumed("job.ranks=1")
    assert (changed.config.job.ranks, changed.config.job.global_batch) == (1, 8)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("job.micro_batch=2", "job.micro_batch=2: a run that is taken up keeps its job.micro_batch (4); leave it out, or start another run with job.checkpoint_dir="),
        ("job.args.lr=1", "keeps its job.args.lr (0.002)"),
        ("+job.args.other=1", "job.args.other=1: a run that is taken up keeps its job.args.other; leave it out"),
        ("snapshot.enabled=false", "keeps its snapshot.enabled (True)"),
        ("recovery=spot", "recovery=spot: a run that is taken up keeps its recovery; name the keys that are to change, e.g. recovery.max_restarts=…"),
        ("model=llama3_8b", "model=llama3_8b: a run that is taken up keeps its model; leave it out"),
    ],
)  # fmt: skip
def test_what_would_make_it_another_run_is_refused_by_name(run: SavedRun, word: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        run.resumed(word)
    assert said in str(refused.value)


def test_variables_may_change(run: SavedRun) -> None:
    """A token that was renewed, or another adapter of the network."""
    changed = run.resumed("++env.NCCL_IB_HCA='mlx5_1'", "++job.env.TOKEN='new'")
    assert changed.config.env["NCCL_IB_HCA"] == "mlx5_1"
    assert changed.config.job.env == run.saved["job"]["env"] | {"TOKEN": "new"}
    assert changed.config.env["NOTE"] == "tiny_gpt"


def test_steps_that_no_argument_follows_are_refused(run: SavedRun) -> None:
    with pytest.raises(
        ConfigError, match=r"^job\.steps=52: no argument of this run's script is known to follow"
    ):
        run.resumed("job.steps=52", references={})


def test_the_words_of_a_whole_run_are_looked_at_but_for_its_choices(run: SavedRun) -> None:
    """With job.resume=auto the same command starts a run and takes it up."""
    words = (*CPU, "job=tiny_gpt", "job.steps=52", "job.resume=auto", "run_name=night-1", "job.args.lr=0.002")
    assert run.resumed(*words, by_name=False).words == ("job.steps=52",)
    with pytest.raises(
        ConfigError, match=r"job\.args\.lr=0\.5: a run that is taken up keeps its job\.args\.lr"
    ):
        run.resumed(*CPU, "job.args.lr=0.5", by_name=False)
    assert not wishes_of(orc.compose(*CPU)).by_name
