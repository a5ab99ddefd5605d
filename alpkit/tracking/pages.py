"""Addresses of MLflow's own pages: an experiment's charts, and the report among a run's artifacts."""

import base64
import json
import zlib
from typing import Any, Final

from alpkit.config.tracking import SECTIONS

VIEW: Final = "alpkit-arms"
# MLflow's shared view: what its page reads from an experiment's tag when a link names the view.
VIEW_STATE: Final = {
    "searchFilter": "tags.`alpkit.kind` = 'cell'",
    "orderByKey": "tags.`mlflow.runName`",
    "orderByAsc": True,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "runsHiddenMode": "SHOW_ALL",
    "groupBy": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "alpkit.arm"}],
    },
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
}
CHARTS: Final = "[Charts of every cell]"


def charts_path(experiment_id: str) -> str:
    """Give the UI's address, from its `#` on, of an experiment's charts: the cells alone, grouped by arm.

    Says model training, because MLflow 3.17 opens every experiment in its GenAI view otherwise. What is
    filtered and grouped is the experiment's stored view (`Store.experiment` writes it): beside other filters
    in the address MLflow would not read it.
    """
    view = f"viewStateShareKey={VIEW}"
    return (
        f"#/experiments/{experiment_id}/runs?{view}"
        "&workflowType=machine_learning&compareRunsMode=CHART"
    )


def stored_view() -> str:
    """Give the view as its experiment's tag holds it: compressed, as MLflow's page itself writes a large one."""
    packed = zlib.compress(json.dumps(view_state(), separators=(",", ":")).encode(), 9)
    return f"deflate;{base64.b64encode(packed).decode()}"


def view_state() -> dict[str, Any]:
    """Give the view: cells grouped by arm, charts in sections that begin with the reward.

    MLflow would sort sections by name, so that `eval` and `kl` came first; metrics without a card here get
    theirs from MLflow, after these.
    """
    sections = [
        {
            "uuid": name,
            "name": name,
            "display": True,
            "isReordered": True,
            "deleted": False,
            "isGenerated": True,
        }
        for name in SECTIONS
    ]
    cards = [_card(key, name) for name, keys in SECTIONS.items() for key in keys]
    return {
        **VIEW_STATE,
        "compareRunSections": sections,
        "compareRunCharts": cards,
        "isAccordionReordered": True,
    }


def _card(key: str, section: str) -> dict[str, Any]:
    return {
        "uuid": key,
        "type": "LINE",
        "metricSectionId": section,
        "metricKey": key,
        "displayName": key,
        "deleted": False,
        "isGenerated": True,
        "runsCountToCompare": 10,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def report_path(experiment_id: str, run_id: str, folder: str = "report") -> str:
    """Give the UI's address, from its `#` on, of the report among a run's artifacts."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{folder}/report.html"
