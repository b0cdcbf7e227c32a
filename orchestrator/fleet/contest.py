"""Policies side by side on one trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from orchestrator.errors import ConfigError, near_miss
from orchestrator.fleet.bound import bound_jct_s
from orchestrator.fleet.measures import Measures, measures, percentile
from orchestrator.fleet.muri import GPUS, MuriOutcome, shortest_first, tiresias_l
from orchestrator.fleet.queueings import Easy, Fifo, Ours, Shortest, TiresiasL
from orchestrator.fleet.settings import Policy
from orchestrator.fleet.simulate import Queueing, Run, simulate
from orchestrator.fleet.trace import UNSAID_USD_PER_HOUR, Arrivals, Floats, TraceJob

POLICIES = ("fifo", "easy", "srtf", "srsf", "tiresias_l", "ours", "ours_blind")
MURI_POLICIES = ("srtf", "srsf", "tiresias_l")
PROFILES = ("muri",)
_USD_PER_GPU_HOUR, _OF_GPUS = 2.0, 64


@dataclass(frozen=True)
class Setting:
    """How a trace is run. ``early`` is the share of jobs that end before their time, at any moment of it."""

    gpus: int = 64
    restart_s: float = 3.0
    sigma: float = 0.5  # of what is predicted at submission
    told_sigma: float = 0.05  # of what the steps say
    seeds: tuple[int, ...] = (0, 1, 2)
    early: float = 0.0
    by_team: bool = False  # whether each team is also played on GPUs of its own
    jitter_s: float = 0.0  # each submission comes so much sooner or later, at random
    policy: Policy = field(default_factory=Policy)

    @property
    def draws(self) -> bool:
        """Whether the trace that is run is another for each seed."""
        return self.early > 0 or self.jitter_s > 0


@dataclass(frozen=True)
class Standing:
    """How one policy did: the mean of its seeds, and the least and the greatest average. JCT is job
    completion time, from submission to end."""

    avg_jct_s: float  # from submission to end, on average
    p50_jct_s: float  # the median
    p90_jct_s: float  # nine of ten jobs take no longer
    p99_jct_s: float  # and 99 of a hundred
    avg_wait_s: float  # not running, also after a stop
    makespan_s: float  # from the first submission to the last end
    preemptions: float  # how often a job was stopped for another
    gpu_time_lost: float  # to starts after a stop, as a share of the work
    cpu_s: float  # that the simulation took
    least_avg_jct_s: float  # of the seeds
    most_avg_jct_s: float  # likewise
    seeds: int  # how many there were; 1 where nothing is drawn
    # GPU time in use, as a share of all until the last end; null of a profile's policies
    allocation: float | None = None
    # GPU-hours free while somebody waited, by why: "gang" where each needed more than were free, "fits" where
    # the policy kept them; null of a profile's policies
    idle_gpu_h: dict[str, float] | None = None
    # of the time that jobs waited, at their cost of delay; null of a profile's policies
    delay_usd: float | None = None
    # by team: its average over that on its own share of the GPUs (Themis, NSDI 2020); null unless asked for
    fairness: dict[str, float] | None = None


def refuse_too_large(jobs: Sequence[TraceJob], gpus: int) -> None:
    """A job that no policy could ever start."""
    largest = max(jobs, key=lambda job: job.gpus)
    if largest.gpus > gpus:
        raise ConfigError(
            f"--gpus={gpus}: {largest.told()} of the trace takes {largest.gpus} GPUs; give as many or more"
        )


def standings(
    jobs: Sequence[TraceJob],
    setting: Setting,
    names: Sequence[str] = POLICIES,
    runs: dict[str, Run] | None = None,
) -> dict[str, Standing]:
    """``runs`` is given each policy's run of the first seed."""
    if setting.early > 1.0:
        raise ConfigError(f"--early={setting.early:g}: it is a share, of 0 to 1")
    for name in names:
        if name not in POLICIES:
            raise ConfigError(
                f"--policies={name}: there are {', '.join(POLICIES)}{near_miss(name, POLICIES)}"
            )
    refuse_too_large(jobs, setting.gpus)
    return {name: _standing(jobs, setting, name, runs) for name in names}


def muri_standings(jobs: Sequence[TraceJob]) -> dict[str, Standing]:
    """The rows of Muri's paper, by its simulator's rules, on its 64 GPUs."""
    refuse_too_large(jobs, GPUS)
    plays: dict[str, Callable[[], MuriOutcome]] = {
        "srtf": lambda: shortest_first(jobs, by_service=False),
        "srsf": lambda: shortest_first(jobs, by_service=True),
        "tiresias_l": lambda: tiresias_l(jobs),
    }
    found = {}
    for name, play in plays.items():
        before = time.process_time()
        outcome = play()
        jct_s = outcome.jct_s
        avg = float(jct_s.mean())
        found[name] = Standing(
            avg, percentile(jct_s, 0.5), percentile(jct_s, 0.9), percentile(jct_s, 0.99),
            float((jct_s - outcome.ran_s).mean()), outcome.makespan_s, outcome.preemptions, outcome.lost,
            time.process_time() - before, avg, avg, 1,
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Contest:
    """Policies side by side on one trace."""

    trace: str  # its file
    jobs: int  # of the trace
    gpus: int  # of the cluster
    bound_jct_s: float  # an average that no policy can be below
    policies: dict[str, Standing]  # by their names


def contest(
    jobs: Sequence[TraceJob],
    trace: str,
    setting: Setting,
    names: Sequence[str],
    profile: str | None = None,
    runs: dict[str, Run] | None = None,
) -> Contest:
    """All of a trace; the profile has policies and GPUs of its own, and no runs to look at."""
    if profile is not None and profile not in PROFILES:
        raise ConfigError(f"--profile={profile}: there is {', '.join(PROFILES)} only")
    gpus = GPUS if profile else setting.gpus
    found = muri_standings(jobs) if profile else standings(jobs, setting, names, runs)
    bound_s = bound_jct_s(Arrivals.of(jobs), gpus) if profile else _bound_s(jobs, setting)
    return Contest(trace, len(jobs), gpus, bound_s, found)


def _standing(jobs: Sequence[TraceJob], setting: Setting, name: str, runs: dict[str, Run] | None) -> Standing:
    """Only a policy that is told predictions has several seeds, unless the trace itself is drawn."""
    seeds = setting.seeds if name == "ours" or setting.draws else setting.seeds[:1]
    before = time.process_time()
    played = [play(jobs, setting, name, seed) for seed in seeds]
    rows = [measures(run) for run in played]
    cpu_s = (time.process_time() - before) / len(rows)
    averages = [row.avg_jct_s for row in rows]
    if runs is not None:
        runs[name] = played[0]

    def mean(of: Callable[[Measures], float]) -> float:
        return float(np.mean([of(row) for row in rows]))

    return Standing(
        mean(lambda row: row.avg_jct_s), mean(lambda row: row.p50_jct_s), mean(lambda row: row.p90_jct_s),
        mean(lambda row: row.p99_jct_s), mean(lambda row: row.avg_wait_s), mean(lambda row: row.makespan_s),
        mean(lambda row: row.preemptions), mean(lambda row: row.gpu_time_lost), cpu_s,
        min(averages), max(averages), len(rows), mean(lambda row: row.allocation),
        {why: mean(lambda row, why=why: row.idle_gpu_h[why]) for why in rows[0].idle_gpu_h},  # type: ignore[misc]
        mean(lambda row: row.delay_usd),
        _fairness(jobs, setting, name, played[0]) if setting.by_team else None,
    )  # fmt: skip


def _fairness(jobs: Sequence[TraceJob], setting: Setting, name: str, run: Run) -> dict[str, float]:
    """Each team beside itself alone, by the same policy, on as many GPUs as each of them would have, or as
    its largest gang takes."""
    teams = sorted({job.team for job in jobs})
    found = {}
    jct_s = run.ended_at - run.arrivals.submit_s
    of_team = np.array([teams.index(jobs[at].team) for at in run.arrivals.job.tolist()], int)
    for at, team in enumerate(teams):
        own = [job for job in jobs if job.team == team]
        gpus = max(setting.gpus // len(teams), max(job.gpus for job in own))
        alone = play(own, replace(setting, gpus=gpus), name, setting.seeds[0])
        alone_s = float((alone.ended_at - alone.arrivals.submit_s).mean())
        found[team] = float(jct_s[of_team == at].mean()) / alone_s
    return found


def play(jobs: Sequence[TraceJob], setting: Setting, name: str, seed: int) -> Run:
    """One run of one policy. The same seed draws the same trace and the same predictions for each."""
    arrivals, work_s, told = drawn(jobs, setting, seed)
    queueing = _queueing(name, setting, arrivals, told)
    return simulate(arrivals, setting.gpus, queueing, restart_s=setting.restart_s, work_s=work_s)


def drawn(jobs: Sequence[TraceJob], setting: Setting, seed: int) -> tuple[Arrivals, Floats, Floats]:
    """What a seed makes of a trace: who comes when, what each takes, and the errors of what is told."""
    arrivals = Arrivals.of(jobs)
    rng = np.random.default_rng(seed)
    count = len(jobs)
    told = rng.standard_normal((2, count))
    if setting.jitter_s:
        submit_s = np.maximum(arrivals.submit_s + rng.uniform(-1, 1, count) * setting.jitter_s, 0.0)
        arrivals = arrivals.in_order_of(submit_s)
    work_s = arrivals.duration_s
    if setting.early:
        ends_early = rng.random(count) < setting.early
        work_s = np.where(ends_early, np.maximum(work_s * rng.random(count), 1.0), work_s)
    return arrivals, work_s, told


def _bound_s(jobs: Sequence[TraceJob], setting: Setting) -> float:
    """Of what the seeds draw, as the policies' averages are."""
    found = []
    for seed in setting.seeds if setting.draws else setting.seeds[:1]:
        arrivals, work_s, _ = drawn(jobs, setting, seed)
        found.append(bound_jct_s(replace(arrivals, duration_s=work_s), setting.gpus))
    return float(np.mean(found))


def _usd_per_gpu_hour(arrivals: Arrivals, gpus: int) -> float:
    """What a stop costs is weighed against what a delay does. Of a trace that says nothing of dollars each
    delay counts as much, and all GPUs cost what 64 do: with all gangs and the cluster a thousand times as
    large it is decided the same."""
    said = bool((arrivals.usd_per_hour != UNSAID_USD_PER_HOUR).any())
    return _USD_PER_GPU_HOUR * (1.0 if said else _OF_GPUS / gpus)


def _queueing(name: str, setting: Setting, arrivals: Arrivals, told: Floats) -> Queueing:
    duration_s, usd_per_hour = arrivals.duration_s, arrivals.usd_per_hour
    gpu_usd = _usd_per_gpu_hour(arrivals, setting.gpus)
    made: dict[str, Callable[[], Queueing]] = {
        "fifo": Fifo,
        "easy": Easy,
        "srtf": lambda: Shortest(by_service=False),
        "srsf": lambda: Shortest(by_service=True),
        "tiresias_l": TiresiasL,
        "ours_blind": lambda: Ours(setting.policy, usd_per_hour, usd_per_gpu_hour=gpu_usd),
        "ours": lambda: Ours(
            setting.policy,
            usd_per_hour,
            duration_s * np.exp(setting.sigma * told[0]),
            duration_s * np.exp(setting.told_sigma * told[1]),
            setting.sigma,
            setting.told_sigma,
            gpu_usd,
        ),
    }
    return made[name]()
