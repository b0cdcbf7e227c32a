"""What torchrun runs for the curve to compare with: a script as it is, over gloo.

DeepSpeed would compile a collective for processors first, a minute or two that say nothing about the script.
"""

from __future__ import annotations

import os
import runpy
import sys

import deepspeed

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
script = os.path.abspath(sys.argv[1])
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(script)
runpy.run_path(script, run_name="__main__")
