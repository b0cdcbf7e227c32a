"""Words on their way: no more of them than people read, each tried again for a while, and none of those who
are told waiting for another.

Every channel has a thread. A word that was not told is not forgotten: it is counted in the next one.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from orchestrator.ledger.notify.channels import Channel, NotTold
from orchestrator.ledger.notify.words import Word
from orchestrator.redact import redact_text
from orchestrator.vocabulary import Moment

HOUR_S = 3600.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
# In the run's last seconds there is no time to wait a minute.
MAX_BACKOFF_AT_END_S = 2.0
# A server that asks to be left alone longer than this is asked all the same.
MOST_ASKED_S = 600.0
# What waits for a server that is away; older words are the first to be left out.
MOST_WAITING = 200
# How a run ended and what of its budget is left is always told.
_ALWAYS = (Moment.END, Moment.BUDGET_WARNING, Moment.BUDGET_REACHED)

Say = Callable[[str], None]


class RateLimit:
    """At most so many words within any hour; those that are kept back are counted."""

    def __init__(self, most_per_hour: int) -> None:
        self._most = most_per_hour
        self._told_s: deque[float] = deque()
        self._kept_back: Counter[str] = Counter()

    def admit(self, word: Word, now_s: float) -> Word | None:
        """The word, with those that were kept back before it; None where it is to be kept back."""
        while self._told_s and now_s - self._told_s[0] >= HOUR_S:
            self._told_s.popleft()
        if word.moment not in _ALWAYS and len(self._told_s) >= self._most:
            self._kept_back[word.moment.value] += 1
            return None
        self._told_s.append(now_s)
        kept_back, self._kept_back = self._kept_back, Counter()
        return _with(word, kept_back)


class Courier:
    """Brings the words to one channel, in their order. ``say`` is told when the channel fails, and when it
    answers again."""

    def __init__(self, channel: Channel, retry_for_s: float, say: Say) -> None:
        self._channel, self._retry_for_s, self._say = channel, retry_for_s, say
        self._waiting: deque[tuple[float, int, Word]] = deque()  # since when, which, what
        self._left_out: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._ending = False
        self._failed = ""
        self.name = channel.name
        self.lost = 0  # words that did not arrive
        self._thread = threading.Thread(target=self._work, name=channel.name, daemon=True)

    def begin(self) -> None:
        """Bring words from now on."""
        self._thread.start()

    def put(self, seq: int, word: Word) -> None:
        """Another word, of the record ``seq``."""
        with self._changed:
            self._waiting.append((time.monotonic(), seq, word))
            if len(self._waiting) > MOST_WAITING:
                # not the first, which is on its way
                self._leave_out(self._waiting[1][2])
                del self._waiting[1]
            self._changed.notify_all()

    def oldest(self) -> int | None:
        """Of which record the first word is that is not settled; None where all are."""
        with self._changed:
            return self._waiting[0][1] if self._waiting else None

    def hurry(self) -> None:
        """The run's end is near: nothing waits long any more."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def finish(self, deadline_s: float) -> int:
        """Wait until nothing is left, or the time is over; how many words are."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(0.0, deadline_s - time.monotonic()))
            return len(self._waiting)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                since_s, _, word = self._waiting[0]
                sent = _with(word, self._left_out)
            arrived = self._bring(sent, since_s)
            with self._changed:
                if arrived:
                    self._left_out.clear()
                else:
                    self._leave_out(word)
                self._waiting.popleft()
                self._changed.notify_all()

    def _bring(self, word: Word, since_s: float) -> bool:
        """Try until it arrives, or is too old, or never will; whether it has arrived."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            why = self._tried(word)
            if why is None:
                self._over()
                return True
            too_old = time.monotonic() - since_s >= self._retry_for_s
            self._failing(why, why.for_good or (too_old and not self._ending))
            if why.for_good or (too_old and not self._ending):
                return False
            wait_s = max(backoff_s, min(why.after_s, MOST_ASKED_S))
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)
            self._pause(wait_s)

    def _pause(self, seconds: float) -> None:
        """Until the next try, which the run's end brings nearer."""
        until_s = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._ending, seconds)
            if self._ending:
                left_s = min(MAX_BACKOFF_AT_END_S, max(0.0, until_s - time.monotonic()))
                self._changed.wait_for(lambda: False, left_s)

    def _tried(self, word: Word) -> NotTold | None:
        try:
            self._channel.send(word)
        except NotTold as error:
            return error
        except Exception as error:  # noqa: BLE001 - a word that makes no message must not cost the next ones
            return NotTold(f"{type(error).__name__}: {error}", for_good=True)
        return None

    def _failing(self, error: NotTold, given_up: bool) -> None:
        said = str(error)
        if said != self._failed:
            then = "this word is left out" if given_up else "it is tried again"
            self._say(redact_text(f"{self._channel.name}: {said}; {then}, the run goes on"))
        self._failed = said

    def _over(self) -> None:
        if self._failed:
            self._say(f"{self._channel.name} answers again")
        self._failed = ""

    def _leave_out(self, word: Word) -> None:
        self._left_out[word.moment.value] += 1
        self.lost += 1


class Outbox:
    """All channels of a run."""

    def __init__(self, channels: list[Channel], most_per_hour: int, retry_for_s: float, say: Say) -> None:
        self._limit = RateLimit(most_per_hour)
        self._couriers = [Courier(channel, retry_for_s, say) for channel in channels]
        for courier in self._couriers:
            courier.begin()

    def put(self, seq: int, word: Word) -> None:
        """Another word, of the record ``seq``; nobody waits for it."""
        admitted = self._limit.admit(word, time.monotonic())
        if admitted is not None:
            for courier in self._couriers:
                courier.put(seq, admitted)

    def settled_before(self, seq: int) -> int:
        """Up to which record every word has arrived or been given up, of those up to ``seq``."""
        oldest = [at for courier in self._couriers if (at := courier.oldest()) is not None]
        return min([seq, *(at - 1 for at in oldest)])

    def finish(self, timeout_s: float) -> dict[str, int]:
        """Wait for what is on its way, at most so long; by channel what has not arrived, where there is
        any."""
        deadline_s = time.monotonic() + timeout_s
        for courier in self._couriers:
            courier.hurry()
        left = {c: c.finish(deadline_s) + c.lost for c in self._couriers}
        return {courier.name: count for courier, count in left.items() if count}


def _with(word: Word, left_out: Mapping[str, int]) -> Word:
    if not left_out:
        return word
    return dataclasses.replace(word, left_out=dict(Counter(word.left_out) + Counter(left_out)))
