"""The objective's axes: a correction method is a point on them, and names are presets.

Only axes that the trainer acts on stand here. A value without effect is dropped from the validated
config, so that two spellings of one method have one hash. Not here: tensors (`alpkit.objective`).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from alpkit.config.base import Section

Level = Literal[
    "token", "cumulative", "cumulative_geometric", "turn", "cumulative_turn", "geometric", "product"
]
Denominator = Literal["old", "rollout", "current"]
Aggregate = Literal["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "fixed_length_sum"]


class AdvantageConfig(Section):
    kind: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """grpo: (r - mean)/(std + 1e-6), unbiased std; dr_grpo: r - mean; rloo: r - mean of the others."""
    normalize_std: bool = True
    """Divide by the group's standard deviation (grpo only; dr_grpo and rloo never do)."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("kind", "grpo") != "grpo":
            return {**data, "normalize_std": False}
        return data


class RatioConfig(Section):
    denominator: Denominator = "old"
    """old: pi_old (decoupled); rollout: mu (bypass); current: the ratio is 1 and only its gradient lives."""
    level: Level = "token"
    """Over which tokens log ratios are summed (or averaged) before clipping; gradients stay per token."""


class SurrogateConfig(Section):
    kind: Literal["ppo", "cispo", "reinforce"] = "ppo"
    """ppo: clipped surrogate; cispo: detached clipped ratio times log-prob; reinforce: detached ratio
    times log-prob."""
    epsilon_low: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Lower clip: the band starts at 1 - epsilon_low."""
    epsilon_high: Annotated[float, Field(ge=0)] = 0.2
    """Upper clip: the band ends at 1 + epsilon_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """For negative advantages the loss is capped at -A * dual_clip (ppo only)."""

    @model_validator(mode="before")
    @classmethod
    def _reinforce_clips_nothing(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("kind") == "reinforce":
            for key in ("epsilon_low", "epsilon_high"):
                if data.get(key, cls.model_fields[key].default) != cls.model_fields[key].default:
                    raise ValueError(f"{key} bounds a clip, and reinforce clips nothing; remove it")
        return data

    @model_validator(mode="after")
    def _dual_clip_is_ppo(self) -> Self:
        if self.kind != "ppo" and self.dual_clip is not None:
            raise ValueError(
                f"dual_clip acts on the ppo surrogate only; {self.kind} has no use for it, remove it"
            )
        return self


class WeightConfig(Section):
    action: Literal["none", "truncate", "clip", "mask"] = "none"
    """truncate: min(x, upper); clip: both sides; mask: x inside the band, else 0;
    a masked token stays in the normaliser."""
    of: Literal["mismatch", "bypass"] = "mismatch"
    """mismatch: pi_old/mu; bypass: pi_theta/mu at the update."""
    level: Level = "token"
    """Level of the weight, independent of the ratio's."""
    lower: Annotated[float, Field(ge=0)] = 0.0
    """Lower bound in ratio units (clip and mask)."""
    upper: PositiveFloat = 2.0
    """Upper bound in ratio units."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        bounds = [key for key in data if key in cls.model_fields and key != "action"]
        if bounds and "action" not in data:
            raise ValueError(
                f"{bounds[0]} is set but no action: nothing would be weighted; "
                "set action: truncate, clip or mask"
            )
        action = data.get("action", "none")
        if action == "none":
            return {
                "action": "none",
                **{k: v for k, v in data.items() if k not in cls.model_fields},
            }
        if action == "truncate" and data.get("lower", 0.0) not in (0, 0.0):
            raise ValueError(
                "truncate bounds the weight from above only; use action: clip to keep a lower bound"
            )
        return data

    @model_validator(mode="after")
    def _bounds_are_a_band(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


class ObjectiveConfig(Section):
    """One off-policy correction: plain GRPO by default."""

    advantage: AdvantageConfig = AdvantageConfig()
    """How a group's rewards become advantages."""
    ratio: RatioConfig = RatioConfig()
    """The ratio that the surrogate clips."""
    surrogate: SurrogateConfig = SurrogateConfig()
    """What is done with that ratio."""
    weight: WeightConfig = WeightConfig()
    """A detached factor on the loss."""
    aggregate: Aggregate = "token_mean"
    """How per-token losses become one number."""
    log_ratio_clamp: tuple[float, float] = (-20.0, 20.0)
    """Bounds on the log ratio, applied once after the reduction to the level; clamped entries are counted."""

    @model_validator(mode="after")
    def _clamp_is_a_band(self) -> Self:
        low, high = self.log_ratio_clamp
        if not low < 0 < high or high > 60 or low < -60:
            raise ValueError(
                f"log_ratio_clamp must satisfy -60 <= low < 0 < high <= 60, got {[low, high]}"
            )
        return self

    @model_validator(mode="after")
    def _no_double_count(self) -> Self:
        if self.weight.action != "none" and self.ratio.denominator == "rollout":
            raise ValueError(
                "ratio.denominator: rollout already contains pi_old/mu, so a weight would count the mismatch twice; "
                "set weight.action: none, or ratio.denominator: old"
            )
        if self.ratio.denominator == "current" and self.surrogate.kind != "reinforce":
            raise ValueError(
                "ratio.denominator: current makes the ratio 1, so a clip can never act; "
                "set surrogate.kind: reinforce, or ratio.denominator: old"
            )
        return self

    @property
    def needs_logp_old(self) -> bool:
        """Whether the loss itself (not only a diagnostic) uses pi_old."""
        return self.ratio.denominator == "old" or (
            self.weight.action != "none" and self.weight.of == "mismatch"
        )
