"""An alpkit objective as a verl policy loss, and its rejections and weights as verl's correction hook.

    register("alpkit", ObjectiveConfig(...))           # then actor.policy_loss.loss_mode=alpkit
    correct_batch(data.batch, objective)               # where verl calls its rollout-correction helper

verl's losses see pi_old, pi_theta and one precomputed weight, never mu itself: in bypass mode verl puts
mu in pi_old's place (denominator: rollout); otherwise weights and rejections of pi_old/mu are made once
per rollout by `correct_batch`. Imports only torch and alpkit.objective until `register` is called. Not
here: the noise (`alpkit.integrations.verl_noise`).
"""

from collections.abc import Callable, MutableMapping

import torch
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig
from alpkit.errors import ConfigError
from alpkit.objective import Normalizer, mismatch_correction, policy_loss

_AGGREGATES = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "seq_mean_token_sum",
    "seq-mean-token-mean": "seq_mean_token_mean",
    "seq-mean-token-sum-norm": "fixed_length_mean",
}


def register(name: str, objective: ObjectiveConfig) -> None:
    """Make `objective` available to verl as `loss_mode: name`; needs an importable verl."""
    from verl.trainer.ppo.core_algos import register_policy_loss

    register_policy_loss(name)(policy_loss_fn(objective))


def policy_loss_fn(objective: ObjectiveConfig) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """Make a function with verl's policy-loss signature; raises ConfigError for what verl cannot feed it."""
    bypass = objective.ratio.denominator == "rollout"
    if "mismatch" in objective.corrected:
        raise ConfigError(
            "weights and rejections of mismatch cannot be made inside a verl loss",
            where="objective",
            why="verl's policy losses never see mu",
            fix="drop them from the objective and call correct_batch on the rollout batch",
        )
    if not bypass and objective.corrected:
        raise ConfigError(
            "of: bypass cannot be made inside a verl loss",
            where="objective",
            why="it needs mu, which verl hands to a loss only in bypass mode",
            fix="set ratio.denominator: rollout",
        )
    if objective.of_whole_batch:
        raise ConfigError(
            "a rejection that shrinks the denominator cannot be made inside a verl loss",
            where="objective.reject",
            why="it needs the whole mini-batch, and a verl loss sees one micro-batch",
            fix="set normalizer: keep",
        )
    if objective.centering.kind != "none":
        raise ConfigError(
            "objective.centering cannot be computed inside a verl loss",
            why="verl hands the loss no log-probs of the sampler's likeliest tokens",
            fix="set centering.kind: none, or use alpkit's own trainer",
        )
    if objective.reference_kl.coef > 0:
        raise ConfigError(
            "objective.reference_kl cannot be computed inside a verl loss",
            why="verl adds its own KL",
            fix="set reference_kl.coef: 0 and use actor.use_kl_loss",
        )
    if objective.entropy_bonus > 0:
        raise ConfigError(
            "objective.entropy_bonus cannot be computed inside a verl loss",
            why="verl hands a loss no entropy, and adds its own bonus",
            fix="set entropy_bonus: 0 and use actor.entropy_coeff",
        )

    def loss_of(
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str = "token-mean",
        config: object = None,
        rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        aggregate = _AGGREGATES[loss_agg_mode]
        if rollout_is_weights is not None:
            if bypass:
                raise ConfigError(
                    "verl's rollout_is_weights would count the mismatch twice",
                    why="denominator: rollout holds it already",
                    fix="set algorithm.rollout_correction.rollout_is: null",
                )
            # Detached factors on the loss are factors on the advantage: every surrogate is linear in it
            # where the factor is >= 0.
            advantages = advantages * rollout_is_weights
        output = policy_loss(
            logp=log_prob,
            logp_old=None if bypass else old_log_prob,
            logp_rollout=old_log_prob,
            mask=response_mask,
            advantage=advantages,
            config=objective.model_copy(update={"aggregate": aggregate}),
            normalizer=_normalizer(aggregate, config, response_mask),
        )
        tokens = output.receipt["tokens"].clamp(min=1)
        skip = ("tokens", "sequences", "advantage", "advantage_removed")
        metrics = {
            f"actor/alpkit/{name}": (value / tokens).item()
            for name, value in output.receipt.items()
            if name not in skip
        }
        return output.loss, metrics

    return loss_of


def correct_batch(
    batch: MutableMapping[str, Tensor], objective: ObjectiveConfig
) -> dict[str, float]:
    """Put the objective's mismatch weights and rejections into a verl rollout batch; returns its receipt.

    Reads old_log_probs, rollout_log_probs and response_mask; writes rollout_is_weights, and takes
    rejected tokens out of response_mask, as verl's own helper does (the denominator shrinks).
    """
    kept_in = [rule for rule in objective.reject if rule.normalizer == "keep"]
    if kept_in:
        raise ConfigError(
            "objective.reject cannot keep the denominator inside verl",
            why="verl counts a token exactly when its loss mask has it",
            fix="set normalizer: shrink",
        )
    mask = batch["response_mask"]
    plain = mismatch_correction(
        logp_old=batch["old_log_probs"],
        logp_rollout=batch["rollout_log_probs"],
        mask=mask,
        weight=objective.weight,
        reject=(),
    )
    whole = mismatch_correction(
        logp_old=batch["old_log_probs"],
        logp_rollout=batch["rollout_log_probs"],
        mask=mask,
        weight=type(objective.weight)(),
        reject=objective.reject,
    )
    if objective.weight.action != "none":
        batch["rollout_is_weights"] = plain.weight * mask
    batch["response_mask"] = mask * whole.keep.to(mask.dtype)
    receipt = plain.receipt | whole.receipt
    return {f"rollout_corr/alpkit_{name}": value.item() for name, value in receipt.items()}


def _normalizer(aggregate: str, config: object, mask: Tensor) -> Normalizer | None:
    """Give the global batch's denominator as verl's agg_loss computes it; None: this batch's own."""
    info = getattr(config, "global_batch_info", None) or {}
    tokens, rows = info.get("batch_num_tokens"), info.get("global_batch_size")
    length = info.get("loss_scale_factor") or mask.shape[-1]
    counts = {
        "token_mean": tokens,
        "seq_mean_token_sum": rows,
        "seq_mean_token_mean": rows,
        "fixed_length_mean": None if rows is None else rows * length,
    }
    if (count := counts[aggregate]) is None:
        return None
    denominator = torch.as_tensor(count, dtype=torch.float32, device=mask.device)
    return Normalizer(denominator / info.get("dp_size", 1))
