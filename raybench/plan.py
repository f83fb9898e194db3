"""Show what a sweep would run and what it could detect; run nothing.

python -m raybench.plan space=cnns [key=value ...] [--json]
"""

from __future__ import annotations

from raybench.cli import parse_arguments, run_command
from raybench.declare.plan import plan_from_arguments
from raybench.errors import UserError
from raybench.stores.storage import to_path

def plan_from_arguments(values: dict[str, str], *, large: bool = False) -> tuple[Plan, Space]:
    """The plan that `space=... size=... sweep=... key=value ...` asks for; a huge one only when `large`.

    Raises UserError.
    """
    overrides = dict(values)
    if "space" not in overrides:
        raise UserError("space= is missing: name a space, as in space=quickstart, or --help")
    sweep = overrides.pop("sweep", None)
    if sweep is not None:
        check_name("sweep", sweep)
    name, space = load_space(overrides.pop("space"), size=overrides.pop("size", ""), overrides=overrides, large=large)
    check_name("space", name)
    return build_plan(name, space, sweep or ""), space


def check_name(key: str, name: str) -> None:
    """Raise UserError unless `name` can be a folder's name: letters, digits, `.`, `_`, `-`."""
    allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    if not name or len(name) > 80 or name[0] in ".-" or any(letter not in allowed for letter in name):
        raise UserError(
            f"{key}={name}: a name is 1 to 80 letters, digits, '.', '_' or '-', and begins with none of '.-'"
        )


def main(argv: list[str]) -> int:
    """Print a plan. Returns 0; raises UserError for bad input."""
    arguments = parse_arguments("plan", argv)
    values = dict(arguments.values)
    results = to_path(values.pop("results", "mlruns/ledger"))
    price = _price(values.pop("price")) if "price" in values else None
    values.pop("wait", None)  # of a sweep; here they change nothing
    values.pop("retry", None)
    plan, space = plan_from_arguments(values, large="yes" in arguments.flags)
    from raybench.show.plan import outlook, print_plan

    if "json" in arguments.flags:
        print(plan.model_copy(update={"outlook": outlook(plan, space, results, price)}).model_dump_json(indent=1))
        return 0
    print_plan(plan, space, results, price)
    return 0


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < 1e9:
        raise UserError(f"price={text}: a price is a number of 0 or more, what a node costs an hour, as in price=3.06")
    return price


if __name__ == "__main__":
    from raybench.plan import main as _main

    run_command(_main)
