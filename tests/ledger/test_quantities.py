"""QUANTITIES: all that derives from it agrees with it; one more costs an entry and the place that measures it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raybench.analysis.legs import NUMBERS, TEXTS
from raybench.ledger.columns import CONTRACT, SCHEMA
from raybench.ledger.dataset import Ledger
from raybench.ledger.outcome import Failure, Measurement
from raybench.ledger.quantities import QUANTITIES, markdown
from tests.conftest import ROOT, command_environment
from tests.ledger.test_dataset import MEASUREMENT, first_leg

# The contract, column by column, as readers outside of raybench rely on it.
PROMISED = """
schema_version int32, sweep string, space string, setting_id string, trial_id string, leg_id string, setting string,
model string, family string, dataset string, precision string, global_batch int32, micro_batch int32,
accumulation int32, workers int32, arm string, engine string, arm_config string, is_baseline bool, repeat int32,
round int32, position int32, seed int64, status string, failure_kind string, failure_message string,
step_seconds list<float64>, warmup_steps int32, data_seconds list<float64>, samples_per_step int32,
peak_device_bytes int64, peak_host_bytes int64, setup_seconds float64, train_seconds float64, eval_seconds float64,
first_loss float64, final_loss float64, accuracy float64, facts string, environment string, started_at timestamp[us UTC]
"""
ARROW = {
    "string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "bool": pa.bool_(), "float64": pa.float64(),
    "list<float64>": pa.list_(pa.float64()), "list<string>": pa.list_(pa.string()),
    "timestamp[us UTC]": pa.timestamp("us", tz="UTC"), "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
}  # fmt: skip


def test_the_contract_is_what_it_was(tmp_path: Path) -> None:
    Ledger(tmp_path).add("s", "quickstart", *first_leg(), MEASUREMENT)
    schema = pq.read_schema(next(tmp_path.glob("*.parquet")))
    promised = dict(column.strip().split(" ", 1) for column in PROMISED.replace("\n", " ").split(","))
    assert {name: schema.field(name).type for name in promised} == {
        name: ARROW[kind] for name, kind in promised.items()
    }
    assert CONTRACT.names == list(promised)


def test_the_documentation_has_every_column_and_no_other() -> None:
    lines = [line for line in (ROOT / "docs/ledger.md").read_text().splitlines() if line.startswith("|")]
    assert lines == [*markdown(contract=True), *markdown(contract=False)], (
        "print the tables again: python -m raybench.ledger.quantities"
    )


def test_every_column_is_declared_once_and_with_all_that_derives_from_it() -> None:
    assert SCHEMA.names == list(QUANTITIES)
    assert {q.name: ARROW[q.type] for q in QUANTITIES.values()} == {field.name: field.type for field in SCHEMA}
    assert all(quantity.meaning for quantity in QUANTITIES.values())
    assert {f.name for f in fields(Measurement)} <= set(QUANTITIES)
    assert {f.name for f in fields(Failure)} - set(QUANTITIES) == {"kind", "message"}
    for shown in ("param", "metric", "report"):
        names = [getattr(q, shown) for q in QUANTITIES.values() if getattr(q, shown)]
        assert len(names) == len(set(names)), shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_seconds", None), ("step_seconds", 0.5), ("step_seconds", ["a"]), ("warmup_steps", 1.5),
        ("peak_host_bytes", True), ("memory_parts", "{}"), ("contaminated", "no"), ("process_group", 3),
    ],
)  # fmt: skip
def test_a_measurement_refuses_what_its_column_cannot_hold(name: str, value: Any) -> None:
    with pytest.raises(AssertionError, match=name):
        Measurement(**{**MEASUREMENT.__dict__, name: value})


def test_impossible_values_are_told() -> None:
    assert QUANTITIES["setup_seconds"].impossible(-1.0)
    assert QUANTITIES["data_seconds"].impossible([0.0, float("nan")])
    assert not QUANTITIES["first_loss"].impossible(-1.0)  # a loss may be anything
    assert not QUANTITIES["epoch_seconds"].impossible([0.5, None])


def test_one_more_quantity_is_an_entry_and_a_measurement(tmp_path: Path) -> None:
    """Its column, its MLflow metric and its place in the analysis come by themselves: no other file knows its name."""
    source = (ROOT / "raybench/ledger/quantities.py").read_text()
    views = 'analysis="number", metric="fan", report="fan"'
    entry = f'    fan_rpm: float | None = measured("float64", "speed of the fan", unit="rpm", {views})'
    end = "    def __post_init__(self) -> None:\n        self.check(MEASURED)"
    before, after = source.split(end)
    package = tmp_path / "quantities.py"
    package.write_text(f"{before}{entry}\n\n{end}{after}")
    script = f"""
import importlib.util, sys
import raybench.ledger
spec = importlib.util.spec_from_file_location("raybench.ledger.quantities", {str(package)!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = raybench.ledger.quantities = module
spec.loader.exec_module(module)
from dataclasses import replace
from pathlib import Path
from raybench.analysis.legs import read_legs
from raybench.ledger.dataset import Ledger
from raybench.tracking.runs import leg_metrics
from tests.ledger.test_dataset import MEASUREMENT, first_leg
row = Ledger(Path({str(tmp_path / "ledger")!r})).add("s", "q", *first_leg(), replace(MEASUREMENT, fan_rpm=1200.5))
legs = read_legs([Path({str(tmp_path / "ledger")!r})])
print(row["fan_rpm"], leg_metrics(row)["fan"], legs.number["fan_rpm"][0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=command_environment(), cwd=ROOT, check=False
    )
    assert done.stdout.split() == ["1200.5"] * 3, done.stderr
    assert not [path for path in (ROOT / "raybench").rglob("*.py") if "fan_rpm" in path.read_text()]


def test_objects_are_json_in_the_file(tmp_path: Path) -> None:
    row = Ledger(tmp_path).add("s", "quickstart", *first_leg(), MEASUREMENT)
    for name, quantity in QUANTITIES.items():
        if quantity.json and row[name] is not None:
            assert isinstance(json.loads(row[name]), dict | list), name
    assert set(TEXTS) & set(NUMBERS) == set()
