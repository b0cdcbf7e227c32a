"""Hardware or code: what a lost rank's node says about why it was lost. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping

from orchestrator.check.reports import What
from orchestrator.vocabulary import Fault, Verdict

# What only hardware counts. A GPU that heat slows, or a link that flapped, does not end a rank by itself.
_HARDWARE = (What.XID, What.ECC, What.REMAPS)
_OF_DEVICES = re.compile(
    r"CUDA|NCCL|cuBLAS|cuDNN|HIP error|Connection|ncclSystemError|timed out", re.IGNORECASE
)


def verdict(fault: Fault, exit_status: int, error: str | None, evidence: Mapping[str, float]) -> Verdict:
    """What the evidence of the node, the error and the exit status say together; what they do not prove is
    unknown."""
    if any(evidence.get(what, 0.0) > 0 for what in _HARDWARE):
        return Verdict.HARDWARE
    if fault is Fault.MEMORY:
        return Verdict.MEMORY
    if evidence.get(What.LINK_DOWNS, 0.0) > 0 and error and _OF_DEVICES.search(error):
        return Verdict.HARDWARE
    if evidence.get(What.PROGRAM_XID, 0.0) > 0:
        return Verdict.CODE
    if fault is Fault.EXIT and exit_status > 0 and error and not _OF_DEVICES.search(error):
        return Verdict.CODE
    if fault is Fault.EXIT and -exit_status in (signal.SIGSEGV, signal.SIGFPE, signal.SIGILL) and not error:
        return Verdict.CODE
    return Verdict.UNKNOWN


def evidence_in_words(evidence: Mapping[str, float]) -> str:
    """``XID 79, uncorrected memory errors 2``; "" where there is none."""
    return ", ".join(f"{what} {value:g}" for what, value in evidence.items())
