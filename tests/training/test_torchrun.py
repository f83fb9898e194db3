"""The same legs without Ray: a plan on disk, torchrun, real engines, two ranks."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from raybench.ledger.dataset import Ledger
from tests.conftest import Commands

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Makes `import ray` fail, as where Ray is not installed.
NO_RAY = "import sys; sys.modules['ray'] = None\n"
ARMS = "".join(
    f"  zero{stage}: {{engine: deepspeed, config: {{zero_optimization: {{stage: {stage}}}}}}}\n" for stage in range(4)
)
SPACE = f"""
setting: {{model: lenet, dataset: digits, batch_size: 32, workers: 2, optimizer: {{name: adamw, weight_decay: 0.01}}}}
arms:
  ddp: {{engine: torch}}
{ARMS}
protocol: {{warmup_steps: 2, steps: 8, rounds: 1}}
repeats: 1
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("torchrun")
    commands = Commands(folder)
    (folder / "zeros.yaml").write_text(SPACE)
    (folder / "sitecustomize.py").write_text(NO_RAY)
    (folder / "plan.json").write_text(commands.run("plan", "space=zeros.yaml", "--json").stdout)
    environment = {**commands.environment, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}"
    control = subprocess.run([sys.executable, "-c", "import ray"], env=environment, capture_output=True, check=False)
    assert b"import of ray halted" in control.stderr
    arguments = ["--standalone", "--nproc-per-node", "2", "-m", "raybench.training", "plan.json", "ledger=led"]
    for _ in range(2):  # the second finds every leg but one in the ledger
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *arguments], cwd=folder, env=environment,
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        ledger = Ledger(folder / "led")
        if not ledger.withdrawn():
            ledger.withdraw([row["leg_id"] for row in ledger.rows() if row["arm"] == "zero0"], "to be tried again")
    assert re.findall(r"(\w+) round 0", done.stdout) == ["zero0"]
    ledger.finish_withdrawals()  # as the next sweep does: what was measured again stays
    return pq.read_table(folder / "led").to_pylist()


def test_ddp_and_zero_0_to_3_are_the_same_training(rows: list[dict]) -> None:
    assert [row["status"] for row in rows] == ["ok"] * 5, [row["failure_message"] for row in rows]
    assert {row["arm"] for row in rows} == {"ddp", "zero0", "zero1", "zero2", "zero3"}
    losses = {row["arm"]: (row["first_loss"], row["final_loss"]) for row in rows}
    for first, final in losses.values():
        assert first == pytest.approx(losses["ddp"][0], rel=1e-6)
        assert final == pytest.approx(losses["ddp"][1], rel=1e-5)
        assert final < first


def test_a_leg_that_was_withdrawn_is_measured_as_another_attempt(rows: list[dict]) -> None:
    assert {row["arm"] for row in rows if row["attempt"] == 1} == {"zero0"}


def test_the_facts_agree_where_they_must(rows: list[dict]) -> None:
    facts = {row["arm"]: json.loads(row["facts"]) for row in rows}
    norms = {arm: each.pop("first_gradient_norm") for arm, each in facts.items()}
    assert norms == pytest.approx(dict.fromkeys(norms, norms["ddp"]), rel=1e-5)
    losses = {arm: each.pop("first_loss") for arm, each in facts.items()}
    assert losses == pytest.approx(dict.fromkeys(losses, losses["ddp"]), rel=1e-6)
    compared = {arm: {key: value for key, value in each.items() if key != "informative"} for arm, each in facts.items()}
    for arm, each in compared.items():
        assert each == compared["ddp"], arm


def test_no_timer_of_deepspeed_runs(rows: list[dict]) -> None:
    for row in rows:
        if row["engine"] == "deepspeed":
            config = json.loads(row["facts"])["informative"]["deepspeed_config"]
            assert config["timers"] == {"throughput": {"enabled": False}}
            assert config["wall_clock_breakdown"] is False
            assert config["gradient_clipping"] == 0.0
