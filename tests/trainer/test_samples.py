"""Filters, overlong responses, schedules, 8-bit Adam and the entropy bonus in a run of the built-in model."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alpkit.objective import policy_loss
from alpkit.runs import records
from alpkit.runs.checkpoint import load_checkpoint
from alpkit.runs.records import read_sequences
from alpkit.runs.steps import CellTracker
from alpkit.trainer import train_cell
from alpkit.trainer.batches import cut
from alpkit.trainer.clock import Clock
from alpkit.trainer.collect import collect
from alpkit.trainer.state import set_up
from alpkit.trainer.update import update_policy, with_logp_old
from tests.trainer.test_train_cell import config, metrics_of, train, without_times

SHORT = {"max_tokens": 4}  # so that about half of the sums are cut off
PER_GROUP = 4


def groups_of(folder, step=1):
    """Rewards of the batch by group, and whether any token of the group was trained on."""
    sequences = read_sequences(folder, steps=[step])
    rewards = sequences["reward"].to_numpy().reshape(-1, PER_GROUP)
    trained = set(records.read(folder, columns=["prompt"], steps=[step])["prompt"])
    return rewards, np.array([place in trained for place in range(len(rewards))])


def rollout_of(run_config, folder):
    torch.set_num_threads(1)
    state = set_up(run_config, folder)
    try:
        return collect(state, 1)
    finally:
        state.sampler.close()
        state.records.close()


def _keep_gradients(parameters, seen):
    seen.append([parameter.grad.clone() for parameter in parameters])


def test_dropped_groups_teach_nothing_and_are_counted(tmp_path):
    metrics = train(tmp_path, config(rollout=SHORT | {"filter": {"zero_variance": "drop"}}))[1]
    rewards, trained = groups_of(tmp_path)
    flat = rewards.min(axis=1) == rewards.max(axis=1)
    assert 0 < flat.sum() < len(flat)
    assert (trained == ~flat).all()
    assert metrics["receipt/dropped_groups"] == flat.mean()
    # The rewards of all that was asked, so that arms can be compared.
    assert metrics["reward/mean"] == pytest.approx(rewards.mean(), abs=1e-7)
    assert metrics["progress/tokens"] == len(records.read(tmp_path, columns=["token"], steps=[1]))
    assert metrics["nonfinite/rollout_logp"] == 0
    whole = ~flat.reshape(4, -1).all(axis=1)  # updates that have a group left
    assert metrics["train/skipped_updates"] == 4 - whole.sum()


def test_a_step_without_any_group_left_is_skipped_whole(tmp_path):
    hopeless = {"max_tokens": 1, "filter": {"zero_variance": "drop"}}
    metrics = train(tmp_path, config("seq-alp", rollout=hopeless))
    for step in (1, 2):
        assert metrics[step]["receipt/dropped_groups"] == 1
        assert metrics[step]["train/skipped_updates"] == 4
        assert metrics[step]["progress/tokens"] == 0
        assert "kl/k3" not in metrics[step]
    assert metrics[2]["sigma/mean"] == metrics[1]["sigma/mean"]


def test_refilled_groups_take_the_place_of_equal_ones_and_rewards_stay_those_of_the_first_draw(
    tmp_path,
):
    kept = rollout_of(config(rollout=SHORT), tmp_path)
    refill = {"filter": {"zero_variance": "refill", "rounds": 6}}
    batch = rollout_of(config(rollout=SHORT | refill), tmp_path)
    before, after = (b.reward.view(-1, PER_GROUP) for b in (kept, batch))
    flat = before.amin(dim=1) == before.amax(dim=1)
    assert flat.any()
    assert (after[~flat] == before[~flat]).all()
    left = after.amin(dim=1) == after.amax(dim=1)
    assert batch.receipt == {
        "receipt/refilled_groups": pytest.approx((flat & ~left).float().mean().item()),
        "receipt/dropped_groups": pytest.approx(left.float().mean().item()),
    }
    assert (flat & ~left).any()
    assert torch.equal(batch.drawn, kept.reward)
    prompts = {tuple(r.tolist()) for r in batch.rollout.tokens[:, :8]}
    assert len(prompts) == 8


@pytest.mark.parametrize("overlong", ["mask", "zero_reward"])
def test_responses_that_were_cut_off_are_masked_or_earn_nothing(tmp_path, overlong):
    kept = rollout_of(config(rollout=SHORT), tmp_path)
    batch = rollout_of(config(rollout=SHORT | {"overlong": overlong}), tmp_path)
    long = torch.tensor([response.finish == "length" for response in kept.responses])
    assert 0 < long.sum() < len(long)
    assert batch.responses == kept.responses
    if overlong == "mask":
        assert torch.equal(batch.reward, kept.reward)
        assert torch.equal(batch.advantage, kept.advantage)
        assert torch.equal(batch.valid, kept.valid & ~long[:, None])
        assert batch.receipt == {"receipt/overlong": pytest.approx(long.float().mean().item())}
    else:
        assert torch.equal(batch.reward, torch.where(long, 0.0, kept.reward))
        assert torch.equal(batch.valid, kept.valid)
        lost = (long & (kept.reward > 0)).float().mean().item()
        assert batch.receipt == {"receipt/overlong": pytest.approx(lost)}


def test_prompts_of_every_arm_are_the_same_whatever_else_is_filtered(tmp_path):
    """Rows that no filter touches are bit for bit those of a run without filters."""
    kept = rollout_of(config(rollout=SHORT), tmp_path)
    same = rollout_of(config(rollout=SHORT | {"filter": {"max_prompt": 8}}), tmp_path)
    assert torch.equal(kept.rollout.tokens, same.rollout.tokens)
    assert torch.equal(kept.rollout.logp_rollout, same.rollout.logp_rollout)
    assert same.receipt == {"receipt/long_prompts": 0}


def test_the_bonus_adds_the_entropys_gradient_to_the_updates(tmp_path):
    """What reaches the optimizer, less what reaches it without a bonus, is plain autograd's gradient of the entropy."""
    bonus, seen = 0.3, []
    torch.set_num_threads(1)
    for weight in (0.0, bonus):
        run_config = config(
            objective={"entropy_bonus": weight},
            hardware={"head_chunk": 7},
            train={"grad_clip": 1e9},
        )
        state = set_up(run_config, tmp_path)
        batch = collect(state, 1)
        micros = with_logp_old(state, cut(batch, updates=4, tokens=60))[0]
        assert len(micros) > 1
        parameters = list(state.policy.model.parameters())
        state.optimizer.step = partial(_keep_gradients, parameters, seen)
        update = update_policy(state, micros, diagnose=True, clock=Clock())
        state.sampler.close()
        state.records.close()
    model = state.policy.model
    total, tokens = torch.zeros(()), 0
    for micro in micros:
        rollout = micro.rollout
        positions = (rollout.attention.long().cumsum(1) - 1).clamp(min=0)
        logits = model(
            rollout.tokens, attention_mask=rollout.attention, position_ids=positions
        ).logits
        log_chance = logits[:, :-1].log_softmax(-1)
        entropy = -(log_chance.exp() * log_chance).sum(-1)[micro.valid[:, 1:]]
        total, tokens = total + entropy.sum(), tokens + len(entropy)
    model.zero_grad()
    (-bonus * total / tokens).backward()
    for without, with_it, parameter in zip(*seen, parameters, strict=True):
        torch.testing.assert_close(with_it - without, parameter.grad, atol=2e-6, rtol=1e-3)
    sums = {
        key: sum(o.receipt[key].item() for o in update.outputs) for key in ("entropy", "tokens")
    }
    assert sums["entropy"] == pytest.approx(bonus * total.item(), rel=1e-5)
    assert sums["tokens"] == tokens


@pytest.mark.parametrize("gradient", ["perturbed", "clean"])
def test_the_entropy_is_the_numerators(tmp_path, monkeypatch, gradient):
    """With noise it is the perturbed policy's, not the one that train/entropy is of."""
    seen = []

    def kept(**inputs):
        seen.append(inputs["entropy"].detach()[inputs["mask"]])
        return policy_loss(**inputs)

    monkeypatch.setattr("alpkit.trainer.update.policy_loss", kept)
    noise = {"sigma": {"init": 0.3, "learnable": False}, "gradient": gradient}
    run_config = config(
        "seq-alp", objective={"entropy_bonus": 0.1}, perturbation=noise, train={"steps": 1}
    )
    metrics = train(tmp_path, run_config)[1]
    perturbed = torch.cat(seen).mean().item()
    assert metrics["train/entropy_bonus"] == pytest.approx(0.1 * perturbed, rel=1e-5)
    assert abs(perturbed - metrics["train/entropy"]) > 0.05 * perturbed
    assert metrics["receipt/entropy_bonus"] == 1


def test_resumed_is_uninterrupted_with_all_of_them(tmp_path):
    """Killed after step 3 of 4: the schedule's place, the refill's draws and the 8-bit moments go on bit for bit."""
    pytest.importorskip("bitsandbytes")
    long = config(
        "seq-alp",
        objective={"entropy_bonus": 0.01},
        rollout=SHORT
        | {"filter": {"zero_variance": "refill", "max_prompt": 8}, "overlong": "zero_reward"},
        train={"steps": 4, "schedule": "cosine", "warmup": 1, "optimizer": "adamw_8bit"},
        eval={"every": 4, "items": 8},
    )
    whole = train(tmp_path / "whole", long)

    class Killed(RuntimeError):
        pass

    class Interrupted(CellTracker):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 3:
                raise Killed

    folder = tmp_path / "stopped"
    with pytest.raises(Killed):
        train_cell(long, folder, Interrupted(folder))
    assert list(metrics_of(folder)) == [0, 1, 2, 3]
    resumed = train(folder, long)
    assert without_times(resumed) == without_times(whole)
    assert [whole[s]["receipt/lr_scale"] for s in (1, 2)] == pytest.approx(
        [0.625, 0.9424], abs=1e-3
    )
    assert whole[4]["receipt/refilled_groups"] > 0
    last = [tmp_path / f / "checkpoint/step-000004" for f in ("whole", "stopped")]
    weights = [load_file(path / "model.safetensors") for path in last]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    state = set_up(long, tmp_path / "unused")
    model = state.policy.model
    moments = [load_checkpoint(path, model)["optimizer"]["state"] for path in last]
    assert any(
        "__bnb_optimizer_quant_state__" in kept
        and kept["__bnb_optimizer_quant_state__"]["state1"].dtype == torch.uint8
        for kept in moments[0].values()
    )
    state.sampler.close()
    state.records.close()
