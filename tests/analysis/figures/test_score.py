"""A point per finished cell."""

import numpy as np
from matplotlib.figure import Figure

from alpkit.analysis.figures import score


def test_score_draws_a_point_per_cell(frame, looks):
    data = score.numbers(frame)
    part = data[data["heaviness"] == "khat_right"]
    axes = score.draw_panel(part, Figure().subplots(), looks)
    points = np.concatenate([line.get_xydata() for line in axes.lines])
    expected = frame.finished[["khat_right", "eval_greedy"]].to_numpy()
    np.testing.assert_array_equal(points[np.lexsort(points.T)], expected[np.lexsort(expected.T)])
