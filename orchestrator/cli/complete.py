"""What a half typed command line can go on with: asked by a shell, with every press of Tab.

    python -m orchestrator.cli.complete WORD … HALF

It answers in a tenth of a second, so it imports neither Hydra nor Ray nor torch: keys and their values come
from the annotations of the schema, options from the names of files. Each line of its answer is a whole word,
which ends in ``=``, ``.`` or ``,`` where more is to follow. Whatever goes wrong, it says nothing: its answer
stands in the line that somebody is typing.
"""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.cli.args import CFG, SHELLS, TAKE_A_RUN, TAKE_RUNS
from orchestrator.cli.flags import HYDRA_FLAGS, TAKE_A_VALUE, VERBS, own_flags
from orchestrator.cli.queue_words import WORDS
from orchestrator.cli.remote_words import REMOTE
from orchestrator.config import kinds
from orchestrator.config.serving import SHORT_FOR_SERVING
from orchestrator.installation import PACKAGE

_MOST_RUNS = 50
_NOT_TYPED = {"--shell-completion", "-sc"}  # Hydra's own completion, which knows none of our verbs
SERVE = "serve"  # with the name of a model
_CHOICES = {"--cfg": CFG, "-c": CFG}


def answers(words: Sequence[str], half: str) -> list[str]:
    """Every word that begins as ``half`` does and can follow ``words``, which are those after the program's
    name."""
    if "--" in words:
        return []  # a command of somebody else's
    if words[:1] == [REMOTE]:
        return _answers_there(words[1:], half)
    before = words[-1] if words else ""
    if before in TAKE_A_VALUE:
        return _beginning(half, _CHOICES.get(before, ()))
    verb = next((word for word in words if word in VERBS), None)
    if half.startswith("-"):
        return _beginning(half, sorted({*own_flags(verb or "run"), *HYDRA_FLAGS} - _NOT_TYPED))
    prefix = half[: len(half) - len(half.lstrip("+~"))]
    bare = half[len(prefix) :]
    if "=" in bare:
        found: Iterable[str] = _values(bare, _folders(words))
    elif verb == "completion":
        found = SHELLS
    elif verb in TAKE_A_RUN and not _run_is_there(verb, words):
        found = _runs(words)
    else:
        found = [*(() if prefix else _bare_words(verb, words)), *_keys(bare, _folders(words))]
        found += [] if prefix else _words_of(verb)
    return [prefix + one for one in _beginning(bare, found)]


def _answers_there(words: Sequence[str], half: str) -> list[str]:
    """Of a verb that runs on another cluster, whose runs are not known here."""
    place = next((place for place, word in enumerate(words) if word in VERBS), None)
    if place is not None:
        verb = words[place]
        is_for_a_run = verb in TAKE_RUNS or (verb in TAKE_A_RUN and not _run_is_there(verb, words))
        if is_for_a_run and not half.startswith("-") and "=" not in half:
            return []
        return answers(words[place:], half)
    if words and words[-1] in TAKE_A_VALUE:
        return []
    if half.startswith("-"):
        return _beginning(half, sorted(own_flags(REMOTE)))
    return _beginning(half, VERBS) if any("://" in word for word in words) else []


def _beginning(half: str, known: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(known) if word.startswith(half)]


def _bare_words(verb: str | None, words: Sequence[str]) -> Iterable[str]:
    """A verb where there is none yet, and the runs of one that takes any number."""
    return VERBS if verb is None else _runs(words) if verb in TAKE_RUNS else ()


def _words_of(verb: str | None) -> list[str]:
    """What a verb takes that is no key, or the short form of one."""
    short = (SERVE, *SHORT_FOR_SERVING) if verb == "plan" else WORDS.get(verb or "", ())
    return [f"{word}=" for word in short]


def _run_is_there(verb: str, words: Sequence[str]) -> bool:
    after = words[list(words).index(verb) + 1 :]
    return any("=" not in word and not word.startswith("-") for word in after)


def _runs(words: Sequence[str]) -> list[str]:
    """Names below the run root, the newest first."""
    root = next((word.partition("=")[2] for word in reversed(words) if word.startswith("run_root=")), "runs")
    found = [path for path in Path(root).glob("*/journal.jsonl") if path.is_file()]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in newest[:_MOST_RUNS]]


def _folders(words: Sequence[str]) -> list[Path]:
    """Where configurations lie: the project's own, and one that the line names."""
    own = PACKAGE / "conf"
    found = [own if own.is_dir() else PACKAGE.parent / "conf"]
    for place, word in enumerate(words[:-1]):
        if word in ("--config-dir", "-cd"):
            found.append(Path(words[place + 1]))
    return [folder for folder in found if folder.is_dir()]


def _keys(half: str, folders: Sequence[Path]) -> Iterator[str]:
    """Groups and keys, one level at a time: ``cluster=`` and ``cluster.``, then ``cluster.nodes=``."""
    level = half.rpartition(".")[0]
    if not level:
        yield from (f"{group}=" for group in _groups(folders))
    known = [key for key in kinds.all_keys() if key.rpartition(".")[0] == level]
    for key in known:
        kind = kinds.kind_of(key)
        assert kind is not None
        yield f"{key}." if kind.is_section or kind.is_map else f"{key}="
    if level == "job.args":
        yield from (f"job.args.{name}=" for name in sorted(_arguments(folders)))


def _groups(folders: Sequence[Path]) -> list[str]:
    return sorted({path.name for folder in folders for path in folder.iterdir() if any(path.glob("*.yaml"))})


def _arguments(folders: Sequence[Path]) -> set[str]:
    """Of the scripts that some job of these folders runs."""
    import yaml

    found: set[str] = set()
    for path in (path for folder in folders for path in (folder / "job").glob("*.yaml")):
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, AttributeError):
            found |= set((yaml.load(path.read_text(), yaml.CSafeLoader).get("job") or {}).get("args") or {})
    return found


def _values(half: str, folders: Sequence[Path]) -> list[str]:
    """``KEY=VALUE`` for keys that choose among names; after a comma the next point of a sweep."""
    key, _, value = half.partition("=")
    done = value[: value.rfind(",") + 1]
    group = "model" if key == SERVE else key
    options = sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})
    if not options or "." in key:
        kind = kinds.kind_of(key)
        if kind is None:
            return []
        if kind.takes is bool:
            options = ["true", "false"]
        elif isinstance(kind.takes, type) and issubclass(kind.takes, enum.Enum):
            options = [member.name for member in kind.takes]
        options += ["null"] if kind.or_null else []
    return [f"{key}={done}{option}" for option in options if option not in done.split(",")]


def main() -> int:
    """Always 0; its lines are what it has found."""
    try:
        *words, half = sys.argv[1:]
        words = [word for word in words if word]  # a shell may hand over an empty list as an empty word
        print("\n".join(answers(words, half)))
    except Exception:  # noqa: BLE001 - nobody may read of it in the line that is typed
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
