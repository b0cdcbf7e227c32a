"""The command line taken apart, once: verb, RUN, our own few flags, and the words that are Hydra's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.cli import queue_words, remote_words
from orchestrator.cli.flags import HYDRA_FLAGS, MAY_TAKE_A_VALUE, TAKE_A_VALUE, VERBS, own_flags, parser_of
from orchestrator.cli.remote_words import REMOTE, RemoteCall
from orchestrator.errors import ConfigError, near_miss

SHELLS = ("bash", "zsh", "fish")
TAKE_A_RUN = ("resume", "stop", "logs", "report", "open", "sync", "incidents")
TAKE_RUNS = ("calibrate",)
TAKE_A_COMMAND = ("run", "plan", "export", "submit")
CFG = ("job", "hydra", "all")  # of Hydra: what of a configuration is printed
_VERBS_NAMED = 4  # of those that have a flag which was typed at another


@dataclass(frozen=True)
class Invocation:
    """One command line. ``words`` are Hydra's, as Hydra is to read them: KEY=VALUE and flags; the rest is
    ours, and says nothing where the verb does not take it."""

    verb: str
    words: tuple[str, ...]
    run: str = ""  # RUN of a verb that takes one
    runs: tuple[str, ...] = ()  # of a verb that takes any number
    version: bool = False
    json: bool = False
    csv: bool = False
    sort: str | None = None
    limit: int | None = None
    filter: str = ""
    to_loss: float | None = None
    html: str | None = None
    png: str | None = None
    trust: bool = False
    force: bool = False
    help: bool = False  # of this verb alone
    shell: str = ""  # of completion
    rank: int = 0
    attempt: int | None = None
    lines: int = 0
    follow: bool = False
    now: bool = False
    no_wait: bool = False
    browser: bool = False
    port: int | None = None  # of a page that is served
    out: str | None = None  # folder of an export
    quick: bool = False
    full: bool = False  # what check does where nothing is said
    forgive: str | None = None
    # which runs are listed
    state: tuple[str, ...] = ()
    job: str | None = None
    cluster: str | None = None
    owner: str | None = None
    project: str | None = None
    # which spending is added up
    cost_center: str | None = None
    month: str | None = None
    by: tuple[str, ...] = ()  # the keys that runs, or spending, are grouped by
    # what is simulated
    trace: str = ""
    fleet: str | None = None  # the file of pools and teams on which a trace is played
    replay: str | None = None  # the folder of a queue whose decisions are made again
    profile: str | None = None
    policies: tuple[str, ...] = ()  # none: all
    gpus: int = 64
    restart_s: float = 3.0
    early: float = 0.0
    jitter_s: float = 0.0
    seeds: int = 3
    by_team: bool = False
    jobs_csv: str | None = None  # file of a line for each policy and job
    # what the queue is told: `team=nlp` and the like, and the words of a job as they were typed
    queue_words: tuple[tuple[str, str], ...] = ()
    typed: tuple[str, ...] = ()  # of `submit`
    dry_run: bool = False
    again: bool = False
    no_forecast: bool = False
    why: str = ""
    off: bool = False
    stop: bool = False
    # what a command after ``--`` became, as Hydra reads it, and what a person is told of it; these words are
    # the first of ``words``
    command_words: tuple[str, ...] = ()
    command_remark: str = ""
    remote: RemoteCall | None = None  # a verb that is run on a cluster that is away

    @property
    def multirun(self) -> bool:
        """Whether a flag asks for a run of each of several values."""
        return bool({"-m", "--multirun"} & set(self.words))

    @property
    def is_for_hydra(self) -> bool:
        """Whether the words are for Hydra's own command line: its flags, or a word on its own part."""
        typed = self.words[len(self.command_words) :]
        return any(word.startswith("-") or "hydra" in word for word in typed)


def parse(args: Sequence[str]) -> Invocation:
    """Take a command line apart. Raises :class:`ConfigError` for what is not one, before Hydra is asked."""
    if args and args[0] == REMOTE:
        return _remote(args[1:])
    rest, command = _split(args)
    verb, typed = _take_verb(rest)
    if verb == REMOTE:
        raise ConfigError(f"{REMOTE}: comes first, and what is for the verb there after the address")
    if typed and {"--help", "-h"} & set(rest):
        return Invocation(verb, (), help=True)
    if verb == "completion":
        return Invocation(verb, (), shell=_take_shell(rest))
    told = queue_words.take_words(verb, rest)
    run, runs = _take_run(verb, rest), _take_runs(verb, rest)
    found, words = parser_of(verb).parse_known_args(rest)
    own = vars(found)
    _check_flags(verb, words)
    as_typed = (*words, *(() if command is None else ("--", *command))) if verb == "submit" else ()
    if "version" not in own:  # which is printed without Hydra
        from orchestrator.config.words import for_hydra

        words = for_hydra(words)
    if command is None or "version" in own or _is_for_reading(words):
        return Invocation(verb, tuple(words), run, tuple(runs), queue_words=told, typed=as_typed, **own)
    if verb not in TAKE_A_COMMAND:
        raise ConfigError(_no_command(verb))
    from orchestrator.config.command_line.words import translated

    trained = translated(command, words)
    return Invocation(
        verb, (*trained.words, *words), run, tuple(runs), queue_words=told, typed=as_typed, **own,
        command_words=trained.words, command_remark=trained.remark,
    )  # fmt: skip


def _remote(args: Sequence[str]) -> Invocation:
    """A verb for another cluster. Its words are looked at here as far as they need no files, so that a typing
    error is known before anything is sent."""
    if {"--help", "-h"} & set(args[:1]):
        return Invocation(REMOTE, (), help=True)
    own, address, words = remote_words.split(args, parser_of(REMOTE))
    given = vars(own)
    if "version" in given:
        return Invocation(REMOTE, (), version=True)
    folder = None if given.pop("no_upload", False) else given.pop("working_dir", ".")
    given.pop("working_dir", None)
    if given.get("job"):
        if words:
            raise ConfigError(f"--job: looks at a job that is there; leave {' '.join(words)} out")
        return Invocation(REMOTE, (), remote=RemoteCall(address, folder=folder, **given))
    if given.get("stop"):
        raise ConfigError("--stop: of which job? --job NAME names one; a run is stopped by 'stop RUN'")
    if not words:
        raise ConfigError(
            f"{REMOTE}: which verb? python -m orchestrator {REMOTE} {address} run job=tiny_gpt, or 'runs',"
            " 'logs RUN' and so on"
        )
    there = parse(_split(words)[0])
    if there.help:
        return there
    if "--" in words and there.verb not in TAKE_A_COMMAND:
        raise ConfigError(_no_command(there.verb))
    call = RemoteCall(address, there.verb, tuple(words), folder=folder, **given)
    return Invocation(REMOTE, (), remote=remote_words.checked(call))


def _no_command(verb: str) -> str:
    return f"--: '{verb}' takes no command after it; 'run', 'plan', 'export' and 'submit' do"


def _split(args: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What stands before ``--``, which is ours and Hydra's, and the command after it."""
    place = list(args).index("--") if "--" in args else None
    return (list(args), None) if place is None else (list(args[:place]), list(args[place + 1 :]))


def _is_for_reading(words: Sequence[str]) -> bool:
    """Whether words are asked to be explained or completed, and nothing is composed of them."""
    return bool({"--help", "-h", "--hydra-help", "--shell-completion", "-sc"} & set(words))


def _take_verb(args: list[str]) -> tuple[str, bool]:
    """The verb, which flags such as ``--config-dir DIR`` may precede, and whether it was typed; it is taken
    out of ``args``.

    Raises :class:`ConfigError` for a bare word that is none, as only a verb can be.
    """
    for place, word in enumerate(args):
        if word.isidentifier() and not (place and args[place - 1] in (*TAKE_A_VALUE, *MAY_TAKE_A_VALUE)):
            if word not in VERBS:
                raise ConfigError(
                    f"'{word}' is not a verb ({', '.join(VERBS)}){near_miss(word, VERBS)}; see --help"
                )
            return args.pop(place), True
    return "run", False


def _take_shell(args: list[str]) -> str:
    if len(args) == 1 and args[0] in SHELLS:
        return args[0]
    raise ConfigError(f"completion: which shell? python -m orchestrator completion {'|'.join(SHELLS)}")


def _take_run(verb: str, args: list[str]) -> str:
    """The RUN of a verb that takes one: the first word that is neither flag nor KEY=VALUE; "" for other
    verbs.

    It is taken out of ``args``. Raises :class:`ConfigError` where it is missing.
    """
    if verb in queue_words.TAKE_A_JOB:
        return queue_words.take_job(verb, args, _bare(args))
    if verb not in TAKE_A_RUN or {"--help", "-h", "--version"} & set(args):
        return ""
    for place in _bare(args):
        return args.pop(place)
    raise ConfigError(
        f"{verb}: which run? python -m orchestrator {verb} RUN, a name below run_root or a path"
    )


def _take_runs(verb: str, args: list[str]) -> list[str]:
    """The RUNs of a verb that takes any number of them; they are taken out of ``args``."""
    places = _bare(args) if verb in TAKE_RUNS else []
    return [args.pop(place) for place in reversed(places)][::-1]


def _bare(args: Sequence[str]) -> list[int]:
    """Where the words are that are neither flag, nor a flag's value, nor KEY=VALUE."""
    return [
        place
        for place, word in enumerate(args)
        if not (place and args[place - 1] in (*TAKE_A_VALUE, *MAY_TAKE_A_VALUE))
        and not (word.startswith("-") or "=" in word)
    ]


def _check_flags(verb: str, overrides: Sequence[str]) -> None:
    """Hydra would print its whole usage for a flag that it does not know, or that lacks its value."""
    for place, word in enumerate(overrides):
        flag = word.split("=", 1)[0]
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            raise ConfigError(_no_such_flag(verb, flag))
        value = "".join(overrides[place + 1 : place + 2])
        if word in TAKE_A_VALUE and (not value or value.startswith("-")):
            raise ConfigError(f"{word}: needs a value after it; see --help")
        if word in ("--cfg", "-c") and value not in CFG:
            raise ConfigError(f"{word} {value}: choose among {', '.join(CFG)}{near_miss(value, CFG)}")


def _no_such_flag(verb: str, flag: str) -> str:
    """What to type instead: a flag that this verb has, or the verbs that have this one."""
    others = [other for other in VERBS if flag in own_flags(other)]
    if others:
        shown = others if len(others) <= _VERBS_NAMED else [*others[: _VERBS_NAMED - 1], "others"]
        named = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
        own = ", ".join(one for one in own_flags(verb) if one != "--version")
        has = f", which has {own}" if own else ""
        return f"{flag}: a flag of {named}, not of '{verb}'{has}; leave it out"
    return f"{flag}: no such flag of '{verb}'{near_miss(flag, [*HYDRA_FLAGS, *own_flags(verb)])}; see --help"


def flags_last(words: Sequence[str]) -> list[str]:
    """The same command line with every KEY=VALUE before the flags: Hydra refuses those that flags
    separate."""
    flags: list[str] = []
    overrides: list[str] = []
    for place, word in enumerate(words):
        value = place and (
            words[place - 1] in TAKE_A_VALUE or (words[place - 1] in MAY_TAKE_A_VALUE and "=" not in word)
        )
        (flags if value or word.startswith("-") else overrides).append(word)
    return overrides + flags
