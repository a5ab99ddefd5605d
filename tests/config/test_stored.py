"""Reading the config.yaml of a run folder that an earlier version wrote."""

from pathlib import Path

import pytest

from alpkit.config import RunConfig, dump_yaml
from alpkit.config.stored import load_run
from alpkit.errors import ConfigError


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(RunConfig(seed=3, train={"steps": 5})))
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_what_this_version_wrote_is_read_back(stored: Path) -> None:
    assert load_run(stored) == RunConfig(seed=3, train={"steps": 5})


def test_a_missing_field_takes_its_default(stored: Path) -> None:
    edit(stored, "  head_chunk: 4096\n", "")
    assert load_run(stored) == RunConfig(seed=3, train={"steps": 5})


def test_a_removed_field_goes_where_it_did_nothing(stored: Path) -> None:
    edit(stored, "diagnostics:\n", "diagnostics:\n  agreement_with: null\n")
    assert load_run(stored) == RunConfig(seed=3, train={"steps": 5})


def test_a_removed_field_with_an_effect_is_an_error_that_says_what_to_do(stored: Path) -> None:
    edit(stored, "diagnostics:\n", "diagnostics:\n  agreement_with: geo-rs\n")
    with pytest.raises(ConfigError) as caught:
        load_run(stored)
    line = stored.read_text().splitlines().index("  agreement_with: geo-rs") + 1
    assert caught.value.where == f"{stored}:{line}:19"
    assert caught.value.what.startswith(
        "diagnostics.agreement_with is no longer a field: `alpkit replay"
    )


def test_every_other_fault_is_at_its_line(stored: Path) -> None:
    edit(stored, "  steps: 5\n", "  steps: five\n  sleep: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_run(stored)
    assert "train.steps: wanted a whole number, got the text 'five'" in str(caught.value)
    assert "train.sleep is not a field of train" in str(caught.value)
