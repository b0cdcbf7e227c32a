"""What a budget or a deadline can train, as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.budget_command import command
from orchestrator.cli.show.owning import days_of, show_owned_runs
from orchestrator.cli.show.tables import GAP, Column, fitting, left_out, table_of
from orchestrator.plan.forecast.price import remark_on
from orchestrator.plan.search.runners_up import in_words
from orchestrator.plan.sizing.limits import RunCandidate, ServedModel
from orchestrator.planner.budget import LOSS_DIGITS, BudgetResult
from orchestrator.text import count, energy_in_words, figure, plural, seconds_in_words, usd
from orchestrator.vocabulary import StateSharing

MOST_ROWS, MOST_SOONER = 10, 3
UNSPENT = 0.05  # of a budget; what is left over of less is not worth a word
_COLUMNS: tuple[Column[RunCandidate], ...] = (
    Column("cluster", lambda o: o.config.cluster.name, 0, text=True),
    Column("nodes", lambda o: f"{o.candidate.layout.nodes:,}", 2),
    Column("parameters", lambda o: count(o.parameters), 1),
    Column("tokens", lambda o: count(o.tokens), 3),
    Column("loss", lambda o: f"{o.loss:.{LOSS_DIGITS}f}", 0),
    Column("days", lambda o: days_of(o), 0),
    Column("GPU-hours", lambda o: f"{o.prediction.gpu_hours:,.0f}", 6),
    Column("USD", lambda o: usd(o.prediction.costs[0].usd), 0),
    Column("from", lambda o: usd(o.prediction.costs[0].low_usd), 5),
    Column("to", lambda o: usd(o.prediction.costs[0].high_usd), 5),
    Column("paid", lambda o: o.prediction.costs[0].paid, 0, text=True),
    Column("MFU", lambda o: f"{o.prediction.mfu:.0%}", 7),
    Column("layout", lambda o: in_words(o.candidate), 8, text=True),
)


_SERVED: tuple[Column[RunCandidate], ...] = (
    Column("serving", lambda o: usd(None if o.served is None else o.served.cost_usd), 0),
    Column("in all", lambda o: usd(o.total_usd), 4),
)


def show_answer(found: BudgetResult, console: Console) -> None:
    """The winner in a few lines, the best of each cluster below, what would have to be bought first, and what
    the figures rest on."""
    console.print(_title(found))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(style="dim", no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for label, value in _rows(found):
        table.add_row(f"  {label}", Text(value))
    console.print(table)
    console.print(Text("  in detail:", style="dim"))
    console.print(Text(f"  {command(found, found.options[0])}"), soft_wrap=True, highlight=False)
    notes = _notes(found)
    if len(found.options) > 1:
        console.print(Text("\nBest of each cluster", style="bold"))
        best = found.options[:MOST_ROWS]
        columns = (*_COLUMNS, *(_SERVED if best[0].served is not None else ()))
        shown = fitting(columns, best, console.width)
        console.print(table_of(shown, best))
        notes.append(left_out(columns, shown))
    notes.append(show_owned_runs(found.owned, console))
    for note in filter(None, notes):
        console.print(Text(note, style="dim"))


def _title(found: BudgetResult) -> Text:
    limits = found.asked.limits
    words = [] if limits.usd is None else [usd(limits.usd)]
    if limits.days is not None:
        words.append(
            f"within {plural(limits.days, 'day')}"
            + (", as no deadline_days was set" * found.asked.days_assumed)
        )
    if limits.usd is None and not (found.asked.nodes_given or found.asked.cluster_given):
        words.append("with each cluster's own cluster.nodes")
    bought = sum(run.run not in found.options for run in found.owned)
    looked = plural(len(found.options), "cluster") + f" compared, and {bought} to be bought" * bool(bought)
    return Text.assemble(("Best model  ", "bold"), (", ".join(words), "bold cyan"), f"; {looked}")


def _rows(found: BudgetResult) -> list[tuple[str, str]]:
    best = found.options[0]
    model, layout, run = best.model, best.candidate.layout, best.prediction
    cost = run.costs[0]
    rows = [
        (
            "model",
            f"{model.name}, {count(best.parameters)} parameters: {model.layers} layers, "
            f"hidden {model.hidden}, {model.heads} heads, {model.kv_heads} key-value heads, ffn {model.ffn}, "
            f"vocabulary {model.vocab}, sequences of {model.seq_len}",
        ),
        (
            "tokens",
            f"{count(best.tokens)}, {figure(best.tokens / best.parameters)} per parameter, "
            f"{figure(best.share_of_optimal_tokens, 2)} × what is compute-optimal for this size; "
            f"{plural(run.steps or 0, 'step')} of {plural(layout.global_batch, 'sequence')}",
        ),
        ("loss", f"{best.loss:.{LOSS_DIGITS}f} nats per token predicted"),
    ]
    if found.any_size is not None:
        other = found.any_size
        rows.append(
            (
                "any size",
                f"{count(other.parameters)} parameters on {count(other.tokens)} tokens would reach "
                f"{other.loss:.{LOSS_DIGITS}f} on the same nodes",
            )
        )
    rows += [
        (
            "cluster",
            f"{best.config.cluster.name}, {layout.nodes} × {layout.ranks_per_node} {best.config.gpu.name}",
        ),
        ("layout", f"{in_words(best.candidate)}{_chosen_by_script(found)}; MFU {run.mfu:.1%}"),
        (
            "run",
            f"{days_of(best)} days, {run.gpu_hours:,.0f} {best.config.gpu.unit}-hours with interruptions",
        ),
        (
            "cost",
            f"{usd(cost.usd)} {cost.paid} ({usd(cost.low_usd)} to {usd(cost.high_usd)}), "
            f"${cost.usd_per_gpu_hour:.3f} per {best.config.gpu.unit}-hour; {cost.source}",
        ),
    ]
    if not run.alike and run.likeness:
        rows.append(("range", f"{run.likeness}: the speed is less sure than of others"))
    if (remark := remark_on(best.config.cluster.price)) is not None:
        rows.append(("remark", remark))
    if found.script.resume:
        rows.append(("resume", found.script.resume))
    rows += [] if best.served is None else _served_rows(best, best.served)
    limits = found.asked.limits
    if limits.usd is not None and best.total_usd < limits.usd * (1 - UNSPENT):
        rows.append(("unspent", f"{usd(limits.usd - best.total_usd)}: " + _why_unspent(found)))
    if (energy := run.energy) is not None and energy.energy_kwh is not None:
        rows.append(("energy", f"{energy_in_words(energy.energy_kwh)}: {energy.basis}"))
    own = next((owned for owned in found.owned if owned.run is best), None)
    if own is not None:
        rows.append(("capital", f"{usd(own.capital_usd)} buys these nodes; the run bears its share of that"))
    if found.sooner:
        words = [_in_short(option) for option in found.sooner[:MOST_SOONER]]
        rows.append(("sooner", "; ".join(words)))
    return rows


def _chosen_by_script(found: BudgetResult) -> str:
    """What the script itself decides of it."""
    if found.standing.deepspeed_file is not None:
        return f", as in {found.standing.deepspeed_file}"
    shared = found.script.shared
    named = {StateSharing.DDP: "every rank holds all states", StateSharing.FSDP: "states shared by FSDP"}
    return f": {named[shared.how]} ({shared.by})" if shared.how in named else ""


def _served_rows(best: RunCandidate, served: ServedModel) -> list[tuple[str, str]]:
    result, replica = served.result, served.result.replica
    return [
        (
            "serving",
            f"{usd(served.cost_usd)} for {plural(served.days, 'day')} on {served.config.cluster.name}: "
            f"{plural(result.gpus, 'GPU')}, {usd(result.usd_per_day)} a day, "
            f"{usd(result.usd_per_million_tokens)} per million tokens; first token after"
            f" {seconds_in_words(replica.ttft_s)}, then {seconds_in_words(replica.tpot_s)} a token",
        ),
        ("in all", f"{usd(best.total_usd)}, training and serving"),
    ]


def _in_short(option: RunCandidate) -> str:
    nodes = plural(option.candidate.layout.nodes, "node")
    return (
        f"{nodes}: {days_of(option)} days, {count(option.parameters)} parameters, loss"
        f" {option.loss:.{LOSS_DIGITS}f}"
    )


def _why_unspent(found: BudgetResult) -> str:
    asked, best = found.asked, found.options[0]
    remedies = ["raise cluster.nodes"] * asked.nodes_given + ["set deadline_days to more"] * (
        not asked.nodes_given
    )
    if found.data_parallel_only:
        remedies.append("use a script with tensor and pipeline parallel ranks (job.supports=[tp,pp])")
    return (
        f"more nodes than {best.candidate.layout.nodes} do not divide the batch, do not fit or do not gain"
        f" anything in the time; {' or '.join(remedies)}"
    )


def _notes(found: BudgetResult) -> list[str]:
    notes = [
        (
            f"\nLoss: {found.law.source}. N counts embeddings; it was fitted on MassiveText: it compares"
            " runs, and is no forecast for other data. Costs: from few interruptions and fast steps to many"
            " and slow ones."
        ),
    ]
    if len(found.options) > MOST_ROWS:
        notes.append(f"{len(found.options) - MOST_ROWS} more clusters are in --json.")
    if found.data_parallel_only:
        notes.append(
            "Data parallel layouts only, as the job's script knows no others (job.supports=[tp,pp] or null)."
        )
    if any(option.law_parameters < option.parameters for option in found.options):
        notes.append("The law is of dense models: of experts only those that compute a token are counted.")
    if found.left_out:
        by_reason: dict[str, list[str]] = {}
        for name, why in found.left_out.items():
            by_reason.setdefault(why, []).append(name)
        notes += [f"Left out, as {why}: {', '.join(names)}" for why, names in by_reason.items()]
    return notes
