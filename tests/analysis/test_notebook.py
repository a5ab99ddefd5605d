"""A frame answers in a notebook by itself: its table, its figures, a response token by token."""

import pytest

from alpkit.errors import GridError
from tests.support.synthetic_grid import SPIKE


def test_a_frame_shows_its_question_and_a_row_per_arm(frame):
    shown = frame._repr_html_()
    assert "Does the planted arm differ?" in shown
    assert all(f"<th>{arm}</th>" in shown for arm in frame.arms)
    assert frame.summary().loc["seq-bypass", "tail k̂"].startswith("0.70")


def test_tables_and_figures_go_by_the_names_of_their_files(frame):
    assert set(frame.table("tails")["level"]) == {"token", "geometric", "product"}
    assert frame.plot("envelope").get_size_inches()[0] == 10.0
    with pytest.raises(GridError, match="no table is called 'tail'"):
        frame.table("tail")


def test_a_response_is_shown_token_by_token(frame):
    cell = str(frame.cells["cell_id"].iloc[0])
    found = frame.sample(cell, 10, 3)
    own = frame.records.tokens(cells=[cell], steps=[10])
    own = own[own["sample"] == 3]
    assert len(found.tokens) == len(own)
    assert found.tokens["log_ratio"].sum() == pytest.approx(
        (own["logp_train"] - own["logp_rollout"]).sum(), abs=1e-5
    )
    assert found._repr_html_().count("<span") == len(own)
    with pytest.raises(GridError, match="has no response 9999"):
        frame.sample(cell, 10, 9999)


def test_spikes_keep_their_rows_where_no_records_have_the_prompt(frame):
    rows = frame.spikes
    assert (rows.iloc[0]["arm"], rows.iloc[0]["seed"], rows.iloc[0]["step"]) == SPIKE
    # The spike's step kept no records, so its prompt is not known.
    assert rows["prompt"].tolist() == [""] * len(rows)
