"""TRL's GRPOConfig in alpkit's words: which objective its loss is, and a run config to read a run by.

What has no word of ours is refused, never guessed. The same mapping is checked against TRL's own losses in
`tests/objective/test_trl.py`.
"""

from typing import Final

from alpkit.config.hardware import HardwareConfig
from alpkit.config.objective import ObjectiveConfig
from alpkit.errors import ConfigError
from alpkit.integrations.foreign_run import ForeignConfig
from alpkit.integrations.trl_types import Trainer

_AGGREGATES: Final = {
    "grpo": "seq_mean_token_mean",
    "bnpo": "token_mean",
    "dapo": "token_mean",
    "cispo": "token_mean",
    "dr_grpo": "fixed_length_mean",
    "luspo": "seq_mean_token_sum",
}


def refuse_unreadable(trainer: Trainer) -> None:
    """Refuse a TRL run whose generations and optimizer steps do not make steps of ours."""
    args = trainer.args
    if trainer.num_iterations > 1:
        raise ConfigError(
            f"num_iterations: {trainer.num_iterations} cannot be recorded",
            where="GRPOConfig",
            why="a step of the records is one pass over a generation's responses",
            fix="set num_iterations=1",
        )
    if args.steps_per_generation % args.gradient_accumulation_steps:
        raise ConfigError(
            f"steps_per_generation: {args.steps_per_generation} is no multiple of "
            f"gradient_accumulation_steps: {args.gradient_accumulation_steps}",
            where="GRPOConfig",
            why="an optimizer step would mix responses of two generations",
            fix="leave steps_per_generation at its default",
        )
    if getattr(trainer, "perturbation", None) is not None:
        raise ConfigError(
            "a trainer with a perturbation cannot be recorded",
            why="it never computes the unperturbed log pi_theta, which every tail statistic is of",
            fix="use alpkit's own trainer for perturbed arms, or record without the perturbation",
        )


def config_of(trainer: Trainer, objective: ObjectiveConfig | None, every: int) -> ForeignConfig:
    """Give what is known of a TRL run as the fields of a RunConfig; its task has no field of ours."""
    args = trainer.args
    if objective is None:
        objective = getattr(trainer, "objective", None) or objective_of(trainer)
    train = {
        "steps": 1,
        "updates_per_rollout": updates_of(trainer),
        "lr": args.learning_rate,
        "grad_clip": args.max_grad_norm,
    }
    return {
        "model": str(getattr(trainer.model.config, "_name_or_path", "") or "unnamed"),
        "seed": args.seed,
        "rollout": {
            "engine": "vllm" if trainer.use_vllm else "hf",
            "prompts": args.generation_batch_size // trainer.num_generations,
            "group": trainer.num_generations,
            "max_tokens": trainer.max_completion_length,
            "temperature": trainer.temperature,
        },
        "train": {name: value for name, value in train.items() if value},
        "records": {"every": every, "weight": True},
        "objective": objective.model_dump(mode="json"),
        # A replay's forwards must hold the longest response with its prompt.
        "hardware": {
            "micro_batch_tokens": max(
                HardwareConfig().micro_batch_tokens, 2 * trainer.max_completion_length
            )
        },
    }


def updates_of(trainer: Trainer) -> int:
    """Count the optimizer steps that are made of one generation."""
    args = trainer.args
    return int(args.steps_per_generation // args.gradient_accumulation_steps)


def objective_of(trainer: Trainer) -> ObjectiveConfig:
    """Say TRL's loss as an objective; `ConfigError` where alpkit has no word for it."""
    args = trainer.args
    if args.loss_type not in _AGGREGATES or args.top_entropy_quantile < 1:
        raise ConfigError(
            f"loss_type: {args.loss_type} with top_entropy_quantile: {args.top_entropy_quantile} "
            "has no objective of alpkit's",
            where="GRPOConfig",
            why=f"known: {', '.join(_AGGREGATES)}, over all tokens",
            fix="pass record(..., objective=ObjectiveConfig(...)) with what comes nearest, and say so",
        )
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    surrogate: dict[str, object] = {"epsilon_low": args.epsilon, "epsilon_high": high}
    if args.loss_type == "cispo":  # TRL's bound is on the ratio, ours is its distance from 1
        surrogate = {"kind": "cispo", "epsilon_low": 1.0, "epsilon_high": high - 1}
    elif args.delta is not None:  # a cap on the ratio acts where A < 0 alone: the dual clip
        surrogate["dual_clip"] = args.delta
    sequence = args.importance_sampling_level == "sequence"
    return ObjectiveConfig.model_validate(
        {
            "ratio": {"level": "geometric" if sequence else "token"},
            "surrogate": surrogate,
            "aggregate": _AGGREGATES[args.loss_type],
            "weight": _weight(trainer),
            "reject": _off_policy_mask(args.off_policy_mask_threshold),
            "reference_kl": {"coef": args.beta},
        }
    )


def _weight(trainer: Trainer) -> dict[str, object]:
    """Give TRL's weight of pi_old over vLLM's log-prob."""
    if not (trainer.use_vllm and trainer.vllm_importance_sampling_correction):
        return {}
    level, action = trainer.vllm_importance_sampling_mode.split("_")
    lower = trainer.vllm_importance_sampling_clip_min
    if action == "truncate" and lower is not None:
        action = "clip"
    bounds = {"lower": lower, "upper": trainer.vllm_importance_sampling_clip_max}
    return {
        "of": "mismatch",
        "level": {"token": "token", "sequence": "product"}[level],
        "action": action,
        **{name: bound for name, bound in bounds.items() if bound is not None},
    }


def _off_policy_mask(threshold: float | None) -> list[dict[str, object]]:
    if threshold is None:
        return []
    rule = {"statistic": "k1", "of": "bypass", "reduce": "mean", "upper": threshold}
    return [{**rule, "when": "negative_advantage"}]
