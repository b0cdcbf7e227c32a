"""Where everything goes that MLflow and what it is made of say in a process of ours: into a file, without
secrets."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from orchestrator import papers
from orchestrator.ledger.mlflow.tracking_file import Tracking
from orchestrator.redact import learn, redact_text

_LIBRARIES = ("mlflow", "alembic", "sqlalchemy", "urllib3")


class _WithoutSecrets(logging.Formatter):
    """Drivers of databases quote the address that they were given."""

    def format(self, record: logging.LogRecord) -> str:
        return redact_text(super().format(record))


def know_secrets(run_dir: Path, tracking: Tracking) -> None:
    """What the run's own process knows of its configuration, so that no log that is uploaded tells it."""
    learn(tracking.uri)
    with contextlib.suppress(OSError, ValueError):
        learn(papers.read_object(run_dir / "resume.json"))


def log_to(path: Path) -> logging.FileHandler:
    """A handler that appends to a file, and not to what a link in its place leads to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def begin_log(path: Path, handler: logging.Handler | None = None) -> None:
    """From here on all goes to ``handler``, or to the file; what is printed goes there in any case, since
    stdout and stderr belong to whoever started this process."""
    handler = handler or log_to(path)
    logging.captureWarnings(True)
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    sys.stdout.flush()
    sys.stdout = path.open("a", encoding="utf-8")
