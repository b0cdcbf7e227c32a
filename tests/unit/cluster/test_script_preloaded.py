"""What the nodes say of the script's imports, in as few lines as that takes."""

from __future__ import annotations

from orchestrator.agent.messages import ScriptPreloaded, decode, encode
from orchestrator.cluster.remarks import Remarks


def told(*parts: ScriptPreloaded) -> list[str]:
    lines: list[str] = []
    remarks = Remarks(lines.append)
    for part in decode(encode(parts)):
        assert isinstance(part, ScriptPreloaded)
        remarks.preloaded(part)
    return lines


def test_what_all_nodes_have_done_alike_is_said_once() -> None:
    both = ("accelerate", "transformers")
    why = {"trl": "it leaves a process behind"}
    assert told(ScriptPreloaded(both, 3.14, why), ScriptPreloaded(both, 4.0, why)) == [
        "the zygote has imported accelerate, transformers (3.1 s)",
        "trl is left to the ranks to import: it leaves a process behind;"
        " launch.preload=[accelerate,transformers] spares the try",
    ]


def test_a_zygote_that_was_warm_is_called_so() -> None:
    assert told(ScriptPreloaded(("trl",), None, {})) == ["the warm zygote has imported trl"]
