"""Secrets planted wherever a user has them, and looked for in all that a run writes, prints and tells; and names
that are written as instructions to a terminal, a page or a table, which stay names."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.faults.runs import Run, User
from tests.real.conftest import CPU
from tests.support.receivers import http_receiver

pytestmark = pytest.mark.real

SEED = 17
# What passwords may hold, and every way of writing has another word for.
ODD = "!#%&*+/:;<=>?@^~"
# Those of them that an override takes within quotes, an address takes quoted, and a shell never sees.
SCRIPT = """\
import json, os, sys
told = json.load(open(os.environ["TOLD"]))
for text in told:
    print("logging in with", text + "\\x1b[2J\\x1b[31m")
    print(json.dumps({"step": 1, "answer": 42, "said": text}))
    print("refused:", text, file=sys.stderr, flush=True)
print(dict(os.environ), sys.argv, flush=True)
raise RuntimeError("cannot log in with " + " or ".join(told) + "\\x1b[2J\\x1b[31m")
"""
RED, PAGE, CLEAR = "[bold red]boss[/bold red]", "<script>alert(1)</script>", "\x1b[2J\x1b[31m"
# Kept for `resume` and `sync`, which need the real values; what a rank itself has printed is its own.
REAL_VALUES = ("resume.json", "tracking.json", "mlflow_sink.json", "snapshot.key")


@dataclass
class Planted:
    """A run that failed with its secrets in its mouth, and what others were told of it."""

    user: User
    run: Run
    secrets: dict[str, str]
    notified: str

    def found_in(self, text: str) -> list[str]:
        """By where they were planted, however they are written."""
        ways = {where: {one, quote(one, safe=""), json.dumps(one)[1:-1], repr(one)[1:-1]} for where, one in self.secrets.items()}  # fmt: skip
        return sorted(where for where, written in ways.items() if any(way in text for way in written))


def planted_secrets(made: random.Random) -> dict[str, str]:
    def word(extra: str = ODD) -> str:
        letters = "".join(made.choices("abcdefghijkmnpqrstuvwxyzABCDEFGH23456789", k=14))
        return letters + "".join(made.choices(extra, k=3)) + "z9"

    return {
        "environment": word(),
        "env of the configuration": word("!#%&*+/:;=>?@^~"),
        "argument": word("+/-_.~"),
        "user of an address": word("-_.~"),
        "address of a webhook": word("-_.~"),
        "of a form that is known": "hf_" + "".join(made.choices("abcdefgh0123456789", k=30)),
    }


@pytest.fixture(scope="module")
def planted(
    kept: dict[str, str], empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planted]:
    secrets = planted_secrets(random.Random(SEED))
    user = User(tmp_path_factory.mktemp("user"), database=empty_database)
    told, script = user.folder / "told.json", user.folder / "tells.py"
    told.write_text(json.dumps(list(secrets.values())))
    script.write_text(SCRIPT)
    user.environment = kept | {"WANDB_API_KEY": secrets["environment"], "TOLD": str(told)}
    address = f"https://ada:{quote(secrets['user of an address'], safe='')}@data.example/corpus"
    with http_receiver() as receiver:
        words = [
            "job=script", f"job.script={script}", "run_name=planted", "gpu=cpu", *CPU[2:],
            f"env.SERVICE_PASSWORD={secrets['env of the configuration']}",
            f"+job.args.hub_token={secrets['argument']}", f"+job.args.corpus={address}",
            f'notify.webhook.url="{receiver.url}/hook?token={secrets["address of a webhook"]}"',
            f"owner='{RED}'", f"project='{PAGE}'", f"cost_center='{RED}{PAGE}'",
            f"tracking.experiment='{RED}{PAGE}'",
        ]  # fmt: skip
        try:
            run = user._begin("planted", words, []).ended()
            yield Planted(user, run, secrets, json.dumps([posted.body for posted in receiver.posted]))
        finally:
            user.close()


def test_the_run_said_all_of_them_and_failed(planted: Planted) -> None:
    """So that the others can fail."""
    assert planted.run.code == 6, planted.run.text
    log = (planted.run.folder / "logs" / "attempt-1.rank-0.log").read_text()
    assert planted.found_in(log) == sorted(planted.secrets)
    assert json.loads(planted.notified), "somebody was told"


def test_nothing_that_is_printed_or_told_has_one(planted: Planted) -> None:
    assert planted.found_in(planted.run.text) == []
    assert "logging in with ***" in planted.run.text
    assert CLEAR not in planted.run.text, "what a script prints clears nobody's terminal"
    assert planted.found_in(planted.notified) == []
    assert "cannot log in with ***" in planted.notified


def test_no_file_has_one_but_those_that_need_the_value_and_the_rank_s_own_logs(planted: Planted) -> None:
    runs = planted.run.folder.parent
    files = [path for path in runs.rglob("*") if path.is_file()]
    telling = {
        path.relative_to(runs).as_posix()
        for path in files
        if planted.found_in(path.read_bytes().decode(errors="replace"))
    }
    assert {"mlflow.db", "planted/journal.jsonl"} <= {path.relative_to(runs).as_posix() for path in files}
    assert any(path.is_relative_to(runs / "mlartifacts") for path in files), "and what MLflow was given"
    allowed = {f"planted/{name}" for name in REAL_VALUES}
    own = {name for name in telling if name.startswith("planted/logs/attempt-")}
    assert telling - own <= allowed, telling
    assert [name for name in telling - own if (runs / name).stat().st_mode & 0o077] == []
    assert planted.run.folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "words", [["runs"], ["report", "planted"], ["logs", "planted"], ["compare"]], ids=" ".join
)
def test_no_verb_shows_one_and_names_stay_names(
    words: list[str], planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [f"tracking.experiment='{RED}{PAGE}'"] if words == ["compare"] else []
    if words[0] != "logs":  # that is the rank's own word: who may read it has to have the variable to hide it
        # another shell, which knows nothing of the run's secrets
        monkeypatch.delitem(planted.user.environment, "WANDB_API_KEY")
    shown = planted.user.command(*words, *at)
    assert shown.returncode == 0, shown.stderr
    assert planted.found_in(shown.stdout + shown.stderr) == []
    assert CLEAR not in shown.stdout or words[0] == "logs", "that shows it as it was printed"
    if words == ["runs"]:
        assert RED in shown.stdout, "shown as it was typed"
