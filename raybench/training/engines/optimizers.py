"""A setting's optimizer and learning-rate schedule: the same algorithm, hyper-parameters and kernel in every arm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from raybench.declare.setting import Adam, Lamb, Schedule, Sgd
from raybench.errors import InvalidConfig, Unsupported
from raybench.training.engines.deepspeed_ops import build_optimizer_kernel
from raybench.training.models.torchvision_ops import declare_missing

Choice = Sgd | Adam | Lamb

# torch's flags for each kernel; `auto` leaves the choice to torch.
_KERNELS: dict[str, dict[str, bool | None]] = {
    "auto": {},
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"foreach": False, "fused": True},
}
_TORCH_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def optimizer_class(choice: Choice, *, offloaded: bool = False) -> tuple[Any, dict[str, Any]]:
    """The class of the setting's optimizer, and all its arguments except the parameters.

    `offloaded`: the parameters are in host memory, where DeepSpeed's kernel is CPUAdam.
    """
    options: dict[str, Any] = choice.model_dump(exclude={"name", "kernel"})
    if choice.kernel == "deepspeed":
        return _deepspeed_class(choice, options, offloaded)
    if isinstance(choice, Lamb):
        declare_missing()
        from timm.optim.lamb import Lamb as TimmLamb

        options |= {"max_grad_norm": None, "bias_correction": True, "grad_averaging": True, "trust_clip": False}
        options |= {"always_adapt": False, "decoupled_decay": False, "caution": False}
        return TimmLamb, {**options, "foreach": choice.kernel == "foreach"}
    if isinstance(choice, Adam):
        options["amsgrad"] = False
    return _TORCH_CLASSES[choice.name], {**options, "maximize": False, **_KERNELS[choice.kernel]}


def _deepspeed_class(choice: Choice, options: dict[str, Any], offloaded: bool) -> tuple[Any, dict[str, Any]]:
    build_optimizer_kernel(choice.name, offloaded=offloaded)
    if isinstance(choice, Lamb):
        from deepspeed.ops.lamb import FusedLamb

        return FusedLamb, options
    from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam

    decoupled = choice.name == "adamw"
    if offloaded:
        return DeepSpeedCPUAdam, {**options, "adamw_mode": decoupled, "fp32_optimizer_states": True}
    return FusedAdam, {**options, "adam_w_mode": decoupled, "bias_correction": True}


def build_optimizer(
    choice: Choice, parameters: Iterable[nn.Parameter], *, offloaded: bool = False
) -> torch.optim.Optimizer:
    """The setting's optimizer over the trainable ones of `parameters`.

    Raises InvalidConfig or Unsupported with the library's message.
    """
    kind, options = optimizer_class(choice, offloaded=offloaded)
    try:
        optimizer: torch.optim.Optimizer = kind([p for p in parameters if p.requires_grad], **options)
    except (ValueError, TypeError) as error:
        raise InvalidConfig(f"{kind.__name__}: {error}") from error
    except Exception as error:  # DeepSpeed compiles operators here, and every compiler fails in its own way
        if choice.kernel not in ("deepspeed", "fused"):
            raise
        raise Unsupported(f"{kind.__name__}: {type(error).__name__}: {error}") from error
    return optimizer


def build_scheduler(schedule: Schedule, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """The setting's schedule; None where the rate never changes, so that steps do not pay for one."""
    if schedule == Schedule():
        return None
    return LambdaLR(optimizer, _Factor(schedule))


class _Factor:
    """A schedule as a function for LambdaLR, which the facts can read back."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, step: int) -> float:
        return self.schedule.factor(step)


class StepCounter:
    """Counts the steps that an optimizer actually takes."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.taken = 0
        self._handle = optimizer.register_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.taken += 1

    def remove(self) -> None:
        """Stop counting."""
        self._handle.remove()


_COMPARED = (
    "lr", "weight_decay", "betas", "eps", "momentum", "dampening", "nesterov", "amsgrad", "maximize", "max_grad_norm",
    "max_coeff", "min_coeff", "bias_correction",
)  # fmt: skip
# DeepSpeed's classes by algorithm: (class, whether weight decay is decoupled) -> torch's name.
_ALGORITHMS = {
    ("FusedAdam", True): "AdamW", ("FusedAdam", False): "Adam",
    ("DeepSpeedCPUAdam", True): "AdamW", ("DeepSpeedCPUAdam", False): "Adam",
}  # fmt: skip


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Facts from the live optimizer's parameter groups: class, kernel, hyper-parameters (equal in all groups).

    The class is the algorithm: DeepSpeed's FusedAdam with decoupled weight decay computes AdamW; its kernel is a
    separate fact. The learning rate is the schedule's initial one.
    """
    kind = type(optimizer)
    decoupled = bool(getattr(optimizer, "adam_w_mode", False))
    library = kind.__module__.partition(".")[0]
    algorithm = _ALGORITHMS.get((kind.__name__, decoupled), kind.__name__)
    implied = {"bias_correction": True} if algorithm in ("Adam", "AdamW") else {}  # torch always corrects
    groups = [
        {**implied, **{key: _plain(group[key]) for key in _COMPARED if key in group}}
        | {"lr": _plain(group.get("initial_lr", group.get("lr")))}
        for group in optimizer.param_groups
    ]
    first = groups[0]
    differing = sorted(key for group in groups for key in group if group[key] != first.get(key))
    facts = {"class": algorithm, "kernel": _kernel(optimizer, library), **first}
    return {**facts, **{key: [group.get(key) for group in groups] for key in differing}}


def schedule_facts(scheduler: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The live scheduler's class and options, and the current learning rate."""
    rate = _plain(optimizer.param_groups[0]["lr"])
    if scheduler is None:
        return {"name": "constant", "warmup_steps": 0, "total_steps": None, "lr": rate}
    factor = getattr(scheduler, "lr_lambdas", [None])[0]
    if isinstance(factor, _Factor):
        return {**factor.schedule.model_dump(mode="json"), "lr": rate}
    return {"name": type(scheduler).__name__, "lr": rate}


def state_dtypes(optimizer: torch.optim.Optimizer) -> list[torch.dtype]:
    """The types of the optimizer's state tensors, such as momenta; single numbers such as step counts are left out."""
    return [tensor.dtype for tensor in state_tensors(optimizer) if tensor.dim() > 0]


def state_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The tensors of the optimizer's state, including single numbers."""
    return [
        value
        for state in optimizer.state.values()
        if isinstance(state, dict)
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]


def stepped_tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The weights that the optimizer steps: the model's own, or master copies."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _kernel(optimizer: torch.optim.Optimizer, library: str) -> str:
    if library == "deepspeed":
        return f"deepspeed.{type(optimizer).__name__}"
    group = optimizer.param_groups[0]
    fused, foreach = group.get("fused"), group.get("foreach")
    if fused is None and foreach is None and library == "torch":
        from torch.optim.optimizer import _default_to_fused_or_foreach

        fused, foreach = _default_to_fused_or_foreach(group["params"], differentiable=False, use_fused=False)
    return "fused" if fused else "foreach" if foreach else "for-loop"


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.item()
    return list(value) if isinstance(value, tuple) else value
