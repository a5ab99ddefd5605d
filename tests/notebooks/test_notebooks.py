"""Every notebook runs on a synthetic grid, is stored without outputs, and equals its .py twin."""

import importlib.util
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

HERE = Path(__file__).resolve()
NOTEBOOKS = sorted((HERE.parents[2] / "notebooks").glob("*.ipynb"))


def cells(notebook):
    return [(cell.cell_type, cell.source.rstrip()) for cell in notebook.cells]


@pytest.fixture(scope="module")
def grid_root(tmp_path_factory):
    """The analysis tests' synthetic grid; that folder is no package, so it is loaded by its path."""
    path = HERE.parents[1] / "analysis" / "synthetic_grid.py"
    spec = importlib.util.spec_from_file_location("synthetic_grid_for_notebooks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = tmp_path_factory.mktemp("notebooks")
    module.write_grid(root, seeds=(0, 1), steps=12)
    return root


def test_there_is_a_first_look():
    assert "01_first_look.ipynb" in [path.name for path in NOTEBOOKS]


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
    if path.stem == "01_first_look":
        assert len(code) == 5
        shown = "".join(str(output) for output in code[0].outputs)
        assert "synthetic - Does the planted arm differ?" in shown
        assert any("image/png" in output.get("data", {}) for output in code[1].outputs)
        assert "No verdict" in str(code[4].outputs)
    assert (grid_root / "reports" / "synthetic-01234567" / "report.html").is_file()
