"""A driver as a queue starts it, without the queue: python -m benchmarks.queued_job FOLDER WORD...

The process that tells MLflow is shared by all that have the same folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.cli.cli import main
from orchestrator.driver.sharing_sink import share_in

if __name__ == "__main__":
    share_in(Path(sys.argv[1]))
    sys.argv = [sys.argv[0], *sys.argv[2:]]
    sys.exit(main())
