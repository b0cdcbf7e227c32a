"""What stands between ``remote`` and the verb that is run there: an address, and how the verb gets there."""

from __future__ import annotations

import argparse
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import ConfigError

REMOTE = "remote"
# What a person types at the machine whose shell it is, or what would lead on to a third one.
_STAY_HERE = ("completion", REMOTE)
# Of verbs that write a file where they run.
_WRITES = ("--out", "--html", "--png", "--jobs-csv")
_GO_ON = ("run", "resume", "dispatch")
# A shell's own for a command that is not there; none of ours ends so.
NO_PROJECT = 127


@dataclass(frozen=True)
class RemoteCall:
    """One verb on another cluster. ``words`` begin with it, as they were typed; with ``job`` there are none:
    an earlier one is looked at again. ``folder`` is sent along, None where nothing is."""

    address: str
    verb: str = ""
    words: tuple[str, ...] = ()
    job: str = ""
    stop: bool = False
    no_wait: bool = False
    folder: str | None = "."
    python: str = "python"
    ca: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it may take hours, and is worth a word on how it is left alone."""
        return self.verb in _GO_ON or bool({"--follow", "-f"} & set(self.words))

    def new_id(self) -> str:
        """What its job is called there."""
        return f"orchestrator-{self.verb}-{secrets.token_hex(4)}"

    def command(self, mark: str, columns: int | None) -> str:
        """What the shell there runs. Behind the line ``mark`` all output is ours; before it is Ray's. Runs
        are in a folder that stays, unless the cluster, or a word, names another."""
        wide = "" if columns is None else f" COLUMNS={columns}"
        python = shlex.quote(self.python)
        return (
            f'export ORCHESTRATOR_RUN_ROOT="${{ORCHESTRATOR_RUN_ROOT:-$HOME/runs}}"{wide};'
            f" {python} -c 'import orchestrator' || exit {NO_PROJECT}; echo {mark};"
            f" exec {python} -m orchestrator {shlex.join(self.words)}"
        )

    def again(self, *flags: str) -> str:
        """What is typed to look at a job of it later."""
        shown = [*(("--ca", self.ca) if self.ca else ()), *flags]
        return f"python -m orchestrator {REMOTE} {self.address} {shlex.join(shown)}"


def split(args: Sequence[str], parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, str, list[str]]:
    """The flags of ``remote`` itself, the address, and what is to be run there.

    Raises :class:`ConfigError` where no address is given.
    """
    takes = {name: bool(one.nargs is None) for one in parser._actions for name in one.option_strings}
    own: list[str] = []
    address, place = "", 0
    while place < len(args):
        word = args[place]
        name = word.partition("=")[0]
        if name in takes:
            count = 2 if takes[name] and "=" not in word else 1
            own += args[place : place + count]
            place += count
        elif not address and not word.startswith("-"):
            address, place = word, place + 1
        else:
            break
    if not address:
        raise ConfigError(
            f"{REMOTE}: which cluster? python -m orchestrator {REMOTE} http://HOST:8265 run job=tiny_gpt; the"
            " address is that of its dashboard, which 'status' prints there"
        )
    return parser.parse_args(own), address, list(args[place:])


def checked(call: RemoteCall) -> RemoteCall:
    """The same. Raises :class:`ConfigError` for what cannot be run there, or would be lost there."""
    if call.verb in _STAY_HERE:
        raise ConfigError(f"{REMOTE}: '{call.verb}' is for the machine that you sit at; type it without")
    for place, word in enumerate(call.words):
        flag, equals, value = word.partition("=")
        if word == "--":
            break
        if flag in _WRITES:
            value = value if equals else "".join(call.words[place + 1 : place + 2])
            _refuse_lost(f"{flag} {value}", value)
        elif flag.lstrip("+") in ("run_root", "run_dir"):
            _refuse_lost(word, value)
    return call


def _refuse_lost(said: str, path: str) -> None:
    if not path.startswith("/") and "$" not in path:
        raise ConfigError(
            f"{said}: the cluster deletes the folder in which the command runs; name a path from / of a place"
            " that stays there"
        )
