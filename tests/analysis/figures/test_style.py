"""An arm looks the same in every figure, and drawing leaves the user's settings alone."""

import matplotlib
import pandas as pd
from matplotlib.colors import to_hex

from alpkit.analysis.figures import style


def test_importing_and_drawing_leave_global_settings_alone(report):
    before = dict(matplotlib.rcParams)
    with style.context():
        assert matplotlib.rcParams["svg.hashsalt"] == "alpkit"
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.rcParams["svg.hashsalt"] is None


def test_an_arm_keeps_its_colour_whatever_stands_beside_it():
    cells = pd.DataFrame(
        {
            "arm": ["seq-alp layers=early", "seq-bypass", "mine"],
            "site": ["layer_input", None, None],
            "layers": ["early", None, None],
        }
    )
    looks = style.looks(cells)
    assert looks["seq-alp layers=early"] == (style.METHOD_COLOURS["seq-alp"], "--", "o")
    assert looks["seq-bypass"] == (style.METHOD_COLOURS["seq-bypass"], "-", None)
    assert looks["mine"].colour == style.OTHER_COLOURS[0]


def test_arms_without_a_colour_of_their_own_are_told_apart():
    arms = ["grpo", "mine", "yours", "yours perturbation.layers=early"]
    looks = style.looks(pd.DataFrame({"arm": arms, "site": None, "layers": None}))
    assert looks[arms[2]].colour == looks[arms[3]].colour
    assert looks["grpo"].colour == style.METHOD_COLOURS["grpo"]
    colours = {to_hex(look.colour) for look in looks.values()}
    assert len(colours) == 3
