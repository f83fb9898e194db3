"""From a ledger to MLflow and the report: rows that MLflow lacks, results of the analysis, and links between the two.

Used at a sweep's end and by `raybench sync`. `_mlflow.json` beside a ledger says where its runs are.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raybench.analysis import Analysis, Comparison, analyse
from raybench.errors import UserError
from raybench.ledger.dataset import TRACES, Ledger, write_rows
from raybench.ledger.quantities import Row
from raybench.redaction import first_line, without_secrets
from raybench.show.answer import compact_table
from raybench.show.tables import clean
from raybench.show.words import answer_in_words
from raybench.stores.storage import AnyPath, copy_folder, write_whole
from raybench.tracking import runs, views

if TYPE_CHECKING:
    from raybench.tracking.mlflow_runs import SweepSummary

LINKS: Final = "_mlflow.json"
_MAX_NOTE: Final = 7_500  # characters; MLflow takes 8,000
_UNFIT: Final = re.compile(r"[^\w\-. :/]")


def destination() -> tuple[str, str]:
    """MLflow's address, and where a local store keeps its artifacts."""
    from raybench.tracking.mlflow_runs import default_tracking_uri

    return default_tracking_uri(), str(Path("mlruns/artifacts").absolute())


def mlflow_variables() -> dict[str, str]:
    """The MLFLOW_* variables of this process, credentials included: pass them on as an argument only."""
    return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}


@dataclass(frozen=True)
class Published:
    """The result of bringing MLflow up to date with one ledger."""

    written: int  # legs that MLflow lacked
    there: int  # legs that it had already
    report: AnyPath | None  # the page; None where there is nothing to analyse
    error: str | None  # why MLflow is incomplete, without secrets; None when it has everything


def publish(folder: AnyPath, tracking_uri: str, artifact_root: str, *, report: bool = True) -> Published:
    """Bring MLflow up to date with the ledger of one sweep, and write its report to `_report/`.

    MLflow's errors do not stop it and are returned. Raises UserError for a folder with rows of several sweeps, and
    where the report cannot be written.
    """
    from raybench.tracking.mlflow_runs import TROUBLES, Tracker

    rows = Ledger(folder).rows()
    names = dict.fromkeys((row["space"], row["sweep"]) for row in rows)
    if not rows:
        return Published(0, 0, None, None)
    if len(names) > 1:
        raise UserError(f"{folder}: rows of {len(names)} sweeps in one folder; give each a folder of its own")
    ((space, sweep),) = names
    tracker, written, error = None, 0, None
    try:
        tracker = Tracker(tracking_uri, artifact_root, space, sweep)
        tracker.forget(Ledger(folder).withdrawn())
        written = tracker.log_rows(rows)
        _write_links(folder, tracking_uri, tracker.links())
    except TROUBLES as trouble:
        error = first_line(trouble)
    analysis = analyse([folder])
    page = _write_report(analysis, folder) if report else folder / "_report" / "report.html"
    if tracker is not None and error is None:
        try:
            with tempfile.TemporaryDirectory() as gathered:
                _gather(folder, rows, analysis, Path(gathered))
                tracker.finish(summarize(analysis, rows, tracker.experiment_id), Path(gathered))
        except TROUBLES as trouble:
            error = first_line(trouble)
    return Published(written, len(rows) - written, page, error)


def _write_report(analysis: Analysis, folder: AnyPath) -> AnyPath:
    from raybench.show.report_files import write_report

    return write_report(analysis, [folder], folder / "_report")[0]


def _write_links(folder: AnyPath, tracking_uri: str, links: Mapping[str, Any]) -> None:
    """Write `_mlflow.json`, atomically: where the runs are; a store without a server is just `local`."""
    where = without_secrets(tracking_uri) if tracking_uri.startswith(("http://", "https://")) else "local"
    text = json.dumps({"tracking_uri": where, **links}, indent=1, sort_keys=True) + "\n"
    path = folder / LINKS
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    write_whole(path, text)


def _gather(folder: AnyPath, rows: list[Row], analysis: Analysis, into: Path) -> None:
    """The artifacts of a sweep's run: report, figures, tables, traces, the space, and the ledger as one file."""
    if (folder / "_report").is_dir():
        copy_folder(folder / "_report", into / "report")
    if (folder / TRACES).is_dir():
        copy_folder(folder / TRACES, into / "traces")
    write_rows(into / "ledger", "ledger", rows)
    (into / "analysis.json").write_text(json.dumps(analysis.to_json(), indent=1), encoding="utf-8")
    if (folder / "_space.yaml").is_file():
        (into / "_space.yaml").write_text((folder / "_space.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def summarize(analysis: Analysis, rows: Sequence[Row], experiment_id: str) -> SweepSummary:
    """The contents of the sweep's run and its arms' runs: the answer, speedups, verdicts, means over legs."""
    from raybench.tracking.mlflow_runs import SweepSummary

    by_arm: dict[tuple[str, str], list[Row]] = {}
    for row in (row for row in rows if not row.get("profiled")):
        by_arm.setdefault((row["setting_id"], row["arm"]), []).append(row)
    metrics = {
        _name(f"speedup/{c.arm}/{c.where.setting}"): c.speedup.value
        for c in analysis.comparisons
        if c.speedup.value is not None
    }
    metrics |= {
        _name(f"speedup_geometric_mean/{arm.arm}"): arm.fixed.value
        for arm in analysis.arms
        if arm.fixed.value is not None
    }
    arm_metrics = {key: runs.arm_metrics(members) for key, members in by_arm.items()}
    arm_tags: dict[tuple[str, str], dict[str, str]] = {}
    for key, members in by_arm.items():
        if members[0]["is_baseline"] and "step_ms_mean" in arm_metrics[key]:
            arm_metrics[key] |= dict.fromkeys(("speedup", "speedup_low", "speedup_high", "memory_ratio"), 1.0)
            arm_metrics[key]["trials"] = float(len({row["trial_id"] for row in members if row["status"] == "ok"}))
            arm_tags[key] = {"raybench.verdict": "baseline"}
    for c in _one_machine(analysis.comparisons):
        key = (c.where.setting_id, c.arm)
        found = {
            "speedup": c.speedup.value,
            "speedup_low": c.judgement.interval.low,
            "speedup_high": c.judgement.interval.high,
        }
        found |= {"trials": c.n_trials, "memory_ratio": c.memory.ratio.value, "accuracy_difference": c.accuracy.value}
        arm_metrics.setdefault(key, {}).update({name: float(v) for name, v in found.items() if v is not None})
        arm_tags[key] = {"raybench.verdict": c.verdict}
    one_row = {key: members[0] for key, members in by_arm.items()}
    return SweepSummary(
        _note(analysis, experiment_id), metrics, runs.sweep_params(rows), arm_metrics, arm_tags, one_row
    )


def _one_machine(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Comparisons whose arm and setting ran on one kind of hardware only: a run has room for one speedup."""
    hardware: dict[tuple[str, str], set[str]] = {}
    for c in comparisons:
        hardware.setdefault((c.where.setting_id, c.arm), set()).add(c.where.hardware)
    return [c for c in comparisons if len(hardware[c.where.setting_id, c.arm]) == 1]


def _name(text: str) -> str:
    """A text as a metric's name, which MLflow limits in characters and length."""
    return _UNFIT.sub("_", text)[:250]


def _note(analysis: Analysis, experiment_id: str) -> str:
    """The description of the sweep's run: the answer, where to look, and as much of the table as fits."""
    links = ", ".join(f"[{name}]({views.link(experiment_id, view)})" for name, view in views.NAMES.items())
    lines = [f"**{clean(answer_in_words(analysis))}**", "", f"Views of the runs: {links}.", ""]
    lines += ["The page: `report/report.html` among the artifacts. Every leg: `ledger/ledger.parquet`.", ""]
    table = compact_table(analysis)
    lines += ["| " + " | ".join(clean(column.name) for column in table.columns) + " |"]
    lines += ["|" + "---|" * len(table.columns)]
    room = _MAX_NOTE - sum(len(line) + 1 for line in lines)
    for number, row in enumerate(table.rows):
        line = "| " + " | ".join(clean(cell.text) for cell in row.cells) + " |"
        room -= len(line) + 1
        if room < 0:
            return "\n".join([*lines, "", f"... and {len(table.rows) - number} more in `report/comparisons.csv`."])
        lines.append(line)
    return "\n".join(lines)
