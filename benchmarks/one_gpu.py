"""What one machine with one GPU can tell of raybench and of DeepSpeed, in a few minutes and in one archive.

    python benchmarks/one_gpu.py [minutes=9] [size=full] [out=one_gpu] [wheels=FOLDER] [stages=A,B,...]

Stages run in the order of their value, each in processes of its own and within its own share of the minutes; one that
fails or runs out of its time costs the others nothing, and what it had measured by then counts. Started again with
the same `out`, it goes on with the stages that are not done. Legs run under torchrun: Ray and a package index are not
needed. `wheels` is a folder with DeepSpeed's wheels for the stage `versions`. At the end everything lies in OUT.tar.gz,
and a table says what was seen. `size=small` tries every stage on a CPU.

Whether a number is as it should be was written down here before any was measured: EXPECTED.
"""

from __future__ import annotations

import json
import os
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

from raybench.analysis import analyse
from raybench.cli import parse_script, run_command
from raybench.errors import UserError
from raybench.ledger.reading import read_ledger
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
    "model states, plain torch, fp32 AdamW": (16.0, 16.5),  # bytes a parameter: weight 4, gradient 4, two moments 8
    "share of wall time in measured steps": (0.50, 1.0),
}
SYNTHETIC = {"dataset": "synthetic", "workers": 1, "loader_workers": 0}
ENGINES = {
    "torch": {"engine": "torch"},
    "fsdp": {"engine": "fsdp"},
    **{f"zero{stage}": {"engine": "deepspeed", "zero": stage} for stage in range(4)},
    "offload": {"engine": "deepspeed", "zero": 2, "offload": "optimizer"},
}
Row = tuple[str, float | str]  # what, and how much


@dataclass(frozen=True)
class Job:
    """What a stage is told."""

    small: bool
    folder: Path  # its own
    out: Path
    wheels: Path | None

    def pick(self, full: Any, small: Any) -> Any:
        """One value for a GPU, another for a CPU."""
        return small if self.small else full


@dataclass(frozen=True)
class Stage:
    """`run` measures, in a process of its own that may be ended; `read` says what was measured by then."""

    share: float  # of the minutes, at most
    run: Callable[[Job], None]
    read: Callable[[Job], Iterable[Row]]


def child(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command of raybench's or of this folder's, its output on this process's."""
    return subprocess.run([sys.executable, *words], cwd=HERE, text=True, check=False, **options)


def run_space(job: Job, name: str, space: Mapping[str, Any] | list[str], repeats: int = 1) -> None:
    """A space, as a mapping or as the words that name one, under torchrun: a set of processes for each repeat."""
    if isinstance(space, Mapping):
        path = job.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(space), sort_keys=False))
        words = [f"space={path}"]
    else:
        words = list(space)
    done = child(
        ["-m", "raybench.plan", *words, f"sweep={name}", f"repeats={repeats}", "--json"], stdout=subprocess.PIPE
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    plan = job.folder / f"{name}.json"
    plan.write_text(done.stdout)
    ledger = job.folder / "ledgers" / name
    for repeat in range(repeats):
        launch = ["-m", "torch.distributed.run", "--nproc-per-node=1", "-m", "raybench.training"]
        child([*launch, str(plan), f"ledger={ledger}", f"repeat={repeat}"])


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
    for comparison in analysis.comparisons:
        speedup = comparison.speedup
        value = "no number" if speedup.value is None else f"{speedup.value:.3f}"
        interval = "" if speedup.low is None else f" [{speedup.low:.3f}, {speedup.high:.3f}]"
        yield (
            f"{name}: {comparison.where.setting}: {comparison.arm}",
            f"{value}{interval} {comparison.judgement.verdict}",
        )


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
    for precision in ("fp32", "bf16", *job.pick(["fp16"], [])):
        run_space(job, precision, {
            "setting": {**SYNTHETIC, "model": "test_vit", "batch_size": 8, "precision": precision,
                        "optimizer": {"name": "adamw", "lr": 1e-4, "eps": 1e-6}},
            "arms": ENGINES,
            "protocol": {"kind": "throughput", "warmup_steps": 2, "steps": 10, "rounds": 1},
        })  # fmt: skip


def read_correctness(job: Job) -> Iterable[Row]:
    columns = ["arm", "status", "failure_message", "step_losses", "memory_parts", "facts"]
    exact = next((row["step_losses"] for row in rows_of(job, "fp32", columns) if row["arm"] == "torch"), None)
    for precision in ("fp32", "bf16", "fp16"):
        worst = 0.0
        rows = rows_of(job, precision, columns)
        for row in rows:
            if row["status"] != "ok":
                yield f"{precision}: {row['arm']} failed", row["failure_message"]
            elif exact is not None:
                losses, wanted = np.array(row["step_losses"][:10]), np.array(exact[:10])
                worst = max(worst, float(np.max(np.abs(losses - wanted) / np.abs(wanted))))
        if rows:
            yield f"largest loss difference, {precision}", worst
        for row in rows if precision == "fp32" else []:
            if row["status"] == "ok" and row["memory_parts"]:
                parameters = json.loads(row["facts"])["num_parameters"]
                parts = {name: values[0] for name, values in json.loads(row["memory_parts"]).items() if values[0]}
                states = sum(parts.get(name, 0) for name in STATES) / parameters
                name = "plain torch, fp32 AdamW" if row["arm"] == "torch" else f"{row['arm']}, fp32"
                yield f"model states, {name}", states


STATES = ("parameters", "gradients", "master_weights", "optimizer_state")


def run_neutrality(job: Job) -> None:
    for engine in ("torch", "deepspeed"):
        words = [
            f"engine={engine}",
            *job.pick([], ["processes=1", "rounds=3", "steps=10"]),
            f"out={job.folder}/{engine}.json",
        ]
        child(["benchmarks/overhead.py", *words])


def read_neutrality(job: Job) -> Iterable[Row]:
    for engine, name in (("torch", "plain torch"), ("deepspeed", "DeepSpeed alone")):
        if (file := job.folder / f"{engine}.json").exists():
            yield f"loop over a hand-written one, {name}", json.loads(file.read_text())["phases off"]


def paper_words(job: Job) -> list[str]:
    if job.small:
        return ["space=paper", "size=small", "setting.workers=1", "protocol.warmup_steps=2", "protocol.steps=4"]
    words = [f"setting.{key}={value}" for key, value in SYNTHETIC.items()]
    return ["space=paper", *words, "setting.precision=bf16", "protocol.warmup_steps=10", "protocol.steps=30"]


def run_paper(job: Job) -> None:
    run_space(job, "paper", paper_words(job), job.pick(3, 1))


def read_shares(job: Job) -> Iterable[Row]:
    yield from verdicts(job, "paper")
    folder = job.folder / "ledgers" / "paper"
    if any(folder.glob("*.parquet")):
        costs = analyse([folder]).costs
        yield "share of wall time in measured steps", costs.measured_share or 0.0
        for name in ("warmup_seconds", "setup_seconds", "start_seconds", "between_seconds"):
            yield f"share of wall time: {name.removesuffix('_seconds')}", getattr(costs, name) / costs.wall_seconds


def shipped(space: str, full: list[str], small: list[str], repeats: int = 1) -> Stage:
    """A space that ships, on one worker."""

    def run(job: Job) -> None:
        run_space(job, space, [f"space={space}", "setting.workers=1", *job.pick(full, ["size=small", *small])], repeats)

    return Stage(0.15, run, lambda job: verdicts(job, space))


def run_versions(job: Job) -> None:
    """The same space with each DeepSpeed that lies in `wheels`, put before the one that is installed."""
    for wheel in sorted(job.wheels.iterdir()) if job.wheels else []:
        site = job.folder / "sites" / wheel.name
        child(
            [
                "-m",
                "pip",
                "install",
                "-q",
                "--no-deps",
                "--no-index",
                "--no-build-isolation",
                "--target",
                str(site),
                str(wheel),
            ]
        )
        os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        run_space(job, wheel.name, {
            "setting": {**SYNTHETIC, "model": job.pick("densenet121", "test_resnet"), "batch_size": 8},
            "arms": {"torch": {"engine": "torch"}, "zero2": {"engine": "deepspeed", "zero": 2}},
            "protocol": {"kind": "throughput", "warmup_steps": 5, "steps": job.pick(30, 5), "rounds": 2},
        }, repeats=job.pick(3, 1))  # fmt: skip


def read_versions(job: Job) -> Iterable[Row]:
    if job.wheels is None:
        yield "versions", "not run: give wheels=FOLDER"
        return
    for wheel in sorted(job.wheels.iterdir()):
        yield from verdicts(job, wheel.name)


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
    if not job.small:
        run_space(job, "resnet50", {
            "setting": {**SYNTHETIC, "model": "resnet50", "image_size": 224, "batch_size": 256, "precision": "bf16",
                        "channels_last": True, "small_images": "none", "optimizer": {"name": "sgd", "lr": 0.1}},
            "arms": {"torch": {"engine": "torch"}},
            "protocol": {"kind": "throughput", "warmup_steps": 10, "steps": 30, "rounds": 1},
        })  # fmt: skip


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


# Shares add up to more than 1: a stage that ends early leaves its time to the next.
STAGES = {
    "doctor": Stage(0.10, run_doctor, read_doctor),
    "correctness": Stage(0.20, run_correctness, read_correctness),
    "known": Stage(0.10, run_known, read_known),
    "paper": Stage(0.40, run_paper, read_shares),
    "gpt": shipped("gpt", [], []),
    "neutrality": Stage(0.15, run_neutrality, read_neutrality),
    "unlock": shipped("unlock", [], []),
    "versions": Stage(0.20, run_versions, read_versions),
    "ladder": shipped("ladder", ["setting.dataset=synthetic", "setting.loader_workers=0"], []),
}


def main(argv: list[str]) -> int:
    """Run the stages that are not done, write the archive, print the table. Returns 0, or 1 where a number is off."""
    defaults = {"minutes": 9.0, "size": "full", "out": "one_gpu", "wheels": "", "stages": ",".join(STAGES), "only": ""}
    values = parse_script(__doc__ or "", defaults, argv)
    if values["size"] not in ("full", "small"):
        raise UserError(f"size={values['size']}: {suggest(values['size'], ['full', 'small'])}")
    names = values["stages"].split(",")
    for name in names:
        if name not in STAGES:
            raise UserError(f"stages={name}: {suggest(name, STAGES)}")
    out = Path(values["out"]).absolute()
    wheels = Path(values["wheels"]).absolute() if values["wheels"] else None
    if wheels is not None and not wheels.is_dir():
        raise UserError(f"wheels={values['wheels']}: no such folder")
    jobs = {name: Job(values["size"] == "small", out / name, out, wheels) for name in names}
    if values["only"]:
        STAGES[values["only"]].run(jobs[values["only"]])
        return 0
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
        try:
            code = process.wait(limit)
            how = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            how = f"ended after {limit:.0f} s"
    status.write_text(json.dumps({"how": how, "seconds": time.monotonic() - begun}))
    print(f"{name}: {how}", flush=True)


def table_of(name: str, job: Job) -> list[tuple[str, bool]]:
    """A stage's lines of the table, each with whether it is as expected."""
    status = json.loads((job.folder / "stage.json").read_text())
    lines = [
        (
            f"\n## {name}: {status['how']}, {status['seconds']:.0f} s\n",
            status["how"] == "done" or "after" in status["how"],
        )
    ]
    try:
        rows = list(STAGES[name].read(job))
    except (FileNotFoundError, UserError) as error:  # the stage was ended before it wrote anything
        rows = [("nothing to read", str(error))]
    for what, value in rows:
        least, most = EXPECTED.get(what, (-np.inf, np.inf))
        fine = isinstance(value, str) or job.small or bool(least <= value <= most)
        shown = value if isinstance(value, str) else f"{value:.4g}"
        wanted = f" (expected {least:g} to {most:g})" if what in EXPECTED else ""
        lines.append((f"- {what}: {shown}{wanted}{'' if fine else ' OFF'}", fine))
    return lines


if __name__ == "__main__":
    run_command(main)
