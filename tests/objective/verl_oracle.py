"""Run verl's own functions on random batches and write inputs and outputs as JSON.

Runs in a process of its own, with `.oracle` on its path and `ray` stubbed: verl wants another
transformers than this project. `python tests/objective/verl_oracle.py SEED BATCHES OUT`; imports no alpkit.
"""

import importlib.metadata
import json
import sys
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
LOSSES = {
    "vanilla": {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0},
    "gspo": {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4},
    "cispo": {"clip_ratio_low": 1.0, "clip_ratio_high": 4.0},
}
AGGREGATES = ("token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")
ESTIMATORS = ("k1", "k2", "k3", "k3+")


def batch(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A ragged batch with heavy tails and, in half of the cases, tool tokens inside the responses."""
    rows, tok = 6, 12
    mu = -torch.rand(rows, tok, generator=generator) * 4
    spread = 0.02 + 0.4 * torch.rand(rows, 1, generator=generator)
    normal, scale = (torch.randn(rows, tok, generator=generator) for _ in range(2))
    old = mu + spread * normal / scale.abs().clamp(min=0.05)  # Cauchy-like, up to some 20 spreads
    logp = old + 0.1 * torch.randn(rows, tok, generator=generator)
    length = torch.randint(1, tok + 1, (rows, 1), generator=generator)
    mask = torch.arange(tok) < length
    if torch.rand((), generator=generator) < 0.5:
        mask &= torch.rand(rows, tok, generator=generator) < 0.8
        mask[:, 0] = True
    advantage = torch.randn(rows, generator=generator)
    return {"rollout": mu, "old": old, "logp": logp, "mask": mask, "advantage": advantage}


def outputs(data: dict[str, torch.Tensor]) -> dict[str, object]:
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
    found: dict[str, object] = {"metrics": compute_offpolicy_metrics(**shared)}
    for name, settings in WEIGHTS.items():
        try:
            weights, _, metrics = compute_rollout_correction_and_rejection_mask(
                **shared, **settings
            )
        except ZeroDivisionError:  # its effective sample size, when every weight is masked
            found[f"weight/{name}"] = None
            continue
        found[f"weight/{name}"] = weights.batch["rollout_is_weights"].tolist()
        found[f"ess/{name}"] = metrics["rollout_corr/rollout_is_eff_sample_size"]
    for name, threshold in REJECTIONS.items():
        _, kept, metrics = compute_rollout_correction_and_rejection_mask(
            **shared, rollout_rs=name, rollout_rs_threshold=threshold
        )
        found[f"reject/{name}"] = kept.int().tolist()
        found[f"rejected/{name}"] = metrics["rollout_corr/rollout_rs_masked_fraction"]
    for name, settings in LOSSES.items():
        for aggregate in AGGREGATES:
            logp = data["logp"].clone().requires_grad_(True)
            config = ActorConfig(
                strategy="fsdp",
                rollout_n=1,
                ppo_micro_batch_size_per_gpu=1,
                clip_ratio=0.2,
                **settings,
            )
            advantages = data["advantage"][:, None].expand_as(mask)
            loss, _ = core_algos.get_policy_loss_fn(name)(
                data["old"], logp, advantages, mask, aggregate, config
            )
            loss.backward()
            found[f"loss/{name}/{aggregate}"] = [loss.item(), (logp.grad * mask).tolist()]
    for estimator in ESTIMATORS:
        logp = data["logp"].clone().requires_grad_(True)
        value = core_algos.kl_penalty(logp, data["old"], estimator)
        (value * mask).sum().backward()
        found[f"kl/{estimator}"] = [(value.detach() * mask).tolist(), (logp.grad * mask).tolist()]
    return found


def main(seed: int, batches: int, out: str) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for _ in range(batches):
        data = batch(generator)
        inputs = {key: value.tolist() for key, value in data.items()}
        cases.append({"inputs": inputs, "outputs": outputs(data)})
    versions = {name: importlib.metadata.version(name) for name in ("verl", "torch", "tensordict")}
    with open(out, "w") as file:
        json.dump({"versions": versions, "seed": seed, "cases": cases}, file)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
