"""``python -m orchestrator.cli.queued_driver RUN_ROOT STATE_DIR KEY EPOCH``: the driver of a job of the
queue.

It takes the job's lock, asks the books whether this start is still meant, and does then what its words say
on our own command line; the process that tells MLflow is one for all runs of the queue. At its end it writes
how it ended; one that is killed does not, which is known by that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import orchestrator
from orchestrator.dispatch.driver_files import DriverFiles
from orchestrator.dispatch.fleet_file import read_fleet_file
from orchestrator.dispatch.start_words import start_words
from orchestrator.dispatch.store import Store
from orchestrator.dispatch.wake import wake
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.fleet.jobs import JobState


def main(run_root: Path, state_dir: Path, key: str, epoch: int) -> int:
    """Returns the exit code, which is on record by then."""
    with Store(state_dir) as store:
        entry = store.entry(key)
        if entry is None:
            return ConfigError.exit_code
        files = DriverFiles(state_dir, entry.job.run_name)
        lock = files.take(epoch)
        if lock is None:
            return 0  # another was quicker
        entry = store.entry(key)
        assert entry is not None
        if (entry.job.epoch, entry.job.state) != (epoch, JobState.STARTING):
            return 0  # it is not meant any more
        slots = store.read().nodes
    wake(state_dir)
    code = OrchestratorError.exit_code
    try:
        fleet = read_fleet_file(run_root)
        words = start_words(entry, fleet, slots, run_root)
        assert entry.job.placement is not None, "what starts has a placement"
        if token_file := fleet.pool(entry.job.placement.pool).token_file:
            os.environ |= {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": token_file}
        sys.argv = [str(Path(orchestrator.__file__).with_name("__main__.py")), *words]
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
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
