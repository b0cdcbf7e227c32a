"""What only a GPU can say, in ten minutes of one: python -m benchmarks.gpu_check

Each step runs in a process of its own with its own time limit, and what it has found until then is kept, so
that a part that fails or hangs costs no other. `--device=cpu` runs the same steps on this machine's cores,
which shows that they work before a GPU is paid for. `--json FILE` keeps what was found
after each step; `--write FILE` puts that of an earlier check into docs/benchmarks.md.
"""
