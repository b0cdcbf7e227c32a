"""Whatever can reach a user is in the error tree, carries one message, and comes through a pickle."""

from __future__ import annotations

import ast
import builtins
import errno
import pickle
from pathlib import Path

import pytest

from orchestrator import errors
from orchestrator.errors import ManifestError, NodeLost, OrchestratorError, RestoreError
from orchestrator.events import Fault
from orchestrator.rank.runner import _fault_in_words, _fault_of

PACKAGE = Path(errors.__file__).parent
# Never the last word: who reads a paper says which file it was, by an error of the tree; whoever imports or
# sends in a process of its own says what came of it, and so does who asks Kubernetes, without which a run
# goes on.
BENEATH = {"PaperError", "NotJsonError", "UnknownKindError", "UnfitLibraryError", "NotTold", "NotAnswered"}
TREE = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def bases_of() -> dict[str, list[str]]:
    """Every class of the package by its name, with the names of its bases."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
    return found


def all_bases(name: str, known: dict[str, list[str]]) -> set[str]:
    above = known.get(name, [])
    return {name, *above} | {base for each in above if each != name for base in all_bases(each, known)}


def test_no_public_exception_is_outside_the_tree() -> None:
    known = bases_of()
    assert known["ManifestError"] == ["CheckpointError", "ValueError"], "the walk sees them"
    outside = []
    for name in known:
        above = all_bases(name, known)
        is_error = any(
            isinstance(kind := getattr(builtins, each, None), type) and issubclass(kind, BaseException)
            for each in above
        )
        if is_error and "OrchestratorError" not in above and not name.startswith("_"):
            outside.append(name)
    assert set(outside) == BENEATH


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_survives_pickling_with_its_message_and_its_exit_code(
    kind: type[OrchestratorError],
) -> None:
    again = pickle.loads(pickle.dumps(kind("what is wrong")))
    assert (type(again), str(again), again.args) == (kind, "what is wrong", ("what is wrong",))
    assert again.exit_code >= 1
    assert kind.__name__ in str(errors.__doc__), "the tree is drawn whole"


def test_what_else_an_error_knows_survives_too() -> None:
    lost = pickle.loads(pickle.dumps(NodeLost.of("node: a", "its agent died: exit: 1")))
    assert (str(lost), lost.node, lost.how) == (
        "node: a: its agent died: exit: 1",
        "node: a",
        "its agent died: exit: 1",
    )


def test_an_error_s_type_says_which_fault_it_is() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("could not write")
    wrapped.__cause__ = full
    told: dict[Fault | None, list[BaseException]] = {
        Fault.DISK: [full, wrapped, OSError(errno.EDQUOT, "x")],
        Fault.MEMORY: [MemoryError()],
        Fault.RESTORE: [RestoreError("x")],
        None: [
            ManifestError("x"),
            OSError(errno.EIO, "x"),
            OSError(errno.ENOMEM, "x"),
            RuntimeError("RestoreError: No space left"),
        ],
    }
    assert {fault: [_fault_of(error) for error in those] for fault, those in told.items()} == {
        fault: [fault] * len(those) for fault, those in told.items()
    }


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate",
            Fault.MEMORY,
        ),
        ("MemoryError: ", Fault.MEMORY),
        (
            "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
            Fault.DISK,
        ),
        ("RuntimeError: [Errno 122] Disk quota exceeded: '/c/a.pt'", Fault.DISK),
        ("OutOfMemoryError: CUDA out of memory", None),
        ("ValueError: MemoryError", None),
    ],
)
def test_other_libraries_say_it_in_words_alone(words: str, fault: Fault | None) -> None:
    assert _fault_in_words(words) == fault
