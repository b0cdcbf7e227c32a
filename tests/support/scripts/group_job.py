"""A job for worker groups: no DeepSpeed, only what a rank can do to its group.

``--then`` says what rank ``--who`` does after a moment; the others go on until ``--seconds`` are over. With
``noise`` all print 5 MB before each of ten steps, and wait for the file that lets them go on.
"""

import argparse
import os
import signal
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--then", default="finish")
parser.add_argument("--who", type=int, default=1)
parser.add_argument("--seconds", type=float, default=0.3)
args = parser.parse_args()

rank = int(os.environ["RANK"])


def finish(_signum: int, _frame: object) -> None:
    print("stopping as asked", flush=True)
    sys.exit(0)


def wait(seconds: float) -> None:
    """In short sleeps: Python runs a handler between two calls, so one that strikes just before a long sleep
    waits."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(0.05, seconds))


if args.then == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, finish)

if args.then == "worker":
    ready, child_is_ready = os.pipe()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, lambda *_: print("the worker was told", flush=True))
        os.write(child_is_ready, b".")
        wait(60)
        sys.exit(0)
    os.read(ready, 1)

# From here on it hears what it is told.
print(f"hello from rank {rank} of {os.environ['WORLD_SIZE']}", flush=True)
print('{"step": 3, "answer": 42.5}', flush=True)

if args.then in ("raise", "raise_all") and (rank == args.who or args.then == "raise_all"):
    time.sleep(0.2)
    raise ValueError(f"bad luck on rank {rank}")
if args.then == "sigkill" and rank == args.who:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
for step in range(1, 11) if args.then == "noise" else ():
    for _ in range(5):
        sys.stdout.write(f"noise of rank {rank} at step {step}\n" * 40_000)
    print(f'{{"step": {step}, "answer": {step}}}', flush=True)
    while not os.path.exists(f"go-on-{step}"):
        wait(0.01)
if args.then == "noise":
    print("the last line", flush=True)

wait(args.seconds if args.then in ("finish", "noise") else 60)
