"""What a control group allows is read in both of its versions, at its own path and at the mount's root."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from raybench.machine import limits


def test_limits_of_a_container_are_read_in_both_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    assert limits.cpu_limit() is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert (limits.cpu_limit(), limits.memory_limit()) == (1.5, 2**30)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (limits.cpu_limit(), limits.memory_limit()) == (None, None)
    for file in ("cpu.max", "memory.max"):
        (tmp_path / file).unlink()
    for folder, file, text in (
        ("cpu", "cpu.cfs_quota_us", "200000"), ("cpu", "cpu.cfs_period_us", "100000"),
        ("memory", "memory.limit_in_bytes", str(2**63 - 4096)),
    ):  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text(text)
    assert (limits.cpu_limit(), limits.memory_limit()) == (2.0, None)


def test_free_memory_is_what_the_containers_limit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    of_machine = psutil.virtual_memory().total
    assert limits.memory_left()[1] == of_machine
    (tmp_path / "memory.max").write_text(f"{100 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{70 * 2**20}\n")
    assert limits.memory_left() == (30 * 2**20, 100 * 2**20)
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {20 * 2**20}\n")
    assert limits.memory_left() == (50 * 2**20, 100 * 2**20)
    for name in ("max", "current", "stat"):
        (tmp_path / f"memory.{name}").unlink()
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{100 * 2**20}")
    (tmp_path / "memory/memory.usage_in_bytes").write_text(f"{90 * 2**20}")
    (tmp_path / "memory/memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {10 * 2**20}\n")
    assert limits.memory_left() == (20 * 2**20, 100 * 2**20)
