"""A rank with workers and a grandchild; prints their process ids and then waits, or leaves them."""

import multiprocessing
import os
import subprocess
import sys
import time

children = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(300,), daemon=False)]
children[0].start()
shell = subprocess.Popen(["sh", "-c", "sleep 300 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
assert shell.stdout is not None
print("family", os.getpid(), children[0].pid, shell.pid, shell.stdout.readline().strip(), flush=True)
if sys.argv[1:] == ["leave"]:
    os._exit(0)
print("waiting")
time.sleep(300)
