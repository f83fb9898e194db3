"""What is asked of a ledger: the margin, the level and the baseline, given or found beside the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import yaml

from raybench.analysis.legs import Legs
from raybench.errors import UserError
from raybench.ledger.reading import ledger_files
from raybench.stores.storage import AnyPath

MARGIN: Final = 0.03
ALPHA: Final = 0.05
QUALITY_MARGIN: Final = 0.01  # an accuracy: one point


def find_question(paths: Sequence[AnyPath], margin: float | None, alpha: float | None) -> tuple[float, float]:
    """(margin, alpha): as given, else as the `_space.yaml` beside the ledgers says, else 0.03 and 0.05.

    Raises UserError for a value out of range, and where several ledgers were made for different questions.
    """
    told = [question for folder in _folders(paths) if isinstance(question := _space(folder).get("question"), dict)]
    return (
        _checked("margin", margin if margin is not None else _agreed("margin", told, MARGIN), 1.0),
        _checked("alpha", alpha if alpha is not None else _agreed("alpha", told, ALPHA), 0.5),
    )


def find_quality_margin(paths: Sequence[AnyPath], quality_margin: float | None) -> float:
    """The quality margin, an accuracy: as given, else as the `_space.yaml` beside the ledgers says, else 0.01.

    Raises UserError as `find_question` does.
    """
    if quality_margin is not None:
        return _checked("quality_margin", quality_margin, 1.0)
    told = [question for folder in _folders(paths) if isinstance(question := _space(folder).get("question"), dict)]
    return _checked("quality_margin", _agreed("quality_margin", told, QUALITY_MARGIN), 1.0)


def _folders(paths: Sequence[AnyPath]) -> list[AnyPath]:
    return list(dict.fromkeys(file.parent for path in paths for file in ledger_files(path)))


def _space(folder: AnyPath) -> dict[str, Any]:
    """The resolved space that lies beside a ledger's files; empty where there is none."""
    path = folder / "_space.yaml"
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as YAML ({reason}); mend it or take it away") from None
    return content if isinstance(content, dict) else {}


def _agreed(name: str, told: Iterable[dict[str, Any]], default: float) -> float:
    values = {str(question[name]) for question in told if name in question}
    if len(values) > 1:
        both = " and ".join(sorted(values))
        raise UserError(f"the ledgers were made for different questions, {name} {both}; give {name}=")
    return _number(name, values.pop()) if values else default


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{name}: {value!r} in the ledger's _space.yaml is no number; give {name}=") from None


def _checked(name: str, value: float, most: float) -> float:
    if not 0 < value < most:
        raise UserError(f"{name}={value:g} must lie between 0 and {most:g}")
    return float(value)


def find_baseline(legs: Legs, wanted: str | None, paths: Sequence[AnyPath] = ()) -> str:
    """The name of the baseline's arm: as wanted, else the one that the ledger marks, else the space's.

    Raises UserError where there is none, or more than one.
    """
    arm = legs.text["arm"]
    present = [arm.names[code] for code in np.unique(arm.codes)]
    if wanted is not None:
        if wanted not in present:
            raise UserError(f"baseline={wanted}: no leg of that arm; the arms are: {', '.join(present)}")
        return wanted
    marked = [arm.names[code] for code in np.unique(arm.codes[legs.number["is_baseline"] == 1])]
    if len(marked) > 1:
        raise UserError(f"several arms are marked as the baseline, {' and '.join(marked)}; give baseline=ARM")
    declared = {str(one["baseline"]) for folder in _folders(paths) if (one := _space(folder)).get("baseline")}
    if not marked and len(declared) != 1:
        raise UserError(f"no leg is marked as the baseline's; give baseline=ARM, one of: {', '.join(present)}")
    return marked[0] if marked else declared.pop()
