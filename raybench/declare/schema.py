"""The keys that DeepSpeed knows, and the parts of a config that do not fit them. No torch and no deepspeed here.

The schema of raybench's pinned version is stored beside this module (written by `python -m
raybench.training.probes.deepspeed_schema | tail -1`, and tested against the installed one). For another version a child
process reads the schema once, and it is kept in the user's cache.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raybench.child import ask_child
from raybench.declare.packages import is_version
from raybench.machine.kept import kept
from raybench.text import suggest

Path_ = tuple[str, ...]
_SHIPPED = Path(__file__).with_name("deepspeed_schema.json")
_CHILD_SECONDS = 180.0  # importing torch and deepspeed from a cold disk
_AUTO = "auto"
_RENAMED = {"aio.thread_count": "intra_op_parallelism"}  # too different to suggest; many configs have the older name


@dataclass(frozen=True)
class Problem:
    """A problem at a place in a DeepSpeed config, in words that follow the place's name."""

    place: Path_
    words: str


@cache
def schema(wanted: str = "") -> dict[str, Any]:
    """A DeepSpeed's `version`, `keys`, `removed`, `optimizers`, `schedulers`: the installed one's, or those of the
    `wanted` version if it was installed here before. Otherwise the shipped ones, `assumed` for another version.

    `keys` maps each key to its `kinds` of values (see `_fits`), or for a section to its own `keys`. `model` marks
    sections in which DeepSpeed reads "auto" as the default, `free` those with unknown keys.
    """
    shipped: dict[str, Any] = json.loads(_SHIPPED.read_text(encoding="utf-8"))
    installed = ""
    with contextlib.suppress(PackageNotFoundError):
        installed = version("deepspeed")
    number = wanted or installed or shipped["version"]
    if number == shipped["version"]:
        return shipped
    return _of_another(number, installed=number == installed) or {**shipped, "assumed": number}


def _of_another(number: str, *, installed: bool) -> dict[str, Any] | None:
    """The schema of a DeepSpeed other than the pinned one; None where it is neither cached nor available."""

    def ask() -> dict[str, Any] | None:
        answer = ask_child(["raybench.training.probes.deepspeed_schema"], _CHILD_SECONDS) if installed else {}
        return answer if "keys" in answer else None

    return kept(f"deepspeed_schema-{number}", ask) if is_version(number) else None


def checked(config: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem], list[str]]:
    """A copy of a config without what DeepSpeed does not know or cannot read, a problem for each of these, and the
    keys that were not checked: if the schema is assumed, an unknown key may belong to the other version.

    "auto" passes everywhere; the caller who knows the setting replaces it.
    """
    problems: list[Problem] = []
    unchecked: list[str] = []
    copy = _section(config, {"keys": known["keys"]}, (), known, problems, unchecked)
    return copy, problems, unchecked


def reads_auto_as_default(place: Path_, known: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed itself reads "auto" at this place as the key's default."""
    spec: Mapping[str, Any] = {"keys": known["keys"]}
    for key in place[:-1]:
        spec = spec.get("keys", {}).get(key, {})
    return bool(spec.get("model"))


def _section(
    values: Mapping[str, Any],
    spec: Mapping[str, Any],
    place: Path_,
    known: Mapping[str, Any],
    problems: list[Problem],
    unchecked: list[str],
) -> dict[str, Any]:
    copy = {}
    for key, value in values.items():
        here = (*place, str(key))
        if not spec.get("free") and key not in spec["keys"]:
            if known.get("assumed"):
                unchecked.append(".".join(here))
                copy[key] = value
            else:
                problems.append(Problem(here, _unknown(here, spec["keys"], known)))
            continue
        inner = spec.get("keys", {}).get(key, {"kinds": ["any"]})
        words = _misfit(value, inner)
        if words:
            problems.append(Problem(here, words))
        elif isinstance(value, Mapping) and "keys" in inner:
            copy[key] = _section(value, inner, here, known, problems, unchecked)
        else:
            copy[key] = value
    return copy


def _unknown(place: Path_, keys: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    if (told := known["removed"].get(".".join(place))) is not None:
        return f"DeepSpeed {known['version']} refuses it: {' '.join(told.split())}"
    if (newer := _RENAMED.get(".".join(place))) in keys:
        return f"unknown key; DeepSpeed {known['version']} calls it {newer}"
    close = suggest(place[-1], keys)
    told = close if close.endswith("?") else f"DeepSpeed {known['version']} reads no such key"
    elsewhere = [name for name, spec in known["keys"].items() if place[-1] in spec.get("keys", {})]
    if not close.endswith("?") and elsewhere:
        told += f" here; it belongs under {elsewhere[0]}"
    elif not close.endswith("?") and len(place) > 1 and place[-1] in known["keys"]:
        told += f" here; it belongs beside {place[0]}"
    return f"unknown key; {told}"


def _misfit(value: Any, spec: Mapping[str, Any]) -> str:
    """Why a value does not fit the spec; empty where it does."""
    kinds = spec["kinds"]
    if "keys" in spec or (spec.get("free") and kinds != ["any"]):
        if isinstance(value, Mapping) or (value is None and "null" in kinds) or value == _AUTO:
            return "" if value != _AUTO or "keys" not in spec else 'is a section and not "auto"; its keys may be'
        example = next(
            (f"{key}: ..." for key in ("enabled", "stage", "device", "type") if key in spec.get("keys", {})), ""
        )
        return f"is a section, as in {{{example or 'key: value'}}}, not {_shown(value)}"
    if value == _AUTO or any(True for kind in kinds if _fits(value, kind, spec)):
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, not {value}"
        return _beyond(value, spec)
    names = [f"one of {', '.join(map(str, spec['choices']))}" if kind == "choice" else _NAMES[kind] for kind in kinds]
    return f"must be {' or '.join(names)}, not {_shown(value)}"


_NAMES = {
    "boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "a text", "list": "a list",
    "mapping": "a section", "null": "null", "any": "anything",
}  # fmt: skip


def _fits(value: Any, kind: str, spec: Mapping[str, Any]) -> bool:
    """Whether a value is of a kind, as leniently as in pydantic: 1 is true, 5e8 an integer, "3" a number."""
    match kind:
        case "boolean":
            words = ("true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n")
            return isinstance(value, bool) or value in (0, 1) or (isinstance(value, str) and value.lower() in words)
        case "integer" | "number":
            number = _number(value)
            return number is not None and (kind == "number" or not math.isfinite(number) or float(number).is_integer())
        case "string":
            return isinstance(value, str)
        case "list":
            return isinstance(value, list | tuple)
        case "mapping":
            return isinstance(value, Mapping)
        case "null":
            return value is None
        case "choice":
            return not isinstance(value, list | dict) and value in spec["choices"]
    return True


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _beyond(value: Any, spec: Mapping[str, Any]) -> str:
    number = None if value == _AUTO or not isinstance(value, int | float) else value
    if number is None or isinstance(value, bool):
        return ""
    limits: Iterator[tuple[bool, str]] = iter(
        [
            (number > spec.get("above", -math.inf), f"more than {spec.get('above')}"),
            (number >= spec.get("least", -math.inf), f"{spec.get('least')} or more"),
            (number < spec.get("below", math.inf), f"less than {spec.get('below')}"),
            (number <= spec.get("most", math.inf), f"{spec.get('most')} or less"),
            (abs(number) < 2**63, "a number that fits 64 bits"),
        ]
    )
    return next((f"must be {words}, not {_shown(value)}" for holds, words in limits if not holds), "")


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return f"{json.dumps(value, default=str)!s:.60}" if isinstance(value, bool | str) else f"{value!s:.60}"
