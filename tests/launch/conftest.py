"""A grid of fake cells, and a place to run it in."""

import shutil
from pathlib import Path

import pytest
import yaml

from alpkit.config import expand, load_ablation
from alpkit.launch import Options


@pytest.fixture(scope="module")
def place(tmp_path_factory, empty_store) -> Path:
    folder = tmp_path_factory.mktemp("place")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def make_grid(place):
    def make(name, arms, *, seeds=(0,), steps=6, **rest):
        path = place / f"{name}.yaml"
        data = {
            "name": name,
            "question": "does it launch?",
            "base": {"train": {"steps": steps}},
            "arms": arms,
            "seeds": list(seeds),
            **rest,
        }
        path.write_text(yaml.safe_dump(data))
        return expand(load_ablation(path))

    return make


@pytest.fixture(scope="module")
def options(place):
    def make(**rest):
        uri = f"sqlite:///{place}/mlflow.db"
        return Options(
            root=place, tracking_uri=uri, trainer="tests.support.fake_trainer:train_cell", **rest
        )

    return make
