"""QUANTITIES: every column of a ledger, declared once, with its type, unit, meaning, and where it is shown.

The Parquet schema, the fields of a measurement, the analysis's columns, MLflow's parameters and metrics, the report's
table of further quantities, and `docs/ledger.md` all derive from it. A new quantity needs one entry here and the code
that measures it. Imports nothing heavy, not even pyarrow, because the workers use this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, Literal

from raybench.declare.protocol import StepChoice
from raybench.ledger.batches import LargestBatch
from raybench.machine.links import Network
from raybench.machine.places import Placement

if TYPE_CHECKING:
    from raybench.telemetry.window import NodeReading  # which the analysis does not need

Row = dict[str, Any]  # a ledger row: values by quantity name, None where missing
Loaded = Literal["", "text", "number", "list"]


@dataclass(frozen=True)
class Quantity:
    """One column of the ledger."""

    name: str
    type: str  # Arrow's: int32, list<float64>, ...
    meaning: str  # one line, shown in the documentation
    unit: str = ""  # s, bytes, J, ...; empty for texts, counts and shares
    contract: bool = False  # promised by schema version 1; a reader must do without the others
    json: bool = False  # an object in Python, JSON text in the file
    required: bool = False  # never None in a measurement
    analysis: Loaded = ""  # how the analysis loads it
    param: str = ""  # its name among MLflow's parameters
    metric: str = ""  # its name among MLflow's metrics; the endings `_ms` and `_mib` scale the value
    report: str = ""  # its heading in the analysis's and the report's list of further quantities

    def problem(self, value: Any) -> str:
        """Why this cannot be a leg's value (None: missing); empty where it can."""
        if value is None:
            return f"{self.name} is missing" if self.required else ""
        inner = self.type.removeprefix("list<").removesuffix(">")
        if self.json:
            fits = isinstance(value, dict | list | tuple) or is_dataclass(value)
        elif inner != self.type:
            fits = isinstance(value, list) and all(item is None or _fits(inner, item) for item in value)
        else:
            fits = _fits(inner, value)
        return "" if fits else f"{self.name} is {value!r:.60}, not {'an object' if self.json else self.type}"

    def impossible(self, value: Any) -> str:
        """Why a value of the right type is impossible, such as a negative or infinite time, size or energy."""
        values = value if isinstance(value, list) else [value]
        if not self.unit or self.type == "string":
            return ""
        wrong = next((item for item in values if item is not None and not (isfinite(item) and item >= 0)), None)
        return "" if wrong is None else f"{self.name} is {wrong!r} {self.unit}"


def _fits(kind: str, value: Any) -> bool:
    if kind == "float64" or kind.startswith("timestamp"):  # a time is seconds since the epoch until written
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind.startswith("int"):
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "bool": bool}[kind])


def measured(type: str, meaning: str, *, default: Any = MISSING, **more: Any) -> Any:
    """An outcome's field that is a column; without a default it is None where not measured."""
    quantity = {"type": type, "meaning": meaning, **more}
    if more.get("required"):
        return field(metadata={"quantity": quantity})
    if callable(default):
        return field(default_factory=default, metadata={"quantity": quantity})
    return field(default=None if default is MISSING else default, metadata={"quantity": quantity})


def declared(owner: type) -> tuple[Quantity, ...]:
    """The quantities that the fields of an outcome's class declare, without inherited ones."""
    inherited = {f.name for base in owner.__mro__[1:] for f in getattr(base, "__dataclass_fields__", {}).values()}
    own: list[Field[Any]] = [f for f in fields(owner) if f.name not in inherited]
    return tuple(Quantity(f.name, **f.metadata["quantity"]) for f in own)


def _planned(name: str, type: str, meaning: str, *, contract: bool = True, **more: Any) -> Quantity:
    return Quantity(name, type, meaning, contract=contract, **more)


# The leg's plan, and how the leg ended.
PLANNED: Final = (
    _planned("schema_version", "int32", "1; a reader refuses a version that it does not know"),
    _planned("sweep", "string", "name of the sweep", analysis="text"),
    _planned("space", "string", "name of the space", analysis="text"),
    _planned("setting_id", "string", "hash of what the setting is", analysis="text"),
    _planned("trial_id", "string", "hash of setting, repeat, seed and protocol", analysis="text"),
    _planned("leg_id", "string", "hash of trial, arm and round", analysis="text"),
    _planned(
        "setting", "string", "the setting in words, e.g. `resnet18 cifar10 b128 bf16 w4`", analysis="text",
        param="setting",
    ),
    _planned("model", "string", "name of the model", analysis="text", param="model"),
    _planned(
        "family", "string", "family of the model: `lenet`, `cnn`, `vit`, `hybrid`, `mlp`, `language`, `script`, `own`",
        analysis="text", param="family",
    ),
    _planned("dataset", "string", "name of the data", analysis="text", param="dataset"),
    _planned("precision", "string", "`fp32`, `tf32`, `bf16`, `fp16`", analysis="text", param="precision"),
    _planned(
        "global_batch", "int32", "samples of an optimizer step: micro_batch x accumulation x workers", unit="samples",
        analysis="number", param="global_batch",
    ),
    _planned(
        "micro_batch", "int32", "samples of one forward pass of one rank", unit="samples", analysis="number",
        param="micro_batch",
    ),
    _planned("accumulation", "int32", "micro-batches of a step", analysis="number", param="accumulation"),
    _planned("workers", "int32", "ranks", analysis="number", param="workers"),
    _planned("arm", "string", "name of the arm", analysis="text", param="arm"),
    _planned("engine", "string", "`torch`, `fsdp`, `deepspeed`, `script`", analysis="text", param="engine"),
    _planned("arm_config", "string", "JSON: everything the arm was asked to be built with", json=True, analysis="text"),
    _planned("is_baseline", "bool", "whether the arm is the baseline", analysis="number", param="is_baseline"),
    _planned("repeat", "int32", "repeat of the setting, from 0", analysis="number"),
    _planned("round", "int32", "round of the trial, from 0", analysis="number"),
    _planned("position", "int32", "the leg's place in its trial's order, from 0", analysis="number"),
    _planned("seed", "int64", "of the trial: the same in all its legs", analysis="number"),
    _planned("status", "string", "`ok` or `failed`", analysis="text"),
    _planned(
        "failure_kind", "string",
        "null when ok; `out_of_memory`, `not_finite`, `timeout`, `crashed`, `unsupported`, `invalid_config`, `error`",
        analysis="text",
    ),
    _planned("failure_message", "string", "why the leg failed, in words; null when ok", analysis="text"),
)  # fmt: skip
PLANNED_EXTRA: Final = (
    _planned(
        "protocol", "string", "JSON: the protocol that the leg followed", contract=False, json=True, analysis="text"
    ),
    _planned(
        "differs", "list<string>", "what the space declares the arms to differ in", contract=False, analysis="text"
    ),
    _planned("task", "string", "how a batch becomes a loss", contract=False, analysis="text", param="task"),
    _planned(
        "sequence_length", "int32", "tokens of one sample; null without sequences", unit="tokens", contract=False,
        analysis="number", param="sequence_length",
    ),
    _planned(
        "tokens_per_step", "int64", "tokens of an optimizer step, over all ranks; null without tokens", unit="tokens",
        contract=False, analysis="number",
    ),
    _planned(
        "packages", "string", "JSON: versions that the arm asked for, by package; null where it asked for none",
        contract=False, json=True, analysis="text",
    ),
    _planned(
        "slots_per_node", "int32", "trials that might run on a node at a time; above 1 they disturb each other",
        contract=False, analysis="number",
    ),
    _planned(
        "profiled", "bool", "whether the leg ran under a profiler: it explains, and counts in no speedup",
        contract=False, analysis="number",
    ),
    _planned("withdrawn", "string", "null; in `_aside/` alone, why the row does not count", contract=False),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """Where, when and in what configuration a leg ran, for measurements and failures alike."""

    facts: dict[str, Any] = measured(
        "string", "JSON: what the leg really was; all but `informative` must be equal in the arms of a trial",
        contract=True, json=True, analysis="text", default=dict,
    )  # fmt: skip
    environment: dict[str, Any] = measured(
        "string", "JSON: versions, hardware, threads, git commit, variables", contract=True, json=True, analysis="text",
        default=dict,
    )  # fmt: skip
    started_at: float = measured(
        "timestamp[us, UTC]", "when the leg began", contract=True, analysis="number", default=0.0
    )
    process_group: str = measured(
        "string", "the fresh set of processes that ran the leg; trials of one setting that share one are one sample",
        analysis="text", default="",
    )  # fmt: skip
    attempt: int = measured("int32", "how often its trial had begun anew; 0 is the first time", default=0)
    placement: Placement | None = measured(
        "string",
        "JSON: by rank, `node` (its name in Ray, else the host's) and `gpus` (UUIDs)",
        json=True,
        analysis="text",
    )
    start_seconds: float | None = measured(
        "float64", "from when Ray Tune chose the leg's block, or its nodes were there, to the leg: of the first leg of "
        "a block alone, and null without Ray", unit="s", analysis="number",
    )  # fmt: skip
    batch_probes: LargestBatch | None = measured(
        "string", "JSON: how the largest batch was found: micro-batch, limit, machine, every probe with its peak bytes "
        "or why it did not fit; with `batch_size: max` alone, and the batch columns are null where none fits",
        json=True, analysis="text",
    )  # fmt: skip
    steps_choice: StepChoice | None = measured(
        "string", "JSON, with `steps: auto` alone: `steps`, how many every leg of the setting measures, and what that "
        "was chosen from: a pilot of the baseline, the scatter of legs", json=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.check(CIRCUMSTANCES)

    def check(self, quantities: Iterable[Quantity]) -> None:
        """Raise if a value does not fit its column: an error in the code that measured it."""
        problems = [quantity.problem(getattr(self, quantity.name)) for quantity in quantities]
        assert not any(problems), "; ".join(filter(None, problems))


@dataclass(frozen=True, kw_only=True)
class Measurement(Circumstances):
    """What one leg measured. Lists hold one value per optimizer step, warm-up included."""

    step_seconds: list[float] = measured(
        "list<float64>", "every optimizer step, warm-up included, the slowest rank's; null when failed", unit="s",
        contract=True, required=True, analysis="list", metric="step_ms",
    )  # fmt: skip
    warmup_steps: int = measured(
        "int32", "how many of the first steps are not measured", contract=True, required=True, analysis="number"
    )
    data_seconds: list[float] | None = measured(
        "list<float64>", "of each step, the wait for data, the slowest rank's; null of a script", unit="s",
        contract=True, analysis="list", metric="data_ms",
    )  # fmt: skip
    samples_per_step: int = measured(
        "int32", "samples of an optimizer step, over all ranks", unit="samples", contract=True, required=True,
        analysis="number",
    )  # fmt: skip
    peak_device_bytes: int | None = measured(
        "int64", "of the rank that had most; null without an accelerator", unit="bytes", contract=True,
        analysis="number", metric="peak_device_mib",
    )  # fmt: skip
    peak_host_bytes: int = measured(
        "int64", "of the rank that had most", unit="bytes", contract=True, required=True, analysis="number",
        metric="peak_host_mib",
    )  # fmt: skip
    setup_seconds: float = measured(
        "float64", "engine, data and compilation; not the model", unit="s", contract=True, required=True,
        analysis="number",
        metric="setup_seconds",
    )  # fmt: skip
    train_seconds: float = measured(
        "float64", "all steps", unit="s", contract=True, required=True, analysis="number", metric="train_seconds"
    )
    eval_seconds: float = measured(
        "float64", "evaluation", unit="s", contract=True, required=True, analysis="number", metric="eval_seconds"
    )
    first_loss: float | None = measured(
        "float64", "of the first step, mean over ranks; null of a script that does not say", contract=True,
        metric="first_loss",
    )  # fmt: skip
    final_loss: float | None = measured(
        "float64", "of the last step, mean over ranks; null of a script that does not say", contract=True,
        metric="final_loss",
    )  # fmt: skip
    accuracy: float | None = measured(
        "float64", "top-1, a fraction of the test samples; null where nothing was evaluated", contract=True,
        analysis="number", metric="accuracy",
    )  # fmt: skip
    accuracy_top5: float | None = measured(
        "float64", "top-5, a fraction; null with five classes or fewer", analysis="number", metric="accuracy_top5",
        report="top-5 accuracy",
    )  # fmt: skip
    eval_loss: float | None = measured(
        "float64", "mean loss over the test samples", analysis="number", metric="eval_loss", report="test loss"
    )
    bits_per_byte: float | None = measured(
        "float64", "the test loss in bits for a byte of text; null without text", analysis="number",
        metric="bits_per_byte", report="bits per byte",
    )  # fmt: skip
    step_losses: list[float] | None = measured("list<float64>", "of every step, the mean over ranks and micro-batches")
    gradient_norms: list[float] | None = measured(
        "list<float64>", "L2 norm of the averaged gradient before clipping, of as many steps as are warm-up, ten at "
        "most; null where the engine does not show it, or of a script",
    )  # fmt: skip
    epoch_seconds: list[float] | None = measured(
        "list<float64>", "of every epoch of a `train` protocol, its steps alone; null without epochs", unit="s",
        analysis="list",
    )  # fmt: skip
    epoch_accuracy: list[float | None] | None = measured(
        "list<float64>", "after every epoch, top-1; null where it was not evaluated", analysis="list"
    )
    epoch_loss: list[float | None] | None = measured(
        "list<float64>", "after every epoch, mean loss over the test samples; null where it was not evaluated",
        analysis="list",
    )  # fmt: skip
    forward_seconds: list[float] | None = measured(
        "list<float64>", "of each step, as `data_seconds`; null with phases off", unit="s", metric="forward_ms"
    )
    backward_seconds: list[float] | None = measured(
        "list<float64>", "of each step, as `data_seconds`; null with phases off", unit="s", metric="backward_ms"
    )
    optimizer_seconds: list[float] | None = measured(
        "list<float64>", "of each step, as `data_seconds`; null with phases off", unit="s", metric="optimizer_ms"
    )
    steady_from_step: int | None = measured(
        "int32", "from which step on the step times keep one level", analysis="number"
    )
    peak_host_bytes_sum: int | None = measured(
        "int64", "the ranks' host peaks added up; pages that they share count in each", unit="bytes",
        analysis="number", metric="peak_host_sum_mib", report="host memory of all ranks",
    )  # fmt: skip
    peak_device_reserved_bytes: int | None = measured(
        "int64", "what torch's allocator took from the driver at most, of the rank that had most; null on a CPU",
        unit="bytes", analysis="number", metric="peak_device_reserved_mib", report="device memory reserved",
    )  # fmt: skip
    allocation_retries: int | None = measured(
        "int32", "how often the allocator gave its cache back to find room, over all ranks; null on a CPU",
        analysis="number", metric="allocation_retries", report="allocation retries",
    )  # fmt: skip
    memory_parts: dict[str, list[int | None]] | None = measured(
        "string", "JSON: bytes by what they hold, a list with one value a rank; null where an engine does not show it",
        json=True, analysis="text",
    )  # fmt: skip
    skipped_steps: int | None = measured(
        "int32", "optimizer steps passed over because gradients had overflowed, in the whole leg", analysis="number",
        metric="skipped_steps",
    )  # fmt: skip
    matmul_tflops: float | None = measured(
        "float64", "what a worker reached in a matrix product of the leg's precision",
        unit="TFLOP/s", analysis="number",
    )  # fmt: skip
    copy_bytes_per_second: float | None = measured(
        "float64", "what a worker read and wrote in a copy within its device's memory (the host's on a CPU)",
        unit="bytes/s", analysis="number",
    )  # fmt: skip
    network: Network | None = measured(
        "string", "JSON, where a trial spans nodes: backend, interfaces, and what an all-reduce gets", json=True,
        analysis="text",
    )  # fmt: skip
    telemetry: list[NodeReading] | None = measured(
        "string", "JSON: a reading for each node, of the measured steps; null with telemetry off", json=True
    )
    energy_joules: float | None = measured(
        "float64", "of all the trial's GPUs in the measured steps, by their own counters", unit="J",
        analysis="number", metric="energy_joules", report="energy of the measured steps",
    )  # fmt: skip
    foreign_cpu_cores: float | None = measured(
        "float64", "processors busy with something else than the trial, mean; of the node that had most",
        analysis="number", metric="foreign_cpu_cores", report="processors busy with something else",
    )  # fmt: skip
    contaminated: list[str] | None = measured(
        "list<string>", "why the leg is contaminated; empty where it is clean, null where that is not known",
        analysis="text",
    )  # fmt: skip
    missing_instruments: list[str] | None = measured(
        "list<string>", "what was wanted and is not there", analysis="text"
    )
    profile: dict[str, Any] | None = measured(
        "string", "JSON, of a profiled leg alone: `parts` (seconds of a step by name), `trace` (in `_traces/`), what "
        "is `missing`", json=True, analysis="text",
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.check(MEASURED)
        super().__post_init__()


CIRCUMSTANCES: Final = declared(Circumstances)
MEASURED: Final = declared(Measurement)
_CONTRACT: Final = tuple(q for q in (*PLANNED, *MEASURED, *CIRCUMSTANCES) if q.contract)
_EXTRA: Final = tuple(q for q in (*PLANNED_EXTRA, *MEASURED, *CIRCUMSTANCES) if not q.contract)
QUANTITIES: Final[Mapping[str, Quantity]] = {quantity.name: quantity for quantity in (*_CONTRACT, *_EXTRA)}


def own_seconds(row: Row) -> float:
    """What a leg took by its own columns: set-up, training, evaluation; 0 for a failed one."""
    return sum(row[key] or 0.0 for key in ("setup_seconds", "train_seconds", "eval_seconds"))


def markdown(*, contract: bool) -> list[str]:
    """The lines of the documentation's table of columns: those of the contract, or the others."""
    chosen = [q for q in QUANTITIES.values() if q.contract == contract]
    rows = [f"| {q.name} | {q.type} | {q.unit} | {q.meaning} |" for q in chosen]
    return ["| column | type | unit | meaning |", "|---|---|---|---|", *rows]


if __name__ == "__main__":
    print("\n".join([*markdown(contract=True), "", *markdown(contract=False)]))
