"""Tasks: what is trained. A task builds the model, provides the samples, and computes a loss from model and batch.

Engines, the timed loop and the protocols see only batches (any tree of tensors) and scalar losses. `classification`
and `language` are raybench's own; `task: module:Class` in a setting names the user's, a subclass of `Task`.
"""

from __future__ import annotations

from raybench.declare.setting import Setting
from raybench.errors import InvalidConfig
from raybench.training.models.user_code import load_own
from raybench.training.tasks.task import Forward, Task

__all__ = ["Forward", "Task", "build_task"]


def build_task(setting: Setting) -> Task:
    """The task of a setting."""
    if setting.task == "language":
        from raybench.training.tasks.language import Language

        return Language(setting)
    if ":" in setting.task:
        return _own_task(setting)
    from raybench.training.tasks.classification import Classification

    return Classification(setting)


def _own_task(setting: Setting) -> Task:
    """The user's task. Raises InvalidConfig where it is no subclass of Task."""
    kind = load_own(setting.task)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise InvalidConfig(f"{setting.task} is not a class derived from raybench.training.tasks.Task")
    return kind(setting)
