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
    edit(stored, "  weight_decay: 0.0\n", "")
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


def test_what_is_about_the_machine_is_moved_silently(stored: Path) -> None:
    edit(stored, "  steps: 5\n", "  steps: 5\n  micro_batch_tokens: 2048\n  head_chunk: 512\n")
    edit(stored, "  lag: 0\n", "  lag: 0\n  batch: 64\n")
    text = stored.read_text()
    stored.write_text(text[: text.index("hardware:\n")] + text[text.index("objective:\n") :])
    read = load_run(stored)
    moved = {"micro_batch_tokens": 2048, "head_chunk": 512, "rollout_batch": 64}
    assert read == RunConfig(seed=3, train={"steps": 5}, hardware=moved)
    assert read.cell_id() == RunConfig(seed=3, train={"steps": 5}).cell_id()


def test_vllms_keys_are_moved_too(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("rollout: {engine: vllm, gpu_memory_utilization: 0.3, kv_cache_gib: 2.0}\n")
    hardware = load_run(path).hardware
    assert (hardware.sampler_share, hardware.sampler_kv_gib) == (0.3, 2.0)


def test_a_budget_from_before_it_was_a_bound_is_raised_to_hold_a_sequence(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("rollout: {max_tokens: 100}\ntrain: {micro_batch_tokens: 60}\n")
    assert load_run(path).hardware.micro_batch_tokens == 200


def test_every_other_fault_is_at_its_line(stored: Path) -> None:
    edit(stored, "  steps: 5\n", "  steps: five\n  sleep: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_run(stored)
    assert "train.steps: wanted a whole number, got the text 'five'" in str(caught.value)
    assert "train.sleep is not a field of train" in str(caught.value)
