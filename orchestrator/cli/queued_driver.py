"""``python -m orchestrator.cli.queued_driver STATE_DIR KEY EPOCH``: the driver of a job of the queue.

It takes the job's lock, asks the books whether this start is still meant, and does then what its daemon has
told it, which are words of our own command line; the process that tells MLflow is one for all runs of the
queue. At its end it writes how it ended; one that is killed, or cannot read the books, does not, which is
known by that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO

import orchestrator
from orchestrator.dispatch.driver_files import DriverFiles, DriverOrder
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.wake import wake
from orchestrator.errors import OrchestratorError
from orchestrator.fleet.jobs import JobState


def main(state_dir: Path, key: str, epoch: int) -> int:
    """Returns the exit code, which is on record by then where it got so far."""
    try:
        with Store(state_dir) as store:
            meant = _meant(store, state_dir, key, epoch)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if meant is None else _driven(state_dir, epoch, *meant)


def _meant(
    store: Store, state_dir: Path, key: str, epoch: int
) -> tuple[DriverFiles, IO[str], DriverOrder] | None:
    """The job's files, its lock, which is held from here on, and what is to be done; None where this start is
    another's, or is not meant any more."""
    entry = store.entry(key)
    if entry is None:
        return None
    files = DriverFiles(state_dir, entry.job.run_name)
    lock = files.take(epoch)
    if lock is None:
        return None  # another was quicker
    entry, order = store.entry(key), files.order(epoch)
    assert entry is not None
    if (entry.job.epoch, entry.job.state) == (epoch, JobState.STARTING) and order is not None:
        return files, lock, order
    lock.close()
    return None


def _driven(state_dir: Path, epoch: int, files: DriverFiles, lock: IO[str], order: DriverOrder) -> int:
    wake(state_dir)
    code = OrchestratorError.exit_code
    try:
        if order.token_file:
            os.environ |= {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": order.token_file}
        sys.argv = [str(Path(orchestrator.__file__).with_name("__main__.py")), *order.words]
        from orchestrator.cli.cli import main as run
        from orchestrator.driver.sharing_sink import share_in

        share_in(state_dir)
        code = run()
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else code
    finally:
        files.write_end(epoch, code)
        # It is at its end, and who waits for that need not wait for the end of the interpreter.
        lock.close()
        wake(state_dir)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
