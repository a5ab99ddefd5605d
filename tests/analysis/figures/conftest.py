import pytest

from alpkit import analysis
from alpkit.analysis.figures import style
from tests.support.synthetic_grid import ARMS, write_variants


@pytest.fixture
def looks():
    """Every arm in black: what is drawn, not how."""
    return {arm: style.Look("#000000", "-", None) for arm in ARMS}


@pytest.fixture(scope="session")
def ablations(tmp_path_factory):
    """Grids whose perturbed arms differ in their layers alone, and in their site alone."""
    root = tmp_path_factory.mktemp("ablations")
    write_variants(root, name="layers", field="layers", values=("early", "late"), steps=12)
    write_variants(root, name="sites", field="site", values=("mlp_output",), steps=12)
    return {name: analysis.load(name, root=root) for name in ("layers", "sites")}
