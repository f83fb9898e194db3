"""Resolves an arm's DeepSpeed config in a setting: fills in "auto", writes raybench's own keys, keeps the rest.

As in Hugging Face's integration, "auto" means the setting's value. Keys that raybench owns (batch sizes, clipping,
timers, print intervals, monitors) are removed from the user's config if they agree with the setting or only print;
they are a problem if they contradict it. No torch and no deepspeed here, so that a plan can report all of it.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raybench.declare.arms import DeepSpeedArm
from raybench.declare.schema import Path_, Problem, checked, reads_auto_as_default, schema
from raybench.declare.setting import Setting
from raybench.text import suggest

_AUTO = "auto"
_NEVER = 2**31 - 1
# The throughput timer synchronizes twice a step by default; the others print, or time the parts of a step.
_CLOCK: dict[str, Any] = {
    "steps_per_print": _NEVER,
    "wall_clock_breakdown": False,
    "memory_breakdown": False,
    "dump_state": False,
    "timers": {"throughput": {"enabled": False}},
}
_MONITORS = ("tensorboard", "wandb", "csv_monitor", "comet")
_INSTRUMENTS = ("flops_profiler", "comms_logger", "autotuning")
_PRECISIONS = ("bf16", "fp16", "torch_autocast")
_TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16"}
_SHORT_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16"}
# Sections and keys that DeepSpeed reads but that have no effect in a leg, and why.
_INERT = {
    "activation_checkpointing": "is for models that call deepspeed.checkpointing, and none here does; "
    "setting.activation_checkpointing recomputes blocks in every arm",
    "data_efficiency": "needs DeepSpeed's own data loader, but raybench's loader feeds every arm",
    "dataloader_drop_last": "belongs to DeepSpeed's own data loader, which is not used",
    "hybrid_engine": "is for generating text between training steps, which no leg does",
    "weight_quantization": "is read by inference alone",
    "checkpoint": "is for saving, and no leg saves",
    "datastates_ckpt": "is for saving, and no leg saves",
    "pipeline": "is read for a PipelineModule alone",
    "vocabulary_size": "is read only to print a warning",
    "use_data_before_expert_parallelism": "is for mixtures of experts alone",
    "expert_parallel": "is not enabled",
    "seq_parallel_communication_data_type": "is for sequence parallelism alone",
}


@dataclass
class Resolved:
    """A DeepSpeed config for one arm in one setting."""

    config: dict[str, Any]  # passed to deepspeed.initialize
    known: Mapping[str, Any]  # the schema that it was checked against
    added: dict[str, Any] = field(default_factory=dict)  # the part of it that raybench wrote
    notes: list[str] = field(default_factory=list)  # what was removed or has no effect, a sentence each
    problems: list[Problem] = field(default_factory=list)  # places are the arm's: ("config", "bf16") or ("offload",)

    def refuse(self, place: Path_, words: str) -> None:
        """Add a problem that makes the arm impossible."""
        self.problems.append(Problem(place, words))


def deepspeed_config(arm: DeepSpeedArm, setting: Setting) -> dict[str, Any]:
    """The whole DeepSpeed config of an arm: the user's, the expanded shorthands, and raybench's additions."""
    return resolve(arm, setting).config


def added_config(arm: DeepSpeedArm, setting: Setting) -> dict[str, Any]:
    """Raybench's additions to an arm's DeepSpeed config, without the arm's shorthands.

    From the setting, the same in every arm: batch sizes (the largest once it is found), and explicit gradient clipping,
    because DeepSpeed 0.19.8 clips at norm 1.0 by default. For fair timing: no timers, no monitor, no printing. Also the
    setting's precision, if the config names none. With `torch_autocast`, gradients are then sent in their own type, as
    in DDP; DeepSpeed's default would send those of linear and convolution layers in the lower type.
    """
    return resolve(arm, setting).added


def offloads(config: Mapping[str, Any], what: str) -> bool:
    """Whether a resolved config keeps `what` ("optimizer" or "param") outside the accelerator."""
    section = (config.get("zero_optimization") or {}).get(f"offload_{what}") or {}
    return str(section.get("device", "none")) != "none"


def resolve(arm: DeepSpeedArm, setting: Setting) -> Resolved:
    """The arm's config in this setting, with all its problems; usable where `problems` is empty."""
    given = copy.deepcopy(arm.config)
    if given.get("steps_per_print") == math.inf:  # Accelerate's way of writing "never"
        given["steps_per_print"] = _NEVER
    known = schema(arm.packages.get("deepspeed", ""))
    config, problems, unchecked = checked(given, known)
    found = Resolved(config, known, problems=[Problem(("config", *one.place), one.words) for one in problems])
    if config and known.get("assumed"):
        beyond = f"; not checked: {', '.join(unchecked)}" if unchecked else ""
        found.notes.append(
            f"config is checked against DeepSpeed {known['version']}, because the keys of {known['assumed']} are not "
            f"known here before its first leg{beyond}"
        )
    _rename_older(found)
    _take_what_raybench_owns(found, setting)
    _join_shorthands(found, arm, setting)
    _fill_precision(found, setting)
    _fill_optimizer(found, setting)
    _fill_scheduler(found, setting)
    _fill_buckets(found, setting)
    _fill_the_rest(found)
    _refuse_parallelism(found)
    _note_what_is_inert(found)
    _add(found, setting)
    return found


def _rename_older(found: Resolved) -> None:
    """Replace DeepSpeed's older names as DeepSpeed does."""
    config = found.config
    if (older := config.pop("bfloat16", None)) is not None:
        if "bf16" in config:
            found.notes.append("config.bfloat16 is not read beside bf16, its newer name")
        else:
            config["bf16"] = older
    zero = config.get("zero_optimization", {})
    for older_name, newer in (("cpu_offload", "offload_optimizer"), ("cpu_offload_param", "offload_param")):
        if (value := zero.pop(older_name, None)) is None:
            continue
        if zero.get(newer) is not None:
            found.refuse(("config", "zero_optimization", older_name), f"is the older name of {newer}; keep that")
        elif value and value != _AUTO:
            zero[newer] = {"device": "cpu"}
    zero.pop("cpu_offload_use_pin_memory", None)  # DeepSpeed only warns about it


def _take_what_raybench_owns(found: Resolved, setting: Setting) -> None:
    config, sought = found.config, setting.batch_size == "max"
    for key, value in {
        "train_batch_size": None if sought else setting.global_batch,
        "train_micro_batch_size_per_gpu": None if sought else setting.micro_batch,
        "gradient_accumulation_steps": setting.accumulation,
        "gradient_clipping": setting.gradient_clipping,
    }.items():
        users = config.pop(key, _AUTO)
        if users != _AUTO and users is not None and not _equal(users, value):
            ours = "what batch_size: max seeks" if value is None else f"{value:g} in the setting"
            advice = f'write "auto", or set setting.{_FIELD[key]}'
            found.refuse(("config", key), f"is {users!s:.40}, and {ours}, the same for every arm; {advice}")
    for key, value in _CLOCK.items():
        users = config.pop(key, value)
        if not _agrees(users, value) and users != _AUTO:
            found.notes.append(f"config.{key} is left out: it would print or take times inside the measured steps")
    for key in _MONITORS:
        if _enabled(config.pop(key, None)):
            found.notes.append(f"config.{key} is left out: a monitor would work inside the measured steps")
    for key in _INSTRUMENTS:
        if _enabled(config.pop(key, None)):
            found.refuse(("config", key), "works inside the timed steps and would be measured; take it out")


_FIELD = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "gradient_clipping": "gradient_clipping",
}


def _equal(users: Any, ours: float | None) -> bool:
    try:
        return ours is not None and float(users) == float(ours)
    except (TypeError, ValueError, OverflowError):
        return False


def _agrees(users: Any, written: Any) -> bool:
    if isinstance(written, Mapping):
        return isinstance(users, Mapping) and all(_agrees(users.get(key), value) for key, value in written.items())
    return bool(users == written)


def _enabled(section: Any) -> bool:
    given = section.get("enabled") if isinstance(section, Mapping) else None
    return (given.lower() if isinstance(given, str) else given) not in _OFF


_OFF = (None, False, 0, _AUTO, "false", "no", "off", "0", "f", "n")  # as parsed by pydantic


def _join_shorthands(found: Resolved, arm: DeepSpeedArm, setting: Setting) -> None:
    """Write the arm's own `zero`, `offload` ... into the config, which may have the same values."""
    config = found.config
    zero = dict(config.get("zero_optimization", {}))
    if arm.zero is None and zero.get("stage") == _AUTO:
        found.refuse(
            ("config", "zero_optimization", "stage"), 'is "auto", but no setting gives a stage; write 0, 1, 2 or 3'
        )
    for key, value in arm.shorthands().items():
        users = zero.get(key, _AUTO)
        section = isinstance(value, dict) and isinstance(users, dict)
        same = users in (_AUTO, None) or (users.get("device") in (_AUTO, "cpu") if section else users == value)
        if not same:
            found.refuse(
                ("config", "zero_optimization", key), f"{users!s:.60} contradicts the arm's own {key} {value}; keep one"
            )
        zero[key] = {**users, **value} if section else value
    if zero:
        config["zero_optimization"] = zero
    stage = zero.get("stage", 0)
    if arm.offload and stage in range(4) and stage < (1 if arm.offload == "optimizer" else 3):
        wanted = "zero: 1 or more" if arm.offload == "optimizer" else "zero: 3"
        found.refuse(("offload",), f"offload: {arm.offload} needs {wanted}")
    if arm.overlap_comm is not None and not stage:
        found.refuse(("overlap_comm",), "overlap_comm belongs to zero: 1 or more")
    forced = config.get("zero_force_ds_cpu_optimizer") and "optimizer" not in config
    if forced and offloads(config, "optimizer") and setting.optimizer.kernel != "deepspeed":
        found.refuse(
            ("config", "zero_force_ds_cpu_optimizer"),
            "makes DeepSpeed refuse torch's optimizers with offload; take it out, or set setting.optimizer.kernel: "
            "deepspeed",
        )
    if arm.compile == "deepcompile":
        config["compile"] = {**config.get("compile", {}), "deepcompile": True}
    if config.get("compile", {}).get("deepcompile") and not stage:
        place = ("compile",) if arm.compile else ("config", "compile", "deepcompile")
        found.refuse(place, "DeepCompile needs zero: 1, 2 or 3; without ZeRO, DeepSpeed uses torch's compiler")
    for what in ("optimizer", "param"):
        offload = zero.get(f"offload_{what}") or {}
        if offload.get("device") == "nvme" and not offload.get("nvme_path"):
            place = ("config", "zero_optimization", f"offload_{what}")
            found.refuse(place, "device: nvme needs nvme_path, a folder on that disk")


def _fill_precision(found: Resolved, setting: Setting) -> None:
    """Fill "auto" sections from the setting's precision; explicit values stay."""
    config, wanted = found.config, _precision_section(setting)
    decided = False
    for name in _PRECISIONS:
        section = config.get(name)
        if section is None:
            continue
        if section.get("enabled") == _AUTO:
            config.pop(name)
            if name in wanted:
                kept = {key: value for key, value in section.items() if value != _AUTO}
                config[name] = {**wanted[name], **kept, "enabled": True}
                decided = True
            continue
        on = _enabled(section)
        decided |= on or name in wanted
        given = wanted.get(name, {})
        if name == "torch_autocast" and setting.precision in _TORCH_NAMES:
            given = {"dtype": _TORCH_NAMES[setting.precision], "lower_precision_safe_modules": [], **given}
        config[name] = {key: given.get(key, _AUTO) if value == _AUTO else value for key, value in section.items()}
    if _enabled(config.get("bf16")) and _enabled(config.get("fp16")):
        found.refuse(("config", "fp16"), "and bf16 cannot both be enabled; keep one")
    if not decided:
        found.added |= wanted
        for name in wanted:
            config.pop(name, None)


def _precision_section(setting: Setting) -> dict[str, Any]:
    """The config section that trains in the setting's precision as the other engines do; {} in fp32."""
    if setting.precision not in _TORCH_NAMES:
        return {}
    if setting.mixed_precision == "autocast":
        dtype = _TORCH_NAMES[setting.precision]
        return {"torch_autocast": {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}}
    if setting.precision == "bf16":
        return {"bf16": {"enabled": True}}
    scale = setting.loss_scale
    return {
        "fp16": {
            "enabled": True,
            "loss_scale": 0 if scale.growth_interval else scale.initial,
            "initial_scale_power": int(math.log2(scale.initial)),
            "loss_scale_window": scale.growth_interval or 1000,
            "hysteresis": 1,  # halve the scale at every overflow, as torch's GradScaler does
            "min_loss_scale": 1,
        }
    }


def stated_precision(config: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """The precision stated by a resolved config's sections, in the setting's terms."""
    cast = [name for name in ("bf16", "fp16") if _enabled(config.get(name))]
    autocast = config.get("torch_autocast") or {}
    if _enabled(autocast):
        dtype = str(autocast.get("dtype", "bfloat16")).removeprefix("torch.")
        how = "autocast over weights that are cast" if cast else "autocast"
        return {"precision": _SHORT_NAMES.get(dtype, dtype), "mixed_precision": how}
    if cast:
        return {"precision": cast[0], "mixed_precision": "cast"}
    return {"precision": setting.precision if setting.precision == "tf32" else "fp32"}


def _fill_optimizer(found: Resolved, setting: Setting) -> None:
    section = found.config.get("optimizer")
    if section is None:
        return
    ours = setting.optimizer.model_dump(mode="json")
    if section.get("type") == _AUTO:
        section["type"] = "SGD" if ours["name"] == "sgd" else ours["name"]
    known = _built(found, "optimizers")
    name = section.get("type")
    key = name.lower() if isinstance(name, str) and name.lower() in known else name
    if not _names_one(found, "optimizer", key, known):
        found.config.pop("optimizer")
        return
    parameters = section.get("params")
    if parameters == _AUTO:
        parameters = {field: _AUTO for field in ours if field in known[key]}
    if isinstance(parameters, Mapping):
        section["params"] = {field: ours.get(field, _AUTO) if v == _AUTO else v for field, v in parameters.items()}
        if "max_grad_norm" in parameters:
            found.refuse(
                ("config", "optimizer", "params", "max_grad_norm"), "is setting.gradient_clipping; take it out"
            )
        _know_parameters(found, "optimizer", section["params"], known[key])


def _fill_scheduler(found: Resolved, setting: Setting) -> None:
    section = found.config.get("scheduler")
    if section is None:
        return
    known, name = _built(found, "schedulers"), section.get("type")
    if not _names_one(found, "scheduler", name, known):
        found.config.pop("scheduler")
        return
    schedule = setting.schedule
    ours = {
        "warmup_min_lr": 0,
        "warmup_max_lr": setting.optimizer.lr,
        "warmup_num_steps": max(1, schedule.warmup_steps),
        "total_num_steps": schedule.total_steps or _AUTO,
    }
    parameters = section.get("params")
    if parameters == _AUTO:
        parameters = {field: _AUTO for field in ours if field in known[name]}
    if isinstance(parameters, Mapping):
        section["params"] = {field: ours.get(field, _AUTO) if v == _AUTO else v for field, v in parameters.items()}
        _know_parameters(found, "scheduler", section["params"], known[name])


def _built(found: Resolved, what: str) -> Mapping[str, list[str]]:
    """Parameters by class name, for each class that a section's type can name; empty lists for classes of another
    version, whose parameters are unknown."""
    known: Mapping[str, list[str]] = found.known[what]
    return defaultdict(list, known) if found.known.get("assumed") else known


def _names_one(found: Resolved, what: str, name: Any, known: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed has the type that a section names; adds a problem where it has not."""
    if name is None:
        found.refuse(("config", what), f"names no type; write one, as in {what}: {{type: {next(iter(known))}}}")
    elif not isinstance(name, str) or (name not in known and not isinstance(known, defaultdict)):
        told = f"{suggest(str(name), known)}"
        found.refuse(("config", what, "type"), f"DeepSpeed {found.known['version']} has no {what} {name!r:.60}; {told}")
        return False
    return name is not None


def _know_parameters(found: Resolved, what: str, parameters: Mapping[str, Any], known: list[str]) -> None:
    """Reject parameters that the named class does not take, and values other than numbers, names or lists of them."""
    for key, value in parameters.items():
        if known and key not in known and key != "max_grad_norm":
            found.refuse(("config", what, "params", str(key)), f"unknown key; {suggest(str(key), known)}")
        elif isinstance(value, Mapping) or (isinstance(value, float) and not math.isfinite(value)):
            found.refuse(("config", what, "params", str(key)), f"cannot be {value!s:.60}")
        elif key in _NUMBERS and not _is_number(value) and value != _AUTO:
            found.refuse(("config", what, "params", str(key)), f"must be a number of 0 or more, not {value!r:.60}")


_NUMBERS = (
    "lr", "eps", "weight_decay", "momentum", "muon_lr", "adam_lr", "warmup_num_steps", "total_num_steps",
    "warmup_min_ratio", "cos_min_ratio",
)  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63


def _fill_buckets(found: Resolved, setting: Setting) -> None:
    """Set the buckets that Hugging Face derives from a model's hidden size, where the model has one."""
    zero = found.config.get("zero_optimization", {})
    size = setting.model_options.get("hidden_size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size < 2**20:
        return
    of_size = {
        "reduce_bucket_size": size * size,
        "stage3_prefetch_bucket_size": int(0.9 * size * size),
        "stage3_param_persistence_threshold": 10 * size,
    }
    for key, value in of_size.items():
        if zero.get(key) == _AUTO:
            zero[key] = value


def _fill_the_rest(found: Resolved) -> None:
    """Remove every "auto" that DeepSpeed itself reads as a default; the others become one joint problem."""
    by_default, nowhere = [], []
    for place in list(_autos(found.config)):
        inside = found.config
        for key in place[:-1]:
            inside = inside[key]
        if reads_auto_as_default(place, found.known):
            del inside[place[-1]]
            by_default.append(".".join(place))
        elif not any(one.place == ("config", *place) for one in found.problems):
            nowhere.append(place)
    if by_default:
        found.notes.append(f'"auto" is DeepSpeed\'s default in {", ".join(by_default)}')
    if nowhere:
        names = ", ".join(".".join(place) for place in nowhere)
        remedy = "write a value, or take it out"
        if ("scheduler", "params", "total_num_steps") in nowhere:
            remedy += "; total_num_steps is setting.schedule.total_steps where that is given"
        found.refuse(("config", *nowhere[0]), f'"auto" has no value in the setting for {names}; {remedy}')


def _autos(values: Mapping[str, Any], place: Path_ = ()) -> Iterator[Path_]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _autos(value, (*place, key))
        elif value == _AUTO and place[:1] not in _MEANT and (*place, key) not in _MEANT:
            yield (*place, key)


# Keys for which "auto" is one of DeepSpeed's own values.
_MEANT = (("pipeline",), ("data_efficiency",), ("expert_parallel",), ("data_types", "keep_in_fp32_modules"))


def _refuse_parallelism(found: Resolved) -> None:
    """Reject everything that would leave fewer data-parallel ranks than workers."""
    config = found.config
    tensor = config.get("tensor_parallel", {})
    expert = config.get("expert_parallel", {})
    sizes = {
        ("sequence_parallel_size",): config.get("sequence_parallel_size"),
        ("data_parallel_size",): config.get("data_parallel_size"),
        ("tensor_parallel", "autotp_size"): tensor.get("autotp_size"),
        ("tensor_parallel", "tp", "tp_size"): tensor.get("tp", {}).get("tp_size"),
        ("tensor_parallel", "tensor_parallel", "tp_size"): tensor.get("tensor_parallel", {}).get("tp_size"),
        ("expert_parallel", "autoep_size"): expert.get("autoep_size") if _enabled(expert) else None,
    }
    for place, size in sizes.items():
        if size not in (None, 0, 1):
            found.refuse(
                ("config", *place),
                f"{size!s:.20} ranks would share a sample: raybench measures data parallelism over all workers; take "
                "it out",
            )


def _note_what_is_inert(found: Resolved) -> None:
    config = found.config
    for key, why in _INERT.items():
        section = config.get(key)
        off = section in (None, {}, False) or (isinstance(section, Mapping) and section.get("enabled") is False)
        if key in config and not off:
            found.notes.append(f"config.{key} has no effect in this run: it {why}")
    zero = config.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    of_stage_3 = [key for key in zero if key.startswith("stage3_") and stage != 3]
    if of_stage_3 and stage:
        found.notes.append(
            f"config.zero_optimization: {', '.join(of_stage_3)} have no effect: stage 3 alone reads them"
        )
    if not stage and set(zero) - {"stage"}:
        found.notes.append(f"config.zero_optimization has no effect: its stage is {stage}")
    if "aio" in config and not any(
        (zero.get(f"offload_{what}") or {}).get("device") == "nvme" for what in ("optimizer", "param")
    ):
        found.notes.append("config.aio has no effect in this run: nothing is offloaded to NVMe")
    compiling = config.get("compile", {})
    if compiling and not compiling.get("deepcompile"):
        found.notes.append("config.compile has no effect without deepcompile: true")


def _add(found: Resolved, setting: Setting) -> None:
    """Write raybench's own keys, see `added_config`."""
    added: dict[str, Any] = {}
    if setting.batch_size != "max":
        added |= {"train_batch_size": setting.global_batch, "train_micro_batch_size_per_gpu": setting.micro_batch}
    added |= {
        "gradient_accumulation_steps": setting.accumulation,
        "gradient_clipping": setting.gradient_clipping,
        **copy.deepcopy(_CLOCK),
    }
    if "optimizer" not in found.config:  # raybench passes torch's own optimizer
        added |= {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    added |= found.added
    found.added = {key: value for key, value in added.items() if key not in found.config}
    found.config |= copy.deepcopy(found.added)
