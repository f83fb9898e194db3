"""A task of one's own: one step of a denoising diffusion model (Ho et al. 2020) on scikit-learn's 8x8 digits.

cd examples && raybench sweep space=diffusion.yaml
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from raybench.training.tasks import Forward, Task

STEPS = 100
KEPT = torch.cumprod(1 - torch.linspace(1e-4, 0.05, STEPS), 0)  # the share of the image that is left after each step


class Denoiser(nn.Module):
    """Says which noise was added to images (batch, 1, 8, 8) up to the step t (batch,) of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Embedding(STEPS, width)
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.middle = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU())
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.leave(self.middle(self.enter(noisy) + self.time(t)[:, :, None, None]))


class Denoising(Task):
    unit = "images"

    def build_model(self) -> nn.Module:
        return Denoiser(self.setting.model_options.get("width", 32))

    def dataset(self, *, train: bool) -> Dataset:
        images = torch.tensor(load_digits().images / 8 - 1, dtype=torch.float32)[:, None]
        fixed = torch.Generator().manual_seed(0)  # noise and steps belong to the sample: the same in every arm
        noise = torch.randn(images.shape, generator=fixed)
        t = torch.randint(STEPS, (len(images),), generator=fixed)
        data = TensorDataset(images, noise, t)
        return torch.utils.data.Subset(data, range(1500) if train else range(1500, len(images)))

    def loss(self, model: Forward, batch: list[torch.Tensor]) -> torch.Tensor:
        images, noise, t = batch
        kept = KEPT.to(images.device)[t][:, None, None, None]
        noisy = kept.sqrt() * images + (1 - kept).sqrt() * noise
        return nn.functional.mse_loss(model(noisy, t).float(), noise)
