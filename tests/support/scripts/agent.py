"""Plays the agent: holds a launcher with two ranks, one of them stopped, until it is killed.

Arguments: exec or zygote, and a folder. Prints the process ids of all that must not outlive it.
"""

import os
import signal
import sys
import time
from pathlib import Path

from orchestrator.rank.launch.launcher import ExecLauncher, ZygoteLauncher
from orchestrator.rank.spec import RankSpec

kind, folder = sys.argv[1:]
script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "family.py")
env = dict(os.environ)
launcher = ExecLauncher() if kind == "exec" else ZygoteLauncher(env, preload=["multiprocessing"])
ranks = []
for index in range(2):
    log = os.path.join(folder, f"rank{index}.log")
    ranks.append(launcher.start(RankSpec(index, index, 2, f"rank {index}", script, [], folder, env, log)))
pids = [launcher.pid] if isinstance(launcher, ZygoteLauncher) else []
for rank in ranks:
    written = Path(rank.spec.log_path)
    while not written.exists() or "waiting" not in (text := written.read_text()):
        time.sleep(0.01)
    pids += [int(word) for word in text.split("\n")[0].split()[1:]]
os.kill(ranks[1].pid, signal.SIGSTOP)
print(*pids, flush=True)
time.sleep(300)
