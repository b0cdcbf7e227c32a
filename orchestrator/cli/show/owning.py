"""Owned hardware beside what is for rent, as a person reads it and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.tables import GAP, Column, fitting, left_out, table_of
from orchestrator.plan.forecast.owning import BreakEven, Ownership
from orchestrator.plan.forecast.price import WITHOUT
from orchestrator.plan.sizing.limits import RunCandidate
from orchestrator.planner.budget import LOSS_DIGITS
from orchestrator.planner.owning import AgainstRent, OwnAnswer, OwnedCluster, OwnedRun
from orchestrator.text import UNKNOWN, count, figure, months_in_words, usd

SAID_WITHOUT = f"Without {WITHOUT}."
NOBODY = "nobody rents it"


class RentJson(TypedDict):
    """An owned accelerator beside the same one for rent."""

    cluster: str  # that rents it
    usd_per_gpu_hour: float  # on demand
    source: str  # where the price comes from
    # in use as the owner expects, until machine, staff and power have cost as much as the rent; null where
    # they never do
    break_even_months: float | None
    pays_within_lifetime: bool  # before the machine is written off
    # share of all hours of its life that it has to be in use to pay, above 1 it never does; null where its
    # power alone costs as much as the rent
    break_even_occupancy: float | None


class OwnershipJson(TypedDict):
    """What one owned accelerator costs; interest, network, storage and the building are not in it."""

    capex_usd_per_gpu: float  # with its share of the node
    lifetime_years: float  # over which it is written off
    occupancy: float  # share of the hours that it is in use
    staff_usd_per_gpu_year: float  # of those who run it
    power_usd_per_gpu_hour: float  # of an hour in use, PUE included
    pue: float  # power usage effectiveness of the building
    usd_per_gpu_hour: float  # of an hour in use, which carries the idle ones
    lifetime_usd_per_gpu: float  # machine, staff and power of its whole life


class OwnedClusterJson(TypedDict):
    """A cluster whose hardware can be bought."""

    cluster: str  # its name
    gpu: str  # name of the accelerator
    ownership: OwnershipJson  # what one accelerator costs
    against: list[RentJson]  # cheapest rent first; empty where nobody rents the same accelerator


class OwnAnswerJson(TypedDict):
    """What ``plan own=true --json`` prints."""

    owned: list[OwnedClusterJson]  # by cluster
    clusters_left_out: dict[str, str]  # why, by cluster


def own_json(found: OwnAnswer) -> OwnAnswerJson:
    """The same for programs."""
    return {
        "owned": [
            {
                "cluster": one.config.cluster.name,
                "gpu": one.config.gpu.name,
                "ownership": ownership_json(one.ownership),
                "against": rents_json(one.against),
            }
            for one in found.owned
        ],
        "clusters_left_out": dict(found.left_out),
    }


def ownership_json(owned: Ownership) -> OwnershipJson:
    return {
        "capex_usd_per_gpu": owned.capex_usd,
        "lifetime_years": owned.lifetime_years,
        "occupancy": owned.occupancy,
        "staff_usd_per_gpu_year": owned.staff_usd_per_year,
        "power_usd_per_gpu_hour": owned.power_usd_per_hour,
        "pue": owned.pue,
        "usd_per_gpu_hour": owned.usd_per_gpu_hour,
        "lifetime_usd_per_gpu": owned.lifetime_usd,
    }


def rents_json(against: Sequence[AgainstRent]) -> list[RentJson]:
    return [
        {
            "cluster": one.rent.cluster,
            "usd_per_gpu_hour": one.rent.usd_per_gpu_hour,
            "source": one.rent.source,
            "break_even_months": one.break_even.months,
            "pays_within_lifetime": one.break_even.within_lifetime,
            "break_even_occupancy": one.break_even.occupancy,
        }
        for one in against
    ]


def days_of(option: RunCandidate) -> str:
    return f"{option.days:,.1f}" if option.days >= 0.995 else figure(option.days, 2)


_RUNS: tuple[Column[OwnedRun], ...] = (
    Column("cluster", lambda o: o.run.config.cluster.name, 0, text=True),
    Column("nodes", lambda o: f"{o.run.candidate.layout.nodes:,}", 0),
    Column("capital", lambda o: usd(o.capital_usd), 0),
    Column("parameters", lambda o: count(o.run.parameters), 4),
    Column("tokens", lambda o: count(o.run.tokens), 6),
    Column("loss", lambda o: f"{o.run.loss:.{LOSS_DIGITS}f}", 0),
    Column("days", lambda o: days_of(o.run), 0),
    Column("share of it", lambda o: usd(o.run.prediction.costs[0].usd), 1),
    Column("an hour", lambda o: usd(o.ownership.usd_per_gpu_hour), 5),
    Column("pays off after", lambda o: _months(o.against, o.ownership), 0),
    Column("in use", lambda o: _in_use(o.against), 3),
    Column("against", lambda o: _rent(o.against), 2, text=True),
)


def show_owned_runs(runs: Sequence[OwnedRun], console: Console) -> str:
    """The runs on hardware that is bought first, if any; returns what is to be said below."""
    if not runs:
        return ""
    console.print(Text("\nOwned: to be bought first", style="bold"))
    shown = fitting(_RUNS, runs, console.width)
    console.print(table_of(shown, runs))
    owned = runs[0].ownership
    dropped = left_out(_RUNS, shown)
    return (
        f"Owned: {owned.occupancy:.0%} of the hours in use, PUE {owned.pue:g}, staff "
        f"{usd(owned.staff_usd_per_year)} a GPU and year on {runs[0].run.config.cluster.name}. {SAID_WITHOUT}"
        f" Each figure is a key of cluster.price; plan own=true has more. {dropped}".rstrip()
    )


_RENTS: tuple[Column[AgainstRent], ...] = (
    Column("rented from", lambda one: one.rent.cluster, 0, text=True),
    Column("USD an hour", lambda one: usd(one.rent.usd_per_gpu_hour), 0),
    Column("pays off after", lambda one: _after(one.break_even), 0),
    Column("has to be in use", lambda one: _needed(one.break_even), 0),
    Column("price", lambda one: one.rent.source, 1, text=True),
)


def show_owning(found: OwnAnswer, console: Console) -> None:
    """Each cluster that can be owned, and what its accelerators cost beside renting them."""
    for one in found.owned:
        _show_cluster(one, console)
    console.print(Text(f"{SAID_WITHOUT} Rents have them in: owning is dearer by that.", style="dim"))
    for name, why in found.left_out.items():
        console.print(Text(f"Left out, as {why}: {name}", style="dim"))


def _show_cluster(one: OwnedCluster, console: Console) -> None:
    owned, cluster = one.ownership, one.config.cluster
    console.print(
        Text.assemble(("Owning  ", "bold"), (cluster.name, "bold cyan"), f": {one.config.gpu.name}")
    )
    of_staff = owned.staff_usd_per_year * owned.lifetime_years / owned.hours_in_use
    of_machine = owned.usd_per_gpu_hour - of_staff - owned.power_usd_per_hour
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for label, text in (
        (
            "capital",
            f"{usd(owned.capex_usd)} a GPU, {usd(owned.capex_usd * cluster.gpus_per_node)} a node, written"
            f" off over {owned.lifetime_years:g} years",
        ),
        (
            "an hour",
            f"{usd(owned.usd_per_gpu_hour)} a GPU in use: machine {usd(of_machine)}, staff {usd(of_staff)}, "
            f"power {usd(owned.power_usd_per_hour)} with PUE {owned.pue:g}; idle {1 - owned.occupancy:.0%} of"
            " the time",
        ),
        ("lifetime", f"{usd(owned.lifetime_usd)} a GPU: machine, staff and power"),
    ):
        table.add_row(f"  {label}", Text(text))
    console.print(table)
    if not one.against:
        console.print(Text(f"  {NOBODY} at a list price or a quote\n"))
        return
    shown = fitting(_RENTS, one.against, console.width)
    console.print(table_of(shown, one.against))
    console.print()


def _months(against: Sequence[AgainstRent], owned: Ownership) -> str:
    return _after(against[0].break_even) if against else UNKNOWN


def _after(found: BreakEven) -> str:
    if found.months is None:
        return "never"
    words = months_in_words(found.months)
    return words if found.within_lifetime else f"never, {words}"


def _needed(found: BreakEven) -> str:
    if found.occupancy is None or found.occupancy > 1:
        return "never enough"
    return f"{found.occupancy:.0%} of the time"


def _in_use(against: Sequence[AgainstRent]) -> str:
    return _needed(against[0].break_even) if against else UNKNOWN


def _rent(against: Sequence[AgainstRent]) -> str:
    if not against:
        return NOBODY
    rent = against[0].rent
    return f"{rent.cluster}, {usd(rent.usd_per_gpu_hour)}"
