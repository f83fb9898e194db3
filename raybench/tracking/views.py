"""How MLflow's pages show an experiment: views that open with the runs, columns and grouping that compare arms.

MLflow keeps a named view of its runs page as a tag of the experiment, as its own `Save & share view` writes it: JSON
with the view's name and its state. They stand in the page's list of saved views, and a link opens them.
"""

from __future__ import annotations

import json
from typing import Any, Final

ARMS, LEGS = "raybench-arms", "raybench-legs"
NAMES: Final = {"Arms compared": ARMS, "Legs by arm": LEGS}
# Of the arms in MLflow's charts, as they appear; the first are Okabe and Ito's, safe for the colour-blind.
COLOURS: Final = (
    "#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a8500", "#7f3c8d", "#666666", "#a05a2c",
    "#00356b", "#f4a6c0", "#7fd1ae", "#6b1f1f", "#b9a3e3", "#c2b280",
)  # fmt: skip
_TAG: Final = "mlflow.sharedViewState."
_CREATED: Final = 1_767_225_600_000  # any fixed time: the same tags are written again
_ARM_COLUMNS: Final = (
    "params.`setting`", "params.`arm`", "metrics.`speedup`", "metrics.`speedup_low`", "metrics.`speedup_high`",
    "tags.`raybench.verdict`", "metrics.`step_ms_mean`", "metrics.`samples_per_second`",
    "metrics.`peak_device_mib`", "metrics.`peak_host_mib`", "metrics.`final_loss`", "metrics.`accuracy`",
)  # fmt: skip
_ARM_CHARTS: Final = ("speedup", "step_ms_mean", "samples_per_second", "peak_device_mib", "peak_host_mib")
_LEG_COLUMNS: Final = (
    "params.`setting`", "params.`arm`", "params.`repeat`", "params.`round`", "metrics.`step_ms_mean`",
    "metrics.`samples_per_second`", "metrics.`peak_device_mib`", "metrics.`peak_host_mib`",
    "metrics.`final_loss`", "metrics.`accuracy`", "attributes.`Duration`",
)  # fmt: skip


def experiment_tags(space: str) -> dict[str, str]:
    """The tags of a space's experiment: its kind, what it is, and the views."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": (
            f"Space `{space}`, measured by raybench. A run is a sweep; below it is a run for each arm in each setting, "
            "with its speedup and verdict; below that its legs. Saved views: *Arms compared*, *Legs by arm*."
        ),
        f"{_TAG}{ARMS}": _view("Arms compared", "arm", _ARM_COLUMNS, [], _ARM_CHARTS),
        f"{_TAG}{LEGS}": _view("Legs by arm", "leg", _LEG_COLUMNS, ["arm", "setting"], ()),
    }


def link(experiment_id: str, view: str) -> str:
    """The address of a view, to be added to that of the MLflow server."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"


def _view(name: str, kind: str, columns: tuple[str, ...], group_by: list[str], charts: tuple[str, ...]) -> str:
    """A view of the runs of one kind; grouped runs are averaged, in the table and in the charts.

    `charts` come first, a bar a run; MLflow adds those of the other metrics.
    """
    keys = [{"mode": "param", "groupByData": key} for key in group_by]
    state: dict[str, Any] = {
        "searchFilter": f"tags.`raybench.kind` = '{kind}'",
        "orderByKey": "params.`setting`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": False,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": keys} if keys else None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    if charts:
        state["compareRunSections"] = [
            {"uuid": "raybench", "name": "What the arms cost", "display": True, "isReordered": False}
            | {"deleted": False, "isGenerated": False}
        ]
        state["compareRunCharts"] = [
            {"type": "BAR", "uuid": f"raybench-{key}", "metricKey": key, "displayName": key, "runsCountToCompare": 100}
            | {"metricSectionId": "raybench", "deleted": False, "isGenerated": False}
            for key in charts
        ]
    return json.dumps({"name": name, "createdAt": _CREATED, "state": json.dumps(state)})
