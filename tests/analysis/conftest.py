import pytest

from alpkit import analysis
from tests.support.synthetic_grid import write_grid


@pytest.fixture(scope="session")
def grid_root(tmp_path_factory):
    """A finished grid of 6 arms x 3 seeds x 40 steps with planted truths; do not write into it."""
    root = tmp_path_factory.mktemp("grid")
    write_grid(root)
    return root


@pytest.fixture(scope="session")
def frame(grid_root):
    return analysis.load(root=grid_root)


@pytest.fixture(scope="session")
def tails(frame):
    return analysis.tail_frame(frame).set_index(["arm", "level", "side"])


@pytest.fixture(scope="session")
def report(grid_root):
    return analysis.analyze("synthetic", root=grid_root)


@pytest.fixture
def small_root(tmp_path):
    """Two arms x two seeds x twelve steps, to be broken."""
    write_grid(tmp_path, name="small", arms=("grpo", "token-tis"), seeds=(0, 1), steps=12)
    return tmp_path


@pytest.fixture
def words_only(monkeypatch):
    """Reports without figures: these are most of a report's seconds."""
    monkeypatch.setattr("alpkit.analysis.report.compose.FIGURES", [])
