"""One output folder for all ranks of a Hydra application.

Its folder is called after the time, ``outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}`` unless somebody says
otherwise, and each rank looks at the clock by itself: ranks that start a second apart have folders of their
own, and an attempt after a fault another than the one with its checkpoints. So ``now`` is when the run began.
"""

from __future__ import annotations

import time
from types import ModuleType

from orchestrator.rank.probes.import_hook import when_imported


def begin_together(began_unix_s: float) -> None:
    """Call in a rank before its script; it does something once Hydra is imported."""
    when_imported("hydra.core.utils", lambda module: _tell(module, began_unix_s))


def _tell(module: ModuleType, began_unix_s: float) -> None:
    setup = module.setup_globals

    def setup_globals() -> None:
        setup()
        module.OmegaConf.register_new_resolver(
            "now",
            lambda pattern: time.strftime(pattern, time.localtime(began_unix_s)),
            use_cache=True,
            replace=True,
        )

    module.setup_globals = setup_globals  # type: ignore[attr-defined]
