import pytest
from synthetic_grid import write_grid


@pytest.fixture(scope="session")
def grid_root(tmp_path_factory):
    """A finished grid of 6 arms x 3 seeds x 40 steps with planted truths; read only."""
    root = tmp_path_factory.mktemp("grid")
    write_grid(root)
    return root
