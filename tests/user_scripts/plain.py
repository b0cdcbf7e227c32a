"""What torchrun and `deepspeed` run for the curve to compare with: a script as it is, over gloo.

DeepSpeed would compile a collective for processors first, a minute or two that say nothing about the script.
"""

from __future__ import annotations

import os
import runpy
import sys

import deepspeed

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
before = sys.argv[1:2] if sys.argv[1].startswith("--local_rank=") else []  # DeepSpeed's launcher adds it
script, *words = sys.argv[1 + len(before) :]
sys.argv = [script, *before, *words]
sys.path[0] = os.path.dirname(os.path.abspath(script))
runpy.run_path(script, run_name="__main__")
