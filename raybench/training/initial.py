"""The model that the arms of a trial begin with: built once, copied for each leg.

Building takes as long as drawing the weights: seconds for a VGG, a minute for a large language model. A copy takes as
long as copying memory. Every leg's facts hold a hash of its weights, and arms with different initial weights are not
compared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from raybench.declare import catalog
from raybench.declare.setting import Setting
from raybench.machine.limits import memory_left
from raybench.training.tasks.task import Task

# Every process of a node keeps a copy, and offloading arms need the same memory.
_MOST_OF_FREE_MEMORY: Final = 1 / 20


@dataclass(frozen=True)
class _Built:
    question: tuple[str, int]  # the setting and the seed
    model: nn.Module
    options: dict[str, Any]
    random_states: tuple[torch.Tensor, Any]  # torch's and NumPy's, after building the model


class InitialModel:
    """The last model built for a leg, on the host."""

    def __init__(self) -> None:
        self._built: _Built | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes kept here for later legs, which do not count as the leg's own."""
        return _num_bytes(self._built.model) if self._built is not None else 0

    def of(self, task: Task, setting: Setting, seed: int) -> nn.Module:
        """The model of a setting, as `task.build_model` gives it right after `seed_everything(seed)`; leaves the same
        random states behind.

        The user's own models and tasks are built each time, because a copy may keep references to the original. So are
        models too large to keep.
        """
        if ":" in setting.task or catalog.origin(setting.model)[0] == "own":
            self._built = None
            return task.build_model()
        question = setting.model_dump_json(), seed
        if self._built is None or self._built.question != question:
            self._built = None  # before building, to free its memory
            model = task.build_model()
            if _num_bytes(model) > memory_left()[0] * _MOST_OF_FREE_MEMORY:
                return model
            self._built = _Built(
                question, model, dict(task.model_options), (torch.get_rng_state(), np.random.get_state())
            )
        built = self._built
        task.model_options = dict(built.options)
        torch.set_rng_state(built.random_states[0])
        np.random.set_state(built.random_states[1])
        return copy.deepcopy(built.model)


def _num_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, tied ones counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in [*model.parameters(), *model.buffers()]}
    return sum(storage.nbytes() for storage in storages.values())
