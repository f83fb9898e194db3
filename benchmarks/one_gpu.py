"""What one machine with one GPU can tell of raybench and of DeepSpeed, in a few minutes and in one archive.

    python benchmarks/one_gpu.py [minutes=9] [size=full|small|tiny] [out=one_gpu] [wheels=FOLDER] [stages=A,B,...]

Stages run in the order of their value, each in processes of its own and within its own share of the minutes; one that
fails or runs out of its time costs the others nothing, and what it had measured by then counts. Started again with
the same `out`, it goes on with the stages that are not done, and within them with the legs that are missing. Legs run
as under torchrun: Ray and a package index are not needed. `wheels` is a folder with DeepSpeed's wheels for the stage
`versions`; without it that stage has the installed one alone. At the end everything lies in OUT.tar.gz, and a table
says what was seen. On a CPU `size=small` tries every stage, and `size=tiny` its path alone, with numbers that mean
nothing.

Whether a number is as it should be was written down here before any was measured: EXPECTED.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from alone import environment_of_one

from raybench.analysis import analyse
from raybench.analysis.results import Side
from raybench.cli import parse_script, run_command
from raybench.declare.plan import build_plan, plan_from_arguments
from raybench.errors import UserError
from raybench.ledger.reading import read_ledger
from raybench.show import units
from raybench.text import suggest

HERE = Path(__file__).parents[1]
# (least, most) that a number may be, by the name of its row.
EXPECTED = {
    "bf16 matrix product over the datasheet's peak": (0.60, 1.00),  # large products reach 60 to 85 % of it
    "loop over a hand-written one, plain torch": (0.98, 1.01),
    "loop over a hand-written one, DeepSpeed alone": (0.97, 1.02),
    "largest loss difference, fp32": (0.0, 1e-4),  # relative, ten steps; sums in another order
    "largest loss difference, bf16": (0.0, 3e-2),
    "largest loss difference, fp16": (0.0, 3e-2),
    # Bytes a parameter. A small network's buffers, and what ZeRO pads, are the rest.
    "model states, plain torch, fp32 AdamW": (16.0, 16.5),  # weight 4, gradient 4, two moments 8
    "model states, plain torch, fp32 SGD with momentum": (12.0, 12.5),  # weight 4, gradient 4, one moment 4
    "model states, ZeRO-1, bf16 weights, AdamW": (16.0, 16.5),  # 2, 2, and 12 of the optimizer
    "of these the optimizer's": (12.0, 12.4),  # fp32 weights 4, two moments 8
    "share of wall time in measured steps": (0.50, 1.0),
}
SYNTHETIC = {"dataset": "synthetic", "workers": 1, "loader_workers": 0}
ENGINES = {
    "torch": {"engine": "torch"},
    "fsdp": {"engine": "fsdp"},
    **{f"zero{stage}": {"engine": "deepspeed", "zero": stage} for stage in range(4)},
    "offload": {"engine": "deepspeed", "zero": 2, "offload": "optimizer"},
}
SIZES = ("full", "small", "tiny")
Row = tuple[str, float | str]  # what, and how much


@dataclass(frozen=True)
class Job:
    """What a stage is told."""

    size: str  # full, small or tiny
    folder: Path  # its own
    wheels: Path | None

    def pick(self, full: Any, small: Any, tiny: Any = None) -> Any:
        """One value for a GPU, another for a CPU, and where it matters a third for a try."""
        return full if self.size == "full" else small if self.size == "small" or tiny is None else tiny


@dataclass(frozen=True)
class Stage:
    """`run` measures, in a process of its own that may be ended; `read` says what was measured by then."""

    share: float  # of the minutes, at most
    run: Callable[[Job], None]
    read: Callable[[Job], Iterable[Row]]


def child(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of raybench's or of this folder's, its output on this process's."""
    return subprocess.run([sys.executable, *words], cwd=HERE, text=True, check=False, **options)


def run_space(
    job: Job, name: str, space: Mapping[str, Any] | list[str], repeats: int = 1, arms: Iterable[str] = ()
) -> None:
    """A space, as a mapping or as the words that name one, and of it the `arms` named: a process for each repeat.

    With one worker that process needs no torchrun, which would start it in a session that no limit reaches.
    """
    if isinstance(space, Mapping):
        path = job.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(space), sort_keys=False))
        space = [f"space={path}"]
    words = dict(word.split("=", 1) for word in [*space, f"sweep={name}", f"repeats={repeats}"])
    plan, chosen = plan_from_arguments(words)
    if wanted := set(arms):
        kept = {arm: how for arm, how in chosen.arms.items() if arm in wanted}
        plan = build_plan(plan.space, chosen.model_copy(update={"arms": kept}), plan.sweep)
    file = job.folder / f"{name}.json"
    file.write_text(plan.model_dump_json(indent=1))
    ledger = job.folder / "ledgers" / name
    words_of = ["-m", "raybench.training", str(file), f"ledger={ledger}"]
    for repeat in range(repeats):
        held = -1
        while child([*words_of, f"repeat={repeat}"], env=environment_of_one()).returncode:
            held, before = len(rows_of(job, name, ["leg_id"])), held  # a leg took its process down: on with those after
            if held <= max(before, 0):
                raise SystemExit(f"{name}: repeat {repeat} does not go on")


def rows_of(job: Job, name: str, columns: list[str]) -> list[dict[str, Any]]:
    """The legs that a space's ledger holds; none where it has none."""
    folder = job.folder / "ledgers" / name
    return read_ledger(folder, columns).to_pylist() if any(folder.glob("*.parquet")) else []


def verdicts(job: Job, name: str) -> Iterable[Row]:
    """The arms over a space's settings, each comparison with an interval, and what failed."""
    folder = job.folder / "ledgers" / name
    if not any(folder.glob("*.parquet")):
        return
    analysis = analyse([folder])
    yield f"{name}: legs, of which failed", f"{analysis.num_legs}, {analysis.num_failed_legs}"
    told = set()
    for comparison in analysis.comparisons:
        setting, judged = comparison.where.setting, comparison.judgement
        if setting not in told and comparison.baseline.seconds is not None:
            told.add(setting)
            yield f"{name}: {setting}: {analysis.baseline}", cost(comparison.baseline, comparison.seconds_per)
        interval = units.interval(judged.interval)
        words = [units.ratio(comparison.speedup.value) or "no number", f"[{interval}]" if interval else ""]
        words += [judged.verdict, cost(comparison.treated, comparison.seconds_per)]
        yield f"{name}: {setting}: {comparison.arm}", " ".join(filter(None, words))


def cost(side: Side, per: str) -> str:
    """What a side took: its step, tokens a second, memory, and its share of the peak, as far as they are known."""
    parts = [f"{units.cost(side.seconds, per)} a {per}" if side.seconds is not None else ""]
    parts += [units.rate(side.tokens_per_second, "tokens"), units.size(side.memory_bytes) if side.memory_bytes else ""]
    parts += ["" if side.peak_share is None else f"{units.percent(side.peak_share)} of the peak"]
    return ", ".join(filter(None, parts))


def run_doctor(job: Job) -> None:
    done = child(["-m", "raybench.doctor", "--json"], stdout=subprocess.PIPE)
    (job.folder / "doctor.json").write_text(done.stdout)


def read_doctor(job: Job) -> Iterable[Row]:
    findings = json.loads((job.folder / "doctor.json").read_text())["findings"]
    for finding in findings:
        if finding["status"] != "ok":
            yield f"{finding['status']}: {finding['name']}", finding["found"]
    yield "findings that are ok", float(sum(finding["status"] == "ok" for finding in findings))


def run_correctness(job: Job) -> None:
    """All in one trial, whose legs share seed and batches: trials of other settings have others."""
    precisions = job.pick(("fp32", "bf16", "fp16"), ("fp32", "bf16"))
    engines = job.pick(tuple(ENGINES), tuple(ENGINES), ("torch", "fsdp", "zero1", "zero3"))
    losses = {
        f"{name}_{precision}": {**ENGINES[name], "setting": {"precision": precision}}
        for precision in precisions
        for name in engines
    }
    lower = {"precision": "bf16", "mixed_precision": "cast"}
    momentum = {"optimizer": {"name": "sgd", "lr": 1e-2, "momentum": 0.9}}
    run_space(job, "correctness", {
        "setting": {**SYNTHETIC, "model": "test_vit", "batch_size": 8,
                    "optimizer": {"name": "adamw", "lr": 1e-4, "eps": 1e-6}},
        "arms": {**losses, "sgd": {**ENGINES["torch"], "setting": momentum},
                 "cast": {**ENGINES["zero1"], "setting": lower}},
        "differs": ["optimizer", *lower],
        "protocol": {"kind": "throughput", "warmup_steps": 2, "steps": 8, "rounds": 1},
    })  # fmt: skip


def read_correctness(job: Job) -> Iterable[Row]:
    rows = rows_of(job, "correctness", ["arm", "status", "failure_message", "step_losses", "memory_parts", "facts"])
    yield from ((f"{row['arm']} failed", row["failure_message"]) for row in rows if row["status"] != "ok")
    ok = {row["arm"]: row for row in rows if row["status"] == "ok"}
    losses = {arm: np.array(row["step_losses"]) for arm, row in ok.items() if arm not in ("sgd", "cast")}
    exact = losses.get("torch_fp32")
    for precision in dict.fromkeys(arm.rpartition("_")[2] for arm in losses) if exact is not None else ():
        parted = [float(abs(found / exact - 1).max()) for arm, found in losses.items() if arm.endswith(precision)]
        yield f"largest loss difference, {precision}", max(parted)
    for arm, name in STATES_OF.items():
        if arm in ok:
            count = json.loads(ok[arm]["facts"])["num_parameters"]
            parts = {part: (held[0] or 0) / count for part, held in json.loads(ok[arm]["memory_parts"]).items()}
            yield f"model states, {name}", sum(parts[part] for part in STATES)
            if arm == "cast":
                yield "of these the optimizer's", parts["master_weights"] + parts["optimizer_state"]


STATES = ("parameters", "gradients", "master_weights", "optimizer_state")
STATES_OF = {
    "torch_fp32": "plain torch, fp32 AdamW", "sgd": "plain torch, fp32 SGD with momentum",
    "cast": "ZeRO-1, bf16 weights, AdamW",
}  # fmt: skip


def run_neutrality(job: Job) -> None:
    """Few processes: `overhead.py` alone asks ten, which takes longer than all the stages here."""
    for engine in ("torch", "deepspeed"):
        sizes = job.pick(["processes=3", "rounds=12", "steps=30"], ["processes=1", "rounds=3", "steps=10"],
                         ["processes=1", "rounds=1", "steps=3"])  # fmt: skip
        child(["benchmarks/overhead.py", f"engine={engine}", "variants=1", *sizes, f"out={job.folder}/{engine}.json"])


def read_neutrality(job: Job) -> Iterable[Row]:
    for engine, name in (("torch", "plain torch"), ("deepspeed", "DeepSpeed alone")):
        if (file := job.folder / f"{engine}.json").exists():
            yield f"loop over a hand-written one, {name}", json.loads(file.read_text())["phases off"]


def run_paper(job: Job) -> None:
    words = [f"setting.{key}={value}" for key, value in SYNTHETIC.items()]
    full = [*words, "setting.precision=bf16", "protocol.warmup_steps=10", "protocol.steps=30"]
    small = ["size=small", "setting.workers=1", "protocol.warmup_steps=2", "protocol.steps=4"]
    tiny = ["size=small", "setting.model=lenet", *words, "protocol.warmup_steps=1", "protocol.steps=2"]
    run_space(job, "paper", ["space=paper", *job.pick(full, small, tiny)], job.pick(3, 1))


def read_shares(job: Job) -> Iterable[Row]:
    yield from verdicts(job, "paper")
    folder = job.folder / "ledgers" / "paper"
    if any(folder.glob("*.parquet")):
        costs = analyse([folder]).costs
        yield "share of wall time in measured steps", costs.measured_share or 0.0
        for name in ("warmup_seconds", "setup_seconds", "start_seconds", "between_seconds"):
            yield f"share of wall time: {name.removesuffix('_seconds')}", getattr(costs, name) / costs.wall_seconds


def shipped(
    space: str, share: float, full: list[str], small: list[str], tiny: list[str], arms: tuple[str, ...]
) -> Stage:
    """A space that ships, on one worker; at size=tiny two or three of its arms."""

    def run(job: Job) -> None:
        words = job.pick(full, ["size=small", *small], ["size=small", *small, *tiny])
        run_space(job, space, [f"space={space}", "setting.workers=1", *words], arms=job.pick((), (), arms))

    return Stage(share, run, lambda job: verdicts(job, space))


def run_versions(job: Job) -> None:
    """The same space with each DeepSpeed that lies in `wheels`, put before the one that is installed."""
    before = os.environ.get("PYTHONPATH")
    for name, wheel in deepspeeds(job).items():
        if wheel is not None:
            site = job.folder / "sites" / name
            options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
            child(["-m", "pip", "install", "-q", *options, str(wheel)])
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), before]))
        run_space(job, name, {
            "setting": {**SYNTHETIC, "model": job.pick("densenet121", "test_resnet"), "batch_size": 8},
            "arms": {"torch": {"engine": "torch"}, "zero2": {"engine": "deepspeed", "zero": 2}},
            "protocol": {"kind": "throughput", "warmup_steps": job.pick(5, 1), "steps": job.pick(30, 3), "rounds": 2},
        }, repeats=job.pick(3, 1))  # fmt: skip


def read_versions(job: Job) -> Iterable[Row]:
    for name in deepspeeds(job):
        yield from verdicts(job, name)


def deepspeeds(job: Job) -> dict[str, Path | None]:
    """The wheels by name; the installed version alone where there are none."""
    return {wheel.name: wheel for wheel in sorted(job.wheels.iterdir())} if job.wheels else {"installed": None}


def run_known(job: Job) -> None:
    """The bf16 matrix product, and ResNet-50 at its usual size, by plain torch."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settle = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    side = job.pick(8192, 512)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(job.pick(50, 3)):
        settle()
        begun = time.perf_counter()
        left @ right
        settle()
        seconds.append(time.perf_counter() - begun)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    (job.folder / "known.json").write_text(json.dumps({"device": name, "tflops": 2 * side**3 / min(seconds) / 1e12}))
    if job.size == "full":
        run_space(job, "resnet50", {
            "setting": {**SYNTHETIC, "model": "resnet50", "image_size": 224, "batch_size": 256, "precision": "bf16",
                        "channels_last": True, "small_images": "none", "optimizer": {"name": "sgd", "lr": 0.1}},
            "arms": {"torch": {"engine": "torch"}, "fsdp": {"engine": "fsdp"}},
            "protocol": {"kind": "throughput", "warmup_steps": 10, "steps": 30, "rounds": 1},
        }, arms=["torch"])  # fmt: skip


def read_known(job: Job) -> Iterable[Row]:
    from raybench.machine.peaks import datasheet_tflops

    known = json.loads((job.folder / "known.json").read_text())
    yield "bf16 matrix product, TFLOP/s", known["tflops"]
    peak = datasheet_tflops(known["device"], "bf16")
    if peak:
        yield "bf16 matrix product over the datasheet's peak", known["tflops"] / peak
    for row in rows_of(job, "resnet50", ["status", "step_seconds", "warmup_steps", "samples_per_step"]):
        if row["status"] == "ok":
            step = float(np.mean(row["step_seconds"][row["warmup_steps"] :]))
            yield "ResNet-50, 224 pixels, batch 256, images a second", row["samples_per_step"] / step


GPT = ["setting.model=[hf/gpt2,hf/gpt2-medium,hf/gpt2-large,hf/gpt2-xl]", "setting.batch_size=8", "protocol.rounds=1",
       "protocol.warmup_steps=5", "protocol.steps=10"]  # fmt: skip
FEW = ["protocol.warmup_steps=1", "protocol.steps=2", "protocol.rounds=1"]
# Shares add up to more than 1: a stage that ends early leaves its time to the next.
STAGES = {
    "doctor": Stage(0.10, run_doctor, read_doctor),
    "correctness": Stage(0.20, run_correctness, read_correctness),
    "known": Stage(0.10, run_known, read_known),
    "paper": Stage(0.40, run_paper, read_shares),
    "gpt": shipped("gpt", 0.30, GPT, [], FEW, ("ddp", "zero3")),
    "neutrality": Stage(0.25, run_neutrality, read_neutrality),
    "unlock": shipped("unlock", 0.15, ["setting.model=hf/gpt2-large"], [], FEW, ("ddp", "zero3")),
    "versions": Stage(0.20, run_versions, read_versions),
    "ladder": shipped("ladder", 0.15, ["setting.dataset=synthetic", "setting.loader_workers=0"], [], FEW,
                      ("example", "batch16", "zero1")),
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the stages that are not done, write the archive, print the table. Returns 0, or 1 where a number is off."""
    defaults = {"minutes": 9.0, "size": "full", "out": "one_gpu", "wheels": "", "stages": ",".join(STAGES), "only": ""}
    values = parse_script(__doc__ or "", defaults, argv)
    if values["size"] not in SIZES:
        raise UserError(f"size={values['size']}: {suggest(values['size'], SIZES)}")
    names = values["stages"].split(",")
    for name in names:
        if name not in STAGES:
            raise UserError(f"stages={name}: {suggest(name, STAGES)}")
    out = Path(values["out"]).absolute()
    wheels = Path(values["wheels"]).absolute() if values["wheels"] else None
    if wheels is not None and not wheels.is_dir():
        raise UserError(f"wheels={values['wheels']}: no such folder")
    jobs = {name: Job(values["size"], out / name, wheels) for name in names}
    if values["only"]:
        STAGES[values["only"]].run(jobs[values["only"]])
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end = time.monotonic() + 60 * values["minutes"]
    for name in names:
        run_stage(
            name,
            jobs[name],
            [*argv, f"only={name}"],
            min(60 * values["minutes"] * STAGES[name].share, end - time.monotonic()),
        )
    table = [line for name in names for line in table_of(name, jobs[name])]
    (out / "table.md").write_text("\n".join(line for line, _ in table) + "\n")
    with tarfile.open(out.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(out, arcname=out.name, filter=lambda member: None if "/sites/" in member.name else member)
    print("\n".join(line for line, _ in table))
    print(f"everything is in {out.with_suffix('.tar.gz')}")
    return 0 if all(fine for _, fine in table) else 1


def run_stage(name: str, job: Job, words: list[str], limit: float) -> None:
    """One stage in a process group of its own, ended after `limit` seconds; one that is done is not run again."""
    status = job.folder / "stage.json"
    if status.exists() and json.loads(status.read_text())["how"] == "done":
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    if limit <= 0:
        status.write_text(json.dumps({"how": "no time was left", "seconds": 0.0}))
        return
    begun = time.monotonic()
    with (job.folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, *words], cwd=HERE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        how = f"ended after {limit:.0f} s"
        try:
            code = process.wait(limit)
            how = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            pass
        finally:  # also where this process is told to end
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    status.write_text(json.dumps({"how": how, "seconds": time.monotonic() - begun}))
    print(f"{name}: {how}", flush=True)


def table_of(name: str, job: Job) -> list[tuple[str, bool]]:
    """A stage's lines of the table, each with whether it is as expected."""
    status = json.loads((job.folder / "stage.json").read_text())
    fine = status["how"] == "done" or "after" in status["how"]
    lines = [(f"\n## {name}: {status['how']}, {status['seconds']:.0f} s\n", fine)]
    try:
        rows = list(STAGES[name].read(job))
    except (FileNotFoundError, UserError) as error:  # the stage was ended before it wrote anything
        rows = [("nothing to read", str(error))]
    for what, value in rows:
        least, most = EXPECTED.get(what, (-np.inf, np.inf))
        fine = isinstance(value, str) or job.size != "full" or bool(least <= value <= most)
        shown = value if isinstance(value, str) else f"{value:.4g}"
        wanted = f" (expected {least:g} to {most:g})" if what in EXPECTED else ""
        lines.append((f"- {what}: {shown}{wanted}{'' if fine else ' OFF'}", fine))
    return lines


if __name__ == "__main__":
    run_command(main)
