"""What counts as another version: a number, a package that is missing, and a source file that was changed."""

from __future__ import annotations

from pathlib import Path

from raybench.machine.installed import own_versions, source_digest, version_differences


def test_a_source_that_was_changed_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = source_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert source_digest(tmp_path) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert source_digest(tmp_path) != before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert source_digest(tmp_path) not in ("", before)


def test_differences_name_the_package_and_both_versions() -> None:
    ours = own_versions()
    assert version_differences(ours, ours) == ""
    assert set(ours) == {"python", "raybench", "ray", "torch", "deepspeed"}
    assert "+" not in str(ours["torch"])
    other = {**ours, "torch": "2.1.0", "deepspeed": None}
    assert version_differences(other, ours) == (
        f"torch 2.1.0 and not {ours['torch']}; deepspeed is missing and not {ours['deepspeed']}"
    )
