"""A training script's own steps, recorded for a sweep that runs the script as an arm (`engine: script`).

A plain loop, under Accelerate too:

    from raybench import steps
    recorder = steps.Recorder(samples_per_step=global_batch, model=model, optimizer=optimizer)
    for batch in loader:
        ...
        recorder.step(loss)        # once an optimizer step

transformers' Trainer: `trainer.add_callback(steps.TrainerCallback())`. Lightning:
`Trainer(callbacks=[steps.LightningCallback()])`. Where no sweep runs the script, all of them do nothing.

A step lasts from one call of `step` to the next, its wait for data included; the first from the recorder's making. On
a GPU events are recorded and read when the script ends, so nothing here waits for the device. Imports nothing but the
standard library; what else the script has imported is looked at.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "RAYBENCH_STEPS_FOLDER"  # where a sweep wants the steps; unset where none runs the script
STARTED: Final = "RAYBENCH_STARTED"  # seconds since the epoch when the command was started


class Recorder:
    """The steps of this process. `samples_per_step` counts those of all ranks in one optimizer step.

    `model`, `optimizer` and `accelerator` are looked at when the script ends, for the facts by which arms are compared;
    `facts` adds what only the script knows, by the names of raybench's facts.
    """

    def __init__(
        self,
        samples_per_step: int | None = None,
        *,
        model: Any = None,
        optimizer: Any = None,
        accelerator: Any = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = os.environ.get(FOLDER, "")
        self.samples_per_step = samples_per_step
        self.model, self.optimizer, self.accelerator = model, optimizer, accelerator
        self.facts: dict[str, Any] = dict(facts or {})
        self._marks: list[tuple[Any, Any]] = []  # where each step begins and ends: seconds, or events of the device
        self._losses: list[tuple[int, Any]] = []
        self._began_at = time.time()
        self._written = False
        if self.folder:
            atexit.register(self.end)
        self._last = self._mark()

    def begin(self) -> None:
        """What follows belongs to the next step: what the script did since the last one (evaluation, saving) does
        not."""
        if self.folder:
            self._last = self._mark()

    def step(self, loss: Any = None) -> None:
        """An optimizer step is over. `loss` may be a number or a tensor, which is read when the script ends."""
        if not self.folder:
            return
        now = self._mark()
        self._marks.append((self._last, now))
        self._last = now
        if loss is not None:
            self.loss(loss)

    def loss(self, loss: Any) -> None:
        """The loss of the last step, where it is known later than the step's end."""
        if self.folder and self._marks:
            self._losses.append((len(self._marks) - 1, loss.detach() if hasattr(loss, "detach") else loss))

    def end(self) -> None:
        """Write the steps where the sweep finds them; done by itself when the script ends."""
        if not self.folder or self._written:
            return
        self._written = True
        rank = int(os.environ.get("RANK", "0"))
        report = {
            "rank": rank,
            "step_seconds": self._seconds(),
            "losses": [[index, value] for index, loss in self._losses if (value := _number(loss)) is not None],
            "samples_per_step": self.samples_per_step,
            "facts": self._found_facts() | self.facts,
            "setup_seconds": max(0.0, self._began_at - float(os.environ.get(STARTED, self._began_at))),
            "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "peak_device_bytes": _peak_device_bytes(),
        }
        path = Path(self.folder) / f"{rank}-{os.getpid()}.json"
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(report, default=str), encoding="utf-8")
        aside.replace(path)

    def _mark(self) -> Any:
        """Now: an event of the device's stream where this process trains on a GPU, else seconds."""
        cuda = _cuda() if self.folder else None
        if cuda is None:
            return time.perf_counter()
        event = cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self) -> list[float]:
        if (cuda := _cuda()) is not None:
            cuda.synchronize()
        seconds = []
        for begin, end in self._marks:
            if isinstance(begin, float) or isinstance(end, float):  # the first step may have begun before the GPU was
                both = isinstance(begin, float) and isinstance(end, float)
                seconds.append(end - begin if both else None)
            else:
                seconds.append(begin.elapsed_time(end) / 1e3)
        known = [second for second in seconds if second is not None]
        return [second if second is not None else (known[0] if known else 0.0) for second in seconds]

    def _found_facts(self) -> dict[str, Any]:
        """What can be read off the script's live objects; what cannot be read is left out."""
        facts: dict[str, Any] = {}
        for find in (self._of_the_run, self._of_the_model, self._of_the_optimizer):
            with contextlib.suppress(Exception):  # somebody else's objects: a fact less, never a script that fails
                facts |= find()
        return facts

    def _of_the_run(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"workers": int(os.environ.get("WORLD_SIZE", "1"))}
        torch = sys.modules.get("torch")
        if torch is not None:
            facts |= {"threads": torch.get_num_threads(), "device": "cpu" if _cuda() is None else "cuda"}
            if _cuda() is not None:
                facts["tf32"] = bool(torch.backends.cuda.matmul.allow_tf32)
        if self.samples_per_step is not None:
            facts["global_batch"] = int(self.samples_per_step)
        if self.accelerator is not None:
            kind = str(self.accelerator.mixed_precision)
            facts["autocast"] = {"no": "off", "bf16": "bfloat16", "fp16": "float16"}.get(kind, kind)
            facts["accumulation"] = int(self.accelerator.gradient_accumulation_steps)
        return facts

    def _of_the_model(self) -> dict[str, Any]:
        if self.model is None:
            return {}
        parameters = list(self.model.parameters())
        return {
            # ZeRO-3 keeps a parameter's whole size beside its share.
            "num_parameters": sum(int(getattr(one, "ds_numel", one.numel())) for one in parameters),
            "num_parameter_tensors": len(parameters),
            "parameter_dtype": ",".join(sorted({str(one.dtype).removeprefix("torch.") for one in parameters})),
        }

    def _of_the_optimizer(self) -> dict[str, Any]:
        basic = self.optimizer
        for _ in range(5):  # the wrappers of Accelerate and DeepSpeed
            inner = getattr(basic, "optimizer", None)
            if inner is None or inner is basic:
                break
            basic = inner
        if basic is None or not getattr(basic, "param_groups", None):
            return {}
        group = basic.param_groups[0]
        decoupled = bool(getattr(basic, "adam_w_mode", False))
        name = type(basic).__name__
        if name in ("FusedAdam", "DeepSpeedCPUAdam"):
            name = "AdamW" if decoupled else "Adam"
        known = ("betas", "eps", "weight_decay", "momentum", "dampening", "nesterov")
        return {
            "optimizer": {
                "class": name,
                "lr": group.get("initial_lr", group.get("lr")),
                **{
                    key: list(value) if isinstance(value := group[key], tuple) else value
                    for key in known
                    if key in group
                },
            }
        }


def __getattr__(name: str) -> Any:
    """The callbacks, whose base classes are imported with them."""
    makers = {"TrainerCallback": _trainer_callback, "LightningCallback": _lightning_callback}
    if name not in makers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return makers[name]()


def _trainer_callback() -> type:
    from transformers import TrainerCallback

    class StepsCallback(TrainerCallback):  # type: ignore[misc]
        """Records the optimizer steps of transformers' Trainer."""

        def __init__(self) -> None:
            self.recorder: Recorder | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            world, accumulation = int(args.world_size), int(args.gradient_accumulation_steps)
            lower = "bfloat16" if args.bf16 else "float16" if args.fp16 else "off"
            # A scheduler of DeepSpeed's config takes the place of the Trainer's.
            config = getattr(getattr(args, "hf_deepspeed_config", None), "config", None) or {}
            schedule = (config.get("scheduler") or {}).get("type") or args.lr_scheduler_type
            facts = {
                "micro_batch": int(args.train_batch_size),
                "accumulation": accumulation,
                "workers": world,
                "gradient_clipping": float(args.max_grad_norm or 0.0),
                "activation_checkpointing": bool(args.gradient_checkpointing),
                "autocast": lower,
                "lr_schedule": {"name": getattr(schedule, "value", str(schedule))},
                "informative": {"deepspeed": bool(args.deepspeed), "seed": int(args.seed)},
            }
            samples = int(args.train_batch_size) * accumulation * world
            self.recorder = Recorder(samples, model=kwargs.get("model"), facts=facts)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.recorder is not None:
                self.recorder.optimizer = kwargs.get("optimizer")
                self.recorder.step()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.recorder is not None and "loss" in (logs or {}):
                self.recorder.loss(float(logs["loss"]))

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._begin()

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._begin()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.recorder is not None and state.global_step == 0:
                self.recorder.begin()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.recorder is not None:
                self.recorder.end()

        def _begin(self) -> None:
            if self.recorder is not None:
                self.recorder.begin()

    return StepsCallback


def _lightning_callback() -> type:
    name = "pytorch_lightning" if "lightning.pytorch" not in sys.modules else "lightning.pytorch"
    if name not in sys.modules:
        name = "lightning.pytorch"
    base: Any = importlib.import_module(name).Callback

    class StepsCallback(base):  # type: ignore[misc]
        """Records the optimizer steps of Lightning's Trainer."""

        def __init__(self, samples_per_step: int | None = None) -> None:
            self.samples_per_step = samples_per_step
            self.recorder: Recorder | None = None
            self.steps_seen = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            accumulation = int(trainer.accumulate_grad_batches)
            micro_batch = getattr(trainer.train_dataloader, "batch_size", None)
            samples = self.samples_per_step
            if samples is None and isinstance(micro_batch, int):
                samples = micro_batch * accumulation * int(trainer.world_size)
            precision = str(trainer.precision)
            facts = {
                "workers": int(trainer.world_size),
                "accumulation": accumulation,
                "gradient_clipping": float(trainer.gradient_clip_val or 0.0),
                "autocast": "bfloat16" if "bf16" in precision else "float16" if "16" in precision else "off",
                "informative": {"strategy": type(trainer.strategy).__name__, "precision": precision},
            }
            if isinstance(micro_batch, int):
                facts["micro_batch"] = micro_batch
            optimizers = trainer.optimizers
            self.recorder = Recorder(
                samples, model=pl_module, optimizer=optimizers[0] if optimizers else None, facts=facts
            )
            self.steps_seen = int(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.recorder is not None and int(trainer.global_step) > self.steps_seen:
                self.steps_seen = int(trainer.global_step)
                self.recorder.step(outputs.get("loss") if isinstance(outputs, dict) else outputs)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if self.recorder is not None:
                self.recorder.begin()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.recorder is not None:
                self.recorder.end()

    return StepsCallback


def _cuda() -> Any:
    """torch.cuda where this process uses it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _peak_device_bytes() -> int | None:
    cuda = _cuda()
    return None if cuda is None else int(cuda.max_memory_allocated())


def _number(loss: Any) -> float | None:
    """A loss as a number; a tensor of several is their mean, as DataParallel gives them."""
    try:
        values: Iterable[Any] = loss.float().flatten().tolist() if hasattr(loss, "flatten") else [float(loss)]
        numbers = [float(value) for value in values]
        return sum(numbers) / len(numbers)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError):
        return None
