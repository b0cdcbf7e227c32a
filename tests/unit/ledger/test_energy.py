"""A run's energy: measured and modelled beside each other, and CO2 only where somebody has stated the grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.driver.first_event import run_started
from orchestrator.errors import ConfigError
from orchestrator.events import Event, NodeSampled, RunEnded, Status
from orchestrator.ledger.energy import Drawn
from orchestrator.ledger.ledger import Ledger
from orchestrator.plan.plan import make_plan
from tests.support.timelines import GRANTED, RUN, records, started
from tests.unit.config.test_conf import composed

MODELLED = replace(RUN, modelled_watts_per_gpu=500.0, grid_gco2_per_kwh=300.0)


def drawn_by(*events: Event) -> Drawn:
    """Four GPUs for an hour, with these events in it."""
    timeline = [(0.0, events[0]), (0.0, GRANTED), (0.0, started())]
    timeline += [(float(at), event) for at, event in enumerate(events[1:], 1)]
    return Ledger().fold_all(records([*timeline, (3600.0, RunEnded(Status.FINISHED, ""))])).drawn()


def test_measured_and_modelled_are_told_apart_and_never_added_up() -> None:
    sample = NodeSampled("n0", {"gpu_energy_joules": 1.8e6, "processor_energy_joules": 3.6e5})
    found = drawn_by(MODELLED, sample, replace(sample, node="n1"))
    assert found == Drawn(pytest.approx(1.0), pytest.approx(0.2), pytest.approx(2.0), pytest.approx(0.6))
    assert found.in_words() == (
        "1 kWh measured (GPUs), 0.2 kWh measured (processors), 2 kWh modelled (nodes with PUE), 0.6 kg CO2"
    )


def test_what_is_not_known_is_not_told() -> None:
    assert drawn_by(RUN) == Drawn(None, None, None, None)
    assert drawn_by(RUN).in_words() == ""
    assert drawn_by(replace(MODELLED, grid_gco2_per_kwh=None)).co2_kg is None
    measured = replace(RUN, grid_gco2_per_kwh=500.0)
    assert drawn_by(measured, NodeSampled("n", {"gpu_energy_joules": 3.6e6})).co2_kg == pytest.approx(0.5)
    foolish = NodeSampled("n", {"gpu_energy_joules": float("nan"), "processor_energy_joules": -1.0})
    assert drawn_by(MODELLED, foolish).measured_gpu_kwh is None


def test_the_plan_s_power_and_the_stated_grid_go_with_the_run() -> None:
    config = composed("job=llama3_8b", "cluster=dgx_h100", "cluster.grid_gco2_per_kwh=384")
    with pytest.raises(ConfigError, match=r"cluster\.grid_gco2_per_kwh=384 has no source"):
        make_plan(config, "train.py", "/", {})
    config.cluster.grid_source = "EIA, US average of 2023"
    plan = make_plan(config, "train.py", "/", {})
    event = run_started(plan, "r", None, config.cluster.grid_gco2_per_kwh)
    energy = plan.prediction.energy
    assert energy is not None
    assert event.modelled_watts_per_gpu == pytest.approx(energy.mean_power_w / plan.layout.ranks)
    assert event.grid_gco2_per_kwh == 384
