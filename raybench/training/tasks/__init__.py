"""Tasks: what is trained. A task builds the model, gives the samples, and turns a batch and the model into a loss.

Engines, the timed loop and the protocols see batches (any tree of tensors) and scalar losses. `classification` and
`language` are raybench's own; `task: module:Class` in a setting names the user's, a subclass of `Task`.
"""

from __future__ import annotations

from raybench.declare.setting import Setting
from raybench.training.tasks.task import Forward, Task

__all__ = ["Forward", "Task", "build_task"]


def build_task(setting: Setting) -> Task:
    """The task of a setting."""
    from raybench.training.tasks.classification import Classification

    return Classification(setting)
