"""An answer says what was compared: memory is not called time, and another time than the step's is named."""

from __future__ import annotations

from raybench.analysis import analyse
from raybench.show import answer
from raybench.show.tables import to_markdown
from raybench.stores.storage import to_path
from tests.conftest import ROOT

LADDER = to_path(str(ROOT / "results/ladder/h200"))


def told(metric: str) -> str:
    return to_markdown(answer.build(analyse([LADDER], metric=metric), [LADDER]))


def test_memory_is_not_called_time() -> None:
    text = told("peak_device_bytes")
    assert "takes 15.3 times as much memory as example (memory ratio 0.065" in text
    assert "The memory ratio is example's peak memory of the device, in bytes, over the arm's" in text
    assert "No arm is shown to take less memory than example by more than 3 %." in text
    assert "as long" not in text
    assert "of the throughput" not in text


def test_another_time_is_named() -> None:
    text = told("setup_seconds")
    assert "Speedup is example's time (building model and engine, compilation included) over the arm's" in text
    assert "e+" in text  # an interval from two trials that differ a lot, in as few digits as it deserves


def test_the_time_of_a_step_goes_without_saying() -> None:
    assert "Speedup is example's time over the arm's" in told("step_seconds")
