"""Uses the device once, and prints when it came to what, in Unix seconds, as one line of JSON."""

import time

BEGAN_UNIX_S = time.time()

import json  # noqa: E402
import sys  # noqa: E402

import deepspeed  # noqa: E402, F401
import torch  # noqa: E402

SIDE = 512
imported = time.time()
initialized_before = torch.cuda.is_initialized()
ones = torch.ones(SIDE, SIDE, device=sys.argv[1])
assert float((ones @ ones).sum()) == float(SIDE) ** 3
told = {"began": BEGAN_UNIX_S, "imported": imported, "used": time.time()}
print(json.dumps(told | {"initialized_before": initialized_before}))
