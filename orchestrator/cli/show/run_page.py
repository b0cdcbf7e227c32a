"""One run as a page: its bill by what it went to, by attempt and by incident, its loss against dollars."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cli.show.page import BUCKETS, Cell, charts, legend, page, sorted_table, swatch, tiles
from orchestrator.cli.show.predicted_actual import COMPARED, compared_rows
from orchestrator.cli.show.svg_chart import Axis, Line, Mark, bars, chart
from orchestrator.ledger.bill import Bill
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.mlflow.curves import MOST_POINTS_ALONE, curve
from orchestrator.ledger.mlflow.reaching import Past
from orchestrator.ledger.money import Money, Share
from orchestrator.text import UNKNOWN, count, duration, hours, hours_name, number, percent, usd

MOST_PARTS = 20  # attempts or incidents of a chart, the dearest


def run_page(ledger: Ledger, state: str, losses: Sequence[Past], spent: Sequence[Past]) -> str:
    """The whole page. ``losses`` and ``spent`` are by the run's own clock."""
    facts, bill, money = ledger.facts, ledger.bill(), ledger.money()
    assert facts is not None, "a run that has not begun has no page"
    unit = facts.unit
    where = f"{facts.job} on {facts.gpus} × {facts.gpu_type} ({facts.cluster})"
    lost = f"lost: {money.lost_in_words()}" if money.cost_usd else "it has cost nothing"
    parts = [
        tiles(_figures(bill, money, unit)),
        charts([*_losses(losses, spent), *_where_it_went(money)]),
        _compared(ledger, unit),
        _incidents(ledger.incidents()),
    ]
    return page(facts.run, f"{state}; {where}; {lost}", parts)


def _figures(bill: Bill, money: Money, unit: str) -> list[tuple[str, str]]:
    return [
        ("spent", usd(bill.cost_usd)),
        ("of it lost", usd(money.lost_usd)),
        (hours_name(unit), hours(bill.gpu_hours)),
        ("time", duration(bill.elapsed_s)),
        ("goodput", percent(bill.goodput)),
        ("steps", f"{bill.step:,}"),
        ("tokens", count(bill.tokens)),
        ("per million tokens", usd(bill.cost_usd_per_million_tokens)),
        ("MFU", percent(bill.mfu)),
        ("final loss", number(bill.final_loss)),
        ("restarts", f"{bill.restarts:,}"),
    ]


def _losses(losses: Sequence[Past], spent: Sequence[Past]) -> list[tuple[str, str, str]]:
    if not losses:
        return []
    points = curve(losses, spent, 0, MOST_POINTS_ALONE)
    found = []
    for label, pairs in (
        ("dollars", [(point.cost_usd, point.loss) for point in points]),
        ("hours", [(point.hours, point.loss) for point in points]),
    ):
        end = [Mark(*pairs[-1], f"loss {number(pairs[-1][1])}")]
        drawing = chart(
            Axis(label, logarithmic=False), Axis("loss"), [Line(pairs)], end, f"loss against {label}"
        )
        found.append((f"Loss against {label}", drawing, "the median of five losses"))
    return found


def _where_it_went(money: Money) -> list[tuple[str, str, str]]:
    buckets: list[tuple[str, dict[str, float]]] = [
        (one.name, {one.name: one.cost_usd}) for one in sorted(money.buckets, key=lambda one: -one.cost_usd)
    ]
    all_of_it = ("all of it", {one.name: one.cost_usd for one in money.buckets})
    whole = bars([all_of_it, *buckets], list(BUCKETS), usd, "cost by what it went to")
    names = {one.name for one in money.buckets}
    key = legend((swatch(name), name) for name in BUCKETS if name in names)
    return [
        (
            "What the cost went to",
            whole and whole + key,
            f"{percent(_trained(money))} of it trained the model",
        ),
        _shares("By attempt", money.attempts, "attempt"),
        _shares("By incident", money.incidents, "incident"),
    ]


def _trained(money: Money) -> float | None:
    return (
        sum(one.cost_usd for one in money.buckets if one.name == "training") / money.cost_usd
        if money.cost_usd
        else None
    )


def _shares(title: str, shares: Sequence[Share], kind: str) -> tuple[str, str, str]:
    dearest = sorted(shares, key=lambda one: -one.cost_usd)[:MOST_PARTS]
    drawn = [one for one in shares if one in dearest]
    note = f"the dearest {MOST_PARTS} of {len(shares):,}" if len(shares) > len(drawn) else "in dollars"
    return (title, bars([(one.name, {kind: one.cost_usd}) for one in drawn], [kind], usd, title), note)


def _compared(ledger: Ledger, unit: str) -> str:
    compared = ledger.predicted_actual()
    if not compared.predicted:
        return ""
    rows = [[Cell(text) for text in row] for row in compared_rows(compared, unit)]
    headings = [("predicted against actual", False), *((title, True) for title in COMPARED)]
    return sorted_table(headings, rows, "figures", filtered=False)


def _incidents(incidents: Sequence[Incident]) -> str:
    if not incidents:
        return ""
    headings = [
        ("incident", True), ("at", True), ("what happened", False), ("what was done", False),
        ("steps redone", True), ("recovered after, s", True), ("cost", True),
    ]  # fmt: skip
    rows = [
        [
            Cell(str(one.number), one.number),
            Cell(duration(one.at_elapsed_s), one.at_elapsed_s),
            Cell(one.what),
            Cell(one.done or one.reason or UNKNOWN),
            Cell(f"{one.redone_steps:,}", one.redone_steps),
            Cell(number(one.recovered_after_s, 3), one.recovered_after_s),
            Cell(usd(one.cost_usd), one.cost_usd),
        ]
        for one in incidents
    ]
    return sorted_table(headings, rows, "incidents")
