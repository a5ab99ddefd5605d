"""Addresses of MLflow's own pages: an experiment's charts, and the report among a run's artifacts."""

from typing import Final

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


def report_path(experiment_id: str, run_id: str, folder: str = "report") -> str:
    """Give the UI's address, from its `#` on, of the report among a run's artifacts."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{folder}/report.html"
