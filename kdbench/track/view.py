"""How MLflow's pages show a study: columns that matter, and charts of accuracy against size and latency.

MLflow keeps a shared view of an experiment as a tag that holds the page's state as JSON, and opens the view that
`viewStateShareKey` in the address names. The names of the state's fields are those of MLflow's page
(ExperimentPageUIState and RunsChartsCardConfig of its sources).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.record import canonical_json

SHARE_KEY = "kdbench"
VIEW = f"mlflow.sharedViewState.{SHARE_KEY}"
PRIMARY_METRIC = "mlflow.experiment.primaryMetric.name"
ACCURACY, PARAMS, SIZE, LATENCY = "test_top1_pct", "params", "size_bytes", "latency_b1_p50_ms"

METRIC_COLUMNS = (ACCURACY, "val_top1_pct", PARAMS, SIZE, LATENCY, "n_finals")
PARAM_COLUMNS = ("method", "student", "phase", "temperature", "lambda", "train.lr")
WIDTHS = {ACCURACY: 120, "val_top1_pct": 120, LATENCY: 150, "method": 150}  # pixels; others have MLflow's 97
SECTION = "kdbench-section"


def view_tags() -> dict[str, str]:
    """Tags of the experiment: its view, and the metric by which MLflow's pages compare runs."""
    return {VIEW: canonical_json(view_state()), PRIMARY_METRIC: ACCURACY}


def view_state() -> dict[str, Any]:
    """The state of MLflow's page of runs: which columns and which charts, with nothing hidden."""
    kinds = dict.fromkeys(METRIC_COLUMNS, "metrics") | dict.fromkeys(PARAM_COLUMNS, "params")
    columns = [f"{kind}.`{name}`" for name, kind in kinds.items()]
    section = {
        "uuid": SECTION, "name": "Accuracy and cost", "display": True, "isReordered": False, "deleted": False,
        "isGenerated": False, "columns": 2, "cardHeight": 360,
    }  # fmt: skip
    return {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "searchFilter": "",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {f"{kinds[name]}.`{name}`": width for name, width in WIDTHS.items()},
        "compareRunCharts": charts(),
        "compareRunSections": [section],
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
    }


def charts() -> list[dict[str, Any]]:
    """Test accuracy against parameters and latency, bars of it, and all of them as parallel coordinates."""
    return [
        _chart("SCATTER", "params", "Accuracy against parameters", _axes(PARAMS, ACCURACY)),
        _chart("SCATTER", "latency", "Accuracy against latency", _axes(LATENCY, ACCURACY)),
        _chart("BAR", "accuracy", "Test accuracy", {"metricKey": ACCURACY}),
        _chart("PARALLEL", "parallel", "Cost and accuracy", _lines(("method",), (PARAMS, SIZE, LATENCY, ACCURACY))),
    ]


def _chart(kind: str, name: str, title: str, own: Mapping[str, Any]) -> dict[str, Any]:
    common = {"metricSectionId": SECTION, "deleted": False, "isGenerated": False, "runsCountToCompare": 20}
    return {"type": kind, "uuid": f"kdbench-{name}", "displayName": title, **common, **own}


def _axes(x: str, y: str) -> dict[str, Any]:
    return {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}


def _lines(params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    return {"selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": False}
