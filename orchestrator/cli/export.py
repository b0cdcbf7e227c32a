"""``export``: what a cluster's own system takes, from the same configuration that plans."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import orchestrator
from orchestrator.cli.show.screen import Screen
from orchestrator.config.words import swept_keys
from orchestrator.errors import ConfigError
from orchestrator.export.formats import check_format, render
from orchestrator.export.order import Order, key_of
from orchestrator.files import atomic_write

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from orchestrator.config.schema import Config
    from orchestrator.export.rendered import Rendered


def config_of(composed: DictConfig, words: Sequence[str]) -> Config:
    """The typed configuration. Raises :class:`ConfigError`."""
    from orchestrator.config.origin import from_composed

    return from_composed(composed, tuple(words))


def order_of(config: Config, words: Sequence[str], array: Sequence[Sequence[str]] = ()) -> Order:
    """The configuration with its plan. The data need not be here: it is looked for where the run starts.

    Raises :class:`ConfigError` for what cannot be planned.
    """
    from orchestrator.driver.planning import make_plan

    if not config.layout.auto:
        config = replace(config, job=replace(config.job, corpus=[]))
    plan = make_plan(config, observed=False)
    return Order(
        config, plan, tuple(words), version("ray"), orchestrator.__version__, sys.executable,
        tuple(tuple(one) for one in array),
    )  # fmt: skip


def export(order: Order, name: str, out: str | None, force: bool) -> None:
    """Print one text, or write the files into a folder and print what is typed next.

    Raises :class:`ConfigError` for what cannot be exported, and for a file that somebody has changed.
    """
    rendered = render(order, name)
    if out is None:
        sys.stdout.write(rendered.text())
    else:
        _write(rendered, Path(out), force)
        sys.stdout.flush()
    said = Screen(stderr=out is None, highlight=False, soft_wrap=True)
    if out is not None:
        said.print(f"{out}: {', '.join(rendered.files)}", markup=False)
    for remark in rendered.remarks:
        said.print(remark, style="yellow", markup=False)
    if out is not None:
        said.print(f"Next, in {out}:", markup=False)
        for step in rendered.next_steps:
            said.print(f"  {step}", markup=False)


def _write(rendered: Rendered, folder: Path, force: bool) -> None:
    for name, text in rendered.files.items():
        path = folder / name
        if path.exists() and not force and path.read_text(errors="replace") != text:
            raise ConfigError(
                f"--out {folder}: {name} is there and says something else; --force writes over it, or name"
                " another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in rendered.files.items():
            mode = 0o755 if text.startswith("#!") else 0o644
            atomic_write(folder / name, text, mode)
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; name a folder that you may write") from None


def order_of_sweep(points: Sequence[tuple[Config, Sequence[str]]], typed: Sequence[str]) -> Order:
    """One order with a task of a job array for each point.

    Raises :class:`ConfigError` where the points are not of the same size.
    """
    keys = set(swept_keys(typed))
    orders = [order_of(config, words) for config, words in points]
    first = orders[0]
    if any(one.plan.layout.ranks != first.plan.layout.ranks for one in orders):
        raise ConfigError(
            "-m format=slurm: the tasks of a job array have the same nodes; export a sweep over their number"
            " point by point"
        )
    array = [[word for word in one.words if key_of(word) in keys] for one in orders]
    shared = [word for word in first.words if key_of(word) not in keys]
    return replace(first, words=tuple(shared), array=tuple(tuple(one) for one in array))


def check(name: str | None, swept: bool) -> str:
    """The format that is asked for. Raises :class:`ConfigError`."""
    found = check_format(name)
    if swept and found != "slurm":
        raise ConfigError(
            f"-m format={found}: a sweep is exported to Slurm alone, as a job array; format=slurm"
        )
    return found
