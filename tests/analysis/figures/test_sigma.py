"""The map has a cell per layer and step."""

import numpy as np
import pandas as pd

from alpkit.analysis.figures import sigma, style


def test_sigma_is_one_cell_of_the_map_per_layer_and_step(frame):
    lines = [
        {"cell_id": "0500abcdef", "arm": "seq-alp", "seed": 0, "step": step}
        | {f"sigma/layer_{layer:02d}": layer + step / 10 for layer in (0, 2)}
        for step in (1, 2, 3)
    ]
    own = type(frame)(frame.cells, pd.DataFrame(lines), frame.records, frame.grid)
    data = sigma.numbers(own)
    figure = sigma.sheet(data, style.looks(frame.cells))
    (mesh,) = figure.axes[0].collections
    np.testing.assert_allclose(mesh.get_array(), [[0.1, 0.2, 0.3], [2.1, 2.2, 2.3]])
