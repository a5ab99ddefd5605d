"""Rounding of linear weights: exact values on small matrices."""

import pytest
import torch
from torch.testing import assert_close

from alpkit.rollout.precision import round_linear_weights, round_trip
from tests.support.tiny_models import tiny_qwen2


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
        round_linear_weights(model, "int4")
        for name, value in model.named_parameters():
            linear = name.endswith("proj.weight")
            assert torch.equal(value, before[name]) is not linear, name
