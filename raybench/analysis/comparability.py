"""Which comparisons are of the same experiment: compares the facts of both legs of every paired round.

Equal facts are cheap: each distinct text of facts is parsed once, each distinct pair compared once. The ledger's own
columns on batch, workers, precision, model, dataset, seed and steps must agree as well, and so must the losses of the
first steps, which show differences that no fact of the first step does. Pooled trials must also agree: the trials of
one side have one configuration, and the same facts except those that follow from the seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from raybench.analysis.arrays import code_of, dense, parse_object
from raybench.analysis.legs import Legs
from raybench.analysis.pairs import Pairs
from raybench.caveats import Caveat, caveat
from raybench.declare import experiment
from raybench.statistics.inference import Floats, Integers
from raybench.text import dotted

_NUMBERS: Final = (
    "global_batch", "micro_batch", "accumulation", "workers", "samples_per_step", "seed", "warmup_steps"
)  # fmt: skip
_TEXTS: Final = ("model", "dataset", "precision")
# Facts that change with the seed or with the number of skipped steps.
_OF_THE_SEED: Final = frozenset(
    ("initial_weights", "first_batch", "first_loss", "first_gradient_norm", "loss_scale", "skipped_steps",
     "optimizer_steps", experiment.INFORMATIVE)
)  # fmt: skip
_OF_THE_MACHINE: Final = frozenset(("threads", "device", "tf32"))

# Keys of an arm's configuration that its full DeepSpeed config repeats, and keys that follow from the setting.
SPELLINGS: Final = frozenset(
    ("config", "zero", "offload", "overlap_comm", "reduce_bucket_size", "allgather_bucket_size", "compile")
)
_OF_THE_SETTING: Final = tuple(
    f"deepspeed_config.{key}" for key in (
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "bf16", "fp16",
        "torch_autocast", "data_types", "optimizer", "scheduler",
    )
)  # fmt: skip

# Declared differences that leave the losses unchanged; any other may change them.
_LEAVES_LOSSES: Final = frozenset(
    (
        "loader", "loader_workers", "pin_memory", "prefetch_factor", "persistent_workers", "threads",
        "buffer_broadcasts", "packages",
    )
)  # fmt: skip
# Relative tolerance of a step's loss, by precision and whether it ran on a CPU. Observed: equal arms agree to the last
# bit on a CPU, to 8e-8 with another order of summation, to 2.5e-5 on a GPU in bf16. `_REPEATS` times the scatter
# between a comparison's own rounds is added, since some GPU kernels are not deterministic. Gradients summed in bf16
# change a small net's losses by 7e-7 (Adam, no accumulation) to 6e-5 (SGD, four micro-batches) within ten steps.
_LOSS_TOLERANCE: Final = {("fp32", True): 5e-7, ("fp32", False): 1e-5, ("tf32", False): 1e-4}
_LOW_PRECISION_TOLERANCE: Final = 2e-3
_REPEATS: Final = 5.0
_NORM_OF_LOSS: Final = 20.0  # tolerance of a step's gradient norm, relative to that of its loss
_DIVERGING: Final = 1.5  # times the first loss; above it a run is chaotic and is not compared


def undeclared_differences(pairs: Pairs) -> dict[int, list[Caveat]]:
    """What differs in each comparison that is not one experiment, as `weight_decay: 0.01 in ddp, 0.0 in zero1`."""
    found: dict[int, dict[str, Caveat]] = {}
    for comparison, name, arm_value, base_value in [
        *_columns(pairs),
        *unequal_steps(pairs, scripts=False),
        *_facts(pairs),
    ]:
        arm = pairs.legs.text["arm"][pairs.example[comparison]]
        unequal = caveat("unequal", what=name, base=base_value, baseline=pairs.baseline, own=arm_value, arm=arm)
        found.setdefault(comparison, {}).setdefault(name, unequal)
    for comparison, name, one in [*_configurations(pairs), *_facts_between_trials(pairs), *parted_losses(pairs)]:
        found.setdefault(comparison, {}).setdefault(name, one)
    return {comparison: [names[name] for name in sorted(names)] for comparison, names in sorted(found.items())}


def without_facts(pairs: Pairs) -> np.ndarray:
    """Comparisons without a paired round in which both legs state facts, shape (k,)."""
    column = pairs.legs.text["facts"]
    stated = np.array([bool(parse_object(text)) if len(text) < 20 else True for text in column.names] + [False])
    both = stated[column.codes[pairs.arm_leg]] & stated[column.codes[pairs.base_leg]]
    owner = pairs.comparison[pairs.round_trial]
    return np.asarray(np.bincount(owner[both], minlength=len(pairs.counts)) == 0)


def declared(text: str) -> tuple[str, ...]:
    """The differences that a leg's `differs` column declares, split from their joined form."""
    return tuple(word for word in text.split("\n") if word)


def _columns(pairs: Pairs) -> list[tuple[int, str, Any, Any]]:
    legs, owner = pairs.legs, pairs.comparison[pairs.round_trial]
    found: list[tuple[int, str, Any, Any]] = []
    for name in (*_NUMBERS, *_TEXTS):
        values = legs.number[name] if name in _NUMBERS else legs.text[name].codes.astype(float)
        arm, base = values[pairs.arm_leg], values[pairs.base_leg]
        unequal = (arm != base) & np.isfinite(arm) & np.isfinite(base) & ((arm >= 0) & (base >= 0))
        for comparison, row in zip(*np.unique(owner[unequal], return_index=True), strict=True):
            at = np.flatnonzero(unequal)[row]
            if experiment.is_declared(name, declared(legs.text["differs"][pairs.arm_leg[at]])):
                continue
            if name in _NUMBERS:
                found.append((int(comparison), name, int(arm[at]), int(base[at])))
            else:
                texts = legs.text[name]
                found.append((int(comparison), name, texts[pairs.arm_leg[at]], texts[pairs.base_leg[at]]))
    return found


def unequal_steps(pairs: Pairs, *, scripts: bool) -> list[tuple[int, str, Any, Any]]:
    """Paired legs with different numbers of steps: pairs with a script, which sets its own number, or the other pairs.

    Legs of the `train` protocol are skipped: they may end at their target.
    """
    steps, owner = pairs.legs.steps.num_steps, pairs.comparison[pairs.round_trial]
    protocol = pairs.legs.text["protocol"]
    trains = np.array([parse_object(text).get("kind") == "train" for text in protocol.names] + [False])
    arm, base = steps[pairs.arm_leg], steps[pairs.base_leg]
    engine, script = pairs.legs.text["engine"].codes, code_of(pairs.legs.text["engine"], "script")
    by_script = (engine[pairs.arm_leg] == script) | (engine[pairs.base_leg] == script)
    unequal = np.flatnonzero((arm != base) & ~trains[protocol.codes[pairs.arm_leg]] & (by_script == scripts))
    rows = unequal[np.unique(owner[unequal], return_index=True)[1]]
    return [(int(owner[row]), "steps", int(arm[row]), int(base[row])) for row in rows]


def _configurations(pairs: Pairs) -> Iterator[tuple[int, str, Caveat]]:
    """Sides whose legs were configured differently: one name, several arms."""
    column = pairs.legs.text["arm_config"]
    stated = [_built(parse_object(text)) for text in column.names]
    for k, arm, codes in _several_on_a_side(pairs, column.map(_canonical).codes, column.codes):
        one, *others = (stated[code] for code in codes)
        for other in others:
            for key in sorted(one.keys() | other.keys()):
                if one.get(key) != other.get(key):
                    before, after = (values.get(key, "nothing") for values in (one, other))
                    told = caveat("arm_built_otherwise", arm=arm, key=key, before=before, after=after)
                    yield k, f"arm_config.{arm}.{key}", told


def _facts_between_trials(pairs: Pairs) -> Iterator[tuple[int, str, Caveat]]:
    """Sides whose trials state different facts."""
    column = pairs.legs.text["facts"]
    parsed: dict[int, dict[str, Any]] = {}
    owner, hardware = pairs.comparison[pairs.round_trial], pairs.legs.hardware.codes[pairs.arm_leg]
    for k, arm, codes in _several_on_a_side(pairs, column.map(_lasting).codes, column.codes):
        one, *others = (parsed.setdefault(code, json.loads(_lasting(column.names[code]) or "{}")) for code in codes)
        ignored = _OF_THE_MACHINE if len(np.unique(hardware[owner == k])) > 1 else frozenset()
        for other in others:
            for name, after, before in experiment.differences(other, one):
                if name.split(".")[0] not in ignored:
                    told = caveat("facts_between_trials", what=name, arm=arm, before=before, after=after)
                    yield k, f"{name} between trials", told


def _several_on_a_side(pairs: Pairs, codes: Integers, examples: Integers) -> Iterator[tuple[int, str, list[int]]]:
    """(comparison, arm, an example of each) where one side's paired legs have several codes, (legs,)."""
    owner, arm = pairs.comparison[pairs.round_trial], pairs.legs.text["arm"]
    for side in (pairs.base_leg, pairs.arm_leg):
        stated = examples[side] >= 0
        cases, first = np.unique(np.stack([owner[stated], codes[side[stated]]]), axis=1, return_index=True)
        several = np.flatnonzero(np.bincount(cases[0], minlength=len(pairs.counts)) > 1)
        for k in several:
            legs = side[stated][first[cases[0] == k]]
            yield int(k), arm[legs[0]], [int(examples[leg]) for leg in np.sort(legs)]


def _canonical(config: str) -> str:
    """A configuration as text in which different spellings of "nothing" are equal."""
    return json.dumps(_built(parse_object(config)), sort_keys=True)


def _built(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm was built with, in one spelling: a full DeepSpeed config already includes its shorthands."""
    return _leaves({k: v for k, v in config.items() if "deepspeed_config" not in config or k not in SPELLINGS})


def configurations_over_settings(legs: Legs) -> Iterator[tuple[str, str]]:
    """(arm, differing keys) where one name stands for different arms in different settings, which its summary pools.

    Keys that follow from the setting (batches, types, its optimizer) are ignored.
    """
    arm, config = legs.text["arm"], legs.text["arm_config"]
    built = [
        {k: v for k, v in _built(parse_object(text)).items() if not k.startswith(_OF_THE_SETTING)}
        for text in config.names
    ]
    by_arm: dict[int, list[dict[str, Any]]] = {}
    for arm_code, config_code in np.unique(np.stack([arm.codes, config.codes]), axis=1).T.tolist():
        if config_code >= 0 and built[config_code]:
            by_arm.setdefault(arm_code, []).append(built[config_code])
    for code, several in by_arm.items():
        keys = sorted({key for one in several for key in one if any(o.get(key) != one[key] for o in several)})
        if keys:
            yield arm.names[code], ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _leaves(value: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as dotted names and values. Leaves out empty values, options that are off (older rows lack newer
    options) and the place in a chain, which is no property of the arm.
    """
    return {
        name: item
        for name, item in dotted(value)
        if not (item is None or item is False or item in ([], {}, "")) and name != "chain"
    }


def _lasting(text: str) -> str:
    """A leg's facts without those that depend on the seed."""
    return json.dumps({k: v for k, v in parse_object(text).items() if k not in _OF_THE_SEED}, sort_keys=True)


def parted_losses(pairs: Pairs) -> Iterator[tuple[int, str, Caveat]]:
    """Comparisons in whose rounds the losses of the first steps differ."""
    losses, owner = pairs.legs.losses, pairs.comparison[pairs.round_trial]
    arm, base = losses[pairs.arm_leg], losses[pairs.base_leg]
    allowed = _allowed(pairs, losses, _loss_tolerances(pairs))
    parted = _parted_losses(pairs, allowed)
    for k in np.unique(owner[parted.any(axis=1)]):
        rows = np.flatnonzero(owner == k)
        if not _held_to_losses(pairs, int(k)):
            continue
        step = int(np.argmax(parted[rows].any(axis=0)))
        row = rows[np.argmax(parted[rows, step])]
        leg = pairs.arm_leg[rows[0]]
        yield (
            int(k),
            "losses",
            caveat(
                "losses_part", step=step + 1, base=float(base[row, step]), baseline=pairs.baseline,
                own=float(arm[row, step]), arm=pairs.legs.text["arm"][leg], allowed=float(allowed[k, step]),
            ),
        )  # fmt: skip


def training_parts_at(pairs: Pairs) -> dict[int, int]:
    """For each comparison the first step, from 1, whose loss or gradient norm differs in the arm; 0 where none does.

    Leaves out comparisons without recorded losses, and those whose declared differences may change the losses.
    """
    owner, norms = pairs.comparison[pairs.round_trial], pairs.legs.norms
    arm, base = norms[pairs.arm_leg], norms[pairs.base_leg]
    allowed = _allowed(pairs, norms, _NORM_OF_LOSS * _loss_tolerances(pairs))
    parted = _parted_losses(pairs, _allowed(pairs, pairs.legs.losses, _loss_tolerances(pairs)))
    parted |= _tame(pairs) & (_relative(arm, base) > allowed[owner])
    told = np.unique(owner[_recorded(pairs)[:, 0]])
    steps = {}
    for k in (int(k) for k in told if _held_to_losses(pairs, int(k))):
        at = parted[owner == k].any(axis=0)
        steps[k] = int(np.argmax(at)) + 1 if at.any() else 0
    return steps


def _parted_losses(pairs: Pairs, allowed: Floats) -> np.ndarray:
    """Where the losses of a round's legs differ by more than `allowed`, (c, steps)."""
    losses, owner = pairs.legs.losses, pairs.comparison[pairs.round_trial]
    arm, base = losses[pairs.arm_leg], losses[pairs.base_leg]
    # A loss that is nan on one side only differs as well.
    lone = np.isnan(arm) != np.isnan(base)
    return np.asarray(_tame(pairs) & np.where(lone, _recorded(pairs), _relative(arm, base) > allowed[owner]))


def _tame(pairs: Pairs) -> np.ndarray:
    """Steps, (c, steps), before the baseline's loss diverges."""
    base = pairs.legs.losses[pairs.base_leg]
    return np.asarray(np.logical_and.accumulate(~(base > _DIVERGING * base[:, :1]), axis=1))


def _allowed(pairs: Pairs, values: Floats, tolerance: Floats) -> Floats:
    """The allowed relative difference of `values`, (legs, steps), by comparison and step, (k, steps)."""
    scatter = np.maximum.accumulate(_scatter_of_rounds(pairs, values), axis=1)
    return np.asarray(tolerance[:, None] + _REPEATS * scatter)


def _held_to_losses(pairs: Pairs, comparison: int) -> bool:
    """Whether the differences that a comparison's space declares leave the losses unchanged."""
    return set(declared(pairs.legs.text["differs"][pairs.example[comparison]])) <= _LEAVES_LOSSES


def _recorded(pairs: Pairs) -> np.ndarray:
    """Steps, (c, steps), that both legs of a round ran; either leg's recorded losses count them."""
    steps = pairs.legs.steps.num_steps
    both = np.fmin(steps[pairs.arm_leg], steps[pairs.base_leg])[:, None]
    told = np.isfinite(pairs.legs.losses[:, 0])
    return (np.arange(pairs.legs.losses.shape[1]) < both) & (told[pairs.arm_leg] & told[pairs.base_leg])[:, None]


def _relative(one: Floats, other: Floats) -> Floats:
    """The relative difference; nan where a value is missing."""
    size = np.maximum(np.maximum(np.abs(one), np.abs(other)), np.finfo(float).tiny)
    with np.errstate(invalid="ignore"):  # gradient norms of overflowed steps are infinite
        return np.asarray(np.abs(one - other) / size)


def _scatter_of_rounds(pairs: Pairs, values: Floats) -> Floats:
    """The largest relative difference of an arm's values, (legs, steps), between rounds of a trial, as (k, steps)."""
    owner = pairs.comparison[pairs.round_trial]
    scatter = np.zeros((len(pairs.counts), values.shape[1]))
    for side in (pairs.base_leg, pairs.arm_leg):
        trial = dense(owner, pairs.leg_trial[side])
        first = np.unique(trial, return_index=True)[1]
        apart = _relative(values[side], values[side[first]][trial])
        np.maximum.at(scatter, owner, np.nan_to_num(apart))
    return scatter


def _loss_tolerances(pairs: Pairs) -> Floats:
    """The relative tolerance of a loss for each comparison, (k,)."""
    text, example = pairs.legs.text, pairs.base_example
    devices = {
        int(code): parse_object(text["facts"].names[code] if code >= 0 else "").get("device")
        for code in np.unique(text["facts"].codes[example])
    }
    keys = [(text["precision"][leg], devices[int(text["facts"].codes[leg])] == "cpu") for leg in example]
    return np.array([_LOSS_TOLERANCE.get(key, _LOW_PRECISION_TOLERANCE) for key in keys])


def _facts(pairs: Pairs) -> list[tuple[int, str, Any, Any]]:
    legs, owner = pairs.legs, pairs.comparison[pairs.round_trial]
    column = legs.text["facts"]
    arm, base = column.codes[pairs.arm_leg], column.codes[pairs.base_leg]
    unequal = np.flatnonzero((arm != base) & (arm >= 0) & (base >= 0))
    if not len(unequal):
        return []
    differs, precision = (legs.text[name].codes[pairs.arm_leg[unequal]] for name in ("differs", "precision"))
    case = dense(arm[unequal], base[unequal], differs, precision)
    parsed: dict[int, dict[str, Any]] = {
        int(code): parse_object(column.names[code]) for code in _distinct(arm[unequal], base[unequal])
    }
    rows = np.unique(case, return_index=True)[1]
    verdicts = []
    for row in unequal[rows]:
        leg = pairs.arm_leg[row]
        verdicts.append(
            experiment.differences(
                parsed[int(arm[row])],
                parsed[int(base[row])],
                declared(legs.text["differs"][leg]),
                legs.text["precision"][leg],
            )
        )
    differing = np.array([bool(verdict) for verdict in verdicts])
    concerned = np.flatnonzero(differing[case])
    cases = np.unique(np.stack([owner[unequal[concerned]], case[concerned]]), axis=1)
    return [(int(k), *difference) for k, c in cases.T for difference in verdicts[c]]


def _distinct(*codes: Integers) -> Integers:
    return np.unique(np.concatenate(codes))
