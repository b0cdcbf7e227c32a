"""Words in a configuration that stand for something else: what only a node knows, and is filled in there, and
``${…}``, which OmegaConf puts in. Whether a value asks for one is asked here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

RUN_DIR, DEEPSPEED_CONFIG, CHECKPOINT_DIR = "{run_dir}", "{deepspeed_config}", "{checkpoint_dir}"
INTERPOLATION, OF_HYDRA = "${", "${hydra:"  # the second is what Hydra's own command line gives
SKIP_BATCHES = "{skip_batches}"  # the global batches, counted from 0, that an attempt is not to train on
MTBF_S = "{mtbf_s}"  # seconds between failures to expect of all the run's accelerators together
CHECKPOINT = "{checkpoint}"  # the folder or file by which the script knows what the attempt goes on from
RESUME_STEP = "{resume_step}"  # the step of that
ATTEMPT = "{attempt}"  # from 1
OF_ATTEMPT = (CHECKPOINT, RESUME_STEP, ATTEMPT)  # what differs between attempts, for the words that resume
LOCAL_RANK = "{local_rank}"  # a rank's number on its node
INTERFACE = "{interface}"  # in a variable's value: the network interface that has the node's address


def fill(text: str, places: Mapping[str, str]) -> str:
    """The text with the value of each placeholder in it."""
    for placeholder, value in places.items():
        text = text.replace(placeholder, value)
    return text


def asks_for(placeholder: str, texts: Iterable[str]) -> bool:
    """Whether any of the texts has it."""
    return any(placeholder in text for text in texts)


def refers_to(group: str, value: object) -> bool:
    """Whether a value is written as that of a key below the group, as ``${job.micro_batch}`` is."""
    return isinstance(value, str) and value.startswith(f"${{{group}.")


def texts_of(node: Any) -> Iterator[str]:
    """Every text in maps and lists, as it is written there; names of keys are none."""
    if isinstance(node, dict):
        yield from (text for inner in node.values() for text in texts_of(inner))
    elif isinstance(node, list):
        yield from (text for inner in node for text in texts_of(inner))
    elif isinstance(node, str):
        yield node
