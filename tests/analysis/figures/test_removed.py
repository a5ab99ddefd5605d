"""What never acted is left out."""

import pandas as pd


def test_removals_leave_out_what_never_acted(report):
    data = pd.read_csv(report.folder / "removed.csv")
    assert "receipt/masked" not in set(data["metric"])
    assert "receipt/truncated" in set(data["metric"])
