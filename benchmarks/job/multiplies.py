"""Multiplies matrices on a GPU for so many seconds, and prints the rate as one line of JSON."""

import json
import sys
import time

import torch

SIDE, AT_ONCE = 8192, 20
one, other = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
for _ in range(AT_ONCE):
    one @ other
torch.cuda.synchronize()
print("begun", flush=True)
begun_s, products = time.perf_counter(), 0
while time.perf_counter() - begun_s < float(sys.argv[1]):
    for _ in range(AT_ONCE):
        one @ other
    products += AT_ONCE
    torch.cuda.synchronize()
took_s = time.perf_counter() - begun_s
print(json.dumps({"flops": products * 2 * SIDE**3 / took_s}), flush=True)
