"""The audit before the run: declared differences between a setting's arms, besides the engine and its options.

No torch here: it reads the space. What the runs really were is for the facts to say.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from raybench.declare import experiment
from raybench.declare.arms import Arm, DeepSpeedArm, FsdpArm, TorchArm
from raybench.declare.deepspeed_config import deepspeed_config, stated_precision
from raybench.declare.setting import Setting
from raybench.text import dotted

# Fields of the trial, and so of all its arms.
_THE_TRIALS = {
    "workers", "nodes", "accelerator", "node_labels", "device", "dataset", "data_root", "download", "loss_scale",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """One declared option in which an arm differs from the baseline."""

    name: str  # dotted, as optimizer.weight_decay
    value: Any
    baseline_value: Any

    @property
    def word(self) -> str:
        """The word that declares it under `differs:`."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.name} {_shown(self.value)} instead of {_shown(self.baseline_value)}"


def declared_options(arm: Arm, setting: Setting) -> dict[str, Any]:
    """The options that an arm trains with, by dotted name, as far as they are declared: the setting, and the engine
    options and DeepSpeed sections about the same things. Buffer broadcasts, which matter to some models only, are left
    to the facts."""
    options = dict(dotted(setting.model_dump(mode="json", exclude=_THE_TRIALS), whole={"model_options"}))
    options["communication_dtype"] = None  # gradients are sent in their own type
    if isinstance(arm, TorchArm) and arm.communication_hook != "none":
        options["communication_dtype"] = arm.communication_hook
    elif isinstance(arm, FsdpArm):
        options["communication_dtype"] = arm.reduce_dtype
    elif isinstance(arm, DeepSpeedArm):
        options |= _written_in_config(arm, setting)
    return options


def _written_in_config(arm: DeepSpeedArm, setting: Setting) -> dict[str, Any]:
    """The options stated by the sections of an arm's DeepSpeed config, with "auto" filled in; defaults of missing keys
    are not included."""
    config = deepspeed_config(arm, setting)
    stated = stated_precision(config, setting)
    optimizer, scheduler = config.get("optimizer"), config.get("scheduler")
    if optimizer is not None:
        parameters = optimizer.get("params") or {}
        name = str(optimizer["type"]).lower()
        # DeepSpeed's Adam is AdamW by default.
        stated["optimizer.name"] = "adamw" if name == "adam" and parameters.get("adam_w_mode", True) else name
        same = dict(dotted({"optimizer": setting.optimizer.model_dump(mode="json")}))
        stated |= {f"optimizer.{key}": v for key, v in parameters.items() if f"optimizer.{key}" in same}
    if scheduler is not None:
        stated["schedule.name"] = str(scheduler["type"])
    if "communication_data_type" in config:
        stated["communication_dtype"] = config["communication_data_type"]
    if config.get("compile", {}).get("deepcompile"):
        stated["compile"] = "deepcompile"
    return stated


def differences(options: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Difference]:
    """The differences between two arms' declared options, by name. The kind of mixed precision matters only where there
    is any; of two different optimizers or schedules only the name is reported."""
    names = {name for name in options if name in baseline and options[name] != baseline[name]}
    if not {options["precision"], baseline["precision"]} & {"bf16", "fp16"} or "precision" in names:
        names.discard("mixed_precision")
    for kind in ("optimizer", "schedule"):
        if f"{kind}.name" in names:
            names = {name for name in names if not name.startswith(f"{kind}.") or name == f"{kind}.name"}
    return [Difference(name, options[name], baseline[name]) for name in sorted(names)]


def undeclared(found: list[Difference], differs: Collection[str]) -> list[Difference]:
    """The differences that the space does not declare."""
    return [one for one in found if not experiment.is_declared(one.name, differs)]


def links(arm: Arm, setting: Setting, before: Arm, before_setting: Setting) -> list[str]:
    """The declared differences between an arm of a chain and the one before; a chain wants exactly one.

    Each field of the setting counts as one difference, the engine with all its options as another.
    """
    found = differences(declared_options(arm, setting), declared_options(before, before_setting))
    things = list(dict.fromkeys(one.word for one in found if one.name != "communication_dtype"))
    if arm.model_dump(exclude={"setting"}) != before.model_dump(exclude={"setting"}):
        things.append("engine" if arm.engine != before.engine else f"{arm.engine}'s options")
    return things


def known_words() -> list[str]:
    """Every word that a space may put under `differs`."""
    return sorted({*Setting.model_fields, *experiment.DECLARABLE, *experiment.COMPARED})


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
