"""Twelve scripts in the forms in which people write and start them: under their own launcher, here, and here with
ranks that are killed, also in the middle of a save. Nothing of them is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from orchestrator.events import AttemptStarted, Decided, RankLost, RunEnded, Status, StepDone
from tests.faults.runs import MARKS, Run
from tests.support.script_forms import FORMS, STEPS, Form, FormUser, hung_at_the_end
from tests.user_scripts.runs import ScriptUser

pytestmark = MARKS
EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=str)


@pytest.fixture(scope="module")
def forms(
    keeper: ScriptUser, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[FormUser]:
    """In the end it prints what each run took."""
    one = FormUser(tmp_path_factory.mktemp("forms"), keeper.environment, keeper.kept)
    yield one
    for run in one.runs:
        run.kill()
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    if terminal is not None:
        terminal.write_line(f"\nseconds:\n{one.table()}")


@pytest.fixture
def user(form: Form, request: pytest.FixtureRequest) -> FormUser:
    """Skips where a library is not installed; ORCHESTRATOR_REQUIRE_SCRIPTS=1 fails instead."""
    missing = form.missing()
    if missing and os.environ.get("ORCHESTRATOR_REQUIRE_SCRIPTS") == "1":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    forms: FormUser = request.getfixturevalue("forms")
    return forms


@EVERY_FORM
def test_its_losses_are_those_of_its_own_launcher(form: Form, user: FormUser) -> None:
    run, losses = user.whole(form)
    assert run.code == 0, run.text
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses == user.launched(form), "to the last digit"
    if not form.program:
        assert [one.step for one in run.of(StepDone)] == list(range(1, STEPS + 1))
    assert f"resume      {form.resume}" in plan_of(run)


@pytest.mark.parametrize("form", [form for form in FORMS if form.name == "hydra"], ids=str)
def test_a_hydra_application_has_one_folder_for_all_ranks_and_attempts(form: Form, user: FormUser) -> None:
    run, _ = user.killed(form, 1)
    (folder,) = (run.folder.parent.parent / "outputs").glob("*/*")
    assert {path.name for path in folder.glob("rank-*")} == {"rank-0.txt", "rank-1.txt"}


@pytest.mark.parametrize("form", [form for form in FORMS if not form.goes_on], ids=str)
def test_of_a_script_that_keeps_nothing_it_is_said_that_it_begins_anew(form: Form, user: FormUser) -> None:
    run, written = user.killed(form, 1)
    assert run.code == 0, run.text
    assert written.begun_at() == [1, 1]
    plan = " ".join(plan_of(run).split())
    assert "it has no option that is known here and finds no checkpoint by itself; tell it how with" in plan
    (decided,) = run.of(Decided)
    assert decided.action == "restart"
    assert "attempt 2: 2 ranks" in run.text
    assert "without a checkpoint of ours" in run.text


@EVERY_FORM
@pytest.mark.parametrize("count", [1, 3])
def test_kills_change_no_loss(form: Form, count: int, user: FormUser) -> None:
    run, written = user.killed(form, count)
    assert run.code == 0, run.text
    assert written.losses() == user.launched(form), "to the last digit"
    begun = written.begun_at()
    assert len(begun) == count + 1, f"{begun}\n{run.text}"
    assert all(one in possible for one, possible in zip(begun, form.begins(count), strict=True)), begun
    ends = hung_at_the_end(run)
    assert len(run.of(AttemptStarted)) == count + 1 + ends, run.text
    assert [one.exit_status for one in run.of(RankLost)] == [-9] * count + [0] * ends
    assert run.events()[-1] == RunEnded(Status.FINISHED, "the job ended by itself")


def plan_of(run: Run) -> str:
    return (run.folder / "plan.txt").read_text()
