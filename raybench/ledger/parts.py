"""The parts of a step in a folded profile: their names, and the kind of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal["computing", "communication", "host", "data"]

MATRIX, OPERATORS, COPIES = "matrix products", "other operators", "copies"
COMMUNICATION, LAUNCHING, WAITING = "communication", "launching operators", "waiting"
DATA, FORWARD, BACKWARD, HOOKS = "data", "forward", "backward", "gradient hooks"
OPTIMIZER, ENGINE_STEP, OTHER = "optimizer", "engine's step", "other"

# The activity of a moment in a step. With an accelerator: its computation, or the host's activity while it is idle.
PARTS: Final[Mapping[str, Kind]] = {
    MATRIX: "computing",  # convolutions and attention with them
    OPERATORS: "computing",  # of forward and backward
    COPIES: "computing",  # between host and device, and on the device
    COMMUNICATION: "communication",  # exposed: nothing else was computed meanwhile
    DATA: "data",
    FORWARD: "host",  # Python of the model and of the engine, outside operators
    BACKWARD: "host",  # of the engine and of autograd, outside operators and hooks
    HOOKS: "host",  # on gradients, with the accumulation of gradients
    OPTIMIZER: "host",  # `optimizer.step` and `zero_grad`; on a CPU its operators too
    ENGINE_STEP: "host",  # the engine's step without the optimizer
    LAUNCHING: "host",  # the accelerator is idle while operators are prepared for it
    WAITING: "host",  # for the accelerator, which is idle, to synchronize
    OTHER: "host",
}
