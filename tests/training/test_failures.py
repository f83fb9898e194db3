"""Failures in words: what torch and DeepSpeed refuse is told with what to do, or with the line that refused it."""

from __future__ import annotations

import pytest
from torch import nn

from raybench.declare.setting import Setting
from raybench.errors import Unsupported
from raybench.training.engines.deepspeed_engine import refusal, refuse
from raybench.training.failures import classify, describe


def raised_by(source: str) -> Exception:
    try:
        exec(compile(source, "refusing.py", "exec"))
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def refuse_without_words() -> None:
    sizes = [1]
    assert sizes == [2]


def test_unused_parameters_name_the_option_that_takes_them() -> None:
    error = RuntimeError("Expected to have finished reduction in the prior iteration before starting a new one. This")
    assert classify(error) == "unsupported"
    assert "find_unused_parameters: true" in describe(error)


def test_a_bare_assertion_shows_its_source_line() -> None:
    try:
        refuse_without_words()
    except AssertionError as error:
        bare = AssertionError().with_traceback(error.__traceback__)
    assert "test_failures.py" in refusal(bare)
    assert "assert sizes == [2]" in refusal(bare)
    assert "assert sizes == [2]" in describe(bare)


def test_a_refusal_with_words_is_told_by_them_alone() -> None:
    assert refusal(raised_by("raise ValueError('stage 7\\nis none')")) == "ValueError: stage 7 is none"
    told = refusal(raised_by("None.items()"))
    assert "'NoneType' object has no attribute 'items'" in told
    assert "refusing.py:1" in told


def test_zenflow_over_a_convolution_is_unsupported_by_name() -> None:
    setting = Setting(model="lenet", dataset="digits", batch_size=16)
    config = {"zero_optimization": {"stage": 2, "zenflow": {"topk_ratio": 0.1}}}
    refuse(config, setting, nn.Linear(4, 2))
    with pytest.raises(Unsupported, match=r"0.weight has more dimensions"):
        refuse(config, setting, nn.Sequential(nn.Conv2d(1, 2, 3)))
