"""Ends in the way that its argument names."""

import atexit
import os
import signal
import sys
import threading
import time


def late() -> None:
    time.sleep(0.2)
    print("thread done")


def deeper() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("bad value") from error


atexit.register(print, "at exit")
how = sys.argv[1]
print("begin", how)
print("to stderr", file=sys.stderr)
if how == "status":
    sys.exit(3)
elif how == "text":
    sys.exit("a last word")
elif how == "raises":
    deeper()
elif how == "interrupt":
    raise KeyboardInterrupt
elif how == "segv":
    os.kill(os.getpid(), signal.SIGSEGV)
elif how == "term":
    os.kill(os.getpid(), signal.SIGTERM)
elif how == "hard":
    os._exit(7)
elif how == "thread":
    threading.Thread(target=late).start()
elif how == "hook":
    sys.excepthook = lambda kind, error, trace: print("hook saw", kind.__name__, error, trace.tb_lineno)
    deeper()
elif how == "broken-hook":
    sys.excepthook = None
    deeper()
elif how == "exec":
    os.execv(sys.executable, [sys.executable, "-c", "import sys; print('another'); sys.exit(5)"])
print("end")
