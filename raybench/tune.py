"""Best against best: search an arm's knobs by short paired trials, then judge the result on fresh trials.

    python -m raybench.tune space=NAME arm=zero3 [trials=12] [minutes=30] [key=value ...]

A round of the search is a small sweep: the unchanged arm and a few choices of its knobs, in the same trials. The
fastest there was partly lucky, so the verdict comes from a separate sweep with other seeds.
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("tune")

import json
import shlex
import time
from dataclasses import dataclass, field
from math import exp, log
from typing import Any, Final

from rich.console import Console

from raybench.analysis import Comparison, analyse
from raybench.cli import parse_arguments, run_command
from raybench.declare.arms import Arm
from raybench.declare.knobs import ACCUMULATION, Choice, Knob, knobs_of, turned
from raybench.declare.plan import Plan, build_plan, check_name, missing_space
from raybench.declare.protocol import Throughput, steps_or
from raybench.declare.setting import Setting
from raybench.declare.space import Space, load_space
from raybench.driver.proposals import Proposals
from raybench.errors import UserError
from raybench.redaction import without_secrets
from raybench.show import units
from raybench.stores.storage import AnyPath, to_path
from raybench.sweep import Request, measure, run_sweep, seconds_to_wait
from raybench.text import suggest

PER_ROUND: Final = 4  # choices tried side by side
_REPEATS: Final = 2  # of each choice, in trials of one round of legs
_WARMUP, _STEPS = 5, 20  # at most, of a leg of the search


@dataclass(frozen=True)
class Tried:
    """A choice of an arm's knobs, and its speedup over the unchanged arm; None where it failed."""

    choice: Choice
    log_speedup: float | None


@dataclass
class Search:
    """The search over the knobs of one arm."""

    arm: str
    knobs: tuple[Knob, ...]
    tried: list[Tried] = field(default_factory=list)

    def best(self) -> Tried | None:
        """The fastest choice; None where none was faster than the unchanged arm."""
        faster = [one for one in self.tried if one.log_speedup is not None and one.log_speedup > 0]
        return max(faster, key=lambda one: one.log_speedup or 0.0, default=None)


def main(argv: list[str]) -> int:
    """Search, judge, print. Returns 0; raises UserError, NothingMeasured and Interrupted as a sweep does."""
    arguments = parse_arguments("tune", argv)
    values = dict(arguments.values)
    results, wait = to_path(values.pop("results", "mlruns/ledger")), seconds_to_wait(values.pop("wait", "20"))
    most, seconds = _number(values.pop("trials", "12"), "trials"), 60 * _number(values.pop("minutes", "30"), "minutes")
    sweep, names = values.pop("sweep", ""), [name for name in values.pop("arm", "").split(",") if name]
    if "space" not in values:
        raise missing_space(values)
    name, space = load_space(values.pop("space"), size=values.pop("size", ""), overrides=values)
    setting = the_setting(space)
    searches = [Search(arm, knobs) for arm, knobs in arms_to_tune(space, setting, names).items()]
    sweep = sweep or f"tune-{build_plan(name, space).sweep}"
    check_name("sweep", sweep)
    as_json = "json" in arguments.flags
    console = Console(stderr=as_json, quiet=as_json)
    command = without_secrets("python -m raybench.tune " + " ".join(shlex.quote(token) for token in argv))

    def request(plan: Plan, of: Space) -> Request:
        return Request(plan, of, (results / plan.space / plan.sweep).absolute(), command, "normal", wait)

    for search in searches:
        deadline = time.monotonic() + seconds / len(searches)
        proposals = Proposals(search.knobs, space.seed)
        while (left := most - len(search.tried)) > 0:
            begun, number = time.monotonic(), len(search.tried)
            choices = [proposals.next(number + i) for i in range(min(PER_ROUND, left))]
            of_round = round_space(space, search.arm, choices)
            plan = build_plan(name, of_round, f"{sweep}-search-{searches.index(search)}-{number // PER_ROUND}")
            asked = request(plan, of_round)
            measure(asked, console)
            for i, one in enumerate(read_round(asked.folder, search.arm, choices)):
                search.tried.append(one)
                proposals.tell(number + i, one.log_speedup)
                console.print(_told(search.arm, one), soft_wrap=True)
            if time.monotonic() + (time.monotonic() - begun) > deadline:  # another round of this length would not fit
                break
    final, pairs = verdict_space(space, searches)
    asked = request(build_plan(name, final, f"{sweep}-verdict"), final)
    run_sweep(asked, console)
    _report(searches, final, pairs, asked.folder, as_json=as_json)
    return 0


def _number(text: str, name: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 10_000:
        raise UserError(f"{name}={text}: a whole number of 1 or more")
    return int(text)


def the_setting(space: Space) -> Setting:
    """The space's one setting. Raises UserError where it has several: knobs for one may not suit another."""
    settings = list(space.settings())
    if len(settings) > 1:
        axes = " ".join(f"setting.{axis}={settings[0].get(axis)}" for axis in space.axes())
        raise UserError(f"a search is for one setting, and this space has {len(settings)}; choose one, as in {axes}")
    return Setting.model_validate(settings[0])


def arms_to_tune(space: Space, setting: Setting, names: list[str]) -> dict[str, tuple[Knob, ...]]:
    """The arms and their knobs; without names, the first arm with a DeepSpeed engine. Raises UserError."""
    chosen = names or [name for name, arm in space.arms.items() if arm.engine == "deepspeed"][:1]
    if not chosen:
        raise UserError("no arm of this space has a DeepSpeed engine; name the arm to tune, as in arm=ddp")
    found = {}
    for name in chosen:
        if name not in space.arms:
            raise UserError(f"arm={name}: {suggest(name, list(space.arms))}")
        arm = space.arms[name]
        found[name] = knobs_of(arm, Setting.model_validate({**setting.model_dump(), **arm.setting}))
        if not found[name]:
            raise UserError(f"arm={name}: this arm has no knobs to tune; ZeRO 1 to 3 and DDP have some")
    return found


def _with_arms(space: Space, arms: dict[str, Arm], baseline: str, **more: Any) -> Space:
    """The space with other arms, which may differ in their micro-batch."""
    differs = tuple(dict.fromkeys((*space.differs, ACCUMULATION)))
    return space.model_copy(
        update={"arms": arms, "baseline": baseline, "differs": differs, "chain": False, "explain": False, **more}
    )


def round_space(space: Space, arm: str, choices: list[Choice]) -> Space:
    """A round of the search: the unchanged arm and choices of its knobs, in short trials."""
    like = space.arms[arm]
    arms = {arm: like, **{f"choice {i}": turned(like, choice) for i, choice in enumerate(choices)}}
    protocol = space.protocol
    steps, warmup_steps = min(steps_or(protocol, _STEPS), _STEPS), min(protocol.warmup_steps, _WARMUP)
    short = Throughput(warmup_steps=warmup_steps, steps=steps, rounds=1, phases=False, telemetry=False)
    return _with_arms(space, arms, arm, protocol=short, repeats=_REPEATS)


def read_round(folder: AnyPath, arm: str, choices: list[Choice]) -> list[Tried]:
    """The results of a round's choices."""
    found = {c.arm: c.speedup.value for c in analyse([folder], baseline=arm).comparisons}
    speedups = [found.get(f"choice {i}") for i in range(len(choices))]
    return [Tried(c, log(value) if value else None) for c, value in zip(choices, speedups, strict=True)]


def verdict_space(space: Space, searches: list[Search]) -> tuple[Space, dict[str, str]]:
    """The sweep that judges, on trials with other seeds: the baseline, the unchanged arms and the tuned ones; and each
    arm's best by name. If the baseline was tuned, its best is the baseline."""
    best = {search.arm: f"{search.arm} tuned" for search in searches if search.best() is not None}
    arms: dict[str, Arm] = {}
    for search in searches:
        if (found := search.best()) is not None:
            arms[best[search.arm]] = turned(space.arms[search.arm], found.choice)
    wanted = dict.fromkeys((space.baseline, *(search.arm for search in searches)))
    arms = {**{name: space.arms[name] for name in wanted}, **arms}
    names = {name: best.get(name, name) for name in wanted}
    if len(arms) < 2:
        raise UserError(f"no choice was faster than {space.baseline} as it is, and no other arm was asked for")
    return _with_arms(space, arms, names[space.baseline], seed=space.seed + 1), names


def _told(arm: str, one: Tried) -> str:
    knobs = ", ".join(f"{name}={value}" for name, value in one.choice.items())
    result = "failed" if one.log_speedup is None else f"{exp(one.log_speedup):.3f} of {arm}'s speed"
    return f"tried: {knobs}: {result}"


def _report(searches: list[Search], final: Space, names: dict[str, str], folder: AnyPath, *, as_json: bool) -> None:
    """Print best against best, and each tuned arm as JSON to paste."""
    judged = {c.arm: c for c in analyse([folder]).comparisons}
    record: dict[str, Any] = {"schema_version": 1, "ledger": str(folder), "baseline": final.baseline, "arms": []}
    for search in searches:
        own, best = names[search.arm], search.best()
        config = final.arms[own].model_dump(mode="json", exclude_defaults=True)
        one: dict[str, Any] = {
            "arm": search.arm, "tried": len(search.tried), "found": best is not None, "config": config,
            "speedup_in_search": None if best is None else exp(best.log_speedup or 0.0),
        }  # fmt: skip
        if own in judged:
            one["against_baseline"] = _judgement(judged[own])
        record["arms"].append(one)
        if not as_json:
            _say(search, own, final.baseline, judged.get(own), config)
    if as_json:
        print(json.dumps(record, allow_nan=False, indent=1))


def _judgement(comparison: Comparison) -> dict[str, Any]:
    speedup = comparison.speedup
    return {
        "verdict": comparison.verdict, "speedup": speedup.value, "ci_low": speedup.low, "ci_high": speedup.high,
        "n_trials": comparison.n_trials,
    }  # fmt: skip


def _say(search: Search, own: str, baseline: str, comparison: Comparison | None, config: dict[str, Any]) -> None:
    tried = f"{len(search.tried)} choices of {len(search.knobs)} knobs were tried"
    if (best := search.best()) is None:
        print(f"\n{search.arm}: {tried}, and none was faster than it is")
        return
    print(
        f"\n{search.arm}: {tried}; the best ran at {exp(best.log_speedup or 0.0):.3f} of its speed there, luck included"
    )
    if comparison is not None and comparison.speedup.value is not None:
        speedup = comparison.speedup
        between = f" ({units.interval(speedup)})" if speedup.low is not None else ""
        print(f"on fresh trials, {own} against {baseline}: {comparison.verdict}, {units.ratio(speedup.value)}{between}")
    print(f"{own}: {json.dumps(config)}")


if __name__ == "__main__":
    run_command(main)
