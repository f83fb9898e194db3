"""Where the machines' time went, on ledgers whose timeline is written down by hand."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raybench.analysis import analyse
from raybench.analysis.__main__ import main
from raybench.analysis.views.costs import Costs
from raybench.errors import UserError
from tests.analysis.ledgers import leg, write

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float, arm: str, trial: int = 0, **columns: Any) -> dict[str, Any]:
    """A leg that begins so many seconds after noon: set-up of 1 s, 3 steps of 1 s (1 of them warm-up)."""
    group = columns.pop("process_group", f"g{trial}")
    return leg(arm, trial, started_at=NOON + timedelta(seconds=seconds), process_group=group, **columns)


def costs(tmp_path: Path, rows: list[dict[str, Any]]) -> Costs:
    return analyse([write(tmp_path / "x.parquet", rows)]).costs


def test_each_second_of_one_machine_is_accounted_for_once(tmp_path: Path) -> None:
    # 4 s each: 0-4, 6-10 (2 s between legs), 20-24 (10 s of a start), 24-28.
    found = costs(tmp_path, [at(0, "ddp"), at(6, "zero1"), at(20, "zero1", 1), at(24, "ddp", 1)])
    assert found.wall_seconds == 28
    assert (found.setup_seconds, found.step_seconds, found.measured_seconds, found.warmup_seconds) == (4, 12, 8, 4)
    assert (found.start_seconds, found.between_seconds, found.failed_seconds) == (10, 2, 0)
    assert found.measured_share == 8 / 28
    assert found.num_machines == 1
    parts = (found.setup_seconds, found.step_seconds, found.eval_seconds, found.start_seconds, found.between_seconds)
    assert sum(parts) == found.wall_seconds


def test_starts_of_blocks_and_what_stands_between_legs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [at(0, "ddp", start_seconds=9.0), at(6, "zero1"), at(20, "zero1", 1, start_seconds=5.0), at(27, "ddp", 1)]
    found = costs(tmp_path, rows)
    assert (found.block_starts, found.between_seconds, found.num_between) == ((9.0, 5.0), 5, 2)
    assert main([str(tmp_path / "x.parquet"), "--costs"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "From Ray Tune's choice of a block to its first leg: 7 s, at most 9 s (2 blocks)." in shown
    assert "2.5 s a leg" in shown


def test_a_sweep_that_stood_still_costs_nothing(tmp_path: Path) -> None:
    assert costs(tmp_path, [at(0, "ddp"), at(4 + 900, "zero1")]).wall_seconds == 8 + 900
    assert costs(tmp_path, [at(0, "ddp"), at(4 + 901, "zero1")]).wall_seconds == 8


def test_the_time_of_a_failed_leg_goes_to_failures(tmp_path: Path) -> None:
    rows = [at(0, "ddp"), at(4, "zero1", failure_kind="timeout", setup_seconds=None), at(64, "zero2")]
    found = costs(tmp_path, rows)
    assert (found.failed_seconds, found.wall_seconds, found.start_seconds) == (60, 68, 0)


def test_machines_are_added_up_and_trials_of_one_machine_share_it(tmp_path: Path) -> None:
    def on(*nodes: str) -> str:
        return json.dumps([{"node": node, "gpus": []} for node in nodes])

    apart = [at(0, "ddp", placement=on("a")), at(0, "ddp", 1, placement=on("b"))]
    assert (costs(tmp_path / "1", apart).wall_seconds, costs(tmp_path / "1", apart).num_machines) == (8, 2)
    across = costs(tmp_path / "2", [at(0, "ddp", placement=on("a", "b")), at(6, "zero1", placement=on("a", "a"))])
    assert (across.wall_seconds, across.step_seconds, across.between_seconds) == (14, 9, 2)
    sharing = costs(tmp_path / "3", [at(0, "ddp", placement=on("a")), at(0, "zero1", 1, placement=on("a"))])
    assert (sharing.wall_seconds, sharing.step_seconds, sharing.setup_seconds) == (4, 3, 1)


def test_verdicts_take_their_arm_and_a_share_of_the_baseline(tmp_path: Path) -> None:
    rows = [
        at(0, "ddp", energy_joules=10.0),
        at(4, "zero1", energy_joules=7.0),
        at(8, "zero2"),
        at(13, "other", setting_id="s1"),
    ]
    found = costs(tmp_path, rows)
    took = {(one.setting_id, one.arm): one.machine_seconds for one in found.verdicts}
    assert took == {("s0", "zero1"): 6, ("s0", "zero2"): 6, ("s1", "other"): 5}
    assert sum(took.values()) == found.wall_seconds
    assert [one.energy_joules for one in found.verdicts] == [12.0, None, None]
    assert found.energy_joules == 17.0


def test_the_command_tells_costs_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path / "x.parquet", [at(0, "ddp"), at(6, "zero1"), at(20, "zero1", 1), at(24, "ddp", 1)]))
    assert main([file, "--costs", "price=3600"]) == 0
    shown = capsys.readouterr().out
    assert "28.00 at 3600 an hour" in shown
    assert re.search(r"measured steps +8(\.0)? s +29 %", shown)
    assert main([file, "--json", "price=3600"]) == 0
    found = json.loads(capsys.readouterr().out)["costs"]
    assert (found["wall_seconds"], found["money"]) == (28, 28)
    promised = {"wall_seconds", "step_seconds", "measured_seconds", "setup_seconds", "start_seconds", "measured_share"}
    assert promised <= found.keys()
    with pytest.raises(UserError, match="price"):
        main([file, "--costs", "price=-1"])
