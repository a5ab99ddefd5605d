"""Register alpkit's objectives inside the installed verl and ask verl's registry for them; exits non-zero
where verl's loss is not `policy_loss`.

A process of its own with `.oracle` on its path and ray stubbed: verl wants another transformers.
"""

import sys
from unittest.mock import MagicMock

for name in (
    "ray", "ray.data", "ray.util", "ray.util.placement_group", "ray.util.scheduling_strategies",
    "ray.util.collective", "ray.experimental", "ray.experimental.state", "ray.experimental.state.api",
    "ray.actor",
):  # fmt: skip
    sys.modules[name] = MagicMock()

import torch  # noqa: E402
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn  # noqa: E402
from verl.workers.config import ActorConfig  # noqa: E402

from alpkit.config import PRESETS, ObjectiveConfig  # noqa: E402
from alpkit.integrations.verl import correct_batch, register  # noqa: E402
from alpkit.objective import policy_loss  # noqa: E402


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    old = -torch.rand(4, 6, generator=generator)
    mu = old + 0.15 * torch.randn(4, 6, generator=generator)
    logp = old + 0.3 * torch.randn(4, 6, generator=generator)
    mask = (torch.arange(6) < torch.tensor([[6], [4], [2], [5]])).long()
    advantage = torch.randn(4, generator=generator)
    config = ActorConfig(strategy="fsdp", rollout_n=1, ppo_micro_batch_size_per_gpu=1)
    for name in ("grpo", "gspo", "cispo", "token-bypass", "seq-bypass", "token-tis", "k3-rs"):
        objective = ObjectiveConfig.model_validate(PRESETS[name].settings["objective"])
        batch = {"old_log_probs": old, "rollout_log_probs": mu, "response_mask": mask}
        plain = objective
        if objective.corrected:
            correct_batch(batch, objective)
            plain = objective.model_copy(update={"weight": type(objective.weight)(), "reject": ()})
        register(f"alpkit-{name}", plain)
        bypass = objective.ratio.denominator == "rollout"
        loss, metrics = get_policy_loss_fn(f"alpkit-{name}")(
            mu if bypass else old,
            logp,
            advantage[:, None].expand(4, 6),
            batch["response_mask"],
            {"seq_mean_token_mean": "seq-mean-token-mean"}.get(objective.aggregate, "token-mean"),
            config,
            batch.get("rollout_is_weights"),
        )
        expected = policy_loss(
            logp=logp, logp_old=old, logp_rollout=mu, mask=mask, advantage=advantage, config=objective
        ).loss  # fmt: skip
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
        assert loss != 0  # something was kept
        assert f"alpkit-{name}" in POLICY_LOSS_REGISTRY
        assert 0 <= metrics["actor/alpkit/surviving"] <= 1
        print(f"{name}: {loss.item():.6f}")


if __name__ == "__main__":
    main()
