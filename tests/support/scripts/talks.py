"""A link whose agent does not read: says how long 20,000 messages kept the sender."""

import os
import socket
import sys
import time

from orchestrator.rank.link import RankLink
from orchestrator.rank.messages import ProbeFailed

os.setsid()
link = RankLink(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
link.start()
begin = time.perf_counter()
for number in range(20_000):
    link.send(ProbeFailed(str(number), "x" * 100))
print(time.perf_counter() - begin, flush=True)
sys.stdin.readline()
link.close()
