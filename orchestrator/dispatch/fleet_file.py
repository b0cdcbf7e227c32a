"""``RUN_ROOT/fleet.yaml``: the pools, teams and classes that people write, checked whole, in one line each.

::

    pools:
      h100: {nodes: 4, gpus_per_node: 8, usd_per_gpu_hour: 2.5, words: [cluster=dgx_h100]}
      a100: {nodes: 8, gpus_per_node: 8, usd_per_gpu_hour: 1.1, words: [gpu=a100_80gb],
             ray_address: "10.1.0.1:6379", token_file: /etc/orchestrator/a100.token,
             changes: [{at: 2026-12-05 08:00, nodes: +4}]}
    teams:
      nlp: {quota: {h100: 16}, weight: 2, borrow_limit: 16, usd_per_month: 90000}
    classes:
      product: {usd_per_hour: 100}
      batch: {usd_per_hour: 1, default: true}
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from orchestrator import papers
from orchestrator.dispatch.times import date_of, told
from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.pools import CapacityChange, Pool, changed_until, most_nodes
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.teams import Team
from orchestrator.text import plural

NAME = "fleet.yaml"
FOLDER = "fleet"
EXAMPLE = "pools: {gpus: {nodes: 1, gpus_per_node: 8}}"
_MOST_NODES = 1_000_000
_SECTIONS = (
    "state_dir", "ray_address", "pools", "teams", "classes", "policy", "metrics_names",
    "keep_decisions_days",
)  # fmt: skip
_POOL = (
    "nodes", "gpus_per_node", "usd_per_gpu_hour", "resource", "words", "labels", "from", "until",
    "ray_address", "token_file", "changes",
)  # fmt: skip
_CHANGE = ("at", "nodes", "why")
_TEAM = ("quota", "weight", "borrow_limit", "usd_per_month")
_CLASS = ("usd_per_hour", "before_all_others", "default")
RESOURCES = ("GPU", "CPU")


@dataclass(frozen=True)
class PoolEntry:
    """``words`` stand before those of each job that runs there; a node of its Ray is of the pool where it has
    the ``labels`` and enough of the ``resource``. ``ray_address`` "" is the cluster that `up` keeps;
    ``token_file`` has the token of one that asks for another than the user's own. ``pool`` has the nodes of
    before all ``changes``, which are in the order of their times."""

    pool: Pool
    words: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    resource: str = "GPU"
    ray_address: str = ""
    token_file: str = ""
    changes: tuple[CapacityChange, ...] = ()

    def pool_at(self, at: float) -> Pool:
        """The pool with the nodes that it has then."""
        return changed_until(self.pool, self.changes, at)

    def largest(self, now: float) -> Pool:
        """The pool with the most nodes that it has from now on."""
        pool = self.pool_at(now)
        return replace(pool, nodes=most_nodes(pool, self.changes_after(now)))

    def changes_after(self, now: float) -> tuple[CapacityChange, ...]:
        return tuple(one for one in self.changes if one.at > now)


@dataclass(frozen=True)
class JobClass:
    """What an hour of delay costs of a job of this class; the higher ``rank`` goes before all others."""

    name: str
    usd_per_hour: float = 1.0
    rank: int = 0
    default: bool = False


@dataclass(frozen=True)
class FleetFile:
    """All that it says. ``state_dir`` is where the queue's database is."""

    path: Path
    state_dir: Path
    pools: tuple[PoolEntry, ...]
    teams: tuple[Team, ...] = ()
    classes: tuple[JobClass, ...] = ()
    policy: Policy = dataclasses.field(default_factory=Policy)
    metrics_names: bool = False  # of teams and pools in the gauges, for whoever reaches a node
    keep_decisions_days: float = 7.0  # what decisions were made upon, to be made again

    def remarks(self, now: float) -> list[str]:
        """What can be, and may not have been meant."""
        done = [
            f"{self.path}: pools.{each.pool.name}.changes: {one.nodes:+,} nodes at {told(one.at, now)} is"
            f" past and counts as done; write pools.{each.pool.name}.nodes={each.pool_at(now).nodes} and"
            " leave what is past out"
            for each in self.pools
            for one in each.changes
            if one.at <= now
        ]
        weighed = [] if self.policy.fair else [team.name for team in self.teams if team.weight != 1.0]
        return done + [
            f"{self.path}: teams.{name}.weight: counts only with policy.fair, which is 0; write 'policy:"
            " {fair: 1}', or leave the weight out"
            for name in weighed
        ]

    @property
    def clusters(self) -> dict[str, str]:
        """The Rays of its pools, each with the file of its token."""
        return {each.ray_address: each.token_file for each in self.pools}

    @property
    def home_pools(self) -> frozenset[str]:
        """Those on the Ray of the first, if one gets into that with the user's own token."""
        first = self.pools[0]
        return frozenset(
            each.pool.name
            for each in self.pools
            if each.ray_address == first.ray_address and not first.token_file
        )

    def team(self, name: str | None) -> str:
        """The team that is meant; the one that there is where none is named."""
        if name is None and len(self.teams) == 1:
            return self.teams[0].name
        names = [team.name for team in self.teams]
        if name is None and not names:
            return ""
        return self._named("team", name, names)

    def job_class(self, name: str | None) -> JobClass:
        """The class that is meant: where none is named the one that is the default."""
        if name is None:
            return next((each for each in self.classes if each.default), JobClass(""))
        named = self._named("class", name, [each.name for each in self.classes])
        return next(each for each in self.classes if each.name == named)

    def pool(self, name: str) -> PoolEntry:
        named = self._named("pool", name, [each.pool.name for each in self.pools])
        return next(each for each in self.pools if each.pool.name == named)

    def _named(self, key: str, name: str | None, names: list[str]) -> str:
        if name is not None and name in names:
            return name
        there = f"there are {', '.join(names)}" if names else f"there is none in {self.path}"
        if name is None:
            raise ConfigError(f"{key}: which one? {there}; say e.g. {key}={names[0]}")
        raise ConfigError(
            f"{key}={papers.short(name)}: there is no such {key}{near_miss(name, names)}; {there}"
        )


def read_fleet_file(run_root: Path | str) -> FleetFile:
    """That of a run root; see :func:`fleet_file_at`."""
    return fleet_file_at(Path(run_root).resolve() / NAME)


def fleet_file_at(path: Path) -> FleetFile:
    """Raises :class:`ConfigError` for a file that is not there, or says what cannot be."""
    try:
        body = papers.yaml_of(papers.read_text(path, 4 << 20))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: is not there, and says which pools and teams share the GPUs; write at least"
            f" '{EXAMPLE}' into it"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return _Reader(path).read(body)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, body: Any) -> FleetFile:
        body = self._map("", body, _SECTIONS)
        state_dir = body.get("state_dir")
        address = self._address("ray_address", body.get("ray_address"))
        if state_dir is not None and not isinstance(state_dir, str):
            self._refuse("state_dir", state_dir, "is no path; leave it out, or give a folder")
        names = body.get("metrics_names", False)
        if not isinstance(names, bool):
            self._refuse("metrics_names", names, "has to be true or false")
        pools = tuple(self._pool(name, each, address) for name, each in self._named("pools", body))
        if not pools:
            raise ConfigError(f"{self._path}: pools: there is none; write at least '{EXAMPLE}'")
        teams = tuple(self._team(name, each, pools) for name, each in self._named("teams", body))
        self._check_quotas(pools, teams)
        classes = tuple(self._class(name, each) for name, each in self._named("classes", body))
        defaults = [each.name for each in classes if each.default]
        if len(defaults) > 1:
            raise ConfigError(
                f"{self._path}: classes: {' and '.join(defaults)} are both the default; leave it out of one"
            )
        where = self._path.parent / (state_dir or FOLDER)
        policy = self._policy(body.get("policy") or {})
        self._check_tokens(pools)
        self._check_told_apart(pools)
        days = self._amount("keep_decisions_days", body.get("keep_decisions_days", 7.0))
        return FleetFile(self._path, where, pools, teams, classes, policy, names, days)

    def _address(self, at: str, value: Any) -> str:
        """ "" is the cluster that `up` keeps."""
        if value is None:
            return ""
        host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            self._refuse(at, value, "is no HOST:PORT; leave it out for the cluster that 'up' keeps")
        return str(value)

    def _check_tokens(self, pools: tuple[PoolEntry, ...]) -> None:
        """Pools of one Ray have one token."""
        of: dict[str, PoolEntry] = {}
        for each in pools:
            other = of.setdefault(each.ray_address, each)
            if other.token_file != each.token_file:
                self._refuse(
                    f"pools.{each.pool.name}.token_file",
                    each.token_file or None,
                    f"is not that of pools.{other.pool.name}, which is on the same Ray; give both the same",
                )

    def _check_told_apart(self, pools: tuple[PoolEntry, ...]) -> None:
        """A node of Ray belongs to one pool: nothing else says to which."""
        of: dict[tuple[object, ...], PoolEntry] = {}
        for each in pools:
            shape = each.ray_address, each.resource, each.pool.gpus_per_node, frozenset(each.labels)
            if (other := of.setdefault(shape, each)) is not each:
                raise ConfigError(
                    f"{self._path}: pools.{each.pool.name}: its nodes cannot be told from those of"
                    f" pools.{other.pool.name}, which are on the same Ray, with {each.pool.gpus_per_node}"
                    f" {each.resource}s each and the same labels; give one of both 'labels: {{KEY: VALUE}}'"
                    " that its nodes have in Ray, or a ray_address of its own"
                )

    def _pool(self, name: str, body: Any, address: str) -> PoolEntry:
        at = f"pools.{name}"
        body = self._map(at, body, _POOL)
        words, labels = body.get("words", []), body.get("labels", {})
        if not isinstance(words, list) or not all(isinstance(word, str) and "=" in word for word in words):
            self._refuse(f"{at}.words", words, "has to be a list of KEY=VALUE")
        if not isinstance(labels, dict):
            self._refuse(f"{at}.labels", labels, "has to be a map, as {rack: r1}")
        resource = body.get("resource", RESOURCES[0])
        if resource not in RESOURCES:
            self._refuse(f"{at}.resource", resource, f"has to be one of {', '.join(RESOURCES)}")
        pool = Pool(
            name,
            nodes=self._whole(f"{at}.nodes", body.get("nodes"), 1, _MOST_NODES),
            gpus_per_node=self._whole(f"{at}.gpus_per_node", body.get("gpus_per_node"), 1, 1024),
            usd_per_gpu_hour=self._amount(f"{at}.usd_per_gpu_hour", body.get("usd_per_gpu_hour", 2.0)),
            from_at=self._time(f"{at}.from", body.get("from")),
            until_at=self._time(f"{at}.until", body.get("until")),
        )
        own = self._address(f"{at}.ray_address", body.get("ray_address"))
        token = body.get("token_file", "")
        if not isinstance(token, str):
            self._refuse(f"{at}.token_file", token, "is no path of a file that has a token")
        return PoolEntry(
            pool, tuple(words), tuple((str(key), str(value)) for key, value in labels.items()), resource,
            own or address, str(self._path.parent / token) if token else "",
            self._changes(f"{at}.changes", body.get("changes") or [], pool),
        )  # fmt: skip

    def _changes(self, at: str, body: Any, pool: Pool) -> tuple[CapacityChange, ...]:
        """In the order of their times; at none of which there are fewer than no nodes."""
        if not isinstance(body, list):
            self._refuse(at, body, "has to be a list, as [{at: 2026-12-05 08:00, nodes: +4}]")
        found = []
        for number, each in enumerate(body):
            here = f"{at}[{number}]"
            each = self._map(here, each, _CHANGE)
            nodes = self._whole(f"{here}.nodes", each.get("nodes"), -_MOST_NODES, _MOST_NODES)
            if not nodes:
                self._refuse(f"{here}.nodes", nodes, "changes nothing; give how many come (+4) or leave (-2)")
            when = date_of(f"{self._path}: {here}.at", str(each.get("at", "")))
            found.append(CapacityChange(pool.name, nodes, when, str(each.get("why", ""))))
        found.sort(key=lambda one: one.at)
        has = pool.nodes
        for one in found:
            if has + one.nodes < 0:
                when_told = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.at))
                self._refuse(
                    at, one.nodes,
                    f"nodes at {when_told} are more than the {has} that there are then; take off fewer, or"
                    f" raise pools.{pool.name}.nodes, which is how many there are before all changes",
                )  # fmt: skip
            has += one.nodes
        return tuple(found)

    def _team(self, name: str, body: Any, pools: tuple[PoolEntry, ...]) -> Team:
        at = f"teams.{name}"
        body = self._map(at, body or {}, _TEAM)
        quota = self._map(f"{at}.quota", body.get("quota") or {}, [each.pool.name for each in pools])
        limit, month = body.get("borrow_limit"), body.get("usd_per_month")
        return Team(
            name,
            tuple(
                (pool, self._whole(f"{at}.quota.{pool}", gpus, 0, _MOST_NODES))
                for pool, gpus in quota.items()
            ),
            weight=self._amount(f"{at}.weight", body.get("weight", 1.0), above_0=True),
            borrow_limit=None if limit is None else self._whole(f"{at}.borrow_limit", limit, 0, _MOST_NODES),
            usd_per_month=None if month is None else self._amount(f"{at}.usd_per_month", month),
        )

    def _class(self, name: str, body: Any) -> JobClass:
        at = f"classes.{name}"
        body = self._map(at, body or {}, _CLASS)
        for key in ("before_all_others", "default"):
            if not isinstance(body.get(key, False), bool):
                self._refuse(f"{at}.{key}", body[key], "has to be true or false")
        usd_per_hour = self._amount(f"{at}.usd_per_hour", body.get("usd_per_hour", 1.0), above_0=True)
        return JobClass(
            name, usd_per_hour, int(body.get("before_all_others", False)), body.get("default", False)
        )

    def _policy(self, body: Any) -> Policy:
        fields = {field.name: field for field in dataclasses.fields(Policy)}
        body = self._map("policy", body, fields)
        given: dict[str, Any] = {}
        for name, value in body.items():
            default, at = getattr(Policy(), name), f"policy.{name}"
            if isinstance(default, bool):
                if not isinstance(value, bool):
                    self._refuse(at, value, "has to be true or false")
                given[name] = value
            else:
                whole = isinstance(default, int)
                given[name] = self._whole(at, value, 0, 1000) if whole else self._amount(at, value)
        for name in ("hysteresis", "unknown_hysteresis"):
            if not 0 < given.get(name, 1.0) <= 1:
                self._refuse(f"policy.{name}", body[name], "has to be above 0 and at most 1")
        return Policy(**given)

    def _check_quotas(self, pools: tuple[PoolEntry, ...], teams: tuple[Team, ...]) -> None:
        for each in pools:
            pool = replace(each.pool, nodes=most_nodes(each.pool, each.changes))  # what leaves may come back
            quotas = {team.name: team.quota_in(pool.name) for team in teams if team.quota_in(pool.name)}
            if sum(quotas.values()) > pool.gpus:
                said = " + ".join(f"{name} {gpus}" for name, gpus in quotas.items())
                raise ConfigError(
                    f"{self._path}: quotas of {pool.name} add up to {sum(quotas.values())} ({said}), and it"
                    f" has {pool.gpus} ({plural(pool.nodes, 'node')} of {pool.gpus_per_node}); lower one by"
                    f" {sum(quotas.values()) - pool.gpus}, or raise pools.{pool.name}.nodes"
                )

    def _named(self, section: str, body: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        found = body.get(section) or {}
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            self._refuse(section, found, "has to be a map of names, as {a: {…}}")
        for name in found:
            if not name.replace("_", "").replace("-", "").isalnum():
                self._refuse(section, name, "is no name; letters, digits, '_' and '-' make one")
        return list(found.items())

    def _map(self, at: str, body: Any, known: Iterable[str]) -> dict[str, Any]:
        known = list(known)
        if not isinstance(body, dict):
            self._refuse(at or "all of it", body, f"has to be a map with {', '.join(known)}")
        for key in body:
            if key not in known:
                where = f"{at}.{key}" if at else key
                raise ConfigError(
                    f"{self._path}: {where}: there is no such key{near_miss(str(key), known)}; there are"
                    f" {', '.join(known)}"
                )
        return dict(body)

    def _whole(self, at: str, value: Any, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            self._refuse(at, value, f"has to be a whole number from {least} to {most}")
        return int(value)

    def _amount(self, at: str, value: Any, above_0: bool = False) -> float:
        number = type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1e12
        if not number or (above_0 and value == 0):
            self._refuse(at, value, f"has to be a number {'above' if above_0 else 'from'} 0")
        return float(value)

    def _time(self, at: str, value: Any) -> float | None:
        return None if value is None else date_of(f"{self._path}: {at}", str(value))

    def _refuse(self, at: str, value: Any, why: str) -> NoReturn:
        raise ConfigError(f"{self._path}: {at}: {papers.short(value)} {why}")
