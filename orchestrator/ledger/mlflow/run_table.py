"""Runs of an experiment as a typed table: chosen, sorted, and shown by a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import overload

from orchestrator.errors import ConfigError, near_miss
from orchestrator.events import Status
from orchestrator.ledger.mlflow.differences import with_differences
from orchestrator.ledger.mlflow.run_columns import COLUMNS, TEXT_COLUMNS, cells_of, columns_of, title_of
from orchestrator.ledger.mlflow.run_groups import Group, grouped
from orchestrator.ledger.mlflow.runs import RunRow, load_runs
from orchestrator.ledger.mlflow.to_loss import with_to_loss
from orchestrator.notebook import table

NEWEST_FIRST = "started_at:desc"
MAPS = ("settings", "bucket_usd")  # by which nothing is sorted
FIELDS = [field.name for field in fields(RunRow) if field.name not in MAPS]
DESCENDING_UNLESS_TOLD = {column.key for column in COLUMNS if column.best is max} | {"started_at"}
_STATUSES = ("running", *Status, "unknown")


@dataclass(frozen=True)
class RunTable(Sequence[RunRow]):
    """Runs, in the order that they were asked for."""

    rows: tuple[RunRow, ...]
    # The same ones with all of their settings, where ``rows`` have those in which they differ.
    told: tuple[RunRow, ...] = ()

    def by(self, *keys: str) -> tuple[Group, ...]:
        """The same runs in groups, with mean and spread of what each took and reached.

        Args:
            keys: Of a row's own (``cluster``, ``gpus``), or of the configuration (``job.args.lr``).

        Raises:
            ConfigError: No run and no configuration has such a key.
        """
        return tuple(grouped(self.told or self.rows, keys))

    @overload
    def __getitem__(self, place: int) -> RunRow: ...

    @overload
    def __getitem__(self, place: slice) -> RunTable: ...

    def __getitem__(self, place: int | slice) -> RunRow | RunTable:
        if isinstance(place, slice):
            return RunTable(self.rows[place], self.told[place])
        return self.rows[place]

    def __len__(self) -> int:
        return len(self.rows)

    def _repr_html_(self) -> str:
        """A line for each run, as a notebook shows it; the best of the finished ones of one job and model
        has a star."""
        shown = columns_of(self.rows)
        columns = [cells_of(column, self.rows) for column in shown]
        numbers = [place for place, column in enumerate(shown) if column.key not in TEXT_COLUMNS]
        return table(
            zip(*columns, strict=True), [title_of(column, self.rows) for column in shown], numbers=numbers
        )


def runs(
    experiment: str | None = None,
    *,
    uri: str | None = None,
    status: str | None = None,
    job: str | None = None,
    cluster: str | None = None,
    sort: str = NEWEST_FIRST,
    limit: int = 100,
    filter_string: str = "",
    to_loss: float | None = None,
) -> RunTable:
    """Look up runs in MLflow, as ``compare`` does.

    Args:
        experiment: Its name; left out it is ``tracking.experiment``.
        uri: MLflow's; left out it is ``tracking.uri``.
        status: Only those that are ``running``, or are ``finished``, ``failed``, ``interrupted`` or
            ``unknown``.
        job: Only those of the job of this name.
        cluster: Only those on the cluster of this name.
        sort: A field, best or newest first, or ``FIELD:asc`` or ``FIELD:desc``.
        limit: The most that are looked up, the newest ones.
        filter_string: Only those that MLflow's own filter lets through, as ``metrics.cost_usd < 100``.
        to_loss: Look up also what it took to come to this loss.

    Raises:
        ConfigError: There is no such experiment, field or status, no run in the experiment, or the filter is
            none.
        TrackingError: MLflow does not answer.
    """
    key, descending = parse_sort(sort)
    if status is not None and status not in _STATUSES:
        raise ConfigError(
            f"unknown status {status!r}{near_miss(status, _STATUSES)}; one of {', '.join(_STATUSES)}"
        )
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"limit={limit!r}: is not a number of 1 or more")
    if experiment is None or uri is None:
        from orchestrator.config.composing import compose

        tracking = compose().tracking
        experiment, uri = experiment or tracking.experiment, uri or tracking.uri
    wanted = {
        name: value for name, value in (("status", status), ("job", job), ("cluster", cluster)) if value
    }

    def keep(row: RunRow) -> bool:
        return all(getattr(row, name) == value for name, value in wanted.items())

    found = load_runs(uri, experiment, limit, keep if wanted else None, filter_string)
    if to_loss is not None:
        found = with_to_loss(found, uri, to_loss)
    found = sort_runs(found, key, descending)
    return RunTable(tuple(with_differences(found)), tuple(found))


def parse_sort(sort: str) -> tuple[str, bool]:
    """Field and whether it descends; raises :class:`ConfigError`."""
    key, _, direction = sort.partition(":")
    if key not in FIELDS:
        raise ConfigError(f"unknown sort key {key!r}{near_miss(key, FIELDS)}; one of {', '.join(FIELDS)}")
    if direction not in ("", "asc", "desc"):
        raise ConfigError(f"sort direction {direction!r} of {sort!r} is neither asc nor desc")
    return key, direction == "desc" if direction else key in DESCENDING_UNLESS_TOLD


def sort_runs(rows: Sequence[RunRow], key: str, descending: bool) -> list[RunRow]:
    """Sorted, unknown values last in both directions; equal ones stay newest first."""
    known = [row for row in rows if getattr(row, key) is not None]
    unknown = [row for row in rows if getattr(row, key) is None]
    return sorted(known, key=lambda row: getattr(row, key), reverse=descending) + unknown
