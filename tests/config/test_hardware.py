"""`hardware:` in an ablation file: names from before are refused with their new ones, bounds are checked."""

from pathlib import Path

import pytest

from alpkit.config import expand, load_ablation
from alpkit.errors import AlpkitError, PrerequisiteError
from alpkit.launch import preflight

HEAD = "name: a\narms: [grpo]\nseeds: [0]\n"


def fails(folder: Path, base: str) -> str:
    path = folder / "a.yaml"
    path.write_text(f"{HEAD}base: {base}\n")
    with pytest.raises(AlpkitError) as caught:
        expand(load_ablation(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("{train: {micro_batch_tokens: 9}}", "train.micro_batch_tokens is now hardware.micro_batch_tokens"),
        ("{train: {head_chunk: 9}}", "train.head_chunk is now hardware.head_chunk"),
        ("{rollout: {batch: 9}}", "rollout.batch is now hardware.rollout_batch"),
        (
            "{rollout: {engine: vllm, gpu_memory_utilization: 0.3}}",
            "rollout.gpu_memory_utilization is now hardware.sampler_share",
        ),
        ("{rollout: {engine: vllm, kv_cache_gib: 1}}", "rollout.kv_cache_gib is now hardware.sampler_kv_gib"),
        ("{hardware: {ranks: 2}}", "hardware.ranks is not there yet"),
        ("{hardware: {sampler_sleep: true}}", "hardware.sampler_sleep is not there yet"),
        (
            "{rollout: {max_tokens: 60}, hardware: {micro_batch_tokens: 60}}",
            "hardware.micro_batch_tokens 60 is a hard bound",
        ),
    ],
)  # fmt: skip
def test_one_error_says_where_it_goes(tmp_path: Path, base: str, told: str) -> None:
    message = fails(tmp_path, base)
    assert message.count(told) == 1
    assert "a.yaml:4" in message


def test_a_kernel_that_this_machine_lacks_is_refused_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "visible_gpus", lambda: [])
    path = tmp_path / "a.yaml"
    path.write_text(f"{HEAD}base: {{hardware: {{attention: varlen}}}}\n")
    cell = expand(load_ablation(path)).cells[0]
    with pytest.raises(PrerequisiteError, match="varlen kernel needs an NVIDIA GPU"):
        preflight.check_cells([cell], models=False)
