"""A task of one's own: a table of numbers and a regression loss (scikit-learn's diabetes data, 442 rows).

cd examples && raybench sweep space=table.yaml
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from raybench.training.tasks import Forward, Task


class Regression(Task):
    unit = "rows"

    def build_model(self) -> nn.Module:
        width = self.setting.model_options.get("width", 64)
        return nn.Sequential(nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def dataset(self, *, train: bool) -> Dataset:
        table = load_diabetes()
        inputs = torch.tensor(table.data, dtype=torch.float32) * 20  # of variance one
        targets = torch.tensor(table.target, dtype=torch.float32)
        targets = (targets - targets.mean()) / targets.std()
        rows = slice(0, 352) if train else slice(352, None)
        return TensorDataset(inputs[rows], targets[rows])

    def loss(self, model: Forward, batch: list[torch.Tensor]) -> torch.Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs).squeeze(1).float(), targets)
