"""Hydra's errors as one line that names the key, what is wrong with it and the remedy."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from orchestrator import papers
from orchestrator.config import kinds, load
from orchestrator.config.schema import MISSING
from orchestrator.config.words import as_typed, parsed_override
from orchestrator.errors import ConfigError, near_miss

# Groups that every run has an option of.
_NEEDED = ("cluster", "gpu", "job")
_UNKNOWN_KEY = re.compile(r"Could not override '(?P<key>[^']*)'")
_UNKNOWN_IN_SCHEMA = re.compile(r"Key '(?P<key>[^']+)' (is )?not in '?(?P<owner>\w+)'?")
_FOREIGN_PACKAGE = re.compile(r"(?P<group>[a-z]+)@\w+\.(?P=group)")
_NO_MULTIRUN = re.compile(
    r"(Sweep parameters|Ambiguous value for argument) '(?P<word>.*)'(?= requires --multirun|\s*1\. To"
    r" use it)",
    re.DOTALL,
)
_NO_INTERPOLATION = re.compile(r"Interpolation key '(?P<key>[^']+)' not found")
_THERE_ALREADY = re.compile(r"An item is already at '(?P<key>[^']+)'")
_NO_CONFIG_DIR = re.compile(r"Additional config directory '(?P<path>.+)' not found")


def explain(error: Exception, overrides: Sequence[str] = ()) -> str:
    """One line for a person. The chain of causes is searched for the one that names a key.

    ``overrides`` is the rest of the command line: near misses are looked for in what it chose.
    """
    chain = _chain(error)
    if isinstance(error, MarkedYAMLError):
        return _no_yaml(error)
    if (why := wrong_word(overrides)) is not None:
        return why
    missing = next((e for e in chain if isinstance(e, MissingConfigException)), None)
    if missing is not None and missing.missing_cfg_file:
        return _no_such_option(missing)
    for text in map(str, chain):
        if match := _UNKNOWN_KEY.search(text):
            return _no_such_key(match["key"], overrides)
        if match := _THERE_ALREADY.search(text):
            return _there_already(match["key"], overrides)
        if match := _NO_CONFIG_DIR.search(text):
            return (
                f"--config-dir={match['path']}: no such directory; it holds groups such as cluster/ and job/"
            )
        if (why := _no_interpolation(text, overrides)) is not None:
            return why
    for cause in reversed(chain):
        first = (str(cause).strip().splitlines() or [""])[0]
        # OmegaConf raises some of its errors from a template of themselves.
        if isinstance(cause, OmegaConfBaseException) and first and "$" not in first:
            key = getattr(cause, "full_key", None)
            if match := _UNKNOWN_IN_SCHEMA.search(first):
                return _no_such_key(str(key or match["key"]), overrides)
            return f"{key}: {first}" if key else first
    if isinstance(error, OverrideParseException):
        return _no_override(error.override)
    if match := _NO_MULTIRUN.search(str(error)):
        return _no_sweep(match["word"])
    return " ".join(str(error).split())


def wrong_word(overrides: Sequence[str]) -> str | None:
    """The first KEY=VALUE whose value is none that the key takes, or whose ``~`` takes nothing out; None
    where none is to blame. Asked of what was refused: whoever refused it seldom says which word it was."""
    for word in overrides:
        found = None if word.startswith("-") else parsed_override(word)
        if found is None or "@" in word or "${" in word:
            continue
        if found.is_sweep_override():
            if (why := _wrong_sweep(word, found)) is not None:
                return why
            continue
        key, value = found.key_or_group, None if found.is_delete() else found.value()
        typed = word.partition("=")[2]
        if found.is_delete():
            why = kinds.why_kept(key)
        elif "." not in key and (options := _options(key)) is not None:
            why = None if isinstance(value, str) else _no_choice(key, value, options)
        else:
            why = None if value == MISSING else kinds.why_not(key, value, typed)
        if why is not None:
            return why
    return None


def _wrong_sweep(word: str, sweep: Override) -> str | None:
    """The first of several values that is none that the key takes; a list that lacks its brackets is meant
    as one."""
    each = list(sweep.sweep_string_iterator()) if sweep.is_choice_sweep() else []
    key = sweep.key_or_group
    kind = kinds.kind_of(key)
    if kind is not None and kind.is_list and not any(value.startswith("[") for value in each):
        one = shlex.quote(f"{key}=[{word.partition('=')[2]}]")
        several = shlex.quote(f"{key}=" + ",".join(f"[{value}]" for value in each))
        return (
            f"{word}: takes {kind.words()}; write {one} for a list, or --multirun {several} for a run of each"
        )
    return wrong_word([f"{key}={value}" for value in each])


def refuse_unknown(overrides: Sequence[str]) -> None:
    """A ``+`` makes Hydra add any key, and nobody would miss what a misspelt one was to do; a ``~`` takes out
    what no run is without.

    Raises :class:`ConfigError` for a key that is neither the schema's nor in one of its maps.
    """
    for word in overrides:
        if word.startswith("~") and (group := word[1:].partition("=")[0]) in _NEEDED:
            usual = load.usual_options().get(group, "…")
            raise ConfigError(
                f"{word}: no run is without a {group}; leave that word out, or choose one with e.g."
                f" {group}={usual}"
            )
        found = parsed_override(word) if word.startswith("+") else None
        if found is None or not (key := found.key_or_group) or "/" in key or "@" in word:
            continue  # Hydra says what is wrong with it
        if key.partition(".")[0] != "hydra" and _options(key) is None and not kinds.is_known(key):
            raise ConfigError(
                f"{key}: no such key{near_miss(key, kinds.all_keys())}; a + adds keys to env, job.env,"
                " job.args and deepspeed; --cfg job prints all others"
            )


def _no_interpolation(text: str, overrides: Sequence[str]) -> str | None:
    """Which word asks for the value of a key that is not there, or has taken that key out."""
    if (found := _NO_INTERPOLATION.search(text)) is None:
        return None
    name = found["key"]
    for word in overrides:
        if word.startswith("~") and f"{name}.".startswith(f"{word[1:].partition('=')[0]}."):
            return f"{word}: takes {name} out, which the job asks for by ${{{name}}}; leave that word out"
        if f"${{{name}}}" in word:
            key, _, value = word.partition("=")
            return load.interpolates_nothing(key, value, name, _known_keys(overrides))
        if (last := word.partition("=")[2]) and name.endswith(f".{last}"):  # ${map.${KEY}}
            owner = name.removesuffix(f".{last}")
            there = [
                key.removeprefix(f"{owner}.") for key in _known_keys(overrides) if key.startswith(f"{owner}.")
            ]
            names = [one for one in there if "." not in one]
            return f"{word}: {owner} has no such key{near_miss(last, names)}; it has {', '.join(names)}"
    hint = near_miss(name, _known_keys(overrides))
    return f"${{{name}}}: no key is called '{name}'{hint}; set it with +{name}=…"


def _options(group: str) -> list[str] | None:
    """The options of a group of conf/; None for what is none. A folder of one's own adds to them."""
    folder = load.conf_dir() / group
    return sorted(path.stem for path in folder.glob("*.yaml")) if group and folder.is_dir() else None


def _no_choice(group: str, value: object, options: Sequence[str]) -> str:
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    usual = load.usual_options().get(group, options[0])
    return (
        f"{group}={papers.short(shown)[1:-1]}: no such option; write e.g. {group}={usual}"
        f" ({group}: {', '.join(options)})"
    )


def why_not_composed(error: Exception) -> str:
    """One line for what Hydra and OmegaConf never thought of."""
    why = in_one_line(error)
    return (
        f"the configuration cannot be composed ({why}); leave out one KEY=VALUE after the other to find which"
    )


def in_one_line(error: Exception) -> str:
    """Kind and text of an error that has no words for people."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


def _no_override(word: str) -> str:
    """What to type instead, to the letter."""
    key, equals, value = word.partition("=")
    if not equals:
        return f"{word}: not an override, which is KEY=VALUE, or ~KEY to take a key out; see --help"
    if parsed_override(f"{key}=1") is None:
        return (
            f"{word}: {key or 'nothing'} is no key; a key is of letters, digits, _ and -, with dots between"
        )
    return f"{word}: not an override that Hydra can read; as a text it is written {as_typed(key, value)}"


def _there_already(key: str, overrides: Sequence[str]) -> str:
    word = next((word for word in overrides if word.startswith(f"+{key}=")), f"+{key}=…")
    return f"{word}: the configuration has that key, and a + is for one that it lacks; write {word[1:]}"


def _no_sweep(word: str) -> str:
    key, _, value = word.partition("=")
    if _options(key) is not None:
        return (
            f"{word}: several options are a sweep; choose one of them, or add --multirun for an answer of"
            " each"
        )
    several = shlex.quote(f"{key}=[{value}]")
    return (
        f"{word}: several values are a sweep; add --multirun for a run of each, or write {several} for a list"
        f" and {as_typed(key, value)} for a text"
    )


def _no_such_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    if not options:
        return f"{option}: no such config group or file in conf/"
    if (group, option) == ("hydra/sweeper", "optuna"):
        return f"{group}={option}: is not installed; pip install 'orchestrator[sweep]'"
    # 'h1000' is nearer to h100_sxm, by the name before its variant, than to h800.
    by_name = {name.partition("_")[0]: name for name in reversed(options)}
    close = difflib.get_close_matches(option, [*options, *by_name], n=1, cutoff=0.6)
    hint = f"; did you mean '{by_name.get(close[0], close[0])}'?" if close else ""
    return f"{group}={option}: no such option{hint} ({group}: {', '.join(options)})"


def _no_yaml(error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
    return f"{where}: not YAML that can be read: {': '.join(filter(None, (error.context, error.problem)))}"


def _no_such_key(key: str, overrides: Sequence[str]) -> str:
    if not key:
        return "a word that begins with '=' has no key; write KEY=VALUE"
    if match := _FOREIGN_PACKAGE.fullmatch(key):
        return (
            f"override /{match['group']}: a config file that chooses from another group starts with the line "
            "'# @package _global_' and names its keys from the root"
        )
    known = _known_keys(overrides)
    parent, _, leaf = key.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    hint = "" if key in known else near_miss(leaf, siblings) or near_miss(key, known)  # an empty map is known
    if parent and hint:
        hint = hint.replace("'", f"'{parent}.", 1) if "." not in hint else hint
    if parent.startswith("deepspeed") or key.startswith("deepspeed"):
        return (
            f"{key}: no such key in this DeepSpeed configuration{hint}; a key that DeepSpeed has is added"
            f" with +{key}=…"
        )
    if kinds.is_known(key):  # in a map
        return f"{key}: not set by the config{hint}; to add it write +{key}=…"
    return f"{key}: no such key{hint}; --cfg job prints all keys"


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """Every key of the schema and of the configuration that was chosen, files of ``--config-dir``
    included."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    flags, words = parser.parse_known_args(list(overrides))
    places = [load.conf_dir()]
    search = [word for word in words if word.startswith("hydra.searchpath=")]
    if flags.config_dir:
        places.append(Path(flags.config_dir).resolve())
        quoted = str(places[-1]).replace("'", r"\'")
        search.append(f"hydra.searchpath=['file://{quoted}']")
    groups = {path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_dir()}
    choices = [word for word in words if word.partition("=")[0] in groups and "," not in word]
    for chosen in ([*search, *choices], []):
        GlobalHydra.instance().clear()
        try:
            known = load.known_keys(load.hydra_composes(chosen))
            return [key for key in known if key.partition(".")[0] != "hydra"]
        except (HydraException, OmegaConfBaseException):
            continue  # what was chosen is itself what is wrong
    return []
