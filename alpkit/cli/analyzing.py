"""`alpkit analyze`: the report of a grid, on disk and on its parent run."""

from alpkit.cli.output import note, print_json
from alpkit.errors import TrackingError
from alpkit.runs import read_grid, resolve
from alpkit.tracking import log_report


def analyze(run_id: str, tracking_uri: str | None, *, as_json: bool) -> None:
    """Write the report, then log its files; a store out of reach costs the second only."""
    target = resolve(run_id)
    grid = read_grid(target.folder)
    uri = tracking_uri or grid.tracking_uri or None
    # Heavy (pandas, matplotlib), so only once the run is known to exist.
    from analysis import analyze as write_report

    folder = target.folder / target.cell_id if target.cell_id else target.folder
    report = write_report(str(folder), tracking_uri=uri)
    logged = True
    # A cell's report must not take the place of its grid's.
    place = f"report-{target.cell_id}" if target.cell_id else "report"
    try:
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
