"""Prints what a script can find out about the process that it runs in, as JSON."""

import json
import multiprocessing.spawn
import os
import signal
import sys
import threading

main = sys.modules["__main__"]
facts = {
    "argv": sys.argv,
    "orig_argv_tail": sys.orig_argv[-len(sys.argv) :],
    "path": sys.path,
    "cwd": os.getcwd(),
    "main_is_this": main.__dict__ is globals(),
    "main": {name: str(value) for name, value in sorted(vars(main).items()) if name.startswith("__")},
    "environment": dict(os.environ),
    "threads": [thread.name for thread in threading.enumerate()],
    "signals": {str(number): str(signal.getsignal(number)) for number in sorted(signal.valid_signals())},
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "wakeup_fd": signal.set_wakeup_fd(-1),
    "flags": str(sys.flags),
    "start_method": multiprocessing.get_start_method(),
    "spawn": multiprocessing.spawn.get_preparation_data("x")["orig_dir"],
    "stdin": sys.stdin.read(),
    "encodings": [sys.stdout.encoding, sys.stderr.encoding, sys.stdout.errors, sys.stderr.errors],
    "ours": [name for name in sys.modules if name.startswith("orchestrator")],
    "excepthook": sys.excepthook is sys.__excepthook__,
}
print(json.dumps(facts))
