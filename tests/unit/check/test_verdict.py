"""Hardware or code: a row for each kind of evidence."""

from __future__ import annotations

import pytest

from orchestrator.check.reports import What
from orchestrator.check.verdict import evidence_in_words, verdict
from orchestrator.vocabulary import Fault, Verdict

NCCL = "torch.distributed.DistBackendError: NCCL error: unhandled system error"
OWN = "ValueError: bad sample 17"
ROWS = [
    # fault, exit status, error, evidence, verdict
    (Fault.EXIT, 1, NCCL, {What.XID: 79}, Verdict.HARDWARE),
    (Fault.EXIT, 1, OWN, {What.ECC: 1}, Verdict.HARDWARE),
    (Fault.EXIT, -6, None, {What.REMAPS: 1}, Verdict.HARDWARE),
    (Fault.HANG, 0, None, {What.XID: 48}, Verdict.HARDWARE),
    (Fault.EXIT, 1, NCCL, {What.LINK_DOWNS: 2}, Verdict.HARDWARE),
    (Fault.EXIT, 1, OWN, {What.LINK_DOWNS: 2}, Verdict.CODE),
    (
        Fault.EXIT,
        1,
        "RuntimeError: CUDA error: an illegal memory access",
        {What.PROGRAM_XID: 31},
        Verdict.CODE,
    ),
    (Fault.EXIT, 1, "RuntimeError: CUDA error: an illegal memory access", {}, Verdict.UNKNOWN),
    (Fault.EXIT, 1, OWN, {}, Verdict.CODE),
    (Fault.EXIT, 1, OWN, {What.THERMAL: 1}, Verdict.CODE),
    (Fault.EXIT, -11, None, {}, Verdict.CODE),
    (Fault.EXIT, -9, None, {}, Verdict.UNKNOWN),
    (Fault.EXIT, 3, None, {}, Verdict.UNKNOWN),
    (Fault.MEMORY, -9, None, {}, Verdict.MEMORY),
    (Fault.MEMORY, -9, None, {What.ECC: 4}, Verdict.HARDWARE),
    (Fault.HANG, 0, None, {}, Verdict.UNKNOWN),
    (Fault.DISK, 1, "OSError: No space left on device", {}, Verdict.UNKNOWN),
]


@pytest.mark.parametrize(("fault", "status", "error", "evidence", "expected"), ROWS)
def test_the_verdict_follows_from_the_evidence(
    fault: Fault, status: int, error: str | None, evidence: dict[str, float], expected: Verdict
) -> None:
    assert verdict(fault, status, error, evidence) is expected


def test_evidence_is_read_as_a_list() -> None:
    assert evidence_in_words({"XID": 79.0, "link downs": 2.0}) == "XID 79, link downs 2"
    assert evidence_in_words({}) == ""
