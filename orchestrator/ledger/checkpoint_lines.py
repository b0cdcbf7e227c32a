"""What is said of checkpoints: each once, and not more often than a person reads. Pure.

A checkpoint that is staged in memory is told when it is committed, for it is none before; one that is written
while the training waits, when it is saved. Those that come quicker are counted, and the last is told at the
end of an attempt at the latest.
"""

from __future__ import annotations

from orchestrator.events import CheckpointSaved, SnapshotCommitted
from orchestrator.script_events import ScriptSaveCompleted, ScriptSaved
from orchestrator.text import bytes_in_words, clean, number

LINES_EVERY_S = 10.0
_MOST_REMEMBERED = 100  # staged ones whose commit is still to come, or never does


class CheckpointLines:
    """Returns a line where one is due, and remembers the last that was not."""

    def __init__(self) -> None:
        self._stalls_s: dict[tuple[int, str], float] = {}
        self._by_script: dict[str, ScriptSaved] = {}  # of which it is not known yet that it is whole
        self._next_s = 0.0
        self._untold = 0
        self._last: str | None = None

    def saved(self, event: CheckpointSaved, now_s: float) -> str | None:
        if event.staged:
            if len(self._stalls_s) >= _MOST_REMEMBERED:
                del self._stalls_s[next(iter(self._stalls_s))]
            self._stalls_s[event.step, event.tag] = event.stall_s
            return None
        stall = f"training stood still for {number(event.stall_s, 3)} s"
        return self._due(f"checkpoint {clean(event.tag)} saved at step {event.step}, {stall}", now_s)

    def committed(self, event: SnapshotCommitted, now_s: float) -> str | None:
        stall_s = self._stalls_s.pop((event.step, event.tag), None)
        how = [f"{bytes_in_words(event.snapshot_bytes)} written in {number(event.write_s, 2)} s"]
        how += [] if stall_s is None else [f"training stood still for {number(stall_s, 3)} s"]
        return self._due(
            f"checkpoint {clean(event.tag)} of step {event.step} committed ({', '.join(how)})", now_s
        )

    def by_script(self, event: ScriptSaved) -> None:
        if len(self._by_script) >= _MOST_REMEMBERED:
            del self._by_script[next(iter(self._by_script))]
        self._by_script[event.path] = event

    def whole(self, event: ScriptSaveCompleted, now_s: float) -> str | None:
        """A folder may be told of by several files in it."""
        inner = [path for path in self._by_script if f"{path}/".startswith(f"{event.path}/")]
        saves = [self._by_script.pop(path) for path in inner]
        how = [bytes_in_words(event.save_bytes), *map(_stall, saves[-1:])]
        return self._due(
            f"checkpoint {clean(event.path)} of step {event.step}, saved by the script, is whole"
            f" ({', '.join(how)})",
            now_s,
        )

    def at_the_end(self) -> str | None:
        """The last one, if it was not told."""
        for event in self._by_script.values():
            self._untold += self._last is not None
            self._last = f"{clean(event.path)} saved by the script after step {event.step}, {_stall(event)}"
        self._by_script.clear()
        last, self._last = self._last, None
        return None if last is None else self._with_untold(last)

    def _due(self, text: str, now_s: float) -> str | None:
        if now_s < self._next_s:
            self._untold += self._last is not None
            self._last = text
            return None
        self._next_s = now_s + LINES_EVERY_S
        self._untold += self._last is not None
        self._last = None
        return self._with_untold(text)

    def _with_untold(self, text: str) -> str:
        untold, self._untold = self._untold, 0
        return f"{text}, and {untold} before it" if untold else text


def _stall(event: ScriptSaved) -> str:
    return f"rank {event.rank} stood still for {number(event.stall_s, 3)} s"
