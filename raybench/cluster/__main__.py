"""Prepare a cluster.yaml for `ray up`: fill in the values that AWS knows.

python -m raybench.cluster aws [region=us-west-2] [gpu=g5.12xlarge]
"""

from __future__ import annotations

from pathlib import Path

from raybench.cli import parse_arguments, run_command
from raybench.cluster.aws import Machine, ask_aws, write_into
from raybench.errors import UserError


def main(argv: list[str]) -> int:
    """Write today's image, zones and sizes into a cluster.yaml. Returns 0; raises UserError and writes nothing then."""
    arguments = parse_arguments("cluster", argv)
    if arguments.positionals[0] != "aws":
        raise UserError(f"{arguments.positionals[0]!r}: only aws can be asked, as in raybench cluster aws")
    path = Path(arguments.values.get("file", "cluster.yaml"))
    if not path.is_file():
        raise UserError(f"{path} is not here; run this in raybench's working tree, or give file=")
    region, gpu = arguments.values.get("region", "us-west-2"), arguments.values.get("gpu", "g5.12xlarge")
    machine = ask_aws(region, gpu)
    text = write_into(path.read_text(encoding="utf-8"), machine)
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
    print("\n".join(_in_words(machine, path)))
    return 0


def _in_words(machine: Machine, path: Path) -> list[str]:
    price = "price not known" if machine.price_an_hour is None else f"{machine.price_an_hour:.2f} dollars an hour"
    lines = [
        f"{machine.type}: {machine.gpus} x {machine.gpu_name}, {machine.cpus} CPUs, {price} on demand",
        f"{machine.region}: {', '.join(machine.zones)}; image {machine.image}",
    ]
    within = machine.machines_within_quota
    if within is not None:
        lines.append(f"your quota of {machine.quota_cpus:.0f} vCPUs allows {within} of them at once")
        if not within:
            lines.append("ask for more under Service Quotas, EC2, before `ray up`")
    lines += [f"not known: {reason}" for reason in machine.unknown]
    return [*lines, f"written to {path}; next: ray up {path}"]


if __name__ == "__main__":
    run_command(main)
