"""Tokens per second of raybench's loop against hand-written ones: a small GPT-2, in plain PyTorch and under DeepSpeed.

    python benchmarks/language.py [rounds=20] [steps=20] [stage=0]

All loops train the same model, batches of 8 x 128 random tokens and AdamW, in one process, in blocks whose order turns.
Printed are tokens per second by an outside timer, and the ratio of raybench's to the hand-written loop's, as the median
over rounds; and that the losses are the same. The two should lie within 2 %.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from raybench.cli import parse_script, run_command
from raybench.declare.arms import DeepSpeedArm, TorchArm
from raybench.declare.plan import Leg
from raybench.declare.setting import Setting
from raybench.training.engines import build_engine
from raybench.training.engines.deepspeed_ops import import_deepspeed
from raybench.training.loader import Batches
from raybench.training.loop import run_steps
from raybench.training.models.torchvision_ops import declare_missing
from raybench.training.ranks import Ranks
from raybench.training.stopwatch import HostClock
from raybench.training.tasks import build_task

CPU = torch.device("cpu")
Block = Callable[[int], list[float]]  # steps -> losses
SETTING = Setting.model_validate({
    "model": "hf/gpt2", "model_options": {"n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 4096},
    "dataset": "synthetic_tokens", "sequence_length": 128, "batch_size": 8,
    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},
})  # fmt: skip


def ours(stage: int | None) -> Block:
    """raybench's task, engine and loop, as a leg runs them."""
    task = build_task(SETTING)
    torch.manual_seed(0)
    arm = TorchArm(engine="torch") if stage is None else DeepSpeedArm(engine="deepspeed", zero=stage)
    leg = Leg(leg_id="", arm_name="", arm=arm, is_baseline=True, setting=SETTING, round=0, position=0)
    engine = build_engine(leg, task.build_model().train(), CPU)
    batches = iter(Batches(task, 0, 0, CPU))

    def block(steps: int) -> list[float]:
        losses = run_steps(engine, batches, task.loss, HostClock(), num_steps=steps, accumulation=1, phases=False)
        return [float(loss) for loss in losses]

    return block


def by_hand(stage: int | None) -> Block:
    """What a user would write."""
    declare_missing()  # transformers imports torchvision
    from transformers import GPT2Config, GPT2LMHeadModel

    tokens = next(iter(Batches(build_task(SETTING), 0, 0, CPU)))
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=128, n_layer=4, n_head=4, vocab_size=4096, bos_token_id=None, eos_token_id=None, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, foreach=True)
    engine = None
    if stage is not None:
        import deepspeed

        chosen = {
            "train_micro_batch_size_per_gpu": 8, "gradient_clipping": 0.0, "steps_per_print": 10**9,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 2 * 10**6, "allgather_bucket_size": 2 * 10**6},
        }  # fmt: skip
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=chosen, dist_init_required=False)

    def block(steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            logits = (engine or model)(tokens[:, :-1]).logits
            loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            if engine is None:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            else:
                engine.backward(loss)
                engine.step()
            losses.append(loss.detach())
        return [float(loss) for loss in losses]

    return block


def compare(name: str, stage: int | None, rounds: int, steps: int) -> None:
    """Print a line."""
    blocks = {"ours": ours(stage), "by hand": by_hand(stage)}
    seconds: dict[str, list[float]] = {loop: [] for loop in blocks}
    same = blocks["ours"](steps) == blocks["by hand"](steps)  # warms up, too
    for number in range(rounds):
        for loop in list(blocks)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            blocks[loop](steps)
            seconds[loop].append(time.perf_counter() - begun)
    rates = {loop: 8 * 128 * steps / statistics.median(found) for loop, found in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["by hand"], strict=True))
    print(
        f"{name:<10} ours {rates['ours']:,.0f} tokens/s, by hand {rates['by hand']:,.0f}, ratio {ratio:.3f}, losses "
        f"{'the same' if same else 'DIFFERENT'}",
        flush=True,
    )


def main(argv: list[str]) -> int:
    """Compare the loops in plain PyTorch and under DeepSpeed. Returns 0."""
    values = parse_script(__doc__ or "", {"rounds": 20, "steps": 20, "stage": 0}, argv)
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29731"}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo")
    import_deepspeed(Ranks(0, 1, CPU, None))
    stage = values.pop("stage")
    compare("torch", None, **values)
    compare(f"zero{stage}", stage, **values)
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    run_command(main)
