"""One small ledger with something for every figure: families, arms, phases, memory, failures, workers, odd names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.analysis.ledgers import leg, write

ODD = "<script>alert('x')</script> $a_b$ & 50%"
SPEEDUPS = {"ddp": 1.0, "zero1": 1.005, "zero3": 0.7, "compiled": 1.25}


def rich_ledger(folder: Path) -> Path:
    """Four settings of three families, four arms, three trials of two rounds; some legs of zero3 fail."""
    rows = []
    for number, (setting, family) in enumerate((("a", "cnn"), ("b", "cnn"), ("c", "vit"), ("d", "own"))):
        for trial in range(3):
            for round_ in range(2):
                for place, arm in enumerate(SPEEDUPS):
                    position = place if round_ == 0 else 7 - place
                    rows.append(_leg(arm, number, setting, family, trial, round_, position))
    return write(folder / "legs.parquet", rows).parent


def _leg(arm: str, number: int, setting: str, family: str, trial: int, round_: int, position: int) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "setting_id": setting, "setting": ODD if setting == "d" else f"net {setting} b8", "family": family,
        "model": "net", "workers": 2 ** (number % 2 + 1), "global_batch": 8, "position": position,
        "facts": {"gradient_clipping": 0.0, "informative": {"wrapper": arm}},
        "arm_config": '{"config": {"zero_optimization": {"stage": 3}}}' if arm == "zero3" else "{}",
        "environment": {"gpu": "H100", "a_word_that_no_line_holds": "x" * 90},
        "peak_device_bytes": int(2**30 * (1.0 if arm == "ddp" else 0.8) * (1 + 0.01 * trial)),
    }  # fmt: skip
    if arm == "zero3" and setting == "c":
        return leg(arm, trial, round_, failure_kind="out_of_memory", failure_message="<b>no</b> room", **shared)
    base = 0.01 * (number + 1) * (1 + 0.02 * trial + 0.003 * position) / SPEEDUPS[arm]
    steps = [base * (2.0 if step < 2 else 1 + 0.01 * ((step * 7 + trial + place_of(arm)) % 5)) for step in range(12)]
    phases = {"data": 0.05, "forward": 0.3, "backward": 0.5, "optimizer": 0.1}
    lists = {f"{phase}_seconds": [share * step for step in steps] for phase, share in phases.items()}
    if setting == "a":  # trained for two epochs of six steps
        lists |= {
            "step_losses": [2.0 / (step + 1) for step in range(12)],
            "epoch_seconds": [sum(steps[:6]), sum(steps[6:])],
            "epoch_accuracy": [0.5, 0.8],
        }
    return leg(arm, trial, round_, steps, warmup_steps=2, **lists, **shared)


def place_of(arm: str) -> int:
    return list(SPEEDUPS).index(arm)
