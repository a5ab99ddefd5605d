"""Every notebook runs on a synthetic grid, is stored without outputs, and equals its .py twin."""

import re
from pathlib import Path

import pytest

from tests.support.synthetic_grid import write_grid, write_variants

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

HERE = Path(__file__).resolve()
NOTEBOOKS = sorted((HERE.parents[2] / "notebooks").glob("*.ipynb"))


def cells(notebook):
    return [(cell.cell_type, cell.source.rstrip()) for cell in notebook.cells]


@pytest.fixture(scope="module")
def grid_root(tmp_path_factory):
    """A synthetic grid, with one of layers and one of sites that are older than it."""
    root = tmp_path_factory.mktemp("notebooks")
    for name, field, values in (
        ("layers", "layers", ("early", "late")),
        ("sites", "site", ("mlp_output",)),
    ):
        folder = write_variants(root, name=name, field=field, values=values, steps=12)
        # Older than the grid below, which `latest` is to find.
        manifest = (folder / "grid.json").read_text().replace("2026-01-02", "2026-01-01")
        (folder / "grid.json").write_text(manifest)
    write_grid(root, seeds=(0, 1), steps=12)
    return root


def test_the_five_are_there():
    assert [path.stem for path in NOTEBOOKS] == [
        "01_first_look",
        "02_tails",
        "03_layer_subsets_and_sites",
        "04_replay",
        "05_your_own_correction",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_twins_are_in_step_and_outputs_are_stripped(path):
    jupytext = pytest.importorskip("jupytext")
    stored = nbformat.read(path, as_version=4)
    assert cells(stored) == cells(jupytext.read(path.with_suffix(".py")))
    for cell in stored.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_on_the_synthetic_grid(path, grid_root, monkeypatch):
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("ALPKIT_ROOT", str(grid_root))
    # A backend chosen for the test run would keep figures out of the notebook.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(grid_root)}},
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    CHECKS[path.stem](code, grid_root)


def shown(cell):
    """Everything a cell printed or returned, as text."""
    return "".join(str(output) for output in cell.outputs)


def pictures(code):
    return sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


def first_look(code, root):
    assert len(code) == 5
    assert "synthetic - Does the planted arm differ?" in shown(code[0])
    assert pictures(code) == 1
    assert "No verdict" in shown(code[4])
    assert (root / "reports" / "synthetic-01234567" / "report.html").is_file()


def tails(code, root):
    assert pictures(code) == 2
    # The planted arm is the last but one, and its shape of 0.9 comes back in every estimator's row.
    assert "seq-bypass" in shown(code[0])
    for name in ("Hill", "generalised Pareto", "k-hat", "moment"):
        row = re.search(rf"{name} +(\d\.\d+)", code[3].outputs[0]["data"]["text/plain"])
        assert 0.7 < float(row[1]) < 1.1
    alone, prompts = map(int, re.findall(r"(\d+) %\\n", shown(code[-1])))
    assert alone < 60 < 80 <= prompts


def layers_and_sites(code, root):
    assert pictures(code) == 3
    assert "mlp_output" in shown(code[0])
    assert re.search(r"[1-9]\d* of \d+ differences are beyond seed noise", shown(code[-1]))


def replayed(code, root):
    assert "equals what was logged: True" in shown(code[1])


def own_correction(code, root):
    assert "('mine', 'finished')" in shown(code[2])
    assert re.search(r"rejected +NaN +\d+\.\d+", code[3].outputs[-1]["data"]["text/plain"])
    assert pictures(code) == 1


CHECKS = {
    "01_first_look": first_look,
    "02_tails": tails,
    "03_layer_subsets_and_sites": layers_and_sites,
    "04_replay": replayed,
    "05_your_own_correction": own_correction,
}
