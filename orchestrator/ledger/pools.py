"""Budgets that several runs share: of a team and a month, without a server.

Who pays (``owner``, ``project`` or ``cost_center``) may spend so much in a month, whatever runs there are.
Drivers that share a run root draw it in claims, a quarter of an hour's worth at a time, from one file under a
lock::

    RUN_ROOT/spend/claims/cost_center=42.2026-11.json      {run: spent, claimed, until when}

What a run has spent and what it may spend next are in it together, so that all runs never have more than
there is. A claim is drawn anew each minute, and given back at the end; that of a driver that is gone expires,
and the minute that it may have spent beside that is known once its run is taken up again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator import papers
from orchestrator.errors import ConfigError, RunDirectoryError
from orchestrator.files import atomic_write
from orchestrator.ledger.spend import FOLDER, spend_folder

CLAIM_S = 900.0
RENEW_S = 60.0
EVERY_MONTH = "month"
PAYERS = ("owner", "project", "cost_center")
# Another driver holds the lock for milliseconds; a file system that does not answer is not waited for.
_LOCK_S = 2.0


@dataclass(frozen=True)
class Pool:
    """What one payer may spend in one month; None is no limit of that kind."""

    payer: str  # one of PAYERS
    name: str
    period: str  # 2026-11, or `month` for each
    usd: float | None = None
    gpu_hours: float | None = None

    def month(self, now_unix_s: float) -> str | None:
        """The month that counts now; None where this pool is of another one."""
        now = datetime.fromtimestamp(now_unix_s, UTC).strftime("%Y-%m")
        return now if self.period in (EVERY_MONTH, now) else None

    def __str__(self) -> str:
        return f"{self.payer}={self.name}"


@dataclass
class Amounts:
    """Dollars and hours of accelerators."""

    usd: float = 0.0
    gpu_hours: float = 0.0


@dataclass
class Drawn:
    """One run's part of a pool: what its totals were when it first drew from it, what it has spent since, and
    what it may spend next, until when."""

    began_usd: float = 0.0
    began_gpu_hours: float = 0.0
    spent_usd: float = 0.0
    spent_gpu_hours: float = 0.0
    claimed_usd: float = 0.0
    claimed_gpu_hours: float = 0.0
    until_unix_s: float = 0.0

    def taken(self, now_unix_s: float | None) -> Amounts:
        """What nobody else may have: what was spent, and what is claimed still; None leaves the claim out."""
        if now_unix_s is None or self.until_unix_s <= now_unix_s:
            return Amounts(self.spent_usd, self.spent_gpu_hours)
        return Amounts(self.spent_usd + self.claimed_usd, self.spent_gpu_hours + self.claimed_gpu_hours)


def pools_in(path: Path, payers: dict[str, str | None]) -> list[Pool]:
    """Those of a file that one of these payers pays from. Raises :class:`ConfigError` for what is none."""
    try:
        body = papers.yaml_of(papers.read_bytes(path, 1 << 20).decode())
    except (OSError, ValueError) as error:
        raise ConfigError(f"budgets={path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(body, list):
        raise ConfigError(f"budgets={path}: is no list of budgets; write e.g. {_EXAMPLE}")
    pools = [_pool(path, number, entry) for number, entry in enumerate(body, 1)]
    return [pool for pool in pools if payers.get(pool.payer) == pool.name]


_EXAMPLE = "- {cost_center: '42', period: 2026-11, usd: 50000}"


def _pool(path: Path, number: int, entry: Any) -> Pool:
    where = f"budgets={path}: entry {number}"
    known = {*PAYERS, "period", "usd", "gpu_hours"}
    if not isinstance(entry, dict) or (set(entry) - known) or len(set(entry) & set(PAYERS)) != 1:
        raise ConfigError(
            f"{where} names one of {', '.join(PAYERS)}, a period, usd, gpu_hours; e.g. {_EXAMPLE}"
        )
    period = entry.get("period", EVERY_MONTH)
    try:
        month = datetime.strptime(str(period), "%Y-%m") if period != EVERY_MONTH else None
        ok = month is None or month.strftime("%Y-%m") == period
    except ValueError:
        ok = False
    if not ok:
        raise ConfigError(
            f"{where}: period {papers.short(period)} is neither a month, as 2026-11, nor 'month'"
        )
    for key in ("usd", "gpu_hours"):
        value = entry.get(key)
        number_like = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e15
        if value is not None and not number_like:
            raise ConfigError(f"{where}: {key} {papers.short(value)} is no number from 0 to 1e+15")
    payer = next(key for key in PAYERS if key in entry)
    return Pool(payer, str(entry[payer]), str(period), entry.get("usd"), entry.get("gpu_hours"))


@dataclass(frozen=True)
class Spending:
    """What all runs together have spent of one month of a pool."""

    pool: Pool
    month: str
    spent: Amounts


class Claims:
    """One run's hand in the pools of its payers."""

    def __init__(
        self, run_root: Path, run: str, pools: list[Pool], wall: Callable[[], float] = time.time
    ) -> None:
        self._folder = run_root / FOLDER / "claims"
        self._run, self._pools, self._wall = run, pools, wall
        self._months: dict[int, str] = {}
        self.spending: list[Spending] = []  # as of the newest draw

    def draw(self, total: Amounts, wish: Amounts) -> Amounts:
        """Say what the run has taken in all, and claim what it may take next; up to which totals it may go,
        infinite where no pool says so. Raises :class:`RunDirectoryError` where that cannot be written."""
        most = Amounts(float("inf"), float("inf"))
        now_s, self.spending = self._wall(), []
        for number, pool in enumerate(self._pools):
            month, before = pool.month(now_s), self._months.get(number)
            if before is not None and before != month:
                self._set(pool, before, total, Amounts(), now_s)
            self._months.pop(number, None)
            if month is None:
                continue
            self._months[number] = month
            claimed = self._set(pool, month, total, wish, now_s)
            if pool.usd is not None:
                most.usd = min(most.usd, total.usd + claimed.usd)
            if pool.gpu_hours is not None:
                most.gpu_hours = min(most.gpu_hours, total.gpu_hours + claimed.gpu_hours)
        return most

    def give_back(self, total: Amounts) -> None:
        """Keep what was spent, and nothing else."""
        for number, month in self._months.items():
            with contextlib.suppress(RunDirectoryError):  # then it expires
                self._set(self._pools[number], month, total, Amounts(), self._wall())

    def _set(self, pool: Pool, month: str, total: Amounts, wish: Amounts, now_s: float) -> Amounts:
        path = _claims_file(self._folder, pool, month)
        try:
            with self._locked(path):
                runs = _read(path)
                own = runs.setdefault(self._run, Drawn(began_usd=total.usd, began_gpu_hours=total.gpu_hours))
                own.spent_usd = total.usd - own.began_usd
                own.spent_gpu_hours = total.gpu_hours - own.began_gpu_hours
                taken = [one.taken(None if one is own else now_s) for one in runs.values()]
                own.claimed_usd = _free(pool.usd, wish.usd, [one.usd for one in taken])
                own.claimed_gpu_hours = _free(
                    pool.gpu_hours, wish.gpu_hours, [one.gpu_hours for one in taken]
                )
                own.until_unix_s = now_s + CLAIM_S
                spent = [one.taken(None) for one in runs.values()]
                together = Amounts(sum(one.usd for one in spent), sum(one.gpu_hours for one in spent))
                self.spending.append(Spending(pool, month, together))
                body = {run: asdict(drawn) for run, drawn in runs.items()}
                atomic_write(path, json.dumps(body, indent=1) + "\n", 0o640, durable=False)
                _to_group(path)
                return Amounts(own.claimed_usd, own.claimed_gpu_hours)
        except OSError as error:
            raise RunDirectoryError(f"{path}: {error.strerror or error}") from None

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        spend_folder(self._folder.parent)
        spend_folder(self._folder, shared=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(path.with_name(f".{path.name}.lock"), flags, 0o660)
        _to_group(path.with_name(f".{path.name}.lock"))
        try:
            deadline_s = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise
                    time.sleep(0.01)
            yield
        finally:
            os.close(lock)


def taken_of(run_root: Path, pool: Pool, now_unix_s: float) -> Spending | None:
    """What runs have spent or claimed of a pool, without taking part in it; None where it is of another
    month. Raises :class:`RunDirectoryError` where that cannot be read."""
    month = pool.month(now_unix_s)
    if month is None:
        return None
    path = _claims_file(run_root / FOLDER / "claims", pool, month)
    try:
        taken = [one.taken(now_unix_s) for one in _read(path).values()]
    except OSError as error:
        raise RunDirectoryError(f"{path}: {error.strerror or error}") from None
    together = Amounts(sum(one.usd for one in taken), sum(one.gpu_hours for one in taken))
    return Spending(pool, month, together)


def _claims_file(folder: Path, pool: Pool, month: str) -> Path:
    return folder / f"{pool.payer}={quote(pool.name, safe='')}.{month}.json"


def _to_group(path: Path) -> None:
    """Of the folder, so that others may read it; not of that group: then it is for ours."""
    with contextlib.suppress(OSError):
        os.chown(path, -1, path.parent.stat().st_gid)


def _read(path: Path) -> dict[str, Drawn]:
    try:
        body = papers.json_of(papers.read_bytes(path, 64 << 20))
        return {run: papers.made(Drawn, drawn) for run, drawn in body.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise OSError(f"holds no claims: {error}") from None


def _free(limit: float | None, wish: float, taken: list[float]) -> float:
    return wish if limit is None else max(0.0, min(wish, limit - sum(taken)))
