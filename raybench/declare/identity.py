"""An arm's identity: what it is, whatever its spelling.

`zero: 1` and `config: {zero_optimization: {stage: 1}}` build the same engine, and a config may repeat what raybench
writes anyway. All these are one arm, with the ids and the sweep's name of the shortest spelling.
"""

from __future__ import annotations

from typing import Any, Final

from raybench.declare.arms import Arm, DeepSpeedArm
from raybench.declare.deepspeed_config import deepspeed_config
from raybench.declare.packages import local_contents
from raybench.declare.setting import Setting

# The arm's own option for a key of zero_optimization.
_SHORT: Final = {
    "stage": "zero",
    "overlap_comm": "overlap_comm",
    "reduce_bucket_size": "reduce_bucket_size",
    "allgather_bucket_size": "allgather_bucket_size",
}
_ON_THE_CPU: Final = {"device": "cpu"}


def arm_identity(arm: Arm, setting: Setting) -> dict[str, Any]:
    """The arm's options that differ from their defaults. For a DeepSpeed config: the resolved config without raybench's
    own part, in shorthands where possible."""
    given = arm.model_dump(mode="json", exclude_defaults=True)
    if contents := local_contents(arm.packages):
        given["package_contents"] = contents
    if not isinstance(arm, DeepSpeedArm):
        return given
    usual = deepspeed_config(DeepSpeedArm(engine="deepspeed"), setting)
    config = {
        key: value for key, value in deepspeed_config(arm, setting).items() if key not in usual or value != usual[key]
    }
    zero = dict(config.pop("zero_optimization", None) or {})
    short = {option: zero.pop(key) for key, option in _SHORT.items() if key in zero}
    offloaded = [zero.get(key) == _ON_THE_CPU for key in ("offload_optimizer", "offload_param")]
    if any(offloaded):
        short["offload"] = "both" if all(offloaded) else "optimizer" if offloaded[0] else "parameters"
        zero = {key: value for key, value in zero.items() if value != _ON_THE_CPU or not key.startswith("offload_")}
    if zero:
        config["zero_optimization"] = zero
    kept = {key: value for key, value in given.items() if key not in (*_SHORT.values(), "offload", "compile", "config")}
    return kept | short | ({"config": config} if config else {})
