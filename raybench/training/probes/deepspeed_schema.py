"""Every key that the installed DeepSpeed reads from a config, as one JSON object on the last line of stdout.

    python -m raybench.training.probes.deepspeed_schema

A child process of commands that plan (`declare.schema`), which import neither torch nor deepspeed. Nothing is listed
by hand: sections that are DeepSpeed's pydantic models are read from their fields; for all others `DeepSpeedConfig`
reads a config that records every key it is asked for.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import json
import pathlib
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

_PROBE = "raybench_probe"
_DEEPEST = 5  # levels of sections below a config
_UNKNOWN = object()
_BATCH = {"train_batch_size": 1, "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
# Sections whose keys are the arguments of the class named by `type`.
_BUILT = ("optimizer", "scheduler")
# Copied as a whole, so reading them does not reveal every key.
_COPIED = (
    ("data_efficiency", "data_routing", "random_ltd"),
    ("data_efficiency", "data_sampling", "curriculum_learning"),
)


class _Asked(dict[str, Any]):
    """A mapping that records which keys are read, and with what default."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.asked: dict[str, Any] = {}

    def _note(self, key: Any, default: Any = _UNKNOWN) -> None:
        if isinstance(key, str) and (key not in self.asked or self.asked[key] in (_UNKNOWN, None)):
            self.asked[key] = default

    def __contains__(self, key: object) -> bool:
        self._note(key)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key, default)
        return super().get(key, default)

    def keys(self) -> Any:
        return self


class _IsModel(Exception):
    """The section is a pydantic model of DeepSpeed's."""

    def __init__(self, model: type) -> None:
        super().__init__(model.__name__)
        self.model = model


def main() -> int:
    """Print the schema. Returns 0."""
    import deepspeed
    from deepspeed.runtime import config as reading

    removed = dict(getattr(reading, "_REMOVED_TOP_LEVEL_CONFIG_KEYS", {}))
    inside_zero = getattr(reading, "_REMOVED_ZERO_CONFIG_KEYS", {})
    removed |= {f"zero_optimization.{key}": words for key, words in inside_zero.items()}
    # Some keys are read only where there is a process group.
    reading.dist.get_rank, reading.dist.get_world_size = lambda *_: 0, lambda *_: 1
    keys = _keys_below(())
    for section in _BUILT:
        keys[section]["keys"]["params"] = {"kinds": ["mapping", "null"], "free": True}
    schema = {
        "version": deepspeed.__version__,
        "keys": {key: value for key, value in keys.items() if key not in removed},
        "removed": removed,
        "optimizers": _optimizers(),
        "schedulers": _schedulers(),
    }
    print()
    print(json.dumps(schema, sort_keys=True))
    return 0


def _keys_below(place: tuple[str, ...]) -> dict[str, Any]:
    """The schema below a section that DeepSpeed reads key by key; {} where it is no section."""
    asked: dict[str, Any] = {}
    for switched_on in (False, True):
        for key, default in _asked_at(place, switched_on).items():
            if key not in asked or asked[key] in (_UNKNOWN, None):
                asked[key] = default
    return {key: _spec((*place, key), default) for key, default in sorted(asked.items()) if key != _PROBE}


def _asked_at(place: tuple[str, ...], switched_on: bool) -> dict[str, Any]:
    """The keys that DeepSpeed reads from a section, each with its default. Raises _IsModel."""
    from deepspeed.runtime.config import DeepSpeedConfig

    section = _Asked({**({_PROBE: 1} if place else _BATCH), **({"enabled": True} if switched_on and place else {})})
    config: dict[str, Any] = section
    for depth in range(len(place) - 1, -1, -1):
        # A section is read only where the sections around it are enabled.
        around = ({"enabled": True} if depth else _BATCH) | {place[depth]: config}
        config = _Asked(around)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            DeepSpeedConfig(config)
        except _IsModel:
            raise
        except Exception:  # noqa: S110  the probe is no valid config; the keys read so far are recorded
            pass
    return section.asked


def _spec(place: tuple[str, ...], default: Any) -> dict[str, Any]:
    """What a key accepts: a section with its `keys`, or `kinds` of values."""
    if place in _COPIED:
        return {"kinds": ["mapping"], "free": True}
    if isinstance(default, bool):
        return {"kinds": ["boolean"]}
    if isinstance(default, int | float):
        return {"kinds": ["number"]}
    if isinstance(default, str):
        return {"kinds": ["any" if default == "auto" else "string"]}
    if len(place) > _DEEPEST:
        return {"kinds": ["any"]}
    try:
        with _models_found():
            keys = _keys_below(place)
    except _IsModel as found:
        return _model_spec(found.model)
    if keys:
        return {"kinds": ["mapping"], "keys": keys}
    return {"kinds": ["mapping"], "free": True} if isinstance(default, dict) else {"kinds": ["any"]}


@contextlib.contextmanager
def _models_found() -> Iterator[None]:
    """Make DeepSpeed's models reveal themselves when they are constructed from the probe."""
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    original = DeepSpeedConfigModel.__init__

    def init(self: Any, strict: bool = False, **data: Any) -> None:
        if _PROBE in data:
            raise _IsModel(type(self))
        original(self, strict, **data)

    DeepSpeedConfigModel.__init__ = init
    try:
        yield
    finally:
        DeepSpeedConfigModel.__init__ = original


def _model_spec(model: Any, optional: bool = False) -> dict[str, Any]:
    """The schema of a section that is a pydantic model, in which DeepSpeed takes "auto" for a key's default."""
    keys = {}
    for name, field in model.model_fields.items():
        spec = _annotated(field.annotation)
        for limit in field.metadata:
            for word, key in (("gt", "above"), ("ge", "least"), ("lt", "below"), ("le", "most")):
                if getattr(limit, word, None) is not None:
                    spec[key] = getattr(limit, word)
        for key in {name, field.alias} - {None}:
            keys[key] = spec
    return {"kinds": ["mapping", *(["null"] if optional else [])], "keys": keys, "model": True}


def _annotated(annotation: Any) -> dict[str, Any]:
    """What a model's field accepts, from its annotation."""
    from deepspeed.runtime.config_utils import DeepSpeedConfigModel

    members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    optional = type(None) in members
    kinds: list[str] = ["null"] if optional else []
    choices: list[Any] = []
    for member in members:
        origin = typing.get_origin(member) or member
        if inspect.isclass(origin) and issubclass(origin, DeepSpeedConfigModel):
            return _model_spec(origin, optional)
        if origin is typing.Literal:
            choices += typing.get_args(member)
        elif inspect.isclass(origin) and issubclass(origin, enum.Enum):
            choices += [value.value for value in origin]
        elif member is not type(None):
            kinds.append(_kind(origin))
    kinds = sorted({*kinds, *(["choice"] if choices else [])})
    unknown = [choice for choice in choices if not isinstance(choice, str | int | float | bool)]
    if "any" in kinds or unknown:
        return {"kinds": ["any"]}
    return {"kinds": kinds, "choices": choices} if choices else {"kinds": kinds}


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _kind(member: Any) -> str:
    if not inspect.isclass(member):
        return "any"
    for kinds, name in (
        ((bool,), "boolean"), ((int,), "integer"), ((float,), "number"), ((str, pathlib.PurePath), "string"),
        ((list, tuple, set), "list"), ((dict,), "mapping"), ((type(None),), "null"),
    ):  # fmt: skip
        if issubclass(member, kinds):
            return name
    return "any"


def _optimizers() -> dict[str, list[str]]:
    """The parameters of each of DeepSpeed's own optimizers; any other name is an optimizer of torch.optim."""
    import torch
    from deepspeed.ops import adagrad, adam, lamb, lion
    from deepspeed.runtime import config as reading

    adams = ["torch_adam", "adam_w_mode", "fp32_optimizer_states", "foreach"]
    found = {
        "adam": [*_arguments(adam.FusedAdam), *_arguments(adam.DeepSpeedCPUAdam), *adams],
        "adagrad": [*_arguments(adagrad.DeepSpeedCPUAdagrad), *_arguments(torch.optim.Adagrad)],
        "lamb": _arguments(lamb.FusedLamb),
        "lion": [*_arguments(lion.FusedLion), *_arguments(lion.DeepSpeedCPULion)],
        "muon": ["lr", "momentum", "betas", "eps", "weight_decay", "ns_method", "muon_lr", "adam_lr", *adams],
    }
    found["adamw"] = found["adam"]
    own = {name: sorted(set(found[name])) if name in found else [] for name in reading.DEEPSPEED_OPTIMIZERS}
    torchs = {
        name: value for name, value in vars(torch.optim).items() if inspect.isclass(value) and name != "Optimizer"
    }
    return own | {name: _arguments(value) for name, value in torchs.items() if name.lower() not in own}


def _schedulers() -> dict[str, list[str]]:
    from deepspeed.runtime import lr_schedules

    return {name: _arguments(getattr(lr_schedules, name)) for name in lr_schedules.VALID_LR_SCHEDULES}


def _arguments(function: Any) -> list[str]:
    names = list(inspect.signature(function).parameters)
    return [name for name in names if name not in ("self", "params", "model_params", "optimizer", "kwargs", "args")]


if __name__ == "__main__":
    sys.exit(main())
