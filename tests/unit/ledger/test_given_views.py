"""An experiment's saved views over the versions of ours: new ones come, and nobody's own are written over."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchestrator.ledger.mlflow import given_views
from orchestrator.ledger.mlflow.given_views import VIEWS_TAG, VIEWS_VERSION, digest, experiment_tags
from orchestrator.ledger.mlflow.views import NOTE, SHARED_VIEW, VIEWS, note, page_of, saved

TAGS = [SHARED_VIEW + view.key for view in VIEWS]
# Of the version beside it: who changes a view or the note says both anew.
DIGESTS = (2, {"cost": "baa144617255f037", "speed": "b54634c36c5d7c12", "reliability": "8e8343b9e06ab328",
               NOTE: "63ea3a6adfb9e798"})  # fmt: skip


def test_a_change_of_the_views_is_another_version() -> None:
    now = {view.key: digest(view.key, saved(view, 1)) for view in VIEWS} | {NOTE: digest(NOTE, note())}
    assert (VIEWS_VERSION, now) == DIGESTS


def test_an_experiment_is_given_its_views_once_and_keeps_a_note_of_its_own() -> None:
    tags = experiment_tags({}, 1)
    assert set(tags) == {NOTE, VIEWS_TAG, *TAGS}
    for view in VIEWS:
        assert page_of("7", view).split("&")[0] == f"/#/experiments/7/runs?viewStateShareKey={view.key}"
        assert f"viewStateShareKey={view.key}`" in tags[NOTE]
    assert experiment_tags(tags, 2) == {}
    changed_since = {key: value for key, value in tags.items() if key != TAGS[1]}
    assert experiment_tags(changed_since, 2) == {}
    assert NOTE not in experiment_tags({NOTE: "ours"}, 1)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose views and note are others, and which has one view more."""
    others = [replace(view, columns=view.columns[:3]) for view in VIEWS]
    monkeypatch.setattr(given_views, "VIEWS", (*others, replace(VIEWS[0], key="new")))
    monkeypatch.setattr(given_views, "note", lambda: "another note")
    monkeypatch.setattr(given_views, "VIEWS_VERSION", VIEWS_VERSION + 1)


def renamed(tag: str) -> str:
    """As MLflow's page saves a view under another name."""
    return json.dumps(json.loads(tag) | {"name": "Mine", "updatedAt": 9})


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("kept", [None, *TAGS, NOTE])
@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_a_later_version_replaces_what_nobody_has_touched(kept: str | None, how: str) -> None:
    with pytest.MonkeyPatch.context() as before:
        before.setattr(given_views, "VIEWS", VIEWS)
        before.setattr(given_views, "note", note)
        before.setattr(given_views, "VIEWS_VERSION", VIEWS_VERSION)
        known = experiment_tags({}, 1)
    if kept is not None and how == "deleted":
        del known[kept]
    elif kept is not None:
        known[kept] = "a word of mine" if kept == NOTE else renamed(known[kept])
    first = experiment_tags(known, 2)
    assert set(first) == {VIEWS_TAG, NOTE, *TAGS, SHARED_VIEW + "new"} - {kept}
    assert experiment_tags(known | first, 3) == {}


@pytest.mark.usefixtures("later")
def test_views_of_before_there_were_digests_are_replaced_and_others_are_not() -> None:
    """The first version wrote "1", and its views without digests."""
    known = {SHARED_VIEW + view.key: saved(view, 1) for view in VIEWS} | {NOTE: note(), VIEWS_TAG: "1"}
    known[TAGS[0]] = renamed(known[TAGS[0]])
    assert set(experiment_tags(known, 2)) == {VIEWS_TAG, NOTE, TAGS[1], TAGS[2], SHARED_VIEW + "new"}


def test_an_experiment_of_a_later_version_or_with_a_word_of_somebodys_is_left_alone() -> None:
    known = {SHARED_VIEW + view.key: saved(view, 1) for view in VIEWS}
    for told in (
        json.dumps({"version": VIEWS_VERSION + 1, "cost": "0"}),
        "mine",
        "[]",
        "{}",
        '{"version": []}',
    ):
        assert experiment_tags(known | {VIEWS_TAG: told}, 2) == {}


@pytest.mark.parametrize("value", ["text", "{}", "[1]", '{"name": "x", "state": "deflate;AAAA"}',
                                   '{"name": "x", "state": 1}', '{"name": "x", "state": "{}"}'])  # fmt: skip
def test_what_none_of_ours_can_be_is_somebody_elses(value: str) -> None:
    assert digest("cost", value) == ""
    assert digest("cost", None) is None
