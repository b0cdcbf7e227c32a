"""What a script tells MLflow goes to the agent with the rank's other messages, and from there into the run.

MLflow finds the store that takes it (``orchestrator.ledger.mlflow.script_store``) as it finds any plugin: by
an entry point. Ours is in the installed package; where the package is only on the path it is in none, so
a rank has a finder that shows MLflow the same by Python's public protocol for that
(:class:`importlib.metadata.DistributionFinder`). Both lead to the :class:`Recorder` of this process, which
lies where any import finds it. Nothing of MLflow is imported before the script does so.
"""

from __future__ import annotations

import _thread
import hashlib
import importlib
import importlib.metadata
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from orchestrator.installation import PACKAGE
from orchestrator.rank.link import Link
from orchestrator.rank.messages import Message, Tracked, TrackedElsewhere

SCHEME = "orchestrator"
URI = f"{SCHEME}://run"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# Meant for the store that the shell's address names: MLflow would look for that run in ours.
OF_ANOTHER_STORE = ("MLFLOW_RUN_ID",)
# Where the recorder lies: under no name of ours, as those are forgotten before the script begins.
MODULE = "_orchestrator_rank"
STORE = "orchestrator.ledger.mlflow.script_store"
MOST_WAITING_POINTS, MOST_WAITING_TEXTS = 100_000, 10_000
# Of one message: some 50 KB of points, and 800 KB of the longest texts.
POINTS_PER_MESSAGE, TEXTS_PER_MESSAGE = 1000, 100
MOST_KEY_CHARACTERS, MOST_TEXT_CHARACTERS = 250, 8000
ARTIFACTS = "artifacts"
# Name, step, Unix milliseconds, value.
Point = tuple[str, int, int, float]


def script_run_id(run_dir: str) -> str:
    """The number that the run has in the eyes of its script: the same in all attempts, and known before
    MLflow answers."""
    return hashlib.sha256(os.fsencode(run_dir)).hexdigest()[:32]


class Recorder:
    """Takes what the script tells, and never makes it wait.

    A point that is alone on its way is sent at once, so that a rank which is killed has sent what it had
    logged; what comes while the agent is still reading waits, and goes as one message. What finds no room is
    counted. With ``forward`` false all is dropped: it is another rank that is listened to.
    """

    def __init__(self, link: Link, facts: Mapping[str, Any]) -> None:
        self.run_id = str(facts["run_id"])
        self.run_name = str(facts["run_name"])
        self.experiment = str(facts["experiment"])
        self.forward = bool(facts["forward"])
        self.artifacts: str | None = str(facts["artifacts"]) if self.forward else None
        self._link = link
        self._lock = _thread.allocate_lock()
        self._points: deque[Point] = deque()
        self._texts: deque[tuple[bool, str, str]] = deque()
        self._dropped = 0
        self._offered = False

    def log(
        self,
        points: Iterable[Point] = (),
        params: Iterable[tuple[str, str]] = (),
        tags: Iterable[tuple[str, str]] = (),
    ) -> None:
        """May be called from any thread. In a child of the rank, which has no tie to the agent, it does
        nothing."""
        if not self.forward or not self._link.open:
            return
        with self._lock:
            for point in points:
                if len(self._points) >= MOST_WAITING_POINTS:
                    self._dropped += 1
                else:
                    self._points.append(point)
            for is_param, pairs in ((True, params), (False, tags)):
                for key, value in pairs:
                    if len(self._texts) >= MOST_WAITING_TEXTS:
                        self._dropped += 1
                    else:
                        self._texts.append((is_param, key[:MOST_KEY_CHARACTERS], _clipped(value)))
            offer, self._offered = not self._offered, True
        if offer:
            self._link.offer(self._next)

    def _next(self) -> Message | None:
        """The next message of what waits."""
        with self._lock:
            metrics: dict[str, list[list[float]]] = {}
            for _ in range(min(POINTS_PER_MESSAGE, len(self._points))):
                name, step, time_ms, value = self._points.popleft()
                metrics.setdefault(name[:MOST_KEY_CHARACTERS], []).append([step, time_ms, value])
            params: dict[str, str] = {}
            tags: dict[str, str] = {}
            for _ in range(min(TEXTS_PER_MESSAGE, len(self._texts))):
                is_param, key, text = self._texts[0]
                if is_param and params.get(key, text) != text:
                    break  # both values are to arrive, in this order
                (params if is_param else tags)[key] = text
                self._texts.popleft()
            dropped, self._dropped = self._dropped, 0
            if not (metrics or params or tags or dropped):
                self._offered = False
                return None
        return Tracked(metrics, params, tags, dropped)


class AddressWatch:
    """Tells once when the script has set a tracking address of its own, which MLflow puts into the
    environment."""

    def __init__(self, link: Link) -> None:
        self._link, self._told = link, False

    def look(self) -> None:
        uri = os.environ.get(URI_VARIABLE)
        if not self._told and uri and uri != URI and "mlflow" in sys.modules:
            self._told = True
            self._link.send(TrackedElsewhere(without_password(uri)))


def without_password(uri: str) -> str:
    """The address as it can be shown."""
    try:
        secret = urlsplit(uri).netloc.rpartition("@")[0]
        shown = uri.replace(f"{secret}@", "", 1) if secret else uri
        return shown.partition("?")[0][:MOST_KEY_CHARACTERS]
    except ValueError:
        return uri.partition(":")[0][:MOST_KEY_CHARACTERS]


def offer_to_mlflow(link: Link, facts: Mapping[str, Any]) -> None:
    """Put in place what MLflow finds should the script import it."""
    module: Any = ModuleType(MODULE)
    module.recorder = Recorder(link, facts)
    module.tracking_store = _of_store("ScriptStore")
    module.model_registry = _of_store("refuse_registry")
    module.no_artifacts = _of_store("NoArtifacts")
    sys.modules[MODULE] = module
    sys.meta_path.append(_Finder())
    link.at_heartbeat = AddressWatch(link).look


def _of_store(name: str) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        module: Any = _store_module()
        return getattr(module, name)(*args, **kwargs)

    return make


def _store_module() -> ModuleType:
    """Our module, beside whatever the script itself calls by the name of our package."""
    names = [name for name in sys.modules if name.partition(".")[0] == "orchestrator"]
    theirs = {name: sys.modules.pop(name) for name in names}
    sys.path.insert(0, str(PACKAGE.parent))
    try:
        return importlib.import_module(STORE)
    finally:
        sys.path.remove(str(PACKAGE.parent))
        for name in [name for name in sys.modules if name.partition(".")[0] == "orchestrator"]:
            del sys.modules[name]
        sys.modules.update(theirs)


class _Finder(importlib.metadata.DistributionFinder):
    """Finds one distribution, whose entry points are ours, and no module."""

    def find_spec(self, _name: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        return None

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterable[importlib.metadata.Distribution]:
        name = None if context is None else context.name
        return [_Distribution()] if name in (None, _Distribution.NAME) else []


class _Distribution(importlib.metadata.Distribution):
    NAME = "orchestrator-rank"
    _FILES: Mapping[str, str] = {
        "METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 0\n",
        "entry_points.txt": (
            f"[mlflow.tracking_store]\n{SCHEME} = {MODULE}:tracking_store\n"
            f"[mlflow.model_registry_store]\n{SCHEME} = {MODULE}:model_registry\n"
            f"[mlflow.artifact_repository]\n{SCHEME} = {MODULE}:no_artifacts\n"
        ),
    }

    def read_text(self, filename: str) -> str | None:
        return self._FILES.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> Path:
        return PACKAGE.parent / path


def _clipped(value: str) -> str:
    return value if len(value) <= MOST_TEXT_CHARACTERS else value[:MOST_TEXT_CHARACTERS]
