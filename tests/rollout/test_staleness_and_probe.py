"""Old weights, and the probe that tells old weights from new ones."""

import pytest
import torch

from alpkit.config.run import HfRolloutConfig
from alpkit.errors import RolloutError
from alpkit.rollout.hf import HfSampler
from alpkit.rollout.probe import SyncProbe, default_tolerance
from alpkit.rollout.staleness import WeightHistory
from tests.support.tiny_models import tiny_qwen2

SEQUENCES = [((5, 6, 7), (2, 3, 4)), ((8, 9), (10, 11))]


def train_a_little(model, amount=1.0):
    with torch.no_grad():
        for value in model.parameters():
            value.add_(amount)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_history_gives_the_weights_of_lag_steps_ago(lag):
    model = tiny_qwen2(layers=1)
    history = WeightHistory(model, lag)
    start = float(next(model.parameters()).detach().flatten()[0])
    for step in range(1, 7):
        train_a_little(model)
        history.advance()
        expected = max(0, step - lag)
        assert history.sampler_version == expected
        value = float(dict(history.weights())["model.embed_tokens.weight"].detach().flatten()[0])
        assert value == pytest.approx(start + expected, abs=1e-5)
        with history.as_sampled():
            inside = float(next(model.parameters()).detach().flatten()[0])
            assert inside == pytest.approx(start + expected, abs=1e-5)
        after = float(next(model.parameters()).detach().flatten()[0])
        assert after == pytest.approx(start + step, abs=1e-5)
    assert len(history.snapshots) == (lag + 1 if lag else 0)


class Forgetful(HfSampler):
    """A sampler whose sync leaves one tensor as it was, without an error."""

    def __init__(self, *args, stale, **kwargs):
        super().__init__(*args, **kwargs)
        self.stale = stale

    def sync(self, parameters):
        own = dict(self.model.named_parameters())
        super().sync((n, own[n].clone() if n == self.stale else p) for n, p in parameters)


def probe(weights):
    tolerance = default_tolerance(HfRolloutConfig(weights=weights))
    return SyncProbe(SEQUENCES, pad_id=0, temperature=1.0, tolerance=tolerance)


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_a_sound_sync_passes_and_leaves_both_engines_as_they_were(weights):
    model = tiny_qwen2()
    before = {n: p.clone() for n, p in model.named_parameters()}
    sampler = HfSampler(model, HfRolloutConfig(weights=weights), stop_ids=(1,), pad_id=0)
    start = sampler.score(SEQUENCES)
    gap = probe(weights).prove_sync(sampler, model, seed=0)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert sampler.score(SEQUENCES) == start
    assert (gap.mean == 0) is (weights == "float32")
    assert gap.mean <= gap.max


@pytest.mark.parametrize("stale", ["lm_head.weight", "model.layers.1.mlp.down_proj.weight"])
def test_one_stale_tensor_is_caught_at_the_start(stale):
    model = tiny_qwen2()
    sampler = Forgetful(model, HfRolloutConfig(), stop_ids=(1,), pad_id=0, stale=stale)
    with pytest.raises(RolloutError, match="did not all arrive"):
        probe("float32").prove_sync(sampler, model, seed=0)


def test_a_sampler_that_misses_a_step_is_caught_after_it():
    model = tiny_qwen2()
    sampler = HfSampler(model, HfRolloutConfig(), stop_ids=(1,), pad_id=0)
    probe("float32").check(sampler, model)
    train_a_little(model, 0.01)
    with pytest.raises(RolloutError, match="after a weight sync, sampler and trainer differ"):
        probe("float32").check(sampler, model)
