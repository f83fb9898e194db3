"""Ctrl-C in a real terminal on a real sweep: once finishes the running legs, twice stops now; both are resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raybench.driver.interruption import StoppedNow, interruptible
from tests.conftest import command_environment
from tests.sweep.processes import MARK, assert_nothing_is_left, kill, processes_of
from tests.terminal import CTRL_C, Terminal

ARGUMENTS = [
    "space=quickstart", "sweep=i", "setting.model=lenet", "repeats=3", "protocol.warmup_steps=2", "protocol.steps=120",
]  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
def test_once_finishes_the_running_leg_and_twice_stops_now(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    environment = command_environment(**{MARK: mark}, RAY_ADDRESS="local")
    command = [sys.executable, "-m", "raybench.sweep", *ARGUMENTS]
    ledgers = tmp_path / "mlruns/ledger/quickstart"

    with Terminal(command, tmp_path, environment) as first:
        first.until(r"runs   lenet digits b32 fp32 w2 \| \w+ \| repeat 0 round 0")
        assert processes_of(mark)
        first.press(CTRL_C)
        first.until("stopping: finishing 1 running leg, then no more; Ctrl-C again stops now")
        assert first.end() == 130
    rows = pq.read_table(ledgers / "i").to_pylist()
    assert 1 <= len(rows) <= 2  # a leg may have ended as the key was pressed
    assert {row["status"] for row in rows} == {"ok"}
    told = " ".join(first.text.split())
    assert f"raybench: stopped; {len(rows)} of 18 legs are in the ledger" in told
    assert "the same command runs the others: python -m raybench.sweep space=quickstart" in told
    assert "Traceback" not in told
    assert_nothing_is_left(mark, ledgers, "i")

    with Terminal(command, tmp_path, environment) as second:
        second.until(rf"resumed: {len(rows)} of 18 legs are in the ledger; {18 - len(rows)} to run")
        second.until_legs(len(rows) + 1, of=18)
        pressed = time.monotonic()
        second.press(CTRL_C)
        second.press(CTRL_C)
        assert second.end() == 130
        assert time.monotonic() - pressed < 60
    again = pq.read_table(ledgers / "i").to_pylist()
    assert len(rows) < len(again) < 18
    assert len({row["leg_id"] for row in again}) == len(again)
    told = " ".join(second.text.split())
    assert f"raybench: stopped; {len(again)} of 18 legs are in the ledger" in told
    assert "Traceback" not in told
    assert_nothing_is_left(mark, ledgers, "i")


@pytest.mark.ray
@pytest.mark.slow
def test_a_recorder_that_cannot_come_up_again_ends_the_sweep_with_a_word(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "raybench.sweep", *ARGUMENTS]
    ledger = tmp_path / "mlruns/ledger/quickstart/i"
    with Terminal(command, tmp_path, command_environment(**{MARK: mark}, RAY_ADDRESS="local")) as terminal:
        terminal.until_legs(1, of=18)
        kept = ledger.rename(tmp_path / "kept")
        ledger.write_text("no folder")  # so that nobody makes it again meanwhile
        kill(mark, "ray::Recorder")
        assert terminal.end() == 1
    told = " ".join(terminal.text.split())
    assert "raybench: the recorder died (RuntimeError: the ledger" in told
    assert "is gone); 0 of 18 legs are in the ledger" in told
    assert "Traceback" not in told
    assert {row["status"] for row in pq.read_table(kept).to_pylist()} == {"ok"}
    assert_nothing_is_left(mark, tmp_path / "mlruns/ledger/quickstart", "i")


HANDLING = """
import sys, time
from raybench.driver.interruption import StoppedNow, interruptible
try:
    with interruptible() as interruption:
        print("ready", flush=True)
        while True:
            time.sleep(0.05)
            if interruption and interruption.requested:
                print("requested", flush=True)
                interruption = None
except StoppedNow as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ([signal.SIGINT, signal.SIGINT], 130),
        ([signal.SIGTERM], 143),
        ([signal.SIGINT, signal.SIGTERM], 143),
        ([signal.SIGHUP], 129),
    ],
)
def test_what_signals_ask_for(signals: list[signal.Signals], code: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HANDLING], stdout=subprocess.PIPE, text=True, env=command_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            for number in signals[:-1]:
                process.send_signal(number)
                assert process.stdout.readline() == "requested\n"
            process.send_signal(signals[-1])
            assert process.wait(timeout=30) == code
        finally:
            process.kill()


def library_that_makes_a_plain_interrupt_of_it(number: signal.Signals | None) -> None:
    try:
        if number is not None:
            signal.raise_signal(number)
    except StoppedNow:
        pass
    raise KeyboardInterrupt


def test_a_signal_keeps_its_number_where_a_library_makes_a_plain_interrupt_of_it() -> None:
    with pytest.raises(StoppedNow) as stopped, interruptible():
        library_that_makes_a_plain_interrupt_of_it(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    with pytest.raises(KeyboardInterrupt) as plain, interruptible():
        library_that_makes_a_plain_interrupt_of_it(None)
    assert not isinstance(plain.value, StoppedNow)
