"""What people write of pools, teams and classes: each thing that cannot be is refused in one line."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from orchestrator.dispatch.fleet_file import read_fleet_file
from orchestrator.dispatch.times import time_of, told
from orchestrator.errors import ConfigError

GOOD = """
pools:
  h100: {nodes: 4, gpus_per_node: 8, usd_per_gpu_hour: 2.5, words: [cluster=dgx_h100], labels: {rack: 7}}
  cpus: {nodes: 2, gpus_per_node: 2, resource: CPU}
teams:
  nlp: {quota: {h100: 16}, weight: 2, borrow_limit: 16, usd_per_month: 90000}
  cv: {quota: {h100: 16}}
classes:
  product: {usd_per_hour: 100}
  batch: {default: true}
  urgent: {before_all_others: true}
policy: {min_run_s: 60, most_moves: 2, stop_unsaved: true}
"""


def read(folder: Path, text: str) -> object:
    (folder / "fleet.yaml").write_text(text)
    return read_fleet_file(folder)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(GOOD)
    fleet = read_fleet_file(tmp_path)
    h100, cpus = fleet.pools
    assert (h100.pool.gpus, h100.pool.usd_per_gpu_hour, h100.words) == (32, 2.5, ("cluster=dgx_h100",))
    assert (h100.labels, cpus.resource) == ((("rack", "7"),), "CPU")
    assert [(team.name, team.quota_in("h100"), team.borrow_limit) for team in fleet.teams] == [
        ("nlp", 16, 16),
        ("cv", 16, None),
    ]
    assert (fleet.job_class("product").usd_per_hour, fleet.job_class(None).name) == (100.0, "batch")
    assert fleet.job_class("urgent").rank == 1
    assert (fleet.policy.min_run_s, fleet.policy.most_moves, fleet.policy.aging) == (60.0, 2, 0.1)
    assert fleet.policy.stop_unsaved
    assert fleet.state_dir == tmp_path / "fleet"
    assert not fleet.metrics_names


ONE = "pools: {h100: {nodes: 4, gpus_per_node: 8}}\n"
CHANGED = "pools: {h100: {nodes: 4, gpus_per_node: 8, changes: %s}}"
REFUSED = [
    ("", "all of it: None has to be a map with state_dir, ray_address, pools, teams"),
    ("pools: {}", "pools: there is none; write at least"),
    ("metrics_names: maybe", "metrics_names: 'maybe' has to be true or false"),
    ("pool: {}", "pool: there is no such key; did you mean 'pools'?"),
    ("pools: {a: {nodes: 0, gpus_per_node: 8}}", "pools.a.nodes: 0 has to be a whole number from 1 to"),
    ("pools: {a: {nodes: 1}}", "pools.a.gpus_per_node: None has to be a whole number"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, usd_per_gpu_hour: -1}}", "-1 has to be a number from 0"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, usd_per_gpu_hour: .nan}}", "nan has to be a number from 0"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, words: [x]}}", "has to be a list of KEY=VALUE"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, resource: TPU}}", "'TPU' has to be one of GPU, CPU"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, until: soon}}", "until='soon': is no time with its date"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, from: 3h}}", "pools.a.from='3h': is no time with its date"),
    ("pools: {a: {nodes: 1, gpus_per_node: 8, until: fri 18:00}}", "until='fri 18:00': is no time with its"),
    (ONE + "teams: {a: {quota: {h10: 8}}}", "teams.a.quota.h10: there is no such key; did you mean 'h100'?"),
    (
        ONE + "teams: {a: {quota: {h100: 20}}, b: {quota: {h100: 20}}}",
        "quotas of h100 add up to 40 (a 20 + b 20), and it has 32 (4 nodes of 8); lower one by 8, or raise",
    ),
    (ONE + "teams: {a: {weight: 0}}", "teams.a.weight: 0 has to be a number above 0"),
    (ONE + "teams: [a]", "teams: a list of 1 has to be a map of names"),
    (ONE + "classes: {a: {default: true}, b: {default: true}}", "a and b are both the default"),
    (ONE + "classes: {a: {before_all_others: 3}}", "has to be true or false"),
    (ONE + "policy: {hysteresis: 2}", "policy.hysteresis: 2 has to be above 0 and at most 1"),
    (ONE + "policy: {stop_unsaved: 1}", "policy.stop_unsaved: 1 has to be true or false"),
    (ONE + "policy: {ageing: 2}", "policy.ageing: there is no such key; did you mean 'aging'?"),
    ("pools: [", "it is not YAML that can be read"),
    (CHANGED % "4", "pools.h100.changes: 4 has to be a list, as [{at: 2026-12-05 08:00, nodes: +4}]"),
    (CHANGED % "[{at: 2026-12-05}]", "pools.h100.changes[0].nodes: None has to be a whole number"),
    (CHANGED % "[{at: 2026-12-05, nodes: 0}]", "pools.h100.changes[0].nodes: 0 changes nothing; give how"),
    (CHANGED % "[{nodes: 2}]", "pools.h100.changes[0].at='': is no time with its date; write e.g. '2026-"),
    (CHANGED % "[{at: fri 18:00, nodes: 2}]", "changes[0].at='fri 18:00': is no time with its date"),
    (CHANGED % "[{at: 18:00, nodes: 2}]", "is no time with its date"),
    (CHANGED % "[{pool: a100, nodes: 2}]", "pools.h100.changes[0].pool: there is no such key; "),
    (
        CHANGED % "[{at: 2026-12-06, nodes: -3}, {at: 2026-12-05, nodes: -2}, {at: 2026-12-07, nodes: 9}]",
        "pools.h100.changes: -3 nodes at 2026-12-06 00:00 are more than the 2 that there are then; take off",
    ),
    (
        CHANGED % "[{at: 2026-12-05, nodes: +1}]" + "\nteams: {a: {quota: {h100: 41}}}",
        "quotas of h100 add up to 41 (a 41), and it has 40 (5 nodes of 8)",
    ),
]


def test_nodes_that_come_and_leave_are_read_in_the_order_of_their_times(tmp_path: Path) -> None:
    changes = (
        "[{at: 2026-12-12 08:00:00, nodes: +2}, {at: '2026-12-05 08:00', nodes: +4},"
        " {at: 2026-12-10 08:00, nodes: -6, why: a new floor}]"
    )
    (tmp_path / "fleet.yaml").write_text(CHANGED % changes + "\nteams: {a: {quota: {h100: 64}}}")
    fleet = read_fleet_file(tmp_path)
    (entry,) = fleet.pools
    assert [one.nodes for one in entry.changes] == [4, -6, 2]
    days = [datetime(2026, 12, day, 9).timestamp() for day in (4, 5, 10, 12)]
    assert [entry.pool_at(at).nodes for at in days] == [4, 8, 2, 4]
    assert [entry.largest(at).nodes for at in days] == [8, 8, 4, 4]
    assert fleet.remarks(days[0]) == []
    past, leaving = fleet.remarks(days[2])
    assert past.endswith(
        "pools.h100.changes: +4 nodes at sat 08:00 is past and counts as done; write pools.h100.nodes=2 and"
        " leave what is past out"
    )
    assert "-6 nodes" in leaving


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "fleet.yaml" in str(refused.value)


def test_names_that_are_not_there_are_refused_with_the_near_miss(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(GOOD)
    fleet = read_fleet_file(tmp_path)
    with pytest.raises(ConfigError, match="team='nlpp': there is no such team; did you mean 'nlp'"):
        fleet.team("nlpp")
    with pytest.raises(ConfigError, match=r"team: which one\? there are nlp, cv; say e.g. team=nlp"):
        fleet.team(None)
    with pytest.raises(ConfigError, match="class='produkt': there is no such class; did you mean 'product'"):
        fleet.job_class("produkt")
    with pytest.raises(ConfigError, match="pool='h200': there is no such pool; did you mean 'h100'"):
        fleet.pool("h200")


def test_a_file_that_is_not_there_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not there, .*; write at least 'pools: "):
        read_fleet_file(tmp_path)


NOW = datetime(2026, 11, 27, 12, 0).timestamp()  # a Friday


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("3h", datetime(2026, 11, 27, 15, 0)),
        ("in 90 min", datetime(2026, 11, 27, 13, 30)),
        ("18:00", datetime(2026, 11, 27, 18, 0)),
        ("9:30", datetime(2026, 11, 28, 9, 30)),
        ("fri 18:00", datetime(2026, 11, 27, 18, 0)),
        ("fri 9:00", datetime(2026, 12, 4, 9, 0)),
        ("Monday 8:00", datetime(2026, 11, 30, 8, 0)),
        ("tomorrow", datetime(2026, 11, 28, 23, 59)),
        ("2026-12-01 18:00", datetime(2026, 12, 1, 18, 0)),
        ("2026-12-01", datetime(2026, 12, 1)),
    ],
)
def test_times_are_typed_as_people_say_them(text: str, when: datetime) -> None:
    assert time_of("deadline", text, NOW) == when.timestamp()


@pytest.mark.parametrize("text", ["", "soon", "25:00", "fry 18:00", "18", "2026-13-01", "-3h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"deadline=.*: is no time; write 3h"):
        time_of("deadline", text, NOW)


def test_a_time_is_told_as_short_as_it_can_be() -> None:
    assert told(NOW + 3600.0, NOW) == "13:00"
    assert told(NOW + 86400.0, NOW) == "sat 12:00"
    assert told(NOW + 30 * 86400.0, NOW) == "2026-12-27 12:00"
