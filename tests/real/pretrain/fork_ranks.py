"""Runs pretrain.py with one or more ranks, forked from a process that has imported it already.

Reads one JSON request per line: {"argv": [...], "ranks": 2, "port": 29500, "log": "PATH", "timeout_s": 60},
and "script" for one whose main() runs in place of pretrain.py's. RANK in a flag stands for the rank's number.
Each rank's output goes to PATH.<rank>.out and PATH.<rank>.err; the answer is {"codes": [...]}. Importing
torch and DeepSpeed takes longer than all that the tests do afterwards.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from typing import Any

from tests.support.folders import JOBS


def run_rank(pretrain: Any, request: dict[str, Any], rank: int) -> int:
    for stream, name in ((1, "out"), (2, "err")):
        target = os.open(f"{request['log']}.{rank}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, stream)
    if request["ranks"] > 1:
        world = str(request["ranks"])
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=world, LOCAL_WORLD_SIZE=world)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(request["port"]))
    sys.argv = ["pretrain.py", *(flag.replace("RANK", str(rank)) for flag in request["argv"])]
    try:
        main = runpy.run_path(request["script"])["main"] if request.get("script") else pretrain.main
        return int(main())
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except BaseException:  # noqa: BLE001 - the traceback is the test's evidence
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def serve(pretrain: Any, request: dict[str, Any]) -> list[int]:
    children = []
    for rank in range(request["ranks"]):
        child = os.fork()
        if child == 0:
            signal.alarm(int(request["timeout_s"]))
            os._exit(run_rank(pretrain, request, rank))
        children.append(child)
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] and len(codes) < len(children):
            time.sleep(1)  # A refusal comes from every rank; a rank that only waits for a dead one is ended.
            for other in children:
                if other not in codes:
                    os.kill(other, signal.SIGKILL)
    return [codes[child] for child in children]


def main() -> None:
    sys.path.insert(0, str(JOBS))
    pretrain = importlib.import_module("pretrain")
    # What `deepspeed.initialize` imports when it is first called: seconds, in every rank.
    for name in ("torch._dynamo", "torch._inductor.compile_fx", "torch.onnx"):
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps({"codes": serve(pretrain, json.loads(line))}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
