"""Fixtures shared by every folder of tests."""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no reason to fail: speed is measured in benchmarks/.
settings.register_profile("alpkit", deadline=None)
settings.load_profile("alpkit")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A migrated, empty MLflow database: creating one costs seconds, copying one does not."""
    from alpkit.tracking import prepare_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    prepare_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def workplace(tmp_path, monkeypatch, empty_store) -> Path:
    """An empty working directory with a fresh default store in it, and nothing from outside."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
