"""Lets an environment see the packages of the Python that runs this, and this project, after its own.

    python3 infra/gpu_environment.py ENVIRONMENT PROJECT

`venv --system-site-packages` would show those of the interpreter that an environment was made from, and not
of the environment itself, which is where an image usually has its PyTorch.
"""

import site
import sys
from pathlib import Path


def main() -> None:
    environment, project = (Path(word).resolve() for word in sys.argv[1:])
    (packages,) = environment.glob("lib/python3*/site-packages")
    seen = [path for path in dict.fromkeys((*sys.path, *site.getsitepackages())) if path.endswith("packages")]
    (packages / "there_already.pth").write_text("\n".join([str(project), *seen]) + "\n")


if __name__ == "__main__":
    main()
