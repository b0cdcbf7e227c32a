"""What is told of a run, in which words, and how much of it at most."""

from __future__ import annotations

import dataclasses
import json

import pytest

from orchestrator.events import (
    AttemptEnded,
    BudgetSettled,
    CheckpointWriteBlocked,
    CheckpointWriteResumed,
    Decided,
    Event,
    NodeDraining,
    Outcome,
    RunEnded,
    RunResumed,
    StallNamed,
    Status,
    StragglerNamed,
)
from orchestrator.ledger.notify import texts
from orchestrator.ledger.notify.outbox import HOUR_S, RateLimit
from orchestrator.ledger.notify.words import TELLERS, Said, Sender, Word, Words
from orchestrator.redact import learn
from orchestrator.vocabulary import Moment
from tests.support.played_runs import BEGIN, PRICE, Timeline, lost, records, started, steps

ALL = frozenset(Moment)
SENDER = Sender("/runs/night-1", "head", "ada", "orchestrator resume night-1")
FAULT: Timeline = [
    *BEGIN,
    *steps(1, 1, 9, at=1),
    (12, lost(1, 9)),
    (12, AttemptEnded(1, Outcome.FAILED, 9)),
    (13, Decided("restart", "restart 1 of 3")),
    (14, started(2, 8, "memory")),
    *steps(2, 9, 20, at=15),
]


def told(timeline: Timeline, moments: frozenset[Moment] = ALL) -> list[Word]:
    words = Words(moments, SENDER)
    return [word for record in records(timeline) if (word := words.fold(record)) is not None]


def test_a_run_with_a_fault_is_four_words_with_step_dollars_and_reason() -> None:
    begun, fault, recovered, ended = told([*FAULT, (30, RunEnded(Status.FINISHED, ""))])
    assert begun.moment is Moment.START
    assert begun.title == "started: 4 GPUs of lab at $3.60 per GPU-hour"
    assert fault.moment is Moment.FAULT
    assert fault.title == "rank 2 on node n0, GPU 2: killed by SIGKILL at step 9"
    assert fault.reason == "restart: restart 1 of 3"
    assert (fault.step, fault.attempt, fault.state) == (9, 1, "recovering")
    assert fault.cost_usd == pytest.approx(13 * 4 / 3600 * PRICE)
    assert recovered.moment is Moment.RECOVERED
    assert recovered.title == "trains again at step 9, 0:00:02 after the fault was decided"
    assert recovered.attempt == 2
    assert (ended.moment, ended.state, ended.go_on) == (Moment.END, "finished", None)
    assert ended.restarts == 1


def test_a_run_that_stopped_for_its_cap_is_told_with_the_cap_that_finishes_it() -> None:
    settled = BudgetSettled("budget.usd", 5.0, 4.9, 3.0, 2.0, 4.0)
    stopped: Timeline = [*FAULT, (30, settled), (30, RunEnded(Status.BUDGET_REACHED, ""))]
    assert told(stopped)[-1].go_on == f"{SENDER.go_on} budget.usd=9.2"
    resumed: Timeline = [*stopped, (40, RunResumed("night-1", "")), (41, RunEnded(Status.INTERRUPTED, ""))]
    assert told(resumed)[-1].go_on == SENDER.go_on


def test_how_to_go_on_is_told_of_a_run_that_may_be_taken_up() -> None:
    (*_, failed) = told([*FAULT, (30, RunEnded(Status.FAILED, "the same error twice"))])
    assert (failed.state, failed.go_on) == ("failed", SENDER.go_on)
    assert failed.reason == "the same error twice"
    words = Words(ALL, SENDER)
    past = records(FAULT)
    for record in past:
        words.fold(record)
    gone = words.lost(past[-1])
    assert gone is not None
    assert (gone.moment, gone.state, gone.go_on) == (Moment.END, "lost", SENDER.go_on)
    assert Words(frozenset({Moment.FAULT}), SENDER).lost(past[-1]) is None


@pytest.mark.parametrize(
    ("event", "moment", "part"),
    [
        (RunResumed("night-1", "its driver was lost after step 9"), Moment.START, "taken up again"),
        (CheckpointWriteBlocked("n0", "No space left on device"), Moment.FAULT, "cannot write its checkpoint"),
        (CheckpointWriteResumed("n0", 75.0), Moment.RECOVERED, "n0 writes checkpoints again"),
        (NodeDraining(1, "n0", 3, 30.0), Moment.FAULT, "n0 is being drained, 30.0 s are left"),
        (StragglerNamed(1, 3, "n1", "GPU 3", 20, 1.75), Moment.STRAGGLER, "rank 3 on node n1, GPU 3: its own work takes 1.75"),
        (StallNamed(1, 3, "n1", "GPU 3", 20, "step", 90.0, "computes"), Moment.STRAGGLER, "no progress for 0:01:30: rank 3"),
    ],
)  # fmt: skip
def test_each_kind_of_event_has_its_words(event: Event, moment: Moment, part: str) -> None:
    (word,) = told([*BEGIN, (5, event)])[1:]
    assert word.moment is moment
    assert part in word.title


def test_what_nobody_asked_for_is_not_told() -> None:
    whole: Timeline = [*FAULT, (30, RunEnded(Status.FINISHED, ""))]
    assert [word.moment for word in told(whole, frozenset({Moment.END}))] == [Moment.END]
    assert told(whole, frozenset({Moment.STRAGGLER})) == []


def test_an_event_of_another_room_needs_one_entry_to_be_told_of() -> None:
    @dataclasses.dataclass(frozen=True)
    class Dawn(Event):
        hour: int

    tellers = {
        **TELLERS,
        Dawn: lambda event, _: Said(Moment.BUDGET_WARNING, f"it is {event.hour}", goes_on=True),
    }
    words = Words(ALL, SENDER, tellers)
    (word,) = [found for record in records([*BEGIN, (3, Dawn(6))]) if (found := words.fold(record))][1:]
    assert (word.moment, word.title, word.go_on) == (Moment.BUDGET_WARNING, "it is 6", SENDER.go_on)


def test_secrets_and_orders_to_a_terminal_are_in_no_word() -> None:
    learn("hunter2-hunter2", name="password")
    error = "login of hunter2-hunter2 failed \x1b[2J"
    (word,) = told([*BEGIN, (1, lost(1, 0, error=error)), (2, Decided("stop", error))])[1:]
    said = json.dumps(dataclasses.asdict(word))
    assert "hunter2" not in said
    assert "\\u001b" not in said
    assert "login of *** failed" in word.title


WORD = told([*FAULT, (30, RunEnded(Status.FAILED, "<!channel> & [a](b)"))])[-1]


def test_slack_takes_no_orders_from_a_reason() -> None:
    text = texts.slack(WORD)["text"]
    assert text.startswith("night-1: failed\n&lt;!channel&gt; &amp; [a](b)\n")
    assert "step 20" in text
    assert text.endswith("to go on with it: orchestrator resume night-1")


def test_teams_gets_a_card_whose_texts_are_no_markdown() -> None:
    (attachment,) = texts.teams(WORD)["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    body = attachment["content"]["body"]
    assert {block["type"] for block in body} == {"RichTextBlock"}
    assert [block["inlines"][0]["text"] for block in body][1] == "<!channel> & [a](b)"
    assert body[0]["inlines"][0]["color"] == "attention"


def test_a_mail_has_one_line_of_subject_whatever_the_run_is_called() -> None:
    word = dataclasses.replace(WORD, run="night\r\nBcc: all@example.com")
    mail = texts.mail(word, "a@example.com", ["b@example.com", "c@example.com"])
    assert mail["Subject"] == "night Bcc: all@example.com: failed"
    assert mail["Bcc"] is None
    assert mail["To"] == "b@example.com, c@example.com"
    assert "to go on with it: orchestrator resume night-1" in mail.get_content()


def test_more_than_people_read_is_counted_and_an_end_is_always_told() -> None:
    limit = RateLimit(2)
    fault = dataclasses.replace(WORD, moment=Moment.FAULT)
    recovered = dataclasses.replace(WORD, moment=Moment.RECOVERED)
    assert limit.admit(fault, 0.0) == fault
    assert limit.admit(recovered, 1.0) == recovered
    assert [limit.admit(each, 2.0) for each in (fault, recovered, fault)] == [None] * 3
    ended = limit.admit(WORD, 3.0)
    assert ended is not None
    assert ended.left_out == {"fault": 2, "recovered": 1}
    assert "not told before this: 2 fault, 1 recovered" in texts.lines(ended)
    assert limit.admit(fault, 3.0) is None
    again = limit.admit(fault, HOUR_S + 1.0)
    assert again is not None
    assert again.left_out == {"fault": 1}
