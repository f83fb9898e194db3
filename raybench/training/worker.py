"""A group's work: its legs one after another; rank 0 hands over each outcome."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raybench.declare.arms import DeepSpeedArm, ScriptArm
from raybench.declare.deepspeed_config import deepspeed_config
from raybench.declare.plan import Leg, Trial
from raybench.declare.protocol import evaluates
from raybench.declare.setting import Setting
from raybench.errors import BadData, FailureKind, InvalidConfig, LegDied, ProbeFailed, RanksParted, Unsupported
from raybench.ledger.batches import LargestBatch, LargestBatches
from raybench.ledger.outcome import Failure, Measurement, Outcome
from raybench.machine.fingerprint import fingerprint
from raybench.statistics.num_steps import StepChoices
from raybench.training import imports, memory
from raybench.training.engines import engine_class
from raybench.training.failures import classify, describe, print_traceback
from raybench.training.initial import InitialModel
from raybench.training.largest import LargestSearch
from raybench.training.leg import run_leg, set_kernels
from raybench.training.node.environment import gather_environment
from raybench.training.node.network import measured_network
from raybench.training.node.peak import measured_copy, measured_tflops
from raybench.training.node.sampling import Telemetry
from raybench.training.pilot import Choose, asks_for_steps, choose_steps, with_steps
from raybench.training.ranks import Ranks
from raybench.training.script_leg import run_script
from raybench.training.tasks import build_task, images, tokens
from raybench.training.tasks.check import problem_of

# The watcher of the processes looks every two seconds: time to see which one died before its peers complain.
_SECONDS_TO_BE_SEEN = 5.0
# For downloading data and compiling operators, in addition to a leg's own limit.
_PREPARATION_SECONDS = 3600.0


def prepare(trial: Trial, legs: Sequence[Leg], ranks: Ranks) -> dict[str, Failure]:
    """Do what all legs share and none should pay for: load the data, import DeepSpeed, build its operators, try the
    models on shapes.

    Returns failures by leg_id, the same on every rank, for legs whose data or model is unusable. Other errors recur in
    the legs, which record them. A script prepares its own.
    """
    imports.begin()
    legs = [leg for leg in legs if not isinstance(leg.arm, ScriptArm)]
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed uses names that torch will change
    # Ray makes the process group without a device_id, but sets this rank's device, which DeepSpeed's barriers use.
    warnings.filterwarnings("ignore", r"barrier\(\): using the device under current context")
    try:
        importlib.import_module("torch._dynamo")  # otherwise the first optimizer of a process imports it
        if any(isinstance(leg.arm, DeepSpeedArm) for leg in legs):
            from raybench.training.engines.deepspeed_ops import build_operators, import_deepspeed

            import_deepspeed(ranks)
            for leg in legs:
                if isinstance(leg.arm, DeepSpeedArm):
                    with contextlib.suppress(Unsupported):  # recurs at once in the leg, which records it
                        build_operators(deepspeed_config(leg.arm, leg.setting), leg.setting)
        for leg in legs:
            engine_class(leg.arm)  # imports its libraries
    except Exception:
        print_traceback()
    settings = {leg.setting.model_dump_json(): leg.setting for leg in legs}
    started_at = time.time()
    test_too = evaluates(trial.protocol)
    found = {name: _wrong_with_data(setting, ranks, test_too) for name, setting in settings.items()}
    wrong = {name: message for name, message in found.items() if message is not None}
    imports.freeze()
    return {
        leg.leg_id: Failure("invalid_config", wrong[name], started_at=started_at)
        for leg in legs
        if (name := leg.setting.model_dump_json()) in wrong
    }


def _wrong_with_data(setting: Setting, ranks: Ranks, test_too: bool) -> str | None:
    """Download the data if asked to (one process a node), check them, try the model. Returns any rank's problem."""
    message = None
    try:
        if setting.download and int(os.environ.get("LOCAL_RANK", "0")) == 0:
            build_task(setting).fetch()
    except (BadData, InvalidConfig) as error:
        message = str(error)
    except Exception:  # do not leave the other ranks at the barrier; the error recurs in the legs, which record it
        print_traceback()
    ranks.barrier()
    try:
        if message is None:
            build_task(setting).check_data(test_too=test_too, rank=ranks.rank, world=ranks.world)
            message = problem_of(setting) or None
    except BadData as error:
        message = str(error)
    except Exception:  # recurs in the legs, which record it
        print_traceback()
    messages = ranks.gather(message)
    told = [f"rank {rank}: {other}" for rank, other in enumerate(messages) if other is not None]
    return messages[0] if len(set(messages)) == 1 else told[0]


def run_legs(
    block: Sequence[tuple[Trial, Sequence[Leg]]],
    ranks: Ranks,
    begin: Callable[[Leg], bool | None],
    record: Callable[[Leg, Outcome], None],
    batches: LargestBatches | None = None,
    choose: Choose | None = None,
) -> None:
    """Run the legs of one trial after another, in order. On rank 0, `begin` is called before each leg and `record` with
    its outcome afterwards.

    When `begin` returns False, that leg and all later ones are not run. A leg that fails on every rank alike (such as
    for a refused config) is recorded and the next one runs. Raises LegDied when a leg failed on this rank while others
    still wait in it. A leg that exceeds the trial's limit ends the process, with its threads' stacks on standard error.
    `batches` holds the largest batches that earlier trials found, by setting and arm (`LargestSearch`). Rank 0 asks
    `choose` how many steps the legs measure where the protocol leaves that open (`StepChoices.of`).
    """
    if not block:
        return
    first, choose = block[0][0], choose or StepChoices().of

    def begins(leg: Leg) -> bool:
        return ranks.gather(begin(leg) if ranks.rank == 0 else None)[0] is not False

    environment = gather_environment(ranks)
    network = measured_network(ranks) if first.setting.nodes > 1 else None
    tflops: dict[str, float] = {}  # by precision, measured once per group
    copied = measured_copy(ranks) if first.protocol.telemetry else None
    with Telemetry(ranks, first.protocol.telemetry) as telemetry:
        previous: Setting | None = None
        for trial, legs in block:
            if previous is not None and _data_of(previous) != _data_of(trial.setting):
                images.forget()  # otherwise they would count in the peaks of the next setting's legs
                tokens.forget()
            previous = trial.setting
            with _ended_after(_PREPARATION_SECONDS + trial.leg_timeout_seconds):
                unfit = prepare(trial, legs, ranks)
            sought = any(leg.setting.batch_size == "max" for leg in legs)
            known = (batches or {}).get(trial.setting_id)
            largest = LargestSearch(trial, ranks, fingerprint(environment), known) if sought else None
            if trial.protocol.telemetry:
                for precision in sorted({leg.setting.precision for leg in legs} - tflops.keys()):
                    set_kernels(trial.setting.model_copy(update={"precision": precision}))
                    tflops[precision] = measured_tflops(ranks, precision)
            shared = _Shared(ranks, telemetry, InitialModel(), largest, unfit)
            run = functools.partial(_run_leg, shared=shared)
            choice = None
            if asks_for_steps(trial):
                choice = choose_steps(trial, ranks, begins, run, choose)
                if choice is None:
                    return
            for leg in legs:
                if not begins(leg):
                    return
                outcome = run(with_steps(trial.as_measured(leg), choice), leg)
                outcome = replace(outcome, environment=environment, steps_choice=choice)
                if isinstance(outcome, Measurement):
                    rates = replace(outcome, matmul_tflops=tflops.get(leg.setting.precision))
                    outcome = replace(rates, copy_bytes_per_second=copied, network=network)
                if ranks.rank == 0:
                    record(leg, outcome)
                ranks.barrier()


def _data_of(setting: Setting) -> tuple[Any, ...]:
    """The parts of a setting that decide which data are in memory."""
    shape = setting.image_size, setting.augmentation, setting.tokenizer
    return (setting.task, setting.dataset, setting.data_root, *shape)


@dataclass(frozen=True)
class _Shared:
    """What the legs of a trial have in common."""

    ranks: Ranks
    telemetry: Telemetry
    initial: InitialModel
    largest: LargestSearch | None
    unfit: Mapping[str, Failure]  # by leg_id, from `prepare`


def _run_leg(trial: Trial, leg: Leg, shared: _Shared) -> Outcome:
    """The leg's outcome; its memory is freed again."""
    telemetry = shared.telemetry if trial.protocol.telemetry else Telemetry(shared.ranks, False)
    outcome: Outcome | None = shared.unfit.get(leg.leg_id)
    outcome = outcome or _run_fit_leg(trial, leg, shared.ranks, telemetry, shared.initial, shared.largest)
    memory.release(shared.ranks.device)
    return outcome


def _run_fit_leg(
    trial: Trial, leg: Leg, ranks: Ranks, telemetry: Telemetry, initial: InitialModel, largest: LargestSearch | None
) -> Outcome:
    """The leg's outcome within its time limit, at its arm's largest batch where its setting asks for that."""
    if isinstance(leg.arm, ScriptArm):
        return run_script(trial, leg, ranks, telemetry)  # enforces the limit itself
    found: LargestBatch | None = None
    if largest is not None and leg.setting.batch_size == "max":
        sought = _with_largest(leg, largest)
        if isinstance(sought, Failure):
            return sought
        leg, found = sought
    with _ended_after(trial.leg_timeout_seconds):
        return replace(_outcome(trial, leg, ranks, telemetry, initial), batch_probes=found)


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """End this process, with its threads' stacks on standard error, if the code inside takes longer."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _with_largest(leg: Leg, largest: LargestSearch) -> tuple[Leg, LargestBatch] | Failure:
    """The leg with its arm's largest batch, and how that was found; a failure where no batch fits."""
    started_at = time.time()
    try:
        found = largest.of(leg)
    except ProbeFailed as error:
        message = f"seeking the largest batch: {error}"
        return Failure(error.kind, message, started_at=started_at)
    if found.micro_batch is None:
        message = f"not even a micro-batch of 1 fits: {found.probes[-1].reason}"
        return Failure("out_of_memory", message, started_at=started_at, batch_probes=found)
    return leg.with_micro_batch(found.micro_batch), found


def _outcome(trial: Trial, leg: Leg, ranks: Ranks, telemetry: Telemetry, initial: InitialModel) -> Outcome:
    """The leg's outcome, the same on every rank."""
    started_at = time.time()
    failure: Failure | None = None
    try:
        measurement = run_leg(trial, leg, ranks, telemetry, initial)
    except Exception as error:
        print_traceback()
        failure = Failure(classify(error), describe(error), started_at=started_at)
    try:
        ranks.meet(failed=failure is not None)
    except RanksParted:
        if failure is None:
            raise
        kind: FailureKind = "crashed" if _is_echo(failure) else failure.kind
        time.sleep(_SECONDS_TO_BE_SEEN)
        raise LegDied(leg.leg_id, kind, f"rank {ranks.rank}: {failure.message}") from None
    failures = [(rank, other) for rank, other in enumerate(ranks.gather(failure)) if other is not None]
    if not failures:
        return measurement
    first: Failure
    rank, first = min(failures, key=lambda item: (_is_echo(item[1]), item[0]))
    where = "" if len(failures) == ranks.world else f"rank {rank}: "
    return replace(first, message=where + first.message)


def _is_echo(failure: Failure) -> bool:
    """Whether a failure looks like a consequence of another rank's: a connection that closed or timed out."""
    echoes = ("Connection closed", "Connection reset", "Broken pipe", "Timed out", "gloo", "NCCL")
    return failure.kind == "error" and any(word in failure.message for word in echoes)
