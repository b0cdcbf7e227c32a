"""What the search chose, and what it won against, for people and for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, NotRequired, TypedDict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.plan.layout.layout import Layout
from orchestrator.plan.layout.zero import Zero
from orchestrator.plan.search.runners_up import in_words
from orchestrator.plan.search.search import Search
from orchestrator.plan.search.space import HEADROOM_SHARE, Candidate
from orchestrator.text import bytes_in_words, figure, seconds_in_words


def show_choice(search: Search, overrides: Sequence[str], kept: Sequence[str], console: Console) -> None:
    """One paragraph: the choice, how to have it again without a search, and what was given."""
    console.print(
        Text.assemble(
            ("layout=auto  ", "bold"),
            (in_words(search.best), "bold cyan"),
            f": the best of {search.considered:,} layouts, of which {search.fitting:,} fit",
            f"; given: {' '.join(kept)}" if kept else "",
        )
    )
    console.print(Text(f"  the same again: {' '.join(overrides) or 'layout=default'}", "dim"), soft_wrap=True)
    if search.divided is not None:
        console.print(Text(f"  {_divided(search)}", "yellow"), soft_wrap=True)
    if not search.best.roomy:
        free = bytes_in_words(search.best.free_bytes)
        console.print(
            Text(f"  it leaves only {free} free, and no other leaves {HEADROOM_SHARE:.0%}", "yellow")
        )


def _divided(search: Search) -> str:
    """What another script would bring, in one line."""
    assert search.divided is not None
    there, here = search.divided.step_time_s, search.best.step_time_s
    return (
        f"this script: {seconds_in_words(here)} a step; with {in_words(search.divided)}:"
        f" {seconds_in_words(there)}, for which it takes a script of tensor and pipeline parallelism"
        f" ({' '.join(search.divided_by)} plans with one)"
    )


def show_runners_up(search: Search, console: Console) -> None:
    """The best of each other kind, and why it lost."""
    table = Table(
        title="What it won against",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 2),
        header_style="dim",
    )
    table.add_column("layout", overflow="fold")
    table.add_column("step, s", justify="right", no_wrap=True)
    table.add_column("free, GB", justify="right", no_wrap=True)
    table.add_column("why not", overflow="fold")
    for candidate, why in (
        (search.best, "chosen"),
        *((other.candidate, other.why) for other in search.runners_up),
    ):
        style = "bold" if candidate is search.best else "" if candidate.fits else "dim"
        row = (in_words(candidate), _seconds(candidate.step_time_s), f"{candidate.free_bytes / 1e9:.1f}", why)
        table.add_row(*map(Text, row), style=style)
    console.print(table)
    console.print()


def _seconds(value: float) -> str:
    return figure(value)


class CandidateJson(TypedDict):
    """A layout that was looked at."""

    layout: Annotated[dict[str, Any], Layout]  # how the ranks share the work
    zero: Annotated[dict[str, Any], Zero]  # what ZeRO shards and offloads
    overrides: list[str]  # what chooses this sharding on the command line
    step_time_s: float  # predicted
    memory_bytes: int  # of the fullest rank
    free_bytes: int  # of its accelerator; below 0 is what it lacks
    host_free_bytes: int  # of the node; 0 where nothing is offloaded or its memory is not known
    fits: bool  # whether neither is below 0


class RunnerUpJson(CandidateJson):
    """The best of another kind."""

    why: str  # it lost


class SearchJson(TypedDict):
    """What ``layout=auto`` looked at."""

    considered: int  # layouts
    fitting: int  # of them
    overrides: list[str]  # the choice, to have it again without a search
    kept: list[str]  # what the command line gave, and the search left alone
    best: CandidateJson  # the choice
    runners_up: list[RunnerUpJson]  # what it won against
    # the best of a script with tensor and pipeline parallelism; null where this one has it, or it would not
    # be faster by a tenth
    divided: CandidateJson | None
    divided_overrides: list[str]  # with which `layout=auto` finds that; empty without it


class Searched(TypedDict):
    """What ``plan --json`` prints beside the plan."""

    search: NotRequired[SearchJson]  # what `layout=auto` looked at; left out without it


def search_json(search: Search, overrides: Sequence[str], kept: Sequence[str]) -> SearchJson:
    """All of it as plain JSON values."""
    return {
        "considered": search.considered,
        "fitting": search.fitting,
        "overrides": list(overrides),
        "kept": list(kept),
        "best": _candidate_json(search.best),
        "runners_up": [{**_candidate_json(other.candidate), "why": other.why} for other in search.runners_up],
        "divided": _candidate_json(search.divided) if search.divided is not None else None,
        "divided_overrides": list(search.divided_by),
    }


def _candidate_json(candidate: Candidate) -> CandidateJson:
    return {
        "layout": dataclasses.asdict(candidate.layout),
        "zero": dataclasses.asdict(candidate.sharding.zero),
        "overrides": list(candidate.sharding.overrides),
        "step_time_s": candidate.step_time_s,
        "memory_bytes": candidate.memory.total_bytes,
        "free_bytes": candidate.free_bytes,
        "host_free_bytes": candidate.host_free_bytes,
        "fits": candidate.fits,
    }
