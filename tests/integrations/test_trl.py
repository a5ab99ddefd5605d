"""TRL's trainer with an alpkit objective and noise: two real updates of a tiny model; skipped without trl."""

import pytest

pytest.importorskip("trl")

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from alpkit.config import PRESETS, ObjectiveConfig, PerturbationConfig
from alpkit.integrations.trl import grpo_trainer
from alpkit.objective import policy_loss
from alpkit.policy.loading import load_policy


def reward(completions, **_):
    return [float(len(set(text)) % 3) for text in completions]


def trained(tmp_path, objective, perturbation=None):
    torch.manual_seed(0)
    policy = load_policy("builtin:tiny-addition")
    before = [p.detach().clone() for p in policy.model.parameters()]
    trainer = grpo_trainer()(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=2,
            max_completion_length=6, learning_rate=1e-4, beta=0.0, use_cpu=True, report_to=[], bf16=False,
            gradient_checkpointing=False, save_strategy="no",
        ),
        train_dataset=Dataset.from_dict({"prompt": ["12+34=", "5+6=", "7+8=", "1+2="] * 2}),
        objective=objective,
        perturbation=perturbation,
    )  # fmt: skip
    trainer.train()
    moved = any(
        not torch.equal(a, b) for a, b in zip(before, policy.model.parameters(), strict=True)
    )
    return trainer, moved


def test_an_objective_trains_inside_trl(tmp_path):
    trainer, moved = trained(
        tmp_path, ObjectiveConfig.model_validate(PRESETS["grpo"].settings["objective"])
    )
    assert moved
    logged = [line for line in trainer.state.log_history if "receipt/surviving" in line]
    assert logged[0]["receipt/surviving"] == 1.0  # the first update is on policy


def test_noise_makes_the_first_ratio_differ_from_one_and_sigma_learns(tmp_path):
    objective = ObjectiveConfig(
        ratio={"denominator": "rollout"}, surrogate={"epsilon_high": 0.0, "epsilon_low": 0.0}
    )
    trainer, moved = trained(tmp_path, objective, PerturbationConfig())
    assert moved
    logged = [line for line in trainer.state.log_history if "receipt/surviving" in line]
    assert logged[0]["receipt/surviving"] < 1.0
    assert (
        trainer.perturbation.log_sigma.grad is not None
        or trainer.perturbation.log_sigma.requires_grad
    )


def test_what_trl_cannot_feed_is_refused():
    with pytest.raises(ValueError, match="normalizer: keep"):
        grpo_trainer()(objective=ObjectiveConfig(reference_kl={"coef": 0.1}))


def test_opsm_is_trls_off_policy_mask():
    """200 ragged batches: the same responses stay (TRL 1.16; off_policy_mask_threshold)."""
    generator = torch.Generator().manual_seed(0)
    dropped = 0
    for _ in range(200):
        mu, noise = (torch.randn(6, 9, generator=generator) for _ in range(2))
        logp, mask = (
            mu + 0.5 * noise,
            torch.arange(9) < torch.randint(1, 10, (6, 1), generator=generator),
        )
        advantage = torch.randn(6, generator=generator)
        theirs = GRPOTrainer.get_off_policy_mask(
            advantages=advantage[:, None],
            per_token_logps=logp,
            sampling_per_token_logps=mu,
            mask=mask.long(),
            off_policy_threshold=0.1,
        )
        rule = {"statistic": "k1", "of": "bypass", "reduce": "mean", "upper": 0.1}
        out = policy_loss(
            logp=logp,
            logp_old=mu,
            logp_rollout=mu,
            mask=mask,
            advantage=advantage,
            config=ObjectiveConfig(reject=[{**rule, "when": "negative_advantage"}]),
        )
        assert torch.equal(out.keep.any(dim=1), theirs.bool().squeeze(1))
        dropped += int((~out.keep.any(dim=1)).sum())
    assert dropped > 100
