"""Makes children in every usual way, from a script with a class and a lambda of its own."""

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass


@dataclass
class Point:
    x: int


def double(point: Point) -> Point:
    return Point(point.x * 2)


if __name__ == "__main__":
    import torch
    from torch.utils.data import DataLoader

    print("pickle", pickle.loads(pickle.dumps(Point(1))), Point.__module__)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, pool.map(double, [Point(1), Point(2)]))
    loader = DataLoader(list(range(8)), batch_size=2, num_workers=2, collate_fn=lambda rows: sum(rows))
    print("loader", [int(total) for total in loader])
    print("subprocess", subprocess.check_output([sys.executable, "-c", "print(6 * 7)"], text=True).strip())
    pid = os.fork()
    if pid == 0:
        os._exit(4)
    print("fork", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print("threads", torch.get_num_threads())
    random.seed(0)
    torch.manual_seed(0)
    print("seeded", random.random(), torch.rand(1).item())
