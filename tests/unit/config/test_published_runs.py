"""The lists of published runs: from which file they are, that Hydra never reads them, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from orchestrator.config import composing, load
from orchestrator.config.evidence import EvidenceConfig, PlannerEvidence
from orchestrator.config.published_runs import fill
from orchestrator.errors import ConfigError
from tests.unit.config.test_conf import CONF, composed

RUN = (
    "{table: mine, architecture: hopper, precision: 16-bit, framework: fsdp, parallelism: data, ranks: 8,"
    " ratios: [1.1], best_mfu: 0.5}"
)


def test_a_configuration_has_the_lists_although_hydra_did_not_read_them() -> None:
    planner = composing.composed([]).config.planner
    assert (planner.evidence, planner.best_published) == (None, None), (
        "they would double what composing takes"
    )
    found = load.load(composing.composed([]).config).planner
    assert found.evidence is not None
    assert found.best_published is not None
    assert all(isinstance(one, EvidenceConfig) for one in found.evidence)
    assert (len(found.evidence) > 40, len(found.best_published) > 10) == (True, True)


def test_what_is_given_is_not_read() -> None:
    found = composed("planner.evidence=[]").planner
    assert found.evidence == []
    assert found.best_published, "only what is not given"
    given = PlannerEvidence(published="there is no such file", evidence=[], best_published=[])
    fill(given, CONF / "planner")
    assert given.evidence == []


def test_a_file_of_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = tmp_path / "own.yml"
    own.write_text(f"evidence:\n- {RUN}\n")
    found = composed(f"planner.published={own}").planner
    assert found.evidence is not None
    assert [(one.table, one.ratios, one.rows) for one in found.evidence] == [("mine", [1.1], 1)]
    assert found.best_published == []


def test_a_run_of_before_has_no_file_and_gets_no_lists_that_it_had_not() -> None:
    container = load.to_container(composed())
    for key in ("published", "evidence", "best_published"):
        del container["planner"][key]
    found = load.from_container(container).planner
    assert (found.evidence, found.best_published) == ([], [])


def test_a_run_of_today_has_its_lists_with_it() -> None:
    config = composed()
    container = load.to_container(config)
    container["planner"]["published"] = "a file that is gone"
    expected = dataclasses.replace(config.planner, published="a file that is gone")
    assert load.from_container(container).planner == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory"),
        ("evidence: [", "it is not YAML that can be read"),
        ("[1]", "it has no keys"),
        ("evidence: 3", "evidence is no list of runs"),
        ("evidence: [3]", "evidence is no list of runs"),
        (f"evidence: [{RUN.replace('[1.1]', 'many')}]", "of evidence, ratios is 'many' and has to be"),
        (f"evidence: [{RUN.replace('table: mine, ', '')}]", "a run of evidence has no table"),
        (f"evidence: [{RUN.replace('table', 'tabel')}]", "of evidence, .*tabel"),
        ("best_published: [{mfu: high}]", "of best_published, mfu is 'high' and has to be"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    own = tmp_path / "own.yml"
    if text is not None:
        own.write_text(text)
    with pytest.raises(
        ConfigError, match=rf"planner\.published={own}: .*{said}.*; name a file like"
    ) as caught:
        fill(PlannerEvidence(published=str(own)), CONF / "planner")
    assert "\n" not in str(caught.value)
