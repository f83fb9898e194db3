"""Predictions against simulated truth: coverage on new models, and "measure it" where there is nothing to go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raybench.analysis import analyse
from raybench.analysis.across.prediction import predict
from raybench.errors import UserError
from raybench.predict import main
from raybench.statistics.regression import Design, calibration, fit
from tests.analysis.ledgers import paired, write


def simulated(random: np.random.Generator, models: int, batches: int = 2, noise: float = 0.02) -> Design:
    """Log speedup grows with log parameters; a model has a deviation of its own; four features say nothing."""
    model = np.repeat(np.arange(models), batches)
    size = random.uniform(13, 20, models)[model]
    columns = {"num_parameters": size, **{f"junk{i}": random.normal(0, 1, models * batches) for i in range(4)}}
    own = random.normal(0, noise, models)[model]
    return Design(columns, model, 0.1 * (size - 16) + own + random.normal(0, noise / 3, models * batches))


@pytest.mark.parametrize("models", [6, 12, 25])
def test_the_interval_covers_new_models(models: int) -> None:
    random, covered, sweeps = np.random.default_rng(models), 0, 400
    for _ in range(sweeps):
        everything = simulated(random, models + 1, 1)
        seen = Design(
            {n: c[:-1] for n, c in everything.columns.items()}, everything.model[:-1], everything.log_speedup[:-1]
        )
        found = fit(seen, list(seen.columns))
        error = everything.log_speedup[-1] - found.predict({n: float(c[-1]) for n, c in everything.columns.items()})
        covered += abs(error) <= found.half_width(0.05)
    assert 0.88 < covered / sweeps < 0.985


def test_the_feature_that_matters_is_found_and_junk_is_not() -> None:
    found = fit(simulated(np.random.default_rng(1), 20), ["num_parameters", "junk0", "junk1", "junk2", "junk3"])
    assert found.features[0] == "num_parameters"
    assert found.coefficients[0] == pytest.approx(0.1, rel=0.1)
    assert found.explained > 0.9
    assert fit(simulated(np.random.default_rng(1), 20), ["junk0", "junk1"]).explained < 0.3


def test_calibration_is_measured_on_whole_models() -> None:
    rates = [calibration(simulated(np.random.default_rng(s), 10), ["num_parameters", "junk0"], 0.05) for s in range(20)]
    assert 0.88 < np.mean(rates) < 0.99
    assert np.isnan(calibration(simulated(np.random.default_rng(0), 4), ["num_parameters"], 0.05))


def ledger(tmp_path: Path, models: int = 12) -> Path:
    random = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for i in range(models):
        parameters = float(10 ** (6 + 2 * i / max(1, models - 1)))
        for batch in (64, 256):
            speedup = np.exp(-0.5 + 0.1 * (np.log10(parameters) - 6)) * np.exp(random.normal(0, 0.01, 3))
            rows += paired(speedup, "zero3", setting_id=f"m{i}b{batch}", model=f"net{i}", global_batch=batch,
                           facts={"num_parameters": parameters, "num_parameter_tensors": 10 + i})  # fmt: skip
    return write(tmp_path / "legs.parquet", rows)


def test_a_clear_case_is_predicted(tmp_path: Path) -> None:
    found = predict(analyse([ledger(tmp_path)]), {"model": "new", "num_parameters": 2e7, "batch_size": 128}, "zero3")
    truth = np.exp(-0.5 + 0.1 * (np.log10(2e7) - 6))
    assert found.answer == "hurts"
    assert found.low < truth < found.high
    assert found.speedup == pytest.approx(truth, rel=0.03)
    assert found.coverage > 0.8
    assert found.measured is None


def test_work_is_that_of_the_setting_and_not_of_its_model(tmp_path: Path) -> None:
    """Every model at two image sizes: only the work for each byte, which the images decide, explains the speedup."""
    rows: list[dict[str, Any]] = []
    for i in range(10):
        for size in (32, 224):
            flops_per_byte = float((i + 1) * size)
            speedup = np.exp(-1 + 0.1 * np.log(flops_per_byte)) * np.array([0.999, 1.0, 1.001])
            rows += paired(speedup, "zero3", setting_id=f"m{i}s{size}", model=f"net{i}",
                           facts={"num_parameters": 1e6, "flops_per_byte": flops_per_byte})  # fmt: skip
    found = predict(analyse([write(tmp_path / "legs.parquet", rows)]), {"model": "new", "flops_per_byte": 500}, "zero3")
    assert found.features == {"flops_per_byte": pytest.approx(0.1, abs=0.005)}
    assert found.speedup == pytest.approx(np.exp(-1 + 0.1 * np.log(500)), rel=0.01)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"num_parameters": 1e10}, "num_parameters=1e+10 lies outside the 1e+06 to 1e+08"),
        ({"batch_size": 4096}, "batch_size=4096 lies outside the 64 to 256"),
        ({"precision": "fp16"}, "no precision fp16 was measured, only fp32"),
        ({"family": "vit"}, "no family vit was measured, only cnn"),
    ],
)
def test_outside_of_what_was_seen_it_says_measure_it(tmp_path: Path, wanted: dict[str, Any], reason: str) -> None:
    found = predict(analyse([ledger(tmp_path)]), {"model": "new", **wanted}, "zero3")
    assert found.answer == "measure it"
    assert found.reasons[0].startswith(reason)


def test_too_few_models_and_an_interval_across_the_margin_say_measure_it(tmp_path: Path) -> None:
    few = predict(analyse([ledger(tmp_path / "few", 3)]), {"model": "new"}, "zero3")
    assert few.answer == "measure it"
    assert few.speedup is None
    wide = predict(analyse([ledger(tmp_path)], margin=0.5), {"model": "new"}, "zero3")
    assert (wide.answer, wide.reasons) == ("measure it", ("the interval crosses the margin",))


def test_a_measured_setting_is_told(tmp_path: Path) -> None:
    found = predict(analyse([ledger(tmp_path)]), {"model": "net3", "batch_size": 64}, "zero3")
    assert found.measured == pytest.approx(found.speedup, rel=0.05)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(ledger(tmp_path))
    assert main([path, "model=new", "num_parameters=2e7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["answer"] == "hurts"
    assert main([path, "model=new", "num_parameters=2e7"]) == 0
    assert capsys.readouterr().out.startswith("zero3 on new: hurts, expected 0.")
    assert main([path]) == 0
    told = capsys.readouterr().out
    assert told.startswith("zero3: the speedup changes by +3.0 % with twice the num_parameter")
    assert main([path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["explanations"][0]["explained"] > 0.8
    for arguments, message in ((["workers=4"], "model= is missing"), (["model=a", "arm=zero4"], "arm=zero4"),
                               (["model=a", "workers=-1"], "must be above 0"), (["mdel=a"], "did you mean model"),
                               (["model=a", "hardware=L4"], "name one of them")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            main([path, *arguments])
