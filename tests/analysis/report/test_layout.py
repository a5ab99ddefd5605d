"""What a sheet's layout promises: nothing outside the paper, nothing over something else."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alpkit.analysis.figures import style
from alpkit.analysis.figures.panels import legend_below
from alpkit.analysis.report.layout import settled
from alpkit.analysis.report.pictures import single_column

TITLES = ["Reward, mean of the step", "Gradient norm before clipping", "K1 of π against µ, nats"]
ARMS = ["grpo", "gspo", "token-tis", "seq-mis", "seq-bypass", "seq-alp lr=3e-05"]


def sheet(panels):
    figure = Figure(figsize=(10, 6))
    grid = figure.subplots(2, panels // 2, sharex=True, squeeze=False).ravel()
    for number, axes in enumerate(grid):
        for arm in ARMS:
            axes.plot(np.arange(41), np.linspace(0, 10.0**-number, 41), label=arm)
        axes.set_title(TITLES[number % 3])
        axes.set_xlabel("step")
        if number % (panels // 2) == 0:
            axes.set_ylabel("standard deviation of\nthe log ratio, nats")
    legend_below(figure, grid, dict.fromkeys(ARMS))
    return figure


def boxes(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.get_visible()]
    return [*panels, *(legend.get_window_extent(renderer) for legend in figure.legends)]


@pytest.mark.parametrize("panels", [4, 6])
@pytest.mark.parametrize("column", [False, True])
def test_panels_and_legend_lie_on_the_paper_and_apart(panels, column):
    with style.context():
        figure = sheet(panels)
        with settled(figure):
            pass
        drawn = single_column(figure) if column else figure
        assert drawn is not None
        with settled(drawn):
            found = boxes(drawn)
            paper = drawn.bbox
    assert len(found) == panels + 1
    for box in found:  # half a pixel for rounding
        assert min(box.x0, box.y0) >= -0.5
        assert max(box.x1 - paper.x1, box.y1 - paper.y1) <= 0.5
    for one, other in itertools.combinations(found, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        upward = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(across, upward) <= 0.5, (one, other)


def test_shared_ticks_are_found_anew_after_the_block():
    with style.context():
        figure = sheet(4)
        axes = figure.axes[2]
        rules = [axes.xaxis.get_major_locator(), axes.xaxis.get_major_formatter()]
        with settled(figure):
            assert axes.xaxis.get_major_locator() is not rules[0]
        assert [axes.xaxis.get_major_locator(), axes.xaxis.get_major_formatter()] == rules
