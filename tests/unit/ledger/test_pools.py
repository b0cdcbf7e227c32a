"""Budgets that runs share: whatever they draw and spend, together they never have more than there is."""

from __future__ import annotations

import json
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.ledger.pools import CLAIM_S, Amounts, Claims, Pool, pools_in

NOVEMBER_S = datetime(2026, 11, 20, tzinfo=UTC).timestamp()
TEAM = Pool("cost_center", "42", "month", usd=100.0)


class Wall:
    def __init__(self) -> None:
        self.now_s = NOVEMBER_S

    def __call__(self) -> float:
        return self.now_s


MOVES = st.lists(
    st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 30), st.floats(0, 600), st.booleans()),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_all_runs_together_never_spend_more_than_there_is(
    moves: list[tuple[int, float, float, float, bool]],
) -> None:
    wall = Wall()
    with tempfile.TemporaryDirectory() as root:
        runs = [Claims(Path(root), f"run-{number}", [TEAM], wall) for number in range(3)]
        spent, may = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        renewed = [0.0, 0.0, 0.0]
        for number, share, wish, later_s, ends in moves:
            wall.now_s += later_s
            if wall.now_s - renewed[number] < CLAIM_S:  # a live driver draws anew long before that
                spent[number] += share * (may[number] - spent[number])
            if ends:
                runs[number].give_back(Amounts(spent[number]))
                may[number] = spent[number]
            else:
                may[number] = runs[number].draw(Amounts(spent[number]), Amounts(wish)).usd
                renewed[number] = wall.now_s
            assert sum(spent) <= 100.0 + 1e-9
            assert may[number] <= spent[number] + wish + 1e-9


def test_what_is_given_back_others_have_and_a_dead_drivers_claim_expires(tmp_path: Path) -> None:
    wall = Wall()
    one, two = (Claims(tmp_path, name, [TEAM], wall) for name in ("one", "two"))
    assert one.draw(Amounts(0.0), Amounts(80.0)).usd == 80.0
    assert two.draw(Amounts(0.0), Amounts(80.0)).usd == 20.0, "the rest is claimed"
    one.give_back(Amounts(30.0))
    assert two.draw(Amounts(10.0), Amounts(80.0)).usd == 70.0, "30 are spent"
    wall.now_s += CLAIM_S + 1  # of the second nothing was heard any more
    assert one.draw(Amounts(30.0), Amounts(100.0)).usd == 90.0, "10 of the second are spent"
    # taken up again it says what it had spent until it died
    again = Claims(tmp_path, "two", [TEAM], wall)
    assert again.draw(Amounts(11.0), Amounts(80.0)).usd == 11.0


def test_a_month_that_turns_has_its_own_money_and_earlier_spending_stays_where_it_was(tmp_path: Path) -> None:
    wall = Wall()
    run = Claims(tmp_path, "one", [TEAM], wall)
    run.draw(Amounts(0.0), Amounts(60.0))
    wall.now_s = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert run.draw(Amounts(50.0), Amounts(200.0)).usd == 150.0
    folder = tmp_path / "spend" / "claims"
    november, december = (
        json.loads((folder / f"cost_center=42.2026-{month}.json").read_text())["one"] for month in (11, 12)
    )
    assert (november["spent_usd"], november["claimed_usd"]) == (50.0, 0.0)
    assert (december["spent_usd"], december["claimed_usd"]) == (0.0, 100.0)


def test_hours_are_drawn_beside_dollars_and_what_is_not_limited_is_infinite(tmp_path: Path) -> None:
    both = [Pool("owner", "ada", "2026-11", gpu_hours=5.0), TEAM, Pool("project", "lm", "2026-10", usd=1.0)]
    most = Claims(tmp_path, "one", both, Wall()).draw(Amounts(1.0, 2.0), Amounts(10.0, 8.0))
    assert (most.usd, most.gpu_hours) == (11.0, 7.0)
    alone = Claims(tmp_path, "two", [TEAM], Wall()).draw(Amounts(), Amounts(1.0, 1.0))
    assert alone.gpu_hours == float("inf")


def test_others_of_the_group_may_read_it_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    run = Claims(tmp_path, "one", [TEAM], Wall())
    run.draw(Amounts(), Amounts(1.0))
    (path,) = (tmp_path / "spend" / "claims").glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not path.parent.stat().st_mode & stat.S_ISVTX, "they replace each other's files"
    path.write_text('{"one": {"spent_usd": "much"}}')
    with pytest.raises(RunDirectoryError, match="holds no claims: spent_usd is"):
        run.draw(Amounts(), Amounts(1.0))


def test_the_file_names_who_pays_and_only_his_count(tmp_path: Path) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text("- {cost_center: '42', period: 2026-11, usd: 50000}\n- {owner: ada, gpu_hours: 10}\n")
    assert pools_in(path, {"owner": "bob", "cost_center": "42"}) == [
        Pool("cost_center", "42", "2026-11", usd=50000)
    ]
    assert pools_in(path, {"owner": "ada", "cost_center": None}) == [Pool("owner", "ada", "month", None, 10)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("usd: 5", "is no list of budgets"),
        ("- {usd: 5}", "entry 1 names one of owner, project, cost_center"),
        ("- {owner: a, project: b}", "entry 1 names one of"),
        ("- {owner: a, euros: 5}", "entry 1 names one of"),
        ("- {owner: a, period: november}", "is neither a month"),
        ("- {owner: a, usd: -5}", "usd -5 is no number from 0"),
        ("- {owner: a, usd: .nan}", "usd NaN is no number from 0"),
        ("- [", "is not YAML"),
    ],
)
def test_what_is_no_budget_is_refused_with_its_entry(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="budgets=") as refused:
        pools_in(path, {"owner": "a"})
    assert said.lower() in str(refused.value).lower()
