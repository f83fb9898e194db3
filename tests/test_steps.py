"""raybench.steps in the loops that people have: plain, transformers' Trainer, Accelerate, Lightning; and in none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raybench import steps
from raybench.training.models.torchvision_ops import declare_missing
from tests.conftest import command_environment


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a sweep would want the steps."""
    monkeypatch.setenv(steps.FOLDER, str(tmp_path))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path


def report(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


class Rows(torch.utils.data.Dataset[Any]):
    """64 samples of a linear problem."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.full((4,), index / 64), "labels": torch.tensor(index / 32)}


class Net(torch.nn.Module):
    """A model as Trainer takes it: it gives the loss first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        out = self.layer(x).squeeze(-1)
        return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}


def test_it_imports_nothing_heavy_and_does_nothing_outside_of_a_sweep(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom raybench import steps\nr = steps.Recorder(4)\nr.step(1.0)\nr.begin()\nr.end()\n"
        "assert not {'torch', 'ray', 'numpy', 'pydantic', 'transformers', 'lightning'} & set(sys.modules), sys.modules"
    )
    environment = {key: value for key, value in command_environment().items() if key != steps.FOLDER}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_step_lasts_from_call_to_call_and_what_begin_cuts_off_is_no_step(folder: Path) -> None:
    recorder = steps.Recorder(8, facts={"gradient_clipping": 1.0})
    time.sleep(0.05)
    recorder.step(2.0)
    time.sleep(0.2)  # evaluation
    recorder.begin()
    recorder.step(1.0)
    recorder.end()
    found = report(folder)
    first, second = found["step_seconds"]
    assert first >= 0.05
    assert second < 0.05
    assert found["losses"] == [[0, 2.0], [1, 1.0]]
    assert found["samples_per_step"] == found["facts"]["global_batch"] == 8
    assert found["facts"]["gradient_clipping"] == 1.0


def test_accelerate(folder: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = torch.utils.data.DataLoader(Rows(), batch_size=8)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    recorder = steps.Recorder(16, model=model, optimizer=optimizer, accelerator=accelerator)
    for batch in loader:
        with accelerator.accumulate(model):
            loss = model(**batch)["loss"]
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            recorder.step(loss)
    recorder.end()
    found = report(folder)
    assert len(found["step_seconds"]) == len(found["losses"]) == 4
    facts = found["facts"]
    assert (facts["num_parameters"], facts["accumulation"], facts["autocast"]) == (5, 2, "off")
    assert (facts["optimizer"]["class"], facts["optimizer"]["momentum"]) == ("SGD", 0.9)


@pytest.mark.slow
def test_transformers_trainer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    declare_missing()  # Trainer imports torchvision
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        str(tmp_path_factory.mktemp("out")), use_cpu=True, report_to=[], max_steps=6, logging_steps=1,
        per_device_train_batch_size=4, gradient_accumulation_steps=2, save_strategy="no", disable_tqdm=True,
        learning_rate=0.01, max_grad_norm=0.5, eval_strategy="steps", eval_steps=3,
    )  # fmt: skip
    trainer = Trainer(model=Net(), args=arguments, train_dataset=Rows(), eval_dataset=Rows())
    trainer.add_callback(steps.TrainerCallback())
    trainer.train()
    found = report(folder)
    assert len(found["step_seconds"]) == 6
    assert [index for index, _ in found["losses"]] == list(range(6))
    facts = found["facts"]
    assert found["samples_per_step"] == facts["global_batch"] == 8
    assert (facts["micro_batch"], facts["accumulation"], facts["workers"]) == (4, 2, 1)
    assert (facts["gradient_clipping"], facts["autocast"], facts["num_parameters"]) == (0.5, "off", 5)
    assert (facts["optimizer"]["class"], facts["optimizer"]["lr"]) == ("AdamW", 0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    declare_missing()  # Lightning imports torchvision
    import lightning.pytorch as pl

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, index: int) -> Any:
            return self.net(**batch)["loss"]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accumulate_grad_batches=2, gradient_clip_val=1.0,
        default_root_dir=tmp_path_factory.mktemp("lightning"), callbacks=[steps.LightningCallback()],
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(Rows(), batch_size=8))
    found = report(folder)
    assert len(found["step_seconds"]) == len(found["losses"]) == 4
    facts = found["facts"]
    assert (found["samples_per_step"], facts["micro_batch"], facts["accumulation"]) == (16, 8, 2)
    assert (facts["num_parameters"], facts["gradient_clipping"], facts["autocast"]) == (5, 1.0, "off")
    assert facts["optimizer"]["class"] == "AdamW"
