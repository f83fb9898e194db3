"""Show what a sweep would run and what it could detect; run nothing.

python -m raybench.plan space=cnns [key=value ...] [--json]
"""

from __future__ import annotations

from raybench.cli import begin

if __name__ == "__main__":
    begin("plan")

from raybench.cli import parse_arguments, run_command
from raybench.cluster.surroundings import check_surroundings
from raybench.declare.plan import plan_from_arguments
from raybench.stores.storage import to_path


def main(argv: list[str]) -> int:
    """Print a plan. Returns 0; raises UserError for bad input."""
    arguments = parse_arguments("plan", argv)
    values = dict(arguments.values)
    results = to_path(values.pop("results", "mlruns/ledger"))
    price = arguments.price()
    values.pop("price", None)
    values.pop("wait", None)  # of a sweep; here they change nothing
    values.pop("retry", None)
    plan, space = plan_from_arguments(values, large="yes" in arguments.flags)
    check_surroundings()
    from raybench.show.outlook import build, outlook

    if "json" in arguments.flags:
        print(plan.model_copy(update={"outlook": outlook(plan, space, results, price)}).model_dump_json(indent=1))
        return 0
    from rich.console import Console

    from raybench.show.terminal import print_in_order

    print_in_order(build(plan, space, results, price), Console())
    return 0


if __name__ == "__main__":
    from raybench.plan import main as _main

    run_command(_main)
