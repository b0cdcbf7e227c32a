"""``python -m orchestrator``."""

import sys

if __name__ == "__main__":
    try:
        from orchestrator.cli.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        # Before a run has handlers of its own there is nothing to save and nothing to end.
        print("interrupted before anything was started", file=sys.stderr)
        sys.exit(130)
