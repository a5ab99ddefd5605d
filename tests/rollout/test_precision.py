"""Rounding of weight matrices: exact values on small ones, and none left out of a model's blocks."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from alpkit.config.run import HfRolloutConfig
from alpkit.errors import ConfigError
from alpkit.launch import preflight
from alpkit.policy.perturbation.sites import decoder_layers
from alpkit.rollout.hf import HfSampler
from alpkit.rollout.precision import check_rounding, round_trip, round_weights, rounded_share
from tests.support.tiny_models import ARCHITECTURES, tiny, tiny_qwen2


def test_int4_is_symmetric_round_to_nearest_per_row():
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.2], [0.07, 0.0, -0.036, 0.01], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[7.0, -3.0, 1.0, 0.0], [0.07, 0.0, -0.04, 0.01], [0.0, 0.0, 0.0, 0.0]])
    assert_close(round_trip(weight, "int4"), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int4", 7)])
def test_error_is_at_most_half_a_step_and_rounding_twice_changes_nothing(kind, levels):
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    rounded = round_trip(weight, kind)
    half_step = weight.abs().amax(1, keepdim=True) / levels / 2
    assert ((rounded - weight).abs() <= half_step * (1 + 1e-5)).all()
    assert_close(round_trip(rounded, kind), rounded, atol=1e-6, rtol=0)


def test_head_and_embedding_stay_and_every_other_linear_is_rounded():
    for tied in (False, True):
        model = tiny_qwen2(tied=tied)
        before = {n: p.clone() for n, p in model.named_parameters()}
        round_weights(model, "int4")
        for name, value in model.named_parameters():
            linear = name.endswith("proj.weight")
            assert torch.equal(value, before[name]) is not linear, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_matrix_of_the_blocks_has_at_most_15_levels_a_row(architecture):
    """Counted on the model itself: rows as each layer multiplies with them, every expert on its own."""
    model = tiny(architecture)
    assert rounded_share(model) == 1
    round_weights(model, "int4")
    seen = 0
    for layer in decoder_layers(model):
        for name, value in layer.named_parameters():
            if value.ndim < 2:
                continue
            by_row = value.detach().T if architecture == "gpt2" else value.detach()
            for row in by_row.reshape(-1, by_row.shape[-1]):
                step = row.abs().max() / 7
                assert_close((row / step).round() * step, row, atol=1e-5, rtol=0, msg=name)
            seen += value.numel()
    assert seen > 20_000


def test_where_every_matrix_is_linear_the_numbers_are_those_of_rounding_linear_layers():
    for architecture in ("llama", "opt", "phi"):
        model, plain = tiny(architecture), tiny(architecture)
        round_weights(model, "int4")
        for module in plain.modules():
            if isinstance(module, nn.Linear) and module is not plain.get_output_embeddings():
                scale = module.weight.detach().abs().amax(dim=1, keepdim=True) / 7
                with torch.no_grad():
                    module.weight.copy_((module.weight / scale).round().clamp(-7, 7) * scale)
        for (name, a), (_, b) in zip(
            model.named_parameters(), plain.named_parameters(), strict=True
        ):
            assert torch.equal(a, b), name


def test_experts_that_multiply_from_the_right_are_rounded_by_column():
    config = AutoConfig.for_model(
        "gpt_oss",
        **{"vocab_size": 20, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16},
        **{"num_local_experts": 2, "num_experts_per_tok": 1, "pad_token_id": 0},
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    experts = decoder_layers(model)[0].mlp.experts
    with torch.no_grad():
        for value in experts.parameters():
            value.normal_()
    bias = experts.down_proj_bias.detach().clone()
    round_weights(model, "int4")
    weight = experts.down_proj.detach()  # [expert, in, out]
    step = weight.abs().amax(dim=1, keepdim=True) / 7
    assert_close((weight / step).round() * step, weight, atol=1e-5, rtol=0)
    assert torch.equal(experts.down_proj_bias, bias)


class Opaque(nn.Module):
    """Experts whose layout nobody declares."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.randn(2, 32, 48))


def hide_weights(model):
    for layer in decoder_layers(model):
        layer.mlp = Opaque()
    return model


def test_a_model_of_which_too_little_would_be_rounded_is_refused():
    model = hide_weights(tiny("llama"))
    share = 4 * 32 * 32 / (4 * 32 * 32 + 2 * 32 * 48)
    assert rounded_share(model) == pytest.approx(share)
    with pytest.raises(
        ConfigError, match=r"int4 would round 57\.1% of the block weights"
    ) as caught:
        HfSampler(model, HfRolloutConfig(weights="int4"), stop_ids=(1,), pad_id=0)
    assert "layer 0 mlp.stack and 2 more" in caught.value.why
    assert check_rounding(model, "float32") == pytest.approx(share)  # rounds nothing: no refusal


def test_the_refusal_comes_before_anything_is_created(monkeypatch):
    from alpkit.config import RunConfig
    from alpkit.policy import checking

    with torch.device("meta"):
        hidden = hide_weights(tiny("llama"))
    monkeypatch.setattr(checking, "model_without_weights", lambda *_: hidden)
    fine = RunConfig.model_validate({"rollout": {"weights": "float32"}})
    preflight._check_model(fine)
    with pytest.raises(ConfigError, match="would round"):
        preflight._check_model(RunConfig.model_validate({"rollout": {"weights": "int4"}}))


def test_the_share_is_a_fact_of_the_sampler_and_of_its_start_line(caplog):
    with caplog.at_level("INFO", logger="alpkit.rollout"):
        sampler = HfSampler(tiny("gpt2"), HfRolloutConfig(weights="int4"), stop_ids=(1,), pad_id=0)
    assert sampler.facts() == {"rollout/rounded_share": 1.0}
    assert "int4, 100.0 % of the block weights rounded" in caplog.text
    plain = HfSampler(tiny("gpt2"), HfRolloutConfig(), stop_ids=(1,), pad_id=0)
    assert plain.facts() == {}
