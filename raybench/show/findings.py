"""Lists for a page, as plain records: failures, caveats, arms, machines, commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from raybench.analysis import Analysis
from raybench.analysis.arrays import parse_object
from raybench.analysis.question import declared_beside
from raybench.analysis.views.ladder import declared_chain
from raybench.caveats import Weight
from raybench.errors import UserError
from raybench.ledger.reading import ledger_files
from raybench.stores.storage import AnyPath
from raybench.text import dotted

_MOST_PLACES = 6
_MOST_VALUES = 5


@dataclass(frozen=True)
class Failed:
    """Legs of one arm that failed with the same message."""

    arm: str
    kind: str
    num_legs: int
    places: str
    message: str


@dataclass(frozen=True)
class PlacedCaveat:
    """A caveat in words, and the comparisons that it applies to."""

    text: str
    places: str
    weight: Weight


@dataclass(frozen=True)
class Arm:
    """How an arm was built: its engine and all its options."""

    name: str
    engine: str
    config: str


def failures(analysis: Analysis) -> list[Failed]:
    """Every failure, by arm and message; each failed leg counts once."""
    legs = analysis.pairs.legs
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in np.flatnonzero(~legs.ok):
        kind, message = legs.text["failure_kind"][row] or "error", legs.text["failure_message"][row]
        where = found.setdefault((legs.text["arm"][row], kind, " ".join(message.split())), {})
        setting = legs.text["setting"][row]
        where[setting] = where.get(setting, 0) + 1
    return [
        Failed(arm, kind, sum(where.values()), _places(list(where)), message)
        for (arm, kind, message), where in found.items()
    ]


def caveats(analysis: Analysis) -> list[PlacedCaveat]:
    """Each caveat once, by weight; within a weight, those of the whole analysis before those of comparisons."""
    total = len(analysis.comparisons)
    found = [PlacedCaveat(one.text, "the whole analysis", one.weight) for one in analysis.caveats] + [
        PlacedCaveat(text, "every comparison" if len(where) == total else _places(where), weight)
        for (text, weight), where in _caveat_places(analysis).items()
    ]
    return sorted(found, key=lambda one: one.weight)


def _caveat_places(analysis: Analysis) -> dict[tuple[str, Weight], list[str]]:
    """Each caveat sentence of the comparisons, once, with the comparisons that have it."""
    places: dict[tuple[str, Weight], list[str]] = {}
    for comparison in analysis.comparisons:
        for one in comparison.caveats:
            places.setdefault((one.text, one.weight), []).append(f"{comparison.arm}, {comparison.where.setting}")
    return places


def _places(where: list[str]) -> str:
    left = len(where) - _MOST_PLACES
    return "; ".join(where[:_MOST_PLACES]) + (f"; and {left} more" if left > 0 else "")


def arms(analysis: Analysis) -> list[Arm]:
    """The arms as configured, the baseline first; several lines where settings differ."""
    text = analysis.pairs.legs.text
    codes = np.stack([text[name].codes for name in ("arm", "engine", "arm_config")])
    found = []
    for column in np.unique(codes, axis=1).T.tolist():
        name, engine, config = (
            text[key].names[code] if code >= 0 else ""
            for key, code in zip(("arm", "engine", "arm_config"), column, strict=True)
        )
        stated = {
            key: value for key, value in parse_object(config).items() if key != "engine" and value not in ({}, None)
        }
        found.append(Arm(name, engine, json.dumps(stated, sort_keys=True) if stated else ""))
    return sorted(set(found), key=lambda arm: (arm.name != analysis.baseline, arm.name, arm.engine, arm.config))


def environment(analysis: Analysis) -> list[tuple[str, str]]:
    """(name, values) for everything in the legs' environments; several values where they differ."""
    column = analysis.pairs.legs.text["environment"]
    present = [column.names[code] for code in np.unique(column.codes) if code >= 0]
    return _values(parse_object(text) for text in present)


def facts(analysis: Analysis) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]], list[str]]:
    """For the first setting: (facts equal in all arms, differing facts with a value per arm, the arms)."""
    legs = analysis.pairs.legs
    if not analysis.comparisons:
        return [], [], []
    setting = legs.text["setting_id"].names.index(analysis.comparisons[0].where.setting_id)
    rows = np.flatnonzero(legs.ok & (legs.text["setting_id"].codes == setting))
    stated: dict[str, dict[str, str]] = {}
    trial = legs.text["trial_id"].codes[rows[0]] if len(rows) else -1
    for row in rows[legs.text["trial_id"].codes[rows] == trial]:
        flat = dict(dotted(parse_object(legs.text["facts"][row])))
        stated.setdefault(legs.text["arm"][row], {key: _one(value) for key, value in flat.items()})
    names = sorted(stated, key=lambda arm: (arm != analysis.baseline, arm))
    keys = sorted({key for one in stated.values() for key in one})
    table = [(key, [stated[arm].get(key, "not stated") for arm in names]) for key in keys]
    same = [(key, values[0]) for key, values in table if len(set(values)) == 1]
    return same, [(key, values) for key, values in table if len(set(values)) > 1], names


def _values(objects: Iterator[dict[str, Any]]) -> list[tuple[str, str]]:
    found: dict[str, set[str]] = {}
    for one in objects:
        for key, value in dotted(one):
            found.setdefault(key, set()).add(_one(value))
    return [
        (key, " | ".join(sorted(values)[:_MOST_VALUES]) + (" | ..." if len(values) > _MOST_VALUES else ""))
        for key, values in sorted(found.items())
    ]


def _one(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def commands(analysis: Analysis, paths: Sequence[AnyPath]) -> list[str]:
    """The commands that repeat the sweeps and read their ledgers, run from the folder that holds `mlruns`."""
    found = []
    for _, text in spaces(paths):
        found += [
            line.removeprefix("# command:").strip() for line in text.splitlines() if line.startswith("# command:")
        ]
    columns = analysis.pairs.legs.text
    places = np.unique(np.stack([columns["space"].codes, columns["sweep"].codes]), axis=1).T.tolist()
    ledgers = [f"mlruns/ledger/{columns['space'].names[a]}/{columns['sweep'].names[b]}" for a, b in places]
    if not all(isinstance(path, Path) for path in paths):
        ledgers = [str(path) for path in paths]
    question = [f"margin={analysis.margin:g}", f"alpha={analysis.alpha:g}", f"baseline={analysis.baseline}"]
    if analysis.metric != "step_seconds":
        question.append(f"metric={analysis.metric}")
    try:
        declared = declared_beside(paths).quality_margin(None)
    except UserError:  # the ledgers declare different ones
        declared = None
    if analysis.quality_margin != declared:
        question.append(f"quality_margin={analysis.quality_margin:g}")
    if analysis.chain != declared_chain(analysis.pairs.legs):
        question.append(f"ladder={','.join(analysis.chain)}")
    if analysis.pool_hardware:
        question.append("--pool-hardware")
    reading = [shlex.join(["python", "-m", f"raybench.{name}", *ledgers, *question]) for name in ("analysis", "report")]
    return list(dict.fromkeys(found + reading))


@dataclass(frozen=True)
class Tracked:
    """A sweep in MLflow: its run's page, and the pages that compare an arm with the baseline."""

    sweep: str
    page: str
    needs_ui: bool  # the runs are in a store that no server displays by itself
    compare: dict[tuple[str, str], str]  # by setting_id and arm


def tracked(analysis: Analysis, paths: Sequence[AnyPath]) -> list[Tracked]:
    """The contents of `_mlflow.json` beside the ledgers; `mlflow ui` shows a store without a server on its own port."""
    found = (_tracked(folder, analysis.baseline) for folder in _folders(paths))
    return [one for one in found if one is not None]


def tracked_links(analysis: Analysis, paths: Sequence[AnyPath]) -> dict[tuple[str, str], str]:
    """The MLflow pages that compare an arm with the baseline, by setting_id and arm."""
    return {key: page for one in tracked(analysis, paths) for key, page in one.compare.items()}


def _tracked(folder: AnyPath, baseline: str) -> Tracked | None:
    """One ledger's record; None where MLflow lacks the sweep, or another raybench version wrote the record."""
    try:
        links = json.loads((folder / "_mlflow.json").read_text(encoding="utf-8"))
        uri, experiment = links["tracking_uri"], links["experiment_id"]
        served = uri.startswith(("http://", "https://"))
        base = f"{uri if served else 'http://127.0.0.1:5000'}/#"
        compare = {}
        for setting_id, runs in links["arm_runs"].items():
            for arm, run in runs.items():
                pair = quote(json.dumps([runs.get(baseline), run], separators=(",", ":")))
                if arm != baseline and baseline in runs:
                    compare[setting_id, arm] = f"{base}/compare-runs?runs={pair}&experiments=%5B%22{experiment}%22%5D"
        page = f"{base}/experiments/{experiment}/runs/{links['sweep_run']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Tracked(folder.name, page, not served, compare)


def _folders(paths: Sequence[AnyPath]) -> list[AnyPath]:
    return list(dict.fromkeys(file.parent for path in paths for file in ledger_files(path)))


def spaces(paths: Sequence[AnyPath]) -> list[tuple[str, str]]:
    """(folder's name, text) of the resolved spaces beside the ledgers."""
    found = [(folder.name, folder / "_space.yaml") for folder in _folders(paths)]
    return [(name, file.read_text(encoding="utf-8", errors="replace")) for name, file in found if file.is_file()]
