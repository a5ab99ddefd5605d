"""The gap's causes on real models: they add up to the gap, and each appears where it was put."""

import numpy as np
import pytest

from alpkit.config import RunConfig
from alpkit.diagnostics.gap_causes import share_out
from alpkit.trainer.gap_probe import CAUSES, measure_gap


def measured(**config):
    return measure_gap(RunConfig.model_validate(config), items=24)


def test_float32_everywhere_is_no_gap():
    found = measured()
    shares = share_out(found.causes)
    assert list(found.causes) == list(CAUSES)
    assert shares.status == "none"
    # Two orders of summation in float32, on log-probs of a few nats.
    assert shares.total.sd < 5e-6
    assert len(found.sequence) == shares.n > 50


def test_the_samplers_weights_and_the_trainers_rounding_are_told_apart():
    found = measured(rollout={"weights": "int4"}, dtype="bfloat16")
    shares = share_out(found.causes)
    assert shares.status == "ok"
    weights, rounding = shares.causes["sampler's weights"], shares.causes["trainer's rounding"]
    assert weights.sd > 5 * rounding.sd > 0
    assert weights.share > 0.9
    assert shares.together == pytest.approx(1.0, abs=0.15)
    assert np.allclose(found.floor, sum(list(found.causes.values())[:2]))
    for name in ("sampler's arithmetic", "sampler's LM head", "sampler's KV cache"):
        assert shares.causes[name].sd == 0


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_with_an_fp8_cache_shows_the_cache():
    pytest.importorskip("vllm")
    rollout = {"engine": "vllm", "dtype": "bfloat16", "kv_cache_dtype": "fp8_e5m2"}
    shares = share_out(measured(rollout=rollout).causes)
    cache, told = shares.causes["sampler's KV cache"], shares.causes["sampling"]
    assert max(cache.share, told.share) > 0.5
    assert abs(shares.together - 1) < 0.15 or shares.strongest_pair is not None


def test_a_task_with_fewer_questions_is_asked_some_again():
    found = measured(task={"name": "addition", "digits": 1}, eval={"items": 4})
    assert len(set(found.sequence)) == 24
