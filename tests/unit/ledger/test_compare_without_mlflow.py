"""What a comparison says where nothing answers that could be compared."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from orchestrator.errors import TrackingError
from orchestrator.ledger.mlflow.runs import load_runs


def test_a_dead_server_is_one_line_and_quick() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    began_s = time.monotonic()
    with pytest.raises(TrackingError, match="Connection refused") as caught:
        load_runs(f"http://127.0.0.1:{port}", "exp", 10)
    assert time.monotonic() - began_s < 10, "MLflow itself tries for minutes"
    assert "\n" not in str(caught.value)


def test_a_database_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, however long one looks at it\n" * 100)
    with pytest.raises(TrackingError, match="is not a SQLite file") as caught:
        load_runs(f"sqlite:///{tmp_path}/mlflow.db", "exp", 10)
    assert "\n" not in str(caught.value)
