"""What a dead process's log and the kernel's say of its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import raybench.cluster.connection  # noqa: F401  # before ray: it decides whether Ray wants a token
from raybench.driver import deaths
from raybench.driver.deaths import caught_signal, says_killed
from raybench.machine.oom import oom_kills

ERR = """:job_id:02000000
:actor_name:RayTrainWorker
*** {} received at time=1795383654 on cpu 0 ***
PC: @     0x7fc179726f36  (unknown)  epoll_wait
Fatal Python error: Segmentation fault
"""
KERNEL = [
    b"6,1201,21354000000,-;raylet invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    b"3,1202,21354435470,-;Memory cgroup out of memory: Killed process 14934 (ray::RayTrainWo) total-vm:10251788kB",
    b"3,1203,22741688251,-;Out of memory: Killed process 145 (ray::RayTrainWo) total-vm:10444060kB",
]


@pytest.mark.parametrize("signal", ["SIGSEGV", "SIGABRT", "SIGTERM"])
def test_the_signal_is_that_of_the_process_and_of_no_other(tmp_path: Path, signal: str) -> None:
    (tmp_path / "worker-a-01000000-77.err").write_text(ERR.format(signal))
    (tmp_path / "worker-b-01000000-177.err").write_text(ERR.format("SIGBUS"))
    (tmp_path / "worker-c-01000000-78.err").write_text(":job_id:02000000\n")
    assert caught_signal(tmp_path, 77) == (signal, str(tmp_path / "worker-a-01000000-77.err"))
    assert caught_signal(tmp_path, 78) == caught_signal(tmp_path, 79) == ("", "")


def test_of_two_processes_with_one_number_the_later_counts(tmp_path: Path) -> None:
    earlier, later = tmp_path / "worker-a-01000000-77.err", tmp_path / "worker-b-01000000-77.err"
    earlier.write_text(ERR.format("SIGSEGV"))
    os.utime(earlier, (1, 1))
    later.write_text("")
    assert caught_signal(tmp_path, 77) == ("", "")


def test_a_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    file = tmp_path / "worker-a-01000000-77.err"
    file.write_text(ERR.format("SIGSEGV") + "x" * 400_000 + ERR.format("SIGFPE"))
    assert caught_signal(tmp_path, 77)[0] == "SIGFPE"


def test_the_kernel_names_whom_it_killed_and_when() -> None:
    assert says_killed(KERNEL, 14934, since=21354.0)
    assert not says_killed(KERNEL, 14934, since=21360.0)  # another one that had this number before
    assert says_killed(KERNEL, 145, since=22000.0)
    assert not says_killed(KERNEL, 1493, since=0.0)


def test_the_kernels_log_is_read_to_its_end_where_it_may_be() -> None:
    records = deaths._kernel_records()
    if records is None:
        pytest.skip("the kernel's log cannot be read here, or is that of other process numbers")
    assert records
    assert not says_killed(records, 2**22 + 1, since=0.0)


def test_a_count_of_oom_kills_is_never_negative() -> None:
    assert oom_kills() >= 0
