"""``open``: where a run's pages are, and in a browser if that is asked for."""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from rich.console import Console

from orchestrator import papers
from orchestrator.driver.tracking import DASHBOARD, command
from orchestrator.errors import ConfigError
from orchestrator.ledger.run_directory import find_run, holder
from orchestrator.redact import redact


def open_pages(run: str, run_root: str, browser: bool, console: Console, trust: bool = False) -> None:
    """Print where MLflow's page of the run and Ray's dashboard are; with ``browser`` open those that are
    pages.

    Raises :class:`ConfigError` for a run that is not there, and where no browser is to be found.
    """
    directory = find_run(run, run_root, trust)
    pages = _pages(directory)
    for name, place in {"run directory": str(directory), **pages}.items():
        console.print(f"{name:<13}  {redact(place)}", highlight=False, soft_wrap=True)
    if not browser:
        return
    addresses = [place for place in pages.values() if urlsplit(place).scheme in ("http", "https")]
    if not addresses:
        raise ConfigError(
            "--browser: none of these is a page; start what is named above, and open its address"
        )
    for address in addresses:
        try:
            opened = webbrowser.open(address)
        except webbrowser.Error:
            opened = False
        if not opened:
            raise ConfigError(
                "--browser: no browser is to be found here; open the address where there is one, or set"
                " BROWSER"
            )


def _pages(directory: Path) -> dict[str, str]:
    pages: dict[str, str] = {}
    told, tracking = _paper(directory / "mlflow_run.json"), _paper(directory / "tracking.json")
    uri = told.get("uri") or tracking.get("uri") or ""
    run_id, experiment_id = told.get("run_id", ""), told.get("experiment_id", "")
    if uri.startswith(("http://", "https://")):
        page = f"/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}" if run_id else ""
        pages["MLflow"] = f"{uri.rstrip('/')}{page}"
    elif uri:
        pages["MLflow"] = f"{command('mlflow')} ui --backend-store-uri {uri}"
        if run_id:
            page = f"/#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}"
            pages["there"] = f"http://127.0.0.1:5000{page}, once that is started"
    else:
        pages["MLflow"] = "not told of this run"
    dashboard = _paper(directory / DASHBOARD).get("url")
    if dashboard and holder(directory) is not None:
        pages["Ray dashboard"] = dashboard
    return pages


def _paper(path: Path) -> Mapping[str, str]:
    """The texts of a paper; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return {
            name: papers.one_line(value)
            for name, value in papers.read_object(path).items()
            if isinstance(value, str)
        }
    return {}
