"""Predicts the memory that an arm needs on each worker, before anything runs: no torch here.

The states of a mixed-precision Adam follow the ZeRO paper (Rajbhandari et al. 2020, section 3). Each parameter has 2
bytes of weights, 2 of gradient, and 12 of optimizer state (fp32 weights and two moments). Stage 1 shards the optimizer
state, 2 also the gradients, 3 everything. In fp32 these are 4, 4 and 8 (moments). Activations are an estimate
(Korthikanti et al. 2022, section 4.1, without the attention scores that fused kernels do not keep). Buckets are ZeRO's
buffers for gradients in transit: on one H200 (`results/ladder/h200`) the peaks of ZeRO 1, 2 and 3 exceeded torch's by
just these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raybench.declare import catalog
from raybench.declare.arms import DeepSpeedArm, FsdpArm, ScriptArm, TorchArm
from raybench.declare.deepspeed_config import deepspeed_config, offloads
from raybench.declare.setting import Setting, Sgd

if TYPE_CHECKING:  # readers of a ledger need no spaces
    from raybench.declare.plan import Plan


@dataclass(frozen=True)
class Shape:
    """A transformer's sizes."""

    layers: int
    hidden: int
    vocabulary: int
    num_parameters: int


DEFAULT_BUCKET: Final = 500_000_000  # elements; default of DeepSpeed 0.19.8


def bucket_bytes(config: Mapping[str, Any], fitted: int | None = None) -> int:
    """Bytes of ZeRO's communication buckets in a backward pass, from a DeepSpeed config; 0 without ZeRO.

    `fitted`: elements of a bucket whose size the config does not name, because raybench fits it to the model.
    """
    zero = config.get("zero_optimization") or {}
    stage = int(zero.get("stage", 0))
    if not stage or zero.get("contiguous_gradients") is False:
        return 0
    elements = int(zero.get("reduce_bucket_size", DEFAULT_BUCKET if fitted is None else fitted))
    buffers = 2 if stage < 3 and zero.get("overlap_comm") else 1
    return elements * buffers * (2 if _is_low(config) else 4)


def _is_low(config: Mapping[str, Any]) -> bool:
    """Whether a DeepSpeed config makes the weights themselves bf16 or fp16."""
    return any((config.get(key) or {}).get("enabled") for key in ("bf16", "fp16"))


def predicted_bytes(
    setting: Setting,
    arm: Any,
    num_parameters: int,
    num_trainable: int | None = None,
    shape: Shape | None = None,
    *,
    on_cpu: bool = False,
) -> dict[str, int]:
    """Bytes of one worker by content (the keys of `memory_parts`, and ZeRO's buckets); `host` is the offloaded part,
    `device` the rest; empty for a script. Without a shape, activations are left out."""
    if isinstance(arm, ScriptArm):
        return {}
    trained = num_parameters if num_trainable is None else num_trainable
    workers, lower = setting.workers, setting.mixed_precision == "cast" and setting.precision in ("bf16", "fp16")
    width, moments = (2 if lower else 4), _moments(setting)
    master = buckets = 0
    stage, host = 0, set()
    if isinstance(arm, DeepSpeedArm):
        config = deepspeed_config(arm, setting)
        stage = int((config.get("zero_optimization") or {}).get("stage", 0))
        lower = _is_low(config)
        buckets = bucket_bytes(config, num_parameters if on_cpu else None)
        width = 2 if lower else 4
        master = 4 if lower or stage else 0
        host |= {"master_weights", "optimizer_state"} if offloads(config, "optimizer") else set()
        host |= {"parameters"} if offloads(config, "param") else set()
    elif isinstance(arm, FsdpArm):
        stage, width = 3, 4
        host |= {"parameters", "gradients", "optimizer_state"} if arm.cpu_offload else set()
    elif isinstance(arm, TorchArm) and arm.zero_redundancy_optimizer:
        stage = 1
    of_moments = 4 if master or not lower else 2
    parts = {
        "parameters": width * num_parameters / (workers if stage == 3 else 1),
        "gradients": width * trained / (workers if stage >= 2 else 1),
        "master_weights": master * trained / (workers if stage else 1),
        "optimizer_state": of_moments * moments * trained / (workers if stage else 1),
        "activations": 0 if shape is None else activation_bytes(setting, shape),
        "communication_buckets": buckets,
    }
    found = {part: round(size) for part, size in parts.items()}
    on_host = sum(found[part] for part in host)
    return {**found, "host": on_host, "device": sum(found.values()) - on_host}


def _moments(setting: Setting) -> int:
    """Numbers that the optimizer keeps for each parameter."""
    if isinstance(setting.optimizer, Sgd):
        return 1 if setting.optimizer.momentum else 0
    return 2


def activation_bytes(setting: Setting, shape: Shape) -> int:
    """Bytes that a micro-batch's forward pass keeps: 34 per token, layer and width in 16 bits, twice that in fp32; with
    checkpointing the inputs of the layers and one whole layer. Logits are kept in fp32, and so is their softmax."""
    if setting.sequence_length is None or setting.batch_size == "max":
        return 0
    tokens = setting.micro_batch * setting.sequence_length
    half = setting.precision in ("bf16", "fp16")
    layer = tokens * shape.hidden * 34 * (1 if half else 2)
    kept = layer * shape.layers
    if setting.activation_checkpointing:
        kept = layer + tokens * shape.hidden * shape.layers * (2 if half else 4)
    return kept + tokens * shape.vocabulary * (10 if half else 8)


_DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_positions": 1024, "vocab_size": 50_257, "n_inner": None},
    "llama": {
        "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": None, "vocab_size": 32_000, "tie_word_embeddings": False, "head_dim": None,
    },
}  # fmt: skip


def shape_of(setting: Setting) -> Shape | None:
    """The sizes of a GPT-2 or Llama, in closed form; None for any other model, which would have to be built."""
    if not setting.model.startswith("hf/"):
        return None
    kind, options = catalog.PRESETS.get(setting.model[3:], (setting.model[3:], {}))
    if kind not in _DEFAULTS:
        return None
    of_data = {} if setting.dataset == "synthetic_tokens" or setting.tokenizer else {"vocab_size": 256}
    found = {**_DEFAULTS[kind], **options, **of_data, **setting.model_options}
    return _gpt2(found, setting) if kind == "gpt2" else _llama(found)


def _gpt2(options: Mapping[str, Any], setting: Setting) -> Shape:
    width, layers, vocabulary = options["n_embd"], options["n_layer"], options["vocab_size"]
    inner = options["n_inner"] or 4 * width
    block = 4 * width**2 + 2 * width * inner + 9 * width + inner  # attention, two layers, their biases, two norms
    positions = max(options["n_positions"], setting.sequence_length or 0)
    return Shape(layers, width, vocabulary, (vocabulary + positions + 2) * width + layers * block)


def _llama(options: Mapping[str, Any]) -> Shape:
    width, layers, vocabulary = options["hidden_size"], options["num_hidden_layers"], options["vocab_size"]
    heads = options["num_attention_heads"]
    size = options["head_dim"] or width // heads
    keys = (options["num_key_value_heads"] or heads) * size
    block = 2 * width * heads * size + 2 * width * keys + 3 * width * options["intermediate_size"] + 2 * width
    tables = 1 if options["tie_word_embeddings"] else 2
    return Shape(layers, width, vocabulary, tables * vocabulary * width + layers * block + width)


@dataclass(frozen=True)
class Need:
    """What an arm needs in a setting, on each worker's device."""

    setting: str  # its label
    arm: str
    device_bytes: int
    limit: int | None  # what the device has, or `memory_limit` allows

    @property
    def fits(self) -> bool:
        """Whether it fits, or is unknown."""
        return self.limit is None or self.device_bytes <= self.limit


def needs(plan: Plan, device_bytes: int | None = None) -> list[Need]:
    """Every setting's needs by arm, where sizes are known in closed form.

    `device_bytes`: memory of a GPU here.
    """
    found = []
    for trial in {trial.setting_id: trial for trial in plan.trials}.values():
        for leg in {leg.arm_name: leg for leg in trial.legs}.values():
            shape = shape_of(leg.setting) if leg.setting.lora is None and leg.setting.trainable is None else None
            if shape is None or leg.arm.engine == "script":
                continue
            on_cpu = leg.setting.device == "cpu" or (leg.setting.device == "auto" and device_bytes is None)
            parts = predicted_bytes(leg.setting, leg.arm, shape.num_parameters, shape=shape, on_cpu=on_cpu)
            limit = leg.setting.memory_limit or (None if on_cpu else device_bytes)
            found.append(Need(trial.label, leg.arm_name, parts["device"], limit))
    return found
