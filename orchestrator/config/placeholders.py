"""Words in a configuration that stand for what only a node knows, and that are filled in there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

RUN_DIR, DEEPSPEED_CONFIG, CHECKPOINT_DIR = "{run_dir}", "{deepspeed_config}", "{checkpoint_dir}"
SKIP_BATCHES = "{skip_batches}"  # the global batches, counted from 0, that an attempt is not to train on
MTBF_S = "{mtbf_s}"  # seconds between failures to expect of all the run's accelerators together
INTERFACE = "{interface}"  # in a variable's value: the network interface that has the node's address


def fill(text: str, places: Mapping[str, str]) -> str:
    """The text with the value of each placeholder in it."""
    for placeholder, value in places.items():
        text = text.replace(placeholder, value)
    return text


def asks_for(placeholder: str, texts: Iterable[str]) -> bool:
    """Whether any of the texts has it."""
    return any(placeholder in text for text in texts)
