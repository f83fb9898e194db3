"""Hand-written training, by DDP and by DeepSpeed, of a LeNet on scikit-learn's digits and of a GPT-2 on Python's help
texts: nothing of raybench in here."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def lenet() -> nn.Sequential:
    """DeepSpeed's CIFAR example's network."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def split() -> tuple[TensorDataset, TensorDataset]:
    """1,437 digits to train on and 360 to test with, 32x32."""
    digits = load_digits()
    pixels = torch.tensor(digits.images / 16.0, dtype=torch.float32)[:, None]
    pixels = interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
    pixels = (pixels - pixels.mean()) / pixels.std()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    train, test = (
        TensorDataset(pixels[keep].repeat(1, 3, 1, 1), torch.tensor(digits.target)[keep])
        for keep in (order[:1437], order[1437:])
    )
    return train, test


def loader(seed: int, batch_size: int) -> DataLoader[Any]:
    """This rank's share of the training digits, shuffled by the seed."""
    data, _ = split()
    sampler = DistributedSampler(data, shuffle=True, seed=seed, drop_last=True)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, drop_last=True)


def ddp(seed: int, batch_size: int, steps: int, clip: float, lr: float) -> list[float]:
    """Losses of this rank under DistributedDataParallel with AdamW, no weight decay."""
    torch.manual_seed(seed)
    model = DistributedDataParallel(lenet())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for _, (images, labels) in zip(range(steps), loader(seed, batch_size), strict=False):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


def epochs(
    seed: int, world: int, batch_size: int, num_epochs: int, lr: float, eps: float
) -> tuple[list[float], list[float]]:
    """(losses of the steps, test accuracies of the epochs) of one process that sees what `world` ranks would see.

    `batch_size` is one rank's. AdamW, no weight decay.
    """
    train, test = split()
    torch.manual_seed(seed)
    model = lenet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, eps=eps)
    losses, accuracies = [], []
    samplers = [DistributedSampler(train, world, rank, seed=seed, drop_last=True) for rank in range(world)]
    loaders = [DataLoader(train, batch_size, sampler=sampler, drop_last=True) for sampler in samplers]
    for epoch in range(num_epochs):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for batches in zip(*loaders, strict=True):
            optimizer.zero_grad()
            images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        with torch.no_grad():
            right = model(test.tensors[0]).argmax(1) == test.tensors[1]
        accuracies.append(right.float().mean().item())
    return losses, accuracies


def zero(seed: int, batch_size: int, steps: int, stage: int, lr: float, config: dict[str, Any]) -> list[float]:
    """Losses of this rank under DeepSpeed with torch's AdamW, no weight decay; `config` is added to a minimal one."""
    import deepspeed

    torch.manual_seed(seed)
    model = lenet()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0),
        config={
            "train_micro_batch_size_per_gpu": batch_size,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000},
            **config,
        },
        dist_init_required=False,
    )
    losses = []
    for _, (images, labels) in zip(range(steps), loader(seed, batch_size), strict=False):
        loss = cross_entropy(engine(images), labels)
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    engine.destroy()
    return losses


def gpt(seed: int, batch_size: int, length: int, steps: int, lr: float, stage: int | None) -> list[float]:
    """Losses of this rank of a small GPT-2 over bytes, under DDP, or under DeepSpeed where a ZeRO stage is given."""
    from pydoc_data.topics import topics

    from transformers import GPT2Config, GPT2LMHeadModel

    texts = [topics[name].encode() for name in sorted(topics)]
    left = round(0.9 * sum(map(len, texts)))
    kept = []
    for text in texts:
        if len(text) >= left:
            kept.append(text[: text.find(b"\n", left) + 1])
            break
        kept.append(text)
        left -= len(text)
    tokens = torch.tensor(list(b"\0".join(kept)))
    count = (len(tokens) - 1) // length
    data = torch.stack([tokens[i * length : (i + 1) * length + 1] for i in range(count)])
    sampler = DistributedSampler(data, shuffle=True, seed=seed, drop_last=True)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, eps=1e-6, weight_decay=0.0)
    wrapped: Any = None
    if stage is None:
        wrapped = DistributedDataParallel(model)
    else:
        import deepspeed

        config = {"train_micro_batch_size_per_gpu": batch_size, "gradient_clipping": 0.0,
                  "zero_optimization": {"stage": stage, "reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000}}  # fmt: skip  # noqa: E501
        wrapped, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    losses = []
    for _, batch in zip(range(steps), DataLoader(data, batch_size, sampler=sampler, drop_last=True), strict=False):  # type: ignore[arg-type]
        logits = wrapped(batch[:, :-1]).logits
        loss = cross_entropy(logits.reshape(-1, 256), batch[:, 1:].reshape(-1))
        if stage is None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        else:
            wrapped.backward(loss)
            wrapped.step()
        losses.append(loss.item())
    if stage is not None:
        wrapped.destroy()
    return losses
