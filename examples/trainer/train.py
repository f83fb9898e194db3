"""A small language model trained by transformers' Trainer, with or without DeepSpeed: `--deepspeed ds.json`.

    torchrun --nproc-per-node 2 train.py --steps 30 --batch 8 --deepspeed ds.json

The two lines that raybench asks for are marked; without a sweep they do nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from typing import Any

import torch

with contextlib.suppress(ImportError):  # a CPU build of torch beside PyPI's torchvision, which transformers imports
    from raybench.training.models.torchvision_ops import declare_missing

    declare_missing()
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

from raybench import steps  # <- raybench


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Random sequences, the same in every run."""

    def __init__(self, number: int, length: int, vocabulary: int) -> None:
        self.tokens = torch.randint(vocabulary, (number, length), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def main() -> None:
    """Train for `--steps` optimizer steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4, help="sequences a rank")
    parser.add_argument("--deepspeed", default=None, help="a DeepSpeed config")
    arguments = parser.parse_args()
    set_seed(0)  # before the model is made: the Trainer's own comes after it, and arms would begin with other weights
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "output_dir": folder, "max_steps": arguments.steps, "per_device_train_batch_size": arguments.batch,
            "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "report_to": [], "disable_tqdm": True,
            "use_cpu": not torch.cuda.is_available(), "deepspeed": arguments.deepspeed, "seed": 0,
        }  # fmt: skip
        trainer = Trainer(
            model=LlamaForCausalLM(config), args=TrainingArguments(**options), train_dataset=Tokens(4096, 32, 512)
        )
        trainer.add_callback(steps.TrainerCallback())  # <- raybench
        trainer.train()


if __name__ == "__main__":
    main()
