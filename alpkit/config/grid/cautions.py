"""Combinations that run but mean less than they seem to: one sentence each, shown by plan and run.

What can never act or counts twice is an error of the config itself (`objective.py`, `run.py`).
"""

import math
from collections.abc import Iterator, Mapping

from alpkit.config.environment import not_isolated
from alpkit.config.objective import CenteringConfig
from alpkit.config.perturbation import ScheduleConfig
from alpkit.config.run import RunConfig

_LONG = 256
"""Response tokens from which on a product of ratios is all spread."""
_RUINOUS_LR, _RUINOUS_UPDATES = 1e-4, 16
"""Where the built-in adder's rewards fell to 0 in a pilot, whatever the arm (int4 sampler, 80 steps)."""
_NEVER = math.log(2) - 1e-9
"""A mean log ratio of a factor of 2 per token is never seen; a band that wide does not act."""


def cautions(arms: Mapping[str, RunConfig]) -> Iterator[str]:
    """Yield what is worth knowing of each arm's correction, and of comparing the arms with each other."""
    for arm, config in arms.items():
        for text in _of_one(arm, config):
            yield f"{arm!r}: {text}"
    yield from _of_ruin(arms)
    yield from _of_the_comparison(arms)
    yield from _of_centering(arms)


def _of_ruin(arms: Mapping[str, RunConfig]) -> Iterator[str]:
    ruined = [arm for arm, config in arms.items() if _collapses(config)]
    if ruined:
        more = f" and {len(ruined) - 1} more" if len(ruined) > 1 else ""
        yield (
            f"{ruined[0]!r}{more}: at train.lr {arms[ruined[0]].train.lr:g} with "
            f"{arms[ruined[0]].train.updates_per_rollout} updates a rollout the built-in adder collapsed in a pilot "
            "(reward near 0 within 80 steps, with and without noise); use 2e-5, or mean to study the collapse"
        )


def _collapses(config: RunConfig) -> bool:
    train = config.train
    return (
        config.model == "builtin:tiny-addition"
        and train.lr >= _RUINOUS_LR
        and train.updates_per_rollout >= _RUINOUS_UPDATES
    )


def _of_one(arm: str, config: RunConfig) -> Iterator[str]:
    if text := not_isolated(config.environment):
        yield f"environment.sandbox: weak: {text}"
    objective, tokens = config.objective, config.rollout.max_tokens
    weight = objective.weight
    if weight.action != "none" and weight.level == "product" and tokens > _LONG:
        yield (
            f"the weight is a product over up to {tokens} tokens: its log's spread grows with length, so most "
            f"weights end at the cap {weight.upper:g} or near 0; look at receipt/truncated, masked and "
            "weight_removed first, or use level: token or geometric"
        )
    if weight.action == "mask" and weight.normalize == "batch":
        yield (
            "normalize: batch divides masked weights by a mean that holds their zeros, so the tokens that stay are "
            "amplified; set normalize: none, or action: truncate"
        )
    if weight.action == "mask" and weight.lower == 0 and "icepop" in arm.lower():
        yield "IcePop masks on both sides and this weight has no lower bound; set weight.lower (published: 0.5)"
    if weight.action in ("clip", "mask") and weight.level == "geometric":
        if _wide(weight.lower, weight.upper):
            yield _never("weight", weight.lower, weight.upper)
    for i, rule in enumerate(objective.reject):
        if (
            rule.statistic == "ratio"
            and rule.level == "geometric"
            and _wide(rule.lower, rule.upper)
        ):
            yield _never(f"reject[{i}]", rule.lower, rule.upper)
    clip = objective.surrogate
    low, high = 1 - clip.epsilon_low, 1 + clip.epsilon_high
    if clip.kind == "ppo" and objective.ratio.level == "geometric" and _wide(low, high):
        yield _never("surrogate", low, high)
    if config.perturbation is not None:
        yield from _of_sigmas_schedule(config.perturbation.schedule, config.train.steps)
    if objective.reference_kl.coef > 0 and objective.reference_kl.estimator == "k1":
        yield (
            "reference_kl.estimator: k1 has the same gradient for every token and none in expectation; "
            "use k3_straight_through or k2"
        )
    if clip.kind == "ppo" and clip.dual_clip is not None and clip.dual_clip < high:
        yield (
            f"dual_clip {clip.dual_clip:g} lies below the band's top {high:g}, so negative advantages are capped "
            "before the band; raise dual_clip, or mean it"
        )


def _of_sigmas_schedule(schedule: ScheduleConfig, steps: int) -> Iterator[str]:
    end = schedule.warmup or schedule.steps or 0
    if end > steps:
        yield (
            f"perturbation.schedule ends at step {end} and the run at train.steps {steps}, so that sigma never gets "
            "where it is sent; lower it, or raise steps"
        )


def _of_the_comparison(arms: Mapping[str, RunConfig]) -> Iterator[str]:
    shrinking = [arm for arm, config in arms.items() if _shrinks(config)]
    keeping = [arm for arm in arms if arm not in shrinking]
    if shrinking and keeping:
        yield (
            f"{shrinking[0]!r} takes rejected tokens out of its token mean and {keeping[0]!r} does not: the survivors' "
            "step grows, a hidden learning rate; set normalizer: keep, or read receipt/surviving beside the scores"
        )


def _of_centering(arms: Mapping[str, RunConfig]) -> Iterator[str]:
    for arm, config in arms.items():
        if config.objective.centering.kind == "none":
            continue
        plain = config.objective.model_copy(update={"centering": CenteringConfig()})
        if len(arms) > 1 and all(other.objective != plain for other in arms.values()):
            yield (
                f"{arm!r} has no control: beside an arm with a ratio or a clip, score centering is one of several "
                "changes; add the same arm without centering (presets reinforce, reinforce-tis)"
            )


def _shrinks(config: RunConfig) -> bool:
    mean = config.objective.aggregate in ("token_mean", "token_mean_per_micro_batch")
    return mean and any(rule.normalizer == "shrink" for rule in config.objective.reject)


def _wide(lower: float | None, upper: float | None) -> bool:
    low = -math.inf if not lower or lower <= 0 else math.log(lower)
    high = math.inf if upper is None else math.log(upper)
    return low <= -_NEVER and high >= _NEVER


def _never(where: str, lower: float | None, upper: float | None) -> str:
    band = f"[{lower or 0:g}, {'inf' if upper is None else f'{upper:g}'}]"
    return (
        f"{where} bounds a geometric mean by {band}, which it never leaves; use a band like [0.999, 1.001], "
        "or level: token"
    )
