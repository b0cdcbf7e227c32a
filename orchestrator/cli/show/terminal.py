"""The run on a terminal: a live display above which events scroll by, or plain lines without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.cli.show.predicted_actual import COMPARED, compared_rows, measured_rows, where_it_went
from orchestrator.events import BudgetProjected, PhaseEntered, RankOutput, Record, RunEnded, Status, StepDone
from orchestrator.ledger.bill import Bill, Bucket
from orchestrator.ledger.incident import Incident
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.predicted_actual import Comparison
from orchestrator.ledger.price_words import beside_dollars
from orchestrator.ledger.story import Story
from orchestrator.ledger.story_lines import Kind, Line
from orchestrator.supervise.budget_words import projected
from orchestrator.text import (
    clean,
    count,
    duration,
    hours,
    hours_name,
    known,
    number,
    percent,
    usd,
    wrapped,
)

STYLES = {
    Kind.NOTE: "",
    Kind.STEP: "",
    Kind.OUTPUT: "dim",
    Kind.GOOD: "bold green",
    Kind.WARNING: "yellow",
    Kind.ERROR: "bold red",
    Kind.DETAIL: "dim",
}
BUCKET_STYLES = {Bucket.TRAINING: "green", Bucket.CHECKPOINT: "cyan", Bucket.WAITING: "bright_black"}
VALIDATION_NAMES = ("val_loss", "validation_loss", "eval_loss", "valid_loss")
ASCII = str.maketrans({"\u2013": "-", "\u2026": "...", "\u00b7": "|", "\u2192": "->"})


_MOST_BARS = 4  # the display has to fit
_INDENT = 10  # columns of a line's time
_LEAST_ROOM = 20


class Terminal:
    """Use as a context manager; ``observe`` every record with the bill at its time.

    Without a terminal, at most one step line per ``step_lines_every_s`` of the run is printed.
    """

    def __init__(
        self,
        console: Console,
        total_steps: int | None,
        step_lines_every_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock = console, clock
        self._story = Story(total_steps)
        self._every_s, self._next_step_line_s = step_lines_every_s, 0.0
        self._bill: Bill | None = None
        self._bill_at_s = clock()
        self._phase = ""
        self._attempt = 0
        self._budget: dict[str, str] = {}  # by cap: what is spent of it, and what the run will come to
        self._bars: list[str] = []  # the state of the job's own progress bars
        self._next_bars_line_s: float | None = None
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._display, console=console, refresh_per_second=4, transient=True
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def observe(self, record: Record, bill: Bill) -> None:
        """Say what there is to say about a record, and show the bill."""
        self._bill, self._bill_at_s = bill, self._clock()
        event = record.event
        if isinstance(event, PhaseEntered):
            self._phase = event.phase.replace("_", " ")
        if isinstance(event, BudgetProjected):
            self._budget[event.key] = projected(event, self._story.unit)
        if isinstance(event, StepDone) and not self._live and self._step_line_due(record, event):
            self._print(record, self._story.step_line(event, bill))
        if isinstance(event, RankOutput) and not self._bars_due(record, event):
            return
        for index, line in enumerate(self._story.lines(record)):
            self._print(record, line, first=index == 0)

    def remember(self, story: Story) -> None:
        """Know what an earlier driver of the run has shown, and show nothing of it; it is ours from now
        on."""
        story.total_steps = self._story.total_steps if story.total_steps is None else story.total_steps
        self._story = story

    def notice(self, text: str) -> None:
        """A line that is no event: what is waited for, for instance."""
        self._console.print(Text(" " * _INDENT + self._indented(text), style="dim"), soft_wrap=True)

    def tick(self, bill: Bill) -> None:
        """Show a live bill between records, for instance while nothing happens."""
        self._bill, self._bill_at_s = bill, self._clock()

    def summary(self, ended: Record | None, ledger: Ledger, where: Mapping[str, str]) -> None:
        """The final table: ``ended`` is the record of :class:`RunEnded`, None when there was none."""
        bill, compared, money = ledger.bill(), ledger.predicted_actual(), ledger.money()
        event = ended.event if ended else None
        status, style, reason = "not ended", "yellow", ""
        if isinstance(event, RunEnded):
            style = "bold green" if event.status is Status.FINISHED else "bold red"
            status, reason = event.status.value, event.reason
        title = Text.assemble(
            (f"{self._story.run or 'run'} {status}", style), self._safe(f": {reason}" if reason else "")
        )
        figures = self._figures(bill) | measured_rows(compared, self._story.unit)
        figures |= beside_dollars(ledger.facts, bill.cost_usd)
        figures |= {"energy": drawn} if (drawn := ledger.drawn().in_words()) else {}
        figures |= self._incident_figures(ledger.incidents())
        figures |= {"lost": money.lost_in_words()} if money.lost_usd else {}
        parts = [Text(), title, Text(), self._table(figures), Text(), self._buckets(bill)]
        if compared.predicted:
            parts += [Text(), self._compared(compared)]
            if why := where_it_went(bill, compared):
                parts += [self._table({"where it went": why})]
        if where:
            parts += [Text(), self._table(where)]
        for part in parts:
            self._console.print(part, soft_wrap=isinstance(part, Text))

    def _step_line_due(self, record: Record, step: StepDone) -> bool:
        last = step.step == self._story.total_steps
        new_attempt, self._attempt = step.attempt != self._attempt, step.attempt
        if not (last or new_attempt or record.elapsed_s >= self._next_step_line_s):
            return False
        self._next_step_line_s = record.elapsed_s + self._every_s
        return True

    def _bars_due(self, record: Record, output: RankOutput) -> bool:
        """Whether a line of output is to be printed: progress bars stand in the display where there is one,
        and are a line now and then where there is none."""
        rows = clean(output.text).split("\n") if output.fleeting else []
        self._bars = [f"[rank {output.rank}] {row}" for row in rows if row]
        if not output.fleeting:
            self._next_bars_line_s = None
            return True
        if self._live or not output.text:
            return False
        due = self._next_bars_line_s is not None and record.elapsed_s >= self._next_bars_line_s
        if due or self._next_bars_line_s is None:
            self._next_bars_line_s = record.elapsed_s + self._every_s
        return due

    def _print(self, record: Record, line: Line, first: bool = True) -> None:
        stamp = duration(record.elapsed_s).rjust(8) if first else " " * 8
        text = Text.assemble((f"{stamp}  ", "dim"), (self._indented(line.text), STYLES[line.kind]))
        self._console.print(text, soft_wrap=True)

    def _indented(self, text: str) -> str:
        """Below its own beginning; on a terminal in lines that fit, broken between words. Elsewhere a line
        stays one, for whoever searches for it."""
        lines = self._safe(text).split("\n")
        room = self._console.width - _INDENT
        if self._console.is_terminal and room > _LEAST_ROOM:
            lines = [part for line in lines for part in wrapped(line, room)]
        return ("\n" + " " * _INDENT).join(lines)

    def _safe(self, text: str) -> str:
        if not self._console.options.ascii_only:
            return text
        return text.translate(ASCII).encode("ascii", "replace").decode()

    def _table(self, rows: Mapping[str, str]) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in rows.items():
            grid.add_row(label, Text(self._safe(value)))
        return Padding(grid, (0, 0, 0, 2), expand=False)

    def _display(self) -> RenderableType:
        bill = self._bill
        if bill is None:
            return Text("starting", style="dim")
        rows = [self._progress(bill), self._figures_line(bill)]
        bars = [self._safe(row) for row in self._bars[-_MOST_BARS:]]
        return Group(*(Text(row, style="dim", no_wrap=True, overflow="crop") for row in bars), *rows)

    def _progress(self, bill: Bill) -> RenderableType:
        elapsed_s = bill.elapsed_s + self._clock() - self._bill_at_s
        total = self._story.total_steps
        state = bill.bucket.value
        if bill.bucket in (Bucket.STARTING, Bucket.RECOVERING) and self._phase:
            state += f" ({self._phase})"
        figures = [f"{bill.step}/{total}" if total else f"step {bill.step}", duration(elapsed_s)]
        if total:
            figures.append(self._safe(f"ETA {duration(self._story.eta_s(bill))}"))
        cells: list[RenderableType] = [Text(state, style=BUCKET_STYLES.get(bill.bucket, "yellow"))]
        room = self._console.width - sum(len(text) + 2 for text in [state, *figures]) - 2
        if total and room > 4:
            cells.append(ProgressBar(total=total, completed=bill.step, width=min(40, room)))
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in [*cells, *figures]:
            grid.add_column(no_wrap=True, overflow="crop")
        grid.add_row(*cells, *figures)
        return grid

    def _figures_line(self, bill: Bill) -> Text:
        """The figures of the run, most important first, as many as fit."""
        figures = [f"loss {number(bill.final_loss)}"]
        if bill.tokens is not None:
            figures.append(f"{count(bill.tokens_per_s)} tokens/s")
        figures += self._budget.values() or [usd(bill.cost_usd)]
        figures.append(f"{hours(bill.gpu_hours)} {hours_name(self._story.unit)}")
        figures.append(f"goodput {percent(bill.goodput)}")
        if known(bill.mfu):
            figures.append(f"MFU {percent(bill.mfu)}")
        while len(figures) > 1 and len(" \u00b7 ".join(figures)) > self._console.width:
            figures.pop()
        return Text(self._safe(" \u00b7 ".join(figures)), style="dim", no_wrap=True, overflow="crop")

    def _figures(self, bill: Bill) -> dict[str, str]:
        total = self._story.total_steps
        unit = self._story.unit
        per_million = usd(bill.cost_usd_per_million_tokens)
        skipped = f"  ({bill.skipped_steps} skipped by the loss scale)" if bill.skipped_steps else ""
        validation = [self._story.metrics[n] for n in VALIDATION_NAMES if n in self._story.metrics]
        return {
            "steps": (f"{bill.step} of {total}" if total else str(bill.step)) + skipped,
            "tokens": count(bill.tokens),
            "final loss": number(bill.final_loss),
            "validation loss": number(validation[0] if validation else None),
            "tokens/s": f"{count(bill.tokens_per_s)}  ({count(bill.tokens_per_s_per_gpu)} per {unit})",
            "MFU": percent(bill.mfu),
            hours_name(unit): hours(bill.gpu_hours),
            "cost": f"{usd(bill.cost_usd)}  ({per_million} per million tokens)",
            "goodput": percent(bill.goodput),
            "restarts": str(bill.restarts),
        }

    def _compared(self, compared: Comparison) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        for _ in COMPARED:
            grid.add_column(justify="right", no_wrap=True)
        grid.add_row("", *(Text(heading, style="dim") for heading in COMPARED))
        for label, *figures in compared_rows(compared, self._story.unit):
            grid.add_row(label, *(Text(self._safe(figure)) for figure in figures))
        return Padding(grid, (0, 0, 0, 2), expand=False)

    def _incident_figures(self, incidents: Sequence[Incident]) -> dict[str, str]:
        if not incidents:
            return {}
        held = f"{hours(sum(each.gpu_hours for each in incidents))} {hours_name(self._story.unit)}"
        return {"incidents": f"{len(incidents)}  ({held}, {usd(sum(each.cost_usd for each in incidents))})"}

    def _buckets(self, bill: Bill) -> RenderableType:
        """Seconds of each bucket with a bar of its share of the elapsed time."""
        grid = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("left", "right", "right", "left"):
            grid.add_column(justify=justify, no_wrap=True)
        for bucket, seconds in bill.seconds.items():
            if seconds <= 0:
                continue
            share = seconds / bill.elapsed_s
            block = "#" if self._console.options.ascii_only else "\u2588"
            bar = Text(block * max(1, round(24 * share)), style=BUCKET_STYLES.get(bucket, "yellow"))
            grid.add_row(bucket.value, f"{seconds:,.1f} s", percent(share), bar)
        return Padding(grid, (0, 0, 0, 2), expand=False)
