"""Says where it runs, then waits until a file appears; ends at once when asked to stop."""

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
parser = argparse.ArgumentParser()
parser.add_argument("--until")
parser.add_argument("--data")
args = parser.parse_args()
rank = os.environ["RANK"]
text = "" if args.data is None else Path(args.data).read_text()
print(
    f"rank {rank} host {socket.gethostname()} interface {os.environ['GLOO_SOCKET_IFNAME']} nccl"
    f" {os.environ['NCCL_SOCKET_IFNAME']} cwd {os.getcwd()} script {os.path.abspath(__file__)} data {text}",
    flush=True,
)
if rank == "0":
    print('{"there": 1}', flush=True)
while args.until and not os.path.exists(args.until):
    time.sleep(0.1)
