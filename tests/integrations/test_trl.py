"""TRL's trainer with an alpkit objective and noise: two real updates of a tiny model; skipped without trl."""

import pytest

pytest.importorskip("trl")

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from alpkit.config import PRESETS, ObjectiveConfig, PerturbationConfig
from alpkit.errors import ConfigError
from alpkit.integrations.trl import grpo_trainer
from alpkit.objective import policy_loss
from alpkit.policy.loading import load_policy


def reward(completions, **_):
    return [float(len(set(text)) % 3) for text in completions]


def trained(tmp_path, objective, perturbation=None, **settings):
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
            gradient_checkpointing=False, save_strategy="no", **settings,
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


def test_the_loss_is_trls_where_the_objective_is_trls(tmp_path):
    """grpo against TRL's dapo (token mean of the step) and grpo (mean of responses), generations of two steps."""
    objective = ObjectiveConfig(surrogate={"epsilon_low": 0.2, "epsilon_high": 0.28})
    trainer, _ = trained(
        tmp_path,
        objective,
        steps_per_generation=2,
        epsilon_high=0.28,
        mask_truncated_completions=False,
    )
    trainer.model.train()
    generator = torch.Generator().manual_seed(0)
    prompt, completion = (torch.randint(3, 10, (4, n), generator=generator) for n in (3, 6))
    mask = (torch.arange(6) < torch.tensor([[6], [4], [1], [5]])).long()
    logp = trainer._get_per_token_logps_and_entropies(
        trainer.model, torch.cat([prompt, completion], 1), torch.ones(4, 9, dtype=torch.long), 6
    )[0].detach()
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": torch.ones_like(prompt),
        "completion_ids": completion,
        "completion_mask": mask,
        "advantages": torch.randn(4, generator=generator),
        "old_per_token_logps": logp + 0.2 * torch.randn(4, 6, generator=generator),
        "num_items_in_batch": torch.tensor(29),
    }
    values = []
    for loss_type, aggregate in (("dapo", "token_mean"), ("grpo", "seq_mean_token_mean")):
        trainer.loss_type = loss_type
        trainer.objective = objective.model_copy(update={"aggregate": aggregate})
        ours = trainer._compute_loss(trainer.model, inputs)
        theirs = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        values.append(ours.item())
    assert abs(values[0] - values[1]) > 1e-3


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
    with pytest.raises(ConfigError, match="normalizer: keep"):
        grpo_trainer()(objective=ObjectiveConfig(reference_kl={"coef": 0.1}))
    with pytest.raises(ConfigError, match="entropy_bonus: 0"):
        grpo_trainer()(objective=ObjectiveConfig(entropy_bonus=0.01))
    clean = PerturbationConfig(gradient="clean", sigma={"learnable": False})
    with pytest.raises(ConfigError, match="needs a second forward"):
        grpo_trainer()(objective=ObjectiveConfig(), perturbation=clean)


def test_parts_of_trls_loss_that_would_be_ignored_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"delta: 2\.0 would never act"):
        trained(tmp_path, ObjectiveConfig(), delta=2.0)


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
