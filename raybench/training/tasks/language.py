"""Language modelling: each token predicts the next one, or masked tokens are predicted (BERT and similar models).

FLOPs of a trained token, forward and backward: 6 N + 12 L H Q T, with N the parameters that are multiplied (look-up
tables excluded), L layers, H heads of size Q, T tokens of a sequence (Chowdhery et al. 2022, appendix B; Kaplan et al.
2020, section 2.1). As there, causal attention is not halved. Frozen parameters need no weight gradient: 4 N_frozen.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, Sampler

from raybench.declare import catalog, texts
from raybench.declare.memory_need import Shape
from raybench.declare.setting import Setting
from raybench.errors import BadData, InvalidConfig
from raybench.machine.kept import kept, name_of
from raybench.training.models.named import versions
from raybench.training.models.user_code import load_own
from raybench.training.tasks import tokens, transformers_models
from raybench.training.tasks.task import Forward, Task, logits_of
from raybench.training.tasks.transforms import SeededOrder
from raybench.training.tasks.trees import Tree


class Language(Task):
    """Language modelling: a model turns token sequences into logits, which get a cross entropy."""

    unit: ClassVar[str] = "sequences"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        assert setting.sequence_length is not None
        self.length = setting.sequence_length
        own = catalog.origin(setting.model)[0] == "own"
        self.config: Any = None if own else _config(setting.model_dump_json())
        self.masked = not own and transformers_models.objective(self.config) == "masked"

    @property
    def vocabulary(self) -> int:
        """The size of the model's vocabulary."""
        if self.config is not None:
            return int(self.config.get_text_config().vocab_size)
        return int(tokens.vocabulary(self.setting) or self.setting.model_options.get("vocabulary", 50_257))

    def build_model(self) -> nn.Module:
        problem = _problem(self.setting.model_dump_json())
        if problem:
            raise InvalidConfig(problem)
        model = self.construct()
        if self.config is not None:
            self.model_options = transformers_models.options_of(model, self.setting)
        return model

    def construct(self) -> nn.Module:
        """The model before any freezing or adapters."""
        if self.config is not None:
            return transformers_models.build(self.config, self.setting)
        options = {key: value for key, value in self.setting.model_options.items() if key != "vocabulary"}
        model: nn.Module = load_own(self.setting.model)(
            vocabulary=self.vocabulary, sequence_length=self.length, **options
        )
        return model

    def dataset(self, *, train: bool) -> Dataset[Any]:
        data = tokens.sequences(self.setting, self.vocabulary, train=train)
        if not self.masked:
            return data
        return tokens.Masked(data, tokens.mask_token(self.setting, self.vocabulary), self.vocabulary)

    def order(self, sampler: Sampler[int], seed: int) -> Sampler[Any]:
        if not self.masked or self.one_batch:
            return sampler
        return SeededOrder(sampler, self.num_samples(train=True), seed)  # type: ignore[arg-type]

    @property
    def one_batch(self) -> bool:
        return self.setting.dataset == "synthetic_tokens"

    def _split(self, batch: Tree) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets, each (batch, length)."""
        if self.masked:
            return batch[0], batch[1]
        return batch[:, :-1], batch[:, 1:]

    def loss(self, model: Forward, batch: Tree) -> torch.Tensor:
        """Cross entropy per predicted token, in fp32 whatever the engine computes in, outside any autocast."""
        inputs, targets = self._split(batch)
        return cross_entropy(logits_of(model(inputs)).float().flatten(0, 1), targets.flatten())

    def score(self, model: Forward, batch: Tree, counted: int) -> dict[str, torch.Tensor]:
        inputs, targets = self._split(batch)
        logits, targets = logits_of(model(inputs))[:counted].float(), targets[:counted]
        return {
            "loss": cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"),
            "tokens": (targets != tokens.IGNORED).sum(),
        }

    def results(self, sums: dict[str, float]) -> dict[str, float | None]:
        loss = sums["loss"] / sums["tokens"]
        bits = None
        if not self.masked and not self.one_batch:
            setting = self.setting
            text = tokens.encoded(setting.dataset, setting.data_root, setting.tokenizer, train=False)
            bits = loss / math.log(2) * len(text.tokens) / text.num_bytes
        return {"loss": loss, "bits_per_byte": bits}

    def check_data(self, *, test_too: bool, rank: int = 0, world: int = 1) -> None:
        texts.check_text(self.setting.dataset, self.setting.data_root, self.setting.tokenizer)
        super().check_data(test_too=test_too, rank=rank, world=world)

    def problem(self) -> str:
        return _problem(self.setting.model_dump_json())

    def data_digest(self) -> str:
        return tokens.digest(self.setting, self.vocabulary)

    def batch_facts(self, batch: Tree) -> dict[str, Any]:
        return {"sequence_length": self.length, "objective": "masked" if self.masked else "causal"}

    def shape(self, model_facts: dict[str, Any]) -> Shape | None:
        if self.config is None:
            return None
        config = self.config.get_text_config()
        layers, hidden = (getattr(config, key, None) for key in ("num_hidden_layers", "hidden_size"))
        if not layers or not hidden:
            return None
        return Shape(layers, hidden, config.vocab_size, model_facts["num_parameters"])

    def work_facts(self, model: nn.Module, model_facts: dict[str, Any]) -> dict[str, Any]:
        attention = transformers_models.attention_flops(model, self.length)
        if attention is None:
            return {}
        multiplying, frozen = transformers_models.multiplying_parameters(model)
        a_token = 6 * multiplying - 2 * frozen + attention
        flops = a_token * self.length
        return {
            "flops_per_token": a_token,
            "training_flops_per_sample": flops,
            "flops_per_byte": flops / (4 * model_facts["num_trainable_parameters"]),
        }


@cache
def _config(setting: str) -> Any:
    chosen = Setting.model_validate_json(setting)
    data = tokens.vocabulary(chosen)
    config = transformers_models.build_config(chosen, data)
    if data is not None and chosen.tokenizer is None and transformers_models.objective(config) == "masked":
        config = transformers_models.build_config(chosen, data + 1)  # byte data have no token to spare for the mask
    return config


@cache
def _problem(setting: str) -> str:
    """What is wrong with a model, tried on shapes without computing; empty where nothing is.

    Results for library models are kept on this machine: torch imports its compiler for this (3 s a process).
    """
    task = Language(Setting.model_validate_json(setting))
    batch = 2 if task.setting.batch_size == "max" else min(task.setting.micro_batch, 2)
    if task.config is None:
        return _tried(task, batch)
    options = task.setting.model_dump(mode="json", include={"model", "model_options"})
    question = [options, task.config.to_dict(), batch, task.length, task.vocabulary, versions()]
    answer = kept(name_of("language", question), lambda: {"problem": _tried(task, batch)})
    return str((answer or {}).get("problem", ""))


def _tried(task: Language, batch: int) -> str:
    expected = (batch, task.length, task.vocabulary)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            model = task.construct()
            shape = tuple(logits_of(model(torch.zeros(batch, task.length, dtype=torch.int64))).shape)
    except (InvalidConfig, BadData) as error:
        return str(error)
    except Exception as error:  # a model may raise anything
        if "meta" in str(error).lower():  # it reads values, which meta tensors lack
            return ""
        return f"{task.setting.model}: {type(error).__name__}: {' '.join(str(error).split()):.500}"
    if shape != expected:
        return f"{task.setting.model} is no language model: it gives {shape}, not {expected} logits"
    return ""
