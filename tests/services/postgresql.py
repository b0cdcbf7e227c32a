"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from signal import SIGINT, SIGQUIT, Signals

from tests.services.needs import module, program
from tests.services.processes import Service, accepts, unprivileged
from tests.support.ports import free_port

OWNER = "postgres"  # a user that Debian's package makes; the server refuses to run as root
# SIGINT ends it in good order, SIGQUIT leaves everything to the recovery at the next start, as a crash does.
IN_ORDER, AT_ONCE = SIGINT, SIGQUIT
_COMMAND_TIMEOUT_S = 120


class Postgres:
    """Asks for a password, as a server that others share does. Its folder is one that its user may enter."""

    user, password = "ada", "not-to-be-shown"

    def __init__(self) -> None:
        module("psycopg")
        self._server, initdb, self._psql = (
            program(name, "postgresql") for name in ("postgres", "initdb", "psql")
        )
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        self._service: Service | None = None
        secret = self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, OWNER, OWNER)
        words = [f"--pgdata={self.folder / 'data'}", f"--username={self.user}", f"--pwfile={secret}"]
        words += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            [*unprivileged(OWNER), initdb, *words],
            cwd=self.folder, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            shutil.rmtree(self.folder)
            raise AssertionError(done.stdout + done.stderr)

    def uri(self, database: str) -> str:
        return f"postgresql://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """And wait until it answers."""
        words = ["-D", str(self.folder / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-c", "fsync=off"]
        words += ["-c", "unix_socket_directories="]
        self._service = Service([*unprivileged(OWNER), self._server, *words], self.folder)
        self._service.until(lambda: accepts(self.port) and self.ask("SELECT 1", check=False) == "1")

    def stop(self, how: Signals = IN_ORDER) -> None:
        assert self._service is not None
        self._service.close(how)

    def ask(self, query: str, database: str = "postgres", check: bool = True) -> str:
        """What ``psql`` prints for it."""
        words = ["--no-psqlrc", "--tuples-only", "--no-align", f"--command={query}", self.uri(database)]
        done = subprocess.run(
            [self._psql, *words], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        if self._service is not None:
            self._service.close(IN_ORDER)
        shutil.rmtree(self.folder)
