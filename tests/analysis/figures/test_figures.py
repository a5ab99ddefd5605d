"""Every figure is one file and one entry of the list; it draws what its CSV holds, or says why it does not."""

import pkgutil
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from alpkit.analysis import figures
from alpkit.analysis.figures import FIGURES, draw, style
from alpkit.errors import GridError


def test_every_file_with_a_figure_is_listed_and_named_after_it():
    modules = {
        module.name: import_module(f"{figures.__name__}.{module.name}")
        for module in pkgutil.iter_modules(figures.__path__)
    }
    owned = {
        name: module.FIGURE.name for name, module in modules.items() if hasattr(module, "FIGURE")
    }
    assert sorted(owned) == sorted(owned.values()) == sorted(figure.name for figure in FIGURES)


def test_one_figure_can_be_drawn_by_its_name(frame):
    drawn = draw("ccdf", frame)
    assert [axes.get_xlabel() for axes in drawn.axes] == ["z"] * 4
    with pytest.raises(GridError, match="'cdf'") as unknown:
        draw("cdf", frame)
    assert "ccdf" in unknown.value.fix
    with pytest.raises(GridError, match="cannot be drawn") as absent:
        draw("layers_intervals", frame)
    assert absent.value.why == "no two arms differ in their layers alone."


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("factors", ["quantity", "factor"], "value"), ("removed", ["metric"], "mean")],
)
def test_sheets_over_steps_draw_their_csv(report, frame, name, key, value):
    data = pd.read_csv(report.folder / f"{name}.csv")
    heights = [line.get_ydata() for axes in draw(name, frame).axes for line in axes.lines]
    groups = data.groupby([*key, "arm"], sort=False)[value]
    assert groups.ngroups > 3
    for _, own in groups:
        # The CSV rounds in the last digits.
        assert any(
            height.shape == own.shape and np.allclose(height, own, rtol=1e-12, atol=0)
            for height in map(np.asarray, heights)
        )


def test_every_figure_of_the_list_draws_or_says_why(frame, ablations):
    absent = []
    for figure in FIGURES:
        data = figure.numbers(frame)
        if data.empty:
            absent.append(figure.name)
            assert figure.absent.endswith(".")
            continue
        with style.context():
            sheet = figure.sheet(data, style.looks(frame.cells))
        assert any(axes.has_data() for axes in sheet.axes)
        assert len(figure.alt(frame, data)) > 60
    # Grids of several turns have tests of their own.
    assert absent == ["turns", "by_turn", "layers_intervals", "sites_intervals"]
    for name in absent[2:]:
        (figure,) = [figure for figure in FIGURES if figure.name == name]
        noisy = ablations[name.removesuffix("_intervals")]
        data = figure.numbers(noisy)
        sheet = figure.sheet(data, style.looks(noisy.cells))
        assert [t.get_text() for t in sheet.axes[0].get_yticklabels()] == list(
            dict.fromkeys(data["setting"])
        )
