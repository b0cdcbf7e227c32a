"""A configuration knows what it was composed from, and what a program has set since is as good as typed."""

from __future__ import annotations

import copy
import pickle

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import orchestrator as orc
from orchestrator.config import load
from orchestrator.config.origin import changed, origin_of, was_searched, word


def test_what_was_composed_is_known_and_compares_and_copies_as_ever() -> None:
    config = orc.compose("job=tiny_gpt", "job.steps=7")
    assert origin_of(config)[1] == ("job=tiny_gpt", "job.steps=7")
    assert "${" in str(origin_of(config)[0].job.args)
    assert config == load.from_container(load.to_container(config))
    for other in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), changed(config, run_root="x")):
        assert origin_of(other)[1][:2] == ("job=tiny_gpt", "job.steps=7")
    assert not was_searched(config)


def test_keys_that_were_set_since_are_words_and_what_refers_to_them_follows() -> None:
    config = orc.compose("job=tiny_gpt")
    config.layout.recompute = True
    config.env["A"] = "1, 2"
    config.job.args["note"] = None
    composed, words = origin_of(config)
    assert set(words) == {"job=tiny_gpt", "++layout.recompute=true", "++env.A='1, 2'", "++job.args.note=null"}
    loaded = load.load(composed)
    assert loaded.job.args["activation_checkpointing"] is True
    assert loaded.env["A"] == "1, 2"


def test_what_was_taken_out_is_gone_and_a_whole_section_can_be_replaced() -> None:
    config = orc.compose("job=tiny_gpt", "env.A=1", "env.B=2")
    del config.env["A"]
    config.model = None
    composed, words = origin_of(config)
    assert {"~env.A", "++model=null"} <= set(words)
    assert (dict(composed.env), composed.model) == ({"B": "2"}, None)


def test_one_that_hydra_did_not_compose_has_no_words_and_its_text_stays_text() -> None:
    config = load.from_container(load.to_container(orc.compose("job=tiny_gpt", "env.A=a${b")))
    composed, words = origin_of(config)
    assert words == ()
    assert load.load(composed).env["A"] == "a${b"


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, 1e-5, "text", "a, b", "null", "1.10", "it's", "", [1, 2], ["a b", None], {"a": 1}],
)
def test_a_word_is_read_by_hydra_as_the_value_that_it_was_made_of(value: object) -> None:
    assert OverridesParser.create().parse_override(word("key", value)).value() == value
