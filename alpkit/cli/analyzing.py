"""`alpkit analyze`: the report of a grid, on disk and on its parent run."""

from alpkit.cli.output import note, print_json
from alpkit.errors import TrackingError
from alpkit.tracking import log_report, usable_uri


def analyze(run_id: str, tracking_uri: str | None, *, as_json: bool) -> None:
    """Write the report and log its files to MLflow; if the store is out of reach, there is still the report."""
    from alpkit.analysis import analyze as write_report  # heavy: pandas, matplotlib

    report = write_report(run_id, tracking_uri=tracking_uri)
    grid, cell = report.frame.grid, report.frame.only_cell
    logged = True
    # A cell's report must not take the place of its grid's.
    place = f"report-{cell}" if cell else "report"
    try:
        uri = usable_uri(tracking_uri, grid.tracking_uri)
        if not grid.parent_run_id:
            raise TrackingError(
                "the grid has no run in a store",
                where=str(grid.folder),
                why="no store has answered since it began",
                fix="send the grid first: alpkit sync RUN",
            )
        log_report(grid.parent_run_id, report.folder, tracking_uri=uri, folder=place)
    except TrackingError as error:
        logged = False
        note(f"the report is not on the parent run: {error}")
    if as_json:
        summary = {"report": str(report.folder), "logged": logged, "summary": report.summary}
        print_json(summary)
        return
    page = report.folder / "report.html"
    print(page if page.exists() else report.folder)
