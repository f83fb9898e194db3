"""Did the upgrade make it slower, or wrong? Versions of a library as arms of one space.

python -m raybench.versions deepspeed=0.18.4,0.18.6 [space=versions] [arm=zero2] [key=value ...] [--fail-on KINDS]
python -m raybench.versions --bisect good=0.18.4 bad=0.18.6 [package=deepspeed] [checkout=../DeepSpeed] [key=value ...]
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("versions")

import json
import math
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.version import Version
from rich.console import Console
from rich.markup import escape

from raybench.analysis.across.bisection import Side, bisect, side_of
from raybench.analysis.across.upgrade import VersionInSetting, compare_versions, is_worse
from raybench.analysis.analysis import Analysis
from raybench.cli import parse_arguments, run_command
from raybench.declare.packages import check_packages, is_version
from raybench.declare.plan import build_plan
from raybench.declare.repeats import Repeats
from raybench.declare.space import Space, load_space
from raybench.errors import NothingMeasured, UserError
from raybench.redaction import without_secrets
from raybench.show.differences import versions_document
from raybench.show.tables import to_markdown
from raybench.show.terminal import print_document
from raybench.stores.storage import AnyPath, to_path
from raybench.sweep import Request, run_sweep, seconds_to_wait
from raybench.text import suggest

KINDS = ("hurts", "differs", "failed")


def main(argv: list[str]) -> int:
    """Run the versions side by side and print a table. Returns 0, or 1 where `--fail-on` names a problem found."""
    arguments = parse_arguments("versions", argv)
    values = dict(arguments.values)
    kinds = [kind for names in arguments.options.get("fail-on", ()) for kind in names.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--fail-on {kind}: {suggest(kind, KINDS)}")
    command = without_secrets("python -m raybench.versions " + " ".join(shlex.quote(token) for token in argv))
    as_json, as_markdown = "json" in arguments.flags, "markdown" in arguments.flags
    if "bisect" in arguments.flags:
        if as_markdown:
            raise UserError("--bisect has no table for --markdown; use --json for its result")
        return _bisect(values, command, as_json)
    alone = next((key for key in ("good", "bad", "package", "checkout") if key in values), None)
    if alone is not None:
        raise UserError(f"{alone}= belongs to --bisect, which is not given")
    package, versions = _asked(values)
    console = Console(stderr=as_json or as_markdown, quiet=as_json)
    runner = _Runner.of(values, command, console)
    space, arms = with_versions(runner.space, runner.arm, package, versions)
    analysis, found = runner.run(space, arms)
    if as_json:
        print(json.dumps({"schema_version": 1, "versions": [_plain(v) for v in found]}, allow_nan=False, indent=1))
    elif as_markdown:
        print(to_markdown(versions_document(analysis, found, arms)), end="")
    else:
        print_document(versions_document(analysis, found, arms), Console(), full=True)
    worse = [version for version in found if is_worse(version, kinds)]
    if worse:
        named = list(dict.fromkeys(version.arm for version in worse))
        print(f"raybench: --fail-on: {', '.join(named)}", file=sys.stderr)
    return 1 if worse else 0


@dataclass(frozen=True)
class _Runner:
    """A command line's space, results and other options, without its versions."""

    name: str
    space: Space
    arm: str  # the one to vary; empty: the first with a DeepSpeed engine
    sweep: str
    results: AnyPath
    wait_seconds: float
    command: str
    console: Console

    @classmethod
    def of(cls, values: dict[str, str], command: str, console: Console) -> _Runner:
        """Made from the keys that are left once versions are removed. Raises UserError."""
        results = to_path(values.pop("results", "mlruns/ledger"))
        wait, sweep, arm = seconds_to_wait(values.pop("wait", "20")), values.pop("sweep", ""), values.pop("arm", "")
        name, space = load_space(values.pop("space", "versions"), size=values.pop("size", ""), overrides=values)
        return cls(name, space, arm, sweep, results, wait, command, console)

    def run(self, space: Space, arms: list[str], suffix: str = "") -> tuple[Analysis, list[VersionInSetting]]:
        """Run what the ledger lacks of a space; raises as a sweep does, except where nothing was measured."""
        plan = build_plan(self.name, space, f"{self.sweep}-{suffix}" if self.sweep and suffix else self.sweep)
        folder = (self.results / plan.space / plan.sweep).absolute()
        run_sweep(Request(plan, space, folder, self.command, "normal", self.wait_seconds), self.console)
        return compare_versions(folder, arms)


def _bisect(values: dict[str, str], command: str, as_json: bool) -> int:
    """Find the first bad version. Returns 0, or 1 where it cannot be distinguished from its neighbours."""
    package = values.pop("package", "deepspeed")
    missing = [key for key in ("good", "bad") if key not in values]
    if missing:
        raise UserError(f"--bisect: {missing[0]}= is missing; give both, as in good=0.18.4 bad=0.18.6")
    good, bad = values.pop("good"), values.pop("bad")
    checkout = values.pop("checkout", "")
    versions = commits_between(checkout, good, bad) if checkout else releases_between(package, good, bad)
    console = Console(stderr=as_json, quiet=as_json)
    runner = _Runner.of(values, command, console)
    most = 1 + math.ceil(math.log2(max(len(versions) - 1, 1)))
    console.print(f"{len(versions)} versions from {good} to {bad}; about {most} of them are measured against {good}")

    def judge(version: str) -> Side:
        space, arms = against(runner.space, runner.arm, package, versions[0], version, most)
        try:
            side = side_of(runner.run(space, arms, suffix=version.rpartition("@")[2])[1])
        except NothingMeasured as error:
            console.print(f"{version}: {error}")
            side = "unknown"
        console.print(f"[bold]{escape(version)}[/]: {side}")
        return side

    if judge(versions[-1]) != "bad":
        raise NothingMeasured(f"bad={bad} is not shown to be slower than good={good}, or to train differently")
    found = bisect(versions, judge)
    if as_json:
        print(json.dumps({"schema_version": 1, **asdict(found)}, indent=1))
    else:
        among = f", or one of these, which were not judged: {', '.join(found.unknown)}" if found.unknown else ""
        print(f"the first bad version is {found.first_bad}{among}; the last good one is {found.last_good}")
    return 1 if found.unknown else 0


def releases_between(package: str, good: str, bad: str) -> list[str]:
    """The releases of a library from `good` to `bad`, from the package index. Raises UserError."""
    asked = [sys.executable, "-m", "pip", "index", "versions", package, "--disable-pip-version-check"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    line = next((line for line in answer.stdout.splitlines() if line.startswith("Available versions:")), "")
    if not line:
        said = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UserError(f"--bisect: pip finds no releases of {package}: {without_secrets(said)}")
    known = sorted(line.partition(":")[2].replace(" ", "").split(","), key=Version)
    for name, version in (("good", good), ("bad", bad)):
        if version not in known:
            raise UserError(f"{name}={version}: {suggest(version, known[-20:])}")
    if Version(good) >= Version(bad):
        raise UserError(f"good={good} is not older than bad={bad}")
    return known[known.index(good) : known.index(bad) + 1]


def commits_between(checkout: str, good: str, bad: str) -> list[str]:
    """The commits of a checkout from `good` to `bad` along first parents, as URLs for installers.

    Raises UserError.
    """
    folder = Path(checkout).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"checkout={checkout}: there is no such folder")

    def git(*words: str) -> list[str]:
        command = [shutil.which("git") or "git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()

    ends = [git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}") for commit in (good, bad)]
    for name, commit, known in (("good", good, ends[0]), ("bad", bad, ends[1])):
        if not known:
            raise UserError(f"{name}={commit}: checkout={checkout} has no such commit")
    between = git("rev-list", "--reverse", "--first-parent", "--ancestry-path", f"{good}..{bad}")
    if not between:
        raise UserError(f"checkout={checkout}: good={good} is no ancestor of bad={bad}")
    return [f"git+{folder.as_uri()}@{commit}" for commit in (*ends[0], *between)]


def _asked(values: dict[str, str]) -> tuple[str, list[str]]:
    """The library and its versions, removed from `values`. Raises UserError."""
    known = {"deepspeed", "torch", "transformers", "torchvision", "timm", "nvidia-nccl-cu12", "nvidia-nccl-cu13"}
    named = [key for key in values if key in known]
    if len(named) != 1:
        raise UserError(f"name one library and its versions, as in deepspeed=0.18.4,0.18.6; {suggest('', known)}")
    versions = values.pop(named[0]).split(",")
    for version in versions:
        try:
            check_packages({named[0]: version})
        except ValueError as error:
            raise UserError(str(error)) from None
    if all(is_version(version) for version in versions):
        versions.sort(key=Version)
    return named[0], list(dict.fromkeys(versions))


def with_versions(space: Space, arm: str, package: str, versions: list[str]) -> tuple[Space, list[str]]:
    """The space with its baseline, and one of its arms once per version; and the names of these arms.

    `arm` is the arm to vary; if empty, the first with a DeepSpeed engine. Raises UserError.
    """
    others = [name for name in space.arms if name != space.baseline]
    if arm and arm not in others:
        raise UserError(f"arm={arm}: {suggest(arm, others)}")
    arm = arm or next((name for name in others if space.arms[name].engine == "deepspeed"), "")
    if not arm:
        raise UserError("no arm of this space has a DeepSpeed engine; name the arm that has versions, as in arm=mine")
    like = space.arms[arm]
    varied = {
        f"{package} {version}": like.model_copy(update={"packages": {**like.packages, package: version}})
        for version in versions
    }
    arms = {space.baseline: space.arms[space.baseline], **varied}
    return space.model_copy(update={"arms": arms, "chain": False}), list(varied)


def against(space: Space, arm: str, package: str, good: str, version: str, looks: int) -> tuple[Space, list[str]]:
    """The space with two arms, a good version as the baseline and another version; and their names.

    It stops when settled. In total `looks` versions are judged like this, and share alpha.
    """
    space, arms = with_versions(space, arm, package, [good, version])
    question = space.question.model_copy(update={"alpha": space.question.alpha / looks})
    repeats = space.repeats if isinstance(space.repeats, Repeats) else Repeats(min=3, max=max(8, space.repeats))
    kept = {name: space.arms[name] for name in arms}
    return space.model_copy(update={"arms": kept, "baseline": arms[0], "question": question, "repeats": repeats}), arms


def _plain(version: VersionInSetting) -> Mapping[str, object]:
    """A version in a setting as JSON data."""
    record: dict[str, object] = {"setting": version.setting, "version": version.arm, "training": version.training}
    for name, comparison in (("baseline", version.against_baseline), ("first", version.against_first)):
        if comparison is not None:
            speedup = comparison.speedup
            record[f"against_{name}"] = {
                "speedup": speedup.value, "ci_low": speedup.low, "ci_high": speedup.high,
                "verdict": comparison.judgement.verdict, "n_trials": comparison.n_trials,
            }  # fmt: skip
    return record


if __name__ == "__main__":
    run_command(main)
