"""One optimizer update: what each token adds to the gradient, and what waits for the device."""

import numpy as np
import pytest
import torch

from alpkit.config import PRESETS, RunConfig
from alpkit.trainer import update as update_module
from alpkit.trainer.batches import cut, gather
from alpkit.trainer.clock import Clock
from alpkit.trainer.collect import collect
from alpkit.trainer.measure import read_out, receipt_part
from alpkit.trainer.state import set_up
from alpkit.trainer.update import update_policy, with_logp_old

SMALL = {
    "rollout": {"weights": "int4", "prompts": 8, "group": 4},
    "train": {"steps": 2, "updates_per_rollout": 4, "lr": 2e-3},
    "eval": {"every": 2, "items": 8, "k": 1},
}


@pytest.fixture
def started(tmp_path):
    """A run of grpo that has sampled its first step: state, and the plan of its updates."""
    torch.set_num_threads(1)
    state = set_up(RunConfig.model_validate(SMALL | PRESETS["grpo"].settings), tmp_path)
    batch = collect(state, 1)
    plan = with_logp_old(state, cut(batch, updates=4, tokens=60))
    yield state, plan
    state.sampler.close()
    state.records.close()


def test_a_tokens_slope_is_what_it_adds_to_the_gradient(started):
    """At the first update of grpo every ratio is 1: |advantage| / tokens of the mini-batch. A clip leaves 0."""
    state, plan = started
    updates = [update_policy(state, micros, diagnose=True, clock=Clock()) for micros in plan]
    table = gather([rows for update in updates for rows in update.rows]).host()
    first = table["update"] == 0
    expected = np.abs(table["advantage"][first]) / first.sum()
    np.testing.assert_allclose(table["slope"][first], expected, rtol=1e-5)
    ratio = np.exp(table["logp_train"].astype(float) - table["logp_old"])
    dead = ((ratio > 1.2001) & (table["advantage"] > 0)) | (
        (ratio < 0.7999) & (table["advantage"] < 0)
    )
    assert dead.any()
    assert (table["slope"][dead] == 0).all()
    outputs = [output for update in updates for output in update.outputs]
    receipt = read_out([receipt_part(outputs, state.config.objective)])
    assert receipt["receipt/clipped_low"] + receipt["receipt/clipped_high"] > 0


def test_micro_batches_know_where_they_stand_and_the_policy_they_were_sampled_with(started):
    _, plan = started
    assert max(len(micros) for micros in plan) > 1
    for update, micros in enumerate(plan):
        assert {(micro.step, micro.update) for micro in micros} == {(1, update)}
        for micro in micros:
            inputs = micro.inputs(micro.logp_old)
            assert torch.equal(inputs.mask, micro.valid)
            # int4 sampler against float32 trainer: near, and not the same.
            gap = (inputs.logp - inputs.logp_rollout)[inputs.mask].abs()
            assert 0 < gap.max() < 5


@pytest.mark.parametrize("lag", [0, 1])
def test_the_first_updates_clean_forward_is_log_pi_old_to_the_bit(tmp_path, monkeypatch, lag):
    """Nothing has moved yet, so it is not run again; a lagging sampler's weights are others."""
    torch.set_num_threads(1)
    settings = SMALL | PRESETS["seq-alp"].settings
    settings = {**settings, "rollout": {**SMALL["rollout"], "lag": lag}}
    state = set_up(RunConfig.model_validate(settings), tmp_path)
    scored, real = [], update_module._logprobs

    def counted(state, micro, model=None, **asked):
        scored.append(micro.update)
        return real(state, micro, model, **asked)

    monkeypatch.setattr(update_module, "_logprobs", counted)
    try:
        for _ in range(lag + 1):  # at lag 1: until the weights are no longer the sampler's
            plan = with_logp_old(state, cut(collect(state, 1), updates=4, tokens=60))
            scored.clear()
            done = [update_policy(state, micros, diagnose=True, clock=Clock()) for micros in plan]
            state.history.advance()
    finally:
        state.sampler.close()
        state.records.close()
    assert scored.count(0) == (2 if lag else 1) * len(plan[0])
    assert scored.count(1) == 2 * len(plan[1])
    table = gather([rows for part in done for rows in part.rows]).host()
    first = table["update"] == 0
    assert np.array_equal(table["logp_train"][first], table["logp_old"][first]) == (lag == 0)
    assert (table["entropy"][first] > 0).any()
