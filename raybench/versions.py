"""Did the upgrade make it slower, or wrong? Versions of a library as arms of one space.

python -m raybench.versions deepspeed=0.18.4,0.18.6 [space=versions] [arm=zero2] [key=value ...] [--fail-on KINDS]
"""

from __future__ import annotations

from raybench.cli import answer_help

if __name__ == "__main__":
    answer_help("versions")

import json
import shlex
import sys
from collections.abc import Mapping

from packaging.version import Version
from rich.console import Console

from raybench.analysis.views.upgrade import VersionInSetting, compare_versions, is_worse
from raybench.cli import parse_arguments, run_command
from raybench.declare.packages import check_packages, is_version
from raybench.declare.plan import build_plan
from raybench.declare.space import Space, load_space
from raybench.errors import UserError
from raybench.redaction import without_secrets
from raybench.show.terminal import print_document
from raybench.show.versions import build
from raybench.stores.storage import to_path
from raybench.sweep import Request, run_sweep, seconds_to_wait
from raybench.text import suggest

KINDS = ("hurts", "differs", "failed")


def main(argv: list[str]) -> int:
    """Run the versions side by side and print a table. Returns 0, or 1 where `--fail-on` names what was found."""
    arguments = parse_arguments("versions", argv)
    values = dict(arguments.values)
    kinds = [kind for names in arguments.options.get("fail-on", ()) for kind in names.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"--fail-on {kind}: {suggest(kind, KINDS)}")
    package, versions = _asked(values)
    results = to_path(values.pop("results", "mlruns/ledger"))
    wait, sweep, arm = seconds_to_wait(values.pop("wait", "20")), values.pop("sweep", ""), values.pop("arm", "")
    name, space = load_space(values.pop("space", "versions"), size=values.pop("size", ""), overrides=values)
    space, arms = with_versions(space, arm, package, versions)
    plan = build_plan(name, space, sweep)
    command = without_secrets("python -m raybench.versions " + " ".join(shlex.quote(token) for token in argv))
    as_json = "json" in arguments.flags
    console = Console(stderr=as_json, quiet=as_json)
    request = Request(plan, space, (results / plan.space / plan.sweep).absolute(), command, "normal", wait)
    run_sweep(request, console)
    analysis, found = compare_versions(request.folder, arms)
    if as_json:
        print(json.dumps({"schema_version": 1, "versions": [_plain(v) for v in found]}, allow_nan=False, indent=1))
    else:
        print_document(build(analysis, found, arms), Console(), full=True)
    worse = [version for version in found if is_worse(version, kinds)]
    if worse:
        named = ", ".join(dict.fromkeys(version.arm for version in worse))
        print(f"raybench: --fail-on: {named}", file=sys.stderr)
    return 1 if worse else 0


def _asked(values: dict[str, str]) -> tuple[str, list[str]]:
    """The library and its versions, taken out of `values`. Raises UserError."""
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
    """The space with its baseline, and one of its arms once for each version; and the names of these arms.

    `arm` is the arm to vary, the first with a DeepSpeed engine where it is empty. Raises UserError.
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


def _plain(version: VersionInSetting) -> Mapping[str, object]:
    """A version in a setting as JSON."""
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
