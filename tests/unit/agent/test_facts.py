"""Facts that people compare runs by."""

from __future__ import annotations

from pathlib import Path

from orchestrator.agent import facts


def test_versions_are_the_facts_without_the_hashes_of_sources(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("pass\n")
    (tmp_path / "book.txt").write_text("words\n")
    seen = facts.observe(script, [str(tmp_path / "book.txt")], tmp_path)
    assert {"orchestrator sha256", "script sha256", "package torch"} < set(seen)
    versions = facts.versions(seen)
    assert set(versions) == {"python", *facts.COMPARED_PACKAGES, "corpus fingerprint"}
    assert versions["torch"] == seen["package torch"]
    assert "my sha256 tool" in facts.versions({"my sha256 tool": "1.0"}), (
        "a name is no reason to leave it out"
    )
