"""What is hidden by name, by form and by value, and what is not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from orchestrator import redact as module
from orchestrator.config.load import load, register
from orchestrator.config.schema import Config
from orchestrator.errors import ConfigError
from orchestrator.events import AttemptEnded, Decided, Fault, MetricLogged, Outcome, RankLost
from orchestrator.redact import HIDDEN, is_secret, learn, redact, redact_fields, redact_text


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_known", set())
    module._values.cache_clear()
    yield
    module._values.cache_clear()


SECRET_NAMES = [
    "HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID",
    "GITHUB_PAT", "PAT", "api_key", "apiKey", "APIKey", "hubPassword", "DB_PASS", "smtp-pass",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "access_token", "refresh.token", "client_secret",
    "private_key", "signing_key", "wandb_key", "credentials", "GOOGLE_APPLICATION_CREDENTIALS", "basic_auth",
    "Authorization", "PGPASSWD", "cookie", "sas_token", "storage_account_key", "passphrase", "secrets",
    "openai_apikey", "token", "password", "key", "job.args.api_key",
]  # fmt: skip
PLAIN_NAMES = [
    "tokenizer", "tokens", "max_tokens", "max_token", "tokens_per_step", "eos_token", "pad_token_id",
    "per_token", "num_key_value_heads", "key_value", "text_key", "sort_key", "label_key", "forward_pass",
    "passes", "path", "pattern", "compat", "key_file", "token_path", "auth_mode", "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH", "SSH_AUTH_SOCK", "TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "monkey", "keyboard",
    "author", "authors", "embedding", "secret_dir", "password_file", "token_type", "keys", "sample_tokens",
    "bypass", "compass", "usd_per_token", "token_budget", "n_pass", "PWD", "OLDPWD", "pass",
    "mean_token_accuracy", "token_s", "viewStateShareKey",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)
    assert redact({name: "swordfish"}) == {name: HIDDEN}
    assert redact({name: {"value": ["swordfish", 12345]}}) == {name: {"value": [HIDDEN, HIDDEN]}}
    assert redact({name: ""}) == {name: ""}
    assert redact({name: True}) == {name: True}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)
    assert redact({name: "swordfish"}) == {name: "swordfish"}
    assert redact_text(f"{name}=swordfish") == f"{name}=swordfish"


FORMS = {
    "https://me:p@ss:w/rd#1@host:443/x": f"https://me:{HIDDEN}@host:443/x",
    "postgresql+psycopg://u:%40b@db/x and more": f"postgresql+psycopg://u:{HIDDEN}@db/x and more",
    "git clone https://abcdefghij0123456789@github.com/a/b": f"git clone https://{HIDDEN}@github.com/a/b",
    "GET /x?a=1&X-Amz-Signature=deadbeef&b=2": f"GET /x?a=1&X-Amz-Signature={HIDDEN}&b=2",
    "Authorization: Bearer abcdef.ghijkl-mnop": f"Authorization: Bearer {HIDDEN}",
    "token hf_abcdefghijABCDEFGHIJklmno is bad": f"token {HIDDEN} is bad",
    "ghp_abcdefghijABCDEFGHIJklmno": HIDDEN,
    "sk-proj-abcdefghijABCDEFGHIJ": HIDDEN,
    "AKIAABCDEFGHIJKLMNOP": HIDDEN,
    "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl": HIDDEN,
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nrest": f"{HIDDEN}\nrest",
    "python train.py --api_key=abc --lr=1e-3": f"python train.py --api_key={HIDDEN} --lr=1e-3",
    "job.args.api_key='a b' job.steps=4": f"job.args.api_key='{HIDDEN}' job.steps=4",
    '{"api_key": "a\\"b", "steps": 4}': f'{{"api_key": "{HIDDEN}", "steps": 4}}',
    "WANDB_API_KEY=abc python x": f"WANDB_API_KEY={HIDDEN} python x",
}
PLAIN = [
    "http://127.0.0.1:5000/#/experiments/1/runs/abc",
    "http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=cost&workflowType=machine_learning",
    "sqlite:////home/me/mlflow.db",
    "pass=one token=128 secret=-1.5e-3",
    "step 20: bytes per token: 0.5, key: 3, loss=4.2 tokens_per_s=1.2e3",
    "git@github.com:a/b.git, s3://bucket/a@b",
    '[{"key": "recovery.max_restarts", "value": 3}]',
    '{ echo "RAY_AUTH_TOKEN=$(openssl rand -hex 32)"; echo "POSTGRES_PASSWORD=$(openssl rand -hex 32)"; }',
    "HF_TOKEN=${HF_TOKEN} python train.py",
]


@pytest.mark.parametrize("text", FORMS)
def test_forms_of_secrets(text: str) -> None:
    assert redact_text(text) == FORMS[text]
    assert redact_text(redact_text(text)) == FORMS[text]


@pytest.mark.parametrize("text", PLAIN)
def test_what_has_no_such_form(text: str) -> None:
    assert redact_text(text) == text


def test_a_known_value_is_hidden_wherever_it_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOKEN", "open sesame")
    learn(
        {"job": {"args": {"api_key": "sword/fish+1"}}, "tracking": {"uri": "http://me:hunter2%21@mlflow/x"}}
    )
    told = "401 for 'open sesame', sword/fish+1, sword%2Ffish%2B1, open%20sesame, hunter2%21 and hunter2!"
    hidden = "401 for '***', ***, ***, ***, *** and ***"
    assert redact_text(told) == hidden
    assert redact({"anything": [told]}) == {"anything": [hidden]}


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("postgresql://ada:Pa55-word@lab/db", "Pa55-word"),
        ("https://a1b2c3d4e5f6g7h8@lab.example", "a1b2c3d4e5f6g7h8"),
        ("https://lab.example/hook?room=7&token=T0ken-of-mine", "T0ken-of-mine"),
        ("https://lab.blob.example/c?sv=2024&sig=aB%2FcD1e2f3", "aB/cD1e2f3"),
        ("https://s3.example/x?X-Amz-Signature=0f1e2d3c4b&n=1", "0f1e2d3c4b"),
    ],
)
def test_what_an_address_of_the_configuration_holds_is_known_without_it(address: str, secret: str) -> None:
    """A script that prints its token prints no address around it."""
    learn({"notify": {"webhook": {"url": address}}})
    assert redact_text(f"logging in with {secret}.") == "logging in with ***."


@pytest.mark.parametrize(
    "address", ["https://lab.example/x?room=seventeen&page=1234567", "http://ada@lab.example:5000"]
)
def test_what_is_no_secret_of_an_address_is_not_hidden(address: str) -> None:
    learn(address)
    assert module.known() == []


def test_values_that_a_configuration_takes_from_the_environment_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register()
    for name, value in {
        "MINE": "zanzibar-77",
        "USER": "adalovelace",
        "PORT": "12345",
        "PLACE": "http://host:5/x",
    }.items():
        monkeypatch.setenv(name, value)
    args = {
        name.lower(): f"${{oc.env:{name}}}" for name in ("MINE", "USER", "PORT", "PLACE", "ABSENT,whatever")
    }
    composed = OmegaConf.merge(OmegaConf.structured(Config), {"job": {"script": "x", "args": args}})
    with pytest.raises(ConfigError, match="no value given"):
        load(composed)
    told = "zanzibar-77 of adalovelace at 12345, http://host:5/x, whatever"
    assert redact_text(told) == told.replace("zanzibar-77", HIDDEN)


def test_common_words_short_ones_and_paths_are_not_looked_for(tmp_path: Path) -> None:
    learn({"password": "abc", "token": "true", "secret": "password", "auth": "none", "db_pass": "local"})
    learn({"credentials": str(tmp_path)})
    told = f"abc: true, the local password is none, see {tmp_path}/x"
    assert redact_text(told) == told


def test_events_are_the_same_without_secrets_and_hide_them_in_texts_and_lists() -> None:
    learn({"token": "swordfish"})
    plain = AttemptEnded(1, Outcome.FAILED, 3)
    assert redact_fields(plain) is plain
    lost = RankLost(
        1, 0, "n", "GPU 0", 1, 3, "why", "ValueError: swordfish", ["a", "b swordfish"], fault=Fault.EXIT
    )
    hidden = redact_fields(lost)
    assert (hidden.error, hidden.log_tail, hidden.fault) == ("ValueError: ***", ["a", "b ***"], Fault.EXIT)
    assert redact_fields(Decided("restart", "after swordfish")) == Decided("restart", "after ***")
    counted = MetricLogged(1, 3, {"mean_token_accuracy": 0.5, "secret": 3, "swordfish": 1.0})
    assert redact_fields(counted) is counted


def worth_hiding(text: str) -> bool:
    return bool(module._worth_hiding([text]))


LETTERS = st.characters(exclude_characters="*", exclude_categories=["Cs"])
SECRETS = st.text(LETTERS, min_size=5, max_size=40).filter(worth_hiding)


@given(st.text(max_size=50), SECRETS, st.text(max_size=50))
def test_no_text_keeps_a_known_secret(before: str, secret: str, after: str) -> None:
    learn({"password": secret})
    assert secret not in redact_text(before + secret + after)
    assert quote(secret, safe="") not in redact_text(f"{before}{quote(secret, safe='')}{after}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["api_key", "a", "token", "b c"]), inner),
)


@given(JSON)
def test_json_stays_json(value: object) -> None:
    once = json.dumps(value)
    assert json.loads(redact_text(once)) is not ...
    assert json.loads(json.dumps(redact(value))) is not ...
    assert yaml.safe_load(yaml.safe_dump(redact(value))) is not ...


def test_no_text_takes_long() -> None:
    for text in (
        "a." * 500_000,
        "a=" * 300_000,
        "://" * 300_000,
        "eyJ" * 300_000,
        "http://a:" * 100_000,
        "?key" * 200_000,
    ):
        began_s = time.process_time()
        redact_text(text)
        assert time.process_time() - began_s < 10
