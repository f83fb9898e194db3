"""A plan as people read it: whether it fits and how long it takes come first; axes, not their product."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from raybench.declare.plan import plan_from_arguments
from raybench.show.outlook import build
from raybench.show.terminal import print_in_order


def shown(tmp_path: Path, **values: str) -> list[str]:
    text = io.StringIO()
    print_in_order(build(*plan_from_arguments(values), tmp_path), Console(file=text, width=100))
    return text.getvalue().splitlines()


def test_the_first_lines_say_whether_it_fits_and_how_long_it_takes(tmp_path: Path) -> None:
    lines = shown(tmp_path, space="cnns", size="small")
    assert lines[0].startswith("cnns: 4 settings x 4 arms, 3 trials each: 12 trials, 96 legs.")
    assert [line.split(":")[0] for line in lines[1:3]] in (["Fits", "Time"], ["Does not fit", "Time"])
    assert any(line.startswith("Does not fit: setting.workers: ") for line in shown(tmp_path, space="cnns", **WIDE))


WIDE = {"setting.workers": "4096", "setting.batch_size": "8192"}


def test_axes_are_shown_and_not_their_product(tmp_path: Path) -> None:
    axes = {"setting.batch_size": "[32,64,128]", "setting.precision": "[fp32,bf16]"}
    lines = shown(tmp_path, space="cnns", size="small", **axes)
    assert lines[0].startswith("cnns: 24 settings")
    text = "\n".join(lines)
    assert "32, 64, 128" in text
    assert "fp32, bf16" in text
    assert text.count("test_efficientnet") == 2  # the axis, and what is done to it for small images


def test_no_constants_and_no_program_text(tmp_path: Path) -> None:
    text = "\n".join(shown(tmp_path, space="zero", size="small"))
    for word in ("2147483647", "wall_clock_breakdown", "{'", "True", "False", "None"):
        assert word not in text
    assert "gradient_clipping: 0.0" in text
