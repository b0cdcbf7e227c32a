"""Word of a run, told to real servers: by each channel, and by the process that follows a journal."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.notifying import (
    EmailConfig,
    MailSecurity,
    NotifyConfig,
    WebhookConfig,
    WebhookFormat,
)
from orchestrator.driver.notifying import Notifier
from orchestrator.events import Event, RunEnded, RunResumed, Status
from orchestrator.ledger.journal import Journal
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.notify.channels import Channel, Command, Email, NotTold, Webhook
from orchestrator.ledger.notify.follower import NAME, Task
from orchestrator.ledger.notify.outbox import Outbox
from orchestrator.ledger.notify.words import Sender, Word
from orchestrator.supervise.loop import StopRequest
from orchestrator.vocabulary import Moment
from tests.support.certificates import Authority
from tests.support.folders import PROJECT
from tests.support.ports import free_port
from tests.support.receivers import UNTIL_S, HttpReceiver, http_receiver, mail_receiver, until
from tests.support.texts import text_so_far
from tests.unit.config.test_conf import composed
from tests.unit.ledger.test_notify_words import FAULT, WORD

pytestmark = pytest.mark.real

SECRET = "T0-B0-this-is-a-secret"


def not_told(channel: Channel, word: Word = WORD) -> NotTold:
    with pytest.raises(NotTold) as error:
        channel.send(word)
    return error.value


def webhook(url: str, form: str = "generic", headers: dict[str, str] | None = None) -> Webhook:
    return Webhook(WebhookConfig(url, WebhookFormat[form], headers or {}), timeout_s=UNTIL_S)


# --- each channel -------------------------------------------------------------------------------


def test_a_webhook_is_posted_json_in_the_form_that_it_knows() -> None:
    with http_receiver() as receiver:
        webhook(f"{receiver.url}/in?a=1", headers={"X-Key": "k"}).send(WORD)
        webhook(receiver.url, "slack").send(WORD)
        webhook(receiver.url, "teams").send(WORD)
        generic, slack, teams = receiver.posted
    assert (generic.path, generic.headers["X-Key"]) == ("/in?a=1", "k")
    assert generic.headers["Content-Type"] == "application/json"
    assert generic.body == dataclasses.asdict(WORD)
    assert slack.body["text"].startswith("night-1: failed\n")
    assert teams.body["type"] == "message"


def test_what_a_server_answers_says_whether_to_try_again() -> None:
    with http_receiver() as receiver:
        receiver.answers = [
            (503, {}),
            (429, {"Retry-After": "7"}),
            (404, {}),
            (302, {"Location": receiver.url}),
        ]
        busy, many, missing, moved = (not_told(webhook(receiver.url)) for _ in range(4))
        assert len(receiver.posted) == 4
    assert (busy.for_good, many.for_good, many.after_s) == (False, False, 7.0)
    assert (missing.for_good, str(missing)) == (True, "HTTP 404 Not Found")
    assert moved.for_good
    assert "set notify.webhook.url" in str(moved)
    gone = not_told(webhook(f"http://127.0.0.1:{free_port()}/{SECRET}"))
    assert (gone.for_good, str(gone)) == (False, "Connection refused")


def test_a_mail_over_an_encrypted_connection_after_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    with mail_receiver() as receiver:
        config = EmailConfig(
            "127.0.0.1", receiver.port, user="ada", password="pass-word", to=["b@example.com"]
        )
        assert "STARTTLS" in str(not_told(Email(config, UNTIL_S)))
        receiver.certificate, receiver.login = authority.sign("mail", "127.0.0.1"), ("ada", "pass-word")
        untrusted = not_told(Email(config, UNTIL_S))
        assert untrusted.for_good
        assert "certificate is not trusted" in str(untrusted)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        Email(config, UNTIL_S).send(WORD)
        refused = not_told(Email(dataclasses.replace(config, password="another"), UNTIL_S))
    assert (refused.for_good, str(refused)) == (True, "535 who are you")
    (mail,) = receiver.mails
    assert receiver.encrypted == [True]
    assert (mail["Subject"], mail["To"]) == ("night-1: failed", "b@example.com")
    assert "to go on with it: orchestrator resume night-1" in mail.get_content()


def test_a_mail_over_a_connection_that_is_encrypted_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "authority")
    with mail_receiver(smtps=authority.sign("mail", "127.0.0.1")) as receiver:
        receiver.login = ("ada", "pass-word")
        config = EmailConfig(
            "127.0.0.1", receiver.port, MailSecurity.tls, user="ada", password="pass-word", to=["b@example.com"]
        )  # fmt: skip
        untrusted = not_told(Email(config, UNTIL_S))
        assert untrusted.for_good
        assert "certificate is not trusted" in str(untrusted)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        Email(config, UNTIL_S).send(WORD)
    assert (receiver.encrypted, [mail["To"] for mail in receiver.mails]) == ([True], ["b@example.com"])


def test_a_mail_in_the_clear_and_an_address_that_nobody_has() -> None:
    with mail_receiver() as receiver:
        config = EmailConfig(
            "127.0.0.1", receiver.port, MailSecurity.none, sender="o@example.com", to=["a@example.com"]
        )
        Email(config, UNTIL_S).send(WORD)
        receiver.refuses = {"a@example.com"}
        error = not_told(Email(config, UNTIL_S))
    assert receiver.mails[0]["From"] == "o@example.com"
    assert (error.for_good, str(error)) == (
        True,
        "refused are a@example.com: 550 nobody of that name",
    )


def test_a_command_has_the_word_and_none_of_it_is_run(tmp_path: Path) -> None:
    word = dataclasses.replace(WORD, run="$(touch ran); `touch ran`")
    Command(f"cat > {tmp_path}/in; env > {tmp_path}/env; cd {tmp_path}", UNTIL_S).send(word)
    assert json.loads((tmp_path / "in").read_text()) == dataclasses.asdict(word)
    environment = (tmp_path / "env").read_text()
    assert "ORCHESTRATOR_NOTIFY_RUN=$(touch ran); `touch ran`\n" in environment
    assert "ORCHESTRATOR_NOTIFY_MOMENT=end\n" in environment
    assert not list(tmp_path.glob("ran"))
    failed = not_told(Command("echo no network >&2; exit 3", UNTIL_S))
    assert (failed.for_good, str(failed)) == (False, "it ended with status 3: no network")
    assert "ended after 0.2 s" in str(not_told(Command("sleep 300 & sleep 300", 0.2)))


# --- several, one of them dead ------------------------------------------------------------------


def test_a_server_that_is_away_gets_all_of_it_later_and_keeps_no_other_channel_waiting(
    tmp_path: Path,
) -> None:
    port, said = free_port(), list[str]()
    channels: list[Channel] = [
        webhook(f"http://127.0.0.1:{port}/"),
        Command(f"cat >> {tmp_path}/told", UNTIL_S),
    ]
    outbox = Outbox(channels, 100, retry_for_s=UNTIL_S, say=said.append)
    outbox.put(3, WORD)
    outbox.put(5, dataclasses.replace(WORD, moment=Moment.FAULT))
    until(lambda: text_so_far(tmp_path / "told").count("\n") == 2)
    until(lambda: bool(said))
    assert outbox.settled_before(9) == 2
    with http_receiver(port) as receiver:
        assert outbox.finish(UNTIL_S) == {}
        assert [posted.body["moment"] for posted in receiver.posted] == ["end", "fault"]
    assert outbox.settled_before(9) == 9
    assert said == [
        "webhook at 127.0.0.1: Connection refused; it is tried again, the run goes on",
        "webhook at 127.0.0.1 answers again",
    ]


def test_words_that_are_given_up_are_counted_in_the_next_one() -> None:
    said = list[str]()
    with http_receiver() as receiver:
        receiver.answers = [(400, {}), (503, {})]
        outbox = Outbox([webhook(receiver.url)], 100, retry_for_s=0.0, say=said.append)
        outbox.put(1, dataclasses.replace(WORD, moment=Moment.FAULT))
        outbox.put(2, dataclasses.replace(WORD, moment=Moment.RECOVERED))
        outbox.put(3, WORD)
        until(lambda: len(receiver.posted) == 3)
        assert outbox.finish(UNTIL_S) == {"webhook at 127.0.0.1": 2}
        assert receiver.posted[2].body["left_out"] == {"fault": 1, "recovered": 1}
    assert "this word is left out" in said[0]


# --- the process --------------------------------------------------------------------------------


@contextmanager
def follower(
    run_dir: Path, receiver: HttpReceiver, earlier_seq: int = -1, finish_timeout_s: float = UNTIL_S
) -> Iterator[subprocess.Popen[str]]:
    """As a driver starts it, with this process as the driver."""
    url = f"{receiver.url}/{SECRET}"
    notify = NotifyConfig(webhook=WebhookConfig(url), finish_timeout_s=finish_timeout_s)
    body: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(notify), default=lambda enum: enum.name))
    sender = Sender(str(run_dir), "head", "ada", "orchestrator resume night-1")
    task = Task(body, dataclasses.asdict(sender), ["0pen-sesame"])
    command = [sys.executable, "-m", "orchestrator.ledger.notify.follower", str(run_dir)]
    process = subprocess.Popen(
        [*command, f"--parent-pid={os.getpid()}", f"--earlier-seq={earlier_seq}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    )
    try:
        assert process.stdin
        process.stdin.write(json.dumps(dataclasses.asdict(task)))
        process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def moments(receiver: HttpReceiver) -> list[str]:
    return [posted.body["moment"] for posted in receiver.posted]


def journal_of(run_dir: Path, events: list[Event]) -> Journal:
    run_dir.mkdir(exist_ok=True)
    journal = Journal(run_dir / "journal.jsonl")
    journal.append_many(events)
    return journal


def test_the_process_tells_a_run_to_its_end_and_no_secret_and_nothing_twice(tmp_path: Path) -> None:
    story = [dataclasses.replace(event, error="0pen-sesame is wrong") if hasattr(event, "error") else event
             for _, event in FAULT]  # fmt: skip
    with http_receiver() as receiver, journal_of(tmp_path / "r", story) as journal:
        with follower(tmp_path / "r", receiver) as process:
            until(lambda: moments(receiver) == ["start", "fault", "recovered"])
            until(lambda: (tmp_path / "r" / NAME).exists())
            until(lambda: json.loads((tmp_path / "r" / NAME).read_text())["told_seq"] >= len(story) - 1)
            process.kill()
            process.wait()
        journal.append(RunEnded(Status.FAILED, "the same error twice"))
        with follower(tmp_path / "r", receiver) as process:  # in its place
            assert process.wait(UNTIL_S) == 0
    assert moments(receiver) == ["start", "fault", "recovered", "end"]
    assert receiver.posted[-1].body["go_on"] == "orchestrator resume night-1"
    assert all(SECRET in posted.path for posted in receiver.posted)
    assert "0pen-sesame" not in json.dumps([posted.body for posted in receiver.posted])
    assert "*** is wrong" in receiver.posted[1].body["title"]


def test_a_driver_that_is_gone_is_told_with_the_command_that_goes_on(tmp_path: Path) -> None:
    with http_receiver() as receiver, journal_of(tmp_path / "r", [event for _, event in FAULT]):
        # a shell that ends with its first line is the driver
        with follower(tmp_path / "r", receiver) as process:
            until(lambda: moments(receiver) == ["start", "fault", "recovered"])
            process.kill()
        task = tmp_path / "task.json"
        notify = NotifyConfig(webhook=WebhookConfig(receiver.url))
        body = json.loads(json.dumps(dataclasses.asdict(notify), default=lambda enum: enum.name))
        sender = Sender(str(tmp_path), "head", "ada", "orchestrator resume night-1")
        task.write_text(json.dumps(dataclasses.asdict(Task(body, dataclasses.asdict(sender)))))
        command = [sys.executable, "-m", "orchestrator.ledger.notify.follower", str(tmp_path / "r")]
        with task.open() as given:
            ended = subprocess.run([*command, "--parent-pid=1"], stdin=given, cwd=PROJECT, timeout=UNTIL_S)
    assert ended.returncode == 0
    gone = receiver.posted[-1].body
    assert (gone["moment"], gone["state"], gone["go_on"]) == ("end", "lost", "orchestrator resume night-1")


def test_a_process_leaves_a_run_that_another_driver_has_taken_up_to_that_one_s(tmp_path: Path) -> None:
    events = [event for _, event in FAULT]
    with http_receiver() as receiver, journal_of(tmp_path / "r", events) as journal:
        with follower(tmp_path / "r", receiver) as process:
            until(lambda: len(receiver.posted) == 3)
            resumed = journal.append(RunResumed("night-1", "its driver was lost after step 20"))
            journal.append(RunEnded(Status.FINISHED, ""))
            assert process.wait(UNTIL_S) == 0
        assert moments(receiver) == ["start", "fault", "recovered"]
        with follower(tmp_path / "r", receiver, earlier_seq=resumed.seq - 1) as process:
            assert process.wait(UNTIL_S) == 0
        assert moments(receiver)[3:] == ["start", "end"]
        assert receiver.posted[3].body["title"] == "taken up again"


class Listener:
    """What a driver tells while it waits."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def busy(self, what: str) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


def test_a_driver_starts_another_process_for_one_that_was_killed(tmp_path: Path) -> None:
    said = list[str]()
    with http_receiver() as receiver, journal_of(tmp_path / "r", [event for _, event in FAULT]) as journal:
        config = composed("job=tiny_gpt", f"notify.webhook.url={receiver.url}/{SECRET}")
        notifier = Notifier(config, tmp_path / "r", "orchestrator resume night-1", earlier_seq=-1)
        notifier.begin(said.append)
        first = notifier._process
        assert first is not None
        try:
            until(lambda: len(receiver.posted) == 3)
            until(lambda: (tmp_path / "r" / NAME).exists())
            first.kill()
            first.wait()
            record = journal.append(RunEnded(Status.FAILED, "the same error twice"))
            until(
                lambda: notifier.observe(record, Ledger().bill()) is None and notifier._process is not first
            )
            notifier.finish(StopRequest(), Listener())
        finally:
            assert notifier._process is not None
            notifier._process.kill()
            notifier._process.wait()
    assert moments(receiver)[-1] == "end"
    assert said == ["notify: its process ended with status -9; another is started"]


def test_a_driver_does_not_wait_for_those_who_are_told_once_it_is_asked_to_stop(tmp_path: Path) -> None:
    hold, stop = threading.Event(), StopRequest()
    events = [*(event for _, event in FAULT), RunEnded(Status.FINISHED, "")]
    with http_receiver(hold=hold) as receiver, journal_of(tmp_path / "r", events):
        config = composed(
            "job=tiny_gpt", f"notify.webhook.url={receiver.url}", "notify.finish_timeout_s=3600"
        )
        notifier = Notifier(config, tmp_path / "r", "", earlier_seq=-1)
        notifier.begin(print)
        assert notifier._process is not None
        asked = threading.Timer(0.3, stop.ask, ["Ctrl-C"])
        asked.start()
        notifier.finish(stop, Listener())
        asked.join()
        assert notifier._process.poll() is None, "it goes on by itself"
        hold.set()
        assert notifier._process.wait(UNTIL_S) == 0
        assert moments(receiver) == ["start", "fault", "recovered", "end"]


def test_a_dead_server_does_not_keep_the_end(tmp_path: Path) -> None:
    hold = threading.Event()
    events = [*(event for _, event in FAULT), RunEnded(Status.FINISHED, "")]
    with (
        http_receiver(hold=hold) as receiver,
        journal_of(tmp_path / "r", events),
        follower(tmp_path / "r", receiver, finish_timeout_s=0.2) as process,
    ):
        assert process.wait(UNTIL_S) == 1
        assert process.stderr
        said = process.stderr.read()
    assert said == "webhook at 127.0.0.1: 4 of what was to be told did not arrive; the journal has it all\n"
