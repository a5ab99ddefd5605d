"""Run verl's own functions on random batches and write inputs and outputs as JSON.

Runs in a process of its own, with `.oracle` on its path and `ray` stubbed: verl wants another
transformers than this project. `python tests/support/verl_oracle.py SEED BATCHES OUT`; imports no alpkit.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

for name in (
    "ray",
    "ray.data",
    "ray.util",
    "ray.util.placement_group",
    "ray.util.scheduling_strategies",
    "ray.util.collective",
    "ray.experimental",
    "ray.experimental.state",
    "ray.experimental.state.api",
    "ray.actor",
):
    sys.modules[name] = MagicMock()

import torch  # noqa: E402
from oracle_batches import batch, plain  # noqa: E402

WEIGHTS = {
    "token_tis": {"rollout_is": "token", "rollout_is_threshold": 2.0},
    "token_icepop": {"rollout_is": "token", "rollout_is_threshold": "0.5_5.0"},
    "product_tis": {"rollout_is": "sequence", "rollout_is_threshold": 2.0},
    "product_mask": {"rollout_is": "sequence", "rollout_is_threshold": "0.5_3.0"},
    "token_tis_normalized": {
        "rollout_is": "token",
        "rollout_is_threshold": 2.0,
        "rollout_is_batch_normalize": True,
    },
    "product_tis_normalized": {
        "rollout_is": "sequence",
        "rollout_is_threshold": 2.0,
        "rollout_is_batch_normalize": True,
    },
}
REJECTIONS = {
    "token_k1": "0.5_5.0",
    "token_k2": "0.02",
    "token_k3": "0.02",
    "seq_sum_k1": "0.5_5.0",
    "seq_sum_k2": "0.2",
    "seq_sum_k3": "0.2",
    "seq_mean_k1": "0.98_1.5",
    "seq_mean_k2": "0.02",
    "seq_mean_k3": "0.02",
    "seq_max_k2": "0.2",
    "seq_max_k3": "0.2",
    "token_k2,seq_mean_k3": "0.05,0.02",
}
# Name -> (registered loss, ActorConfig, rollout-correction config, weights of WEIGHTS that multiply it).
PPO = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0}
LOSSES = {
    "vanilla": ("vanilla", PPO, {}, None),
    "vanilla, token_tis": ("vanilla", PPO, {}, "token_tis"),
    "vanilla, product_mask": ("vanilla", PPO, {}, "product_mask"),
    "gspo": ("gspo", {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}, {}, None),
    "cispo": ("cispo", {"clip_ratio_low": 1.0, "clip_ratio_high": 4.0}, {}, None),
    "gpg": ("gpg", {}, {}, None),
    "bypass ppo": (
        "bypass_mode",
        PPO,
        {"loss_type": "ppo_clip", "rollout_rs": "seq_mean_k3", "rollout_rs_threshold": "0.05"},
        None,
    ),
    "bypass reinforce": (
        "bypass_mode",
        {},
        {"loss_type": "reinforce", "rollout_is": "token", "rollout_is_threshold": 2.0},
        None,
    ),
    "bypass reinforce, product": (
        "bypass_mode",
        {},
        {"loss_type": "reinforce", "rollout_is": "sequence", "rollout_is_threshold": 2.0},
        None,
    ),
    "dppo_tv": (
        "dppo_tv",
        {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 20.0},
        {},
        None,
    ),
    "sapo": ("sapo", {"tau_pos": 1.0, "tau_neg": 1.05}, {}, None),
}
# Losses of mu: verl hands it to them as the old policy.
OF_ROLLOUT = ("bypass_mode", "dppo_tv")
AGGREGATES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
ESTIMATORS = ("k1", "k2", "k3", "k3+")


def outputs(data: dict[str, torch.Tensor]) -> dict[str, object]:
    from verl.trainer.config.algorithm import RolloutCorrectionConfig
    from verl.trainer.ppo import core_algos
    from verl.trainer.ppo.rollout_corr_helper import (
        compute_offpolicy_metrics,
        compute_rollout_correction_and_rejection_mask,
    )
    from verl.workers.config import ActorConfig

    mask = data["mask"].float()
    shared = {
        "old_log_prob": data["old"],
        "rollout_log_prob": data["rollout"],
        "response_mask": mask,
    }
    # In float64, so that a mean which nearly cancels can be compared to 1e-5 of itself.
    exact = {key: value.double() for key, value in shared.items()}
    found: dict[str, object] = {"metrics": compute_offpolicy_metrics(**exact)}
    exact["rollout_log_prob"] = exact["rollout_log_prob"].clone()
    exact["rollout_log_prob"][0, 0] = -torch.inf
    found["spoiled"] = compute_offpolicy_metrics(**exact)
    for name, settings in WEIGHTS.items():
        try:
            weights, _, metrics = compute_rollout_correction_and_rejection_mask(
                **shared, **settings
            )
        except ZeroDivisionError:  # its effective sample size, when every weight is masked
            found[f"weight/{name}"] = None
            continue
        found[f"weight/{name}"] = weights.batch["rollout_is_weights"]
        prefix = "rollout_corr/rollout_is_"
        found[f"is/{name}"] = {
            key.removeprefix(prefix): value
            for key, value in metrics.items()
            if key.startswith(prefix)
        }
    for name, threshold in REJECTIONS.items():
        _, kept, metrics = compute_rollout_correction_and_rejection_mask(
            **shared, rollout_rs=name, rollout_rs_threshold=threshold
        )
        found[f"reject/{name}"] = kept.int()
        found[f"rejected/{name}"] = metrics["rollout_corr/rollout_rs_masked_fraction"]
    for name, (registered, settings, correction, weighted) in LOSSES.items():
        config = ActorConfig(
            strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1, clip_ratio=0.2, **settings
        )
        object.__setattr__(
            config.policy_loss, "rollout_correction", RolloutCorrectionConfig(**correction)
        )
        old = data["rollout"] if registered in OF_ROLLOUT else data["old"]
        factor = found[f"weight/{weighted}"] if weighted else None
        if weighted and factor is None:
            continue
        for aggregate in AGGREGATES:
            logp = data["logp"].clone().requires_grad_(True)
            advantages = data["advantage"][:, None].expand_as(mask)
            loss, _ = core_algos.get_policy_loss_fn(registered)(
                old, logp, advantages, mask, aggregate, config, factor
            )
            loss.backward()
            found[f"loss/{name}/{aggregate}"] = [loss.item(), logp.grad * mask]
    for estimator in ESTIMATORS:
        logp = data["logp"].clone().requires_grad_(True)
        value = core_algos.kl_penalty(logp, data["old"], estimator)
        (value * mask).sum().backward()
        found[f"kl/{estimator}"] = [value.detach() * mask, logp.grad * mask]
    return found


def main(seed: int, batches: int, out: str) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for _ in range(batches):
        data = batch(generator)
        cases.append({"inputs": plain(data), "outputs": plain(outputs(data))})
    versions = {name: importlib.metadata.version(name) for name in ("verl", "torch", "tensordict")}
    text = json.dumps({"versions": versions, "seed": seed, "cases": cases}, separators=(",", ":"))
    Path(out).write_text(text)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
