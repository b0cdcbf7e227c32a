"""What the verbs of the queue are told beside the words of a job: `team=nlp`, `deadline='fri 18:00'`. They
are taken off the command line before Hydra reads it."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import ConfigError, near_miss

VERBS = ("submit", "queue", "cancel", "hold", "move", "quota", "reserve", "drain", "dispatch", "fleet")
TAKE_A_JOB = ("cancel", "hold", "move", "drain", "fleet")
PAGE = "page"
WORDS = {
    "submit": (
        "team", "class", "deadline", "key", "pool", "after", "usd_per_hour", "penalty_usd", "preemptible",
    ),
    "move": ("class", "deadline", "pool", "usd_per_hour"),
    "reserve": ("team", "job", "pool", "nodes", "from", "until", "why", "name"),
}  # fmt: skip
# Beside these a verb that composes no job takes only what says which queue is meant.
_ALSO = ("run_root",)


def take_words(verb: str, args: list[str]) -> tuple[tuple[str, str], ...]:
    """Key and value of each; they are taken out of ``args``.

    Raises :class:`ConfigError` for one that is said twice, and for one that the verb does not know.
    """
    if verb not in VERBS:
        return ()
    known, found = WORDS.get(verb, ()), {}
    for word in list(args):
        key, equals, value = word.partition("=")
        if not equals or key.startswith("-"):
            continue
        if key in known:
            if key in found:
                raise ConfigError(f"{word}: {key} is said twice; leave one out")
            args.remove(word)
            found[key] = value
        elif verb == "submit":
            _refuse_misspelt(word, key, known)
        elif key not in _ALSO:
            raise ConfigError(
                f"{word}: '{verb}' takes {', '.join((*known, *_ALSO))}{near_miss(key, known)}; see"
                f" '{verb} --help'"
            )
    return tuple(found.items())


def _refuse_misspelt(word: str, key: str, known: Sequence[str]) -> None:
    """What is no key of a job, and nearly one of ours."""
    from orchestrator.config.schema import Config

    said = near_miss(key, known)
    if said and "." not in key and key not in Config.__dataclass_fields__:
        raise ConfigError(
            f"{word}: there is no such key{said}; 'submit' takes {', '.join(known)} beside a job's"
        )


def take_job(verb: str, args: list[str], bare: Sequence[int]) -> str:
    """The job, or for `drain` the node, that a verb is about; it is taken out of ``args``."""
    if verb == "fleet":
        return _take_page(args, bare)
    if verb not in TAKE_A_JOB or {"--help", "-h", "--version"} & set(args):
        return ""
    if not bare:
        what, named = ("node", "HOST") if verb == "drain" else ("job", "KEY")
        raise ConfigError(f"{verb}: which {what}? python -m orchestrator {verb} {named}; 'queue' lists them")
    return args.pop(bare[0])


def _take_page(args: list[str], bare: Sequence[int]) -> str:
    """`fleet page`: there is one thing to see of it, so its name may be left out."""
    if bare and args[bare[0]] != PAGE:
        word = args[bare[0]]
        raise ConfigError(f"fleet {word}: there is no such word{near_miss(word, (PAGE,))}; type 'fleet page'")
    return args.pop(bare[0]) if bare else PAGE
