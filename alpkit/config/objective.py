"""The objective's axes: a correction method is a point on them, and names are presets.

Only axes that the trainer acts on stand here. A value without effect is dropped from the validated
config, so that two spellings of one method have one hash. Weights and rejections are in
`correction.py`. Not here: tensors (`alpkit.objective`).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from alpkit.config.base import Section
from alpkit.config.correction import Level, RejectConfig, WeightConfig

Denominator = Literal["old", "rollout", "current"]
Aggregate = Literal[
    "token_mean",
    "token_mean_per_micro_batch",
    "seq_mean_token_sum",
    "seq_mean_token_mean",
    "fixed_length_sum",
    "fixed_length_mean",
]
Estimator = Literal["k1", "k2", "k3", "k3_straight_through"]


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

    @model_validator(mode="after")
    def _one_has_no_level(self) -> Self:
        if self.denominator == "current" and self.level != "token":
            raise ValueError(
                "level does nothing: denominator: current makes the ratio 1 at every level; remove it, "
                "or set denominator: old"
            )
        return self


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


class ReferenceKLConfig(Section):
    coef: NonNegativeFloat = 0.0
    """Weight of KL(policy || starting policy) in the loss; 0: no reference model is held."""
    estimator: Estimator = "k3"
    """With d = log pi_ref - log pi: k1 = -d, k2 = d^2/2, k3 = exp(d) - 1 - d; k3_straight_through has k3's
    value and k2's gradient, which is the KL's own."""

    log_ratio_clamp: PositiveFloat = 20.0
    """Largest |d|, nats; beyond it the gradient is 0. Clamped tokens are counted."""
    value_clamp: PositiveFloat | None = None
    """Largest |estimate| of a token, nats; beyond it the gradient is 0 (k3_straight_through keeps k2's). The
    released scripts have 10; null: none. Clamped tokens are counted."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: object) -> object:
        if not isinstance(data, dict) or data.get("coef", 0) != 0:
            return data
        settings = [key for key in cls.model_fields if key in data and key != "coef"]
        if settings and "coef" not in data:
            raise ValueError(
                f"{settings[0]} does nothing without a coef; set coef to a number > 0, or remove it"
            )
        return {key: value for key, value in data.items() if key not in settings}


class ObjectiveConfig(Section):
    """One off-policy correction: plain GRPO by default."""

    advantage: AdvantageConfig = AdvantageConfig()
    """How a group's rewards become advantages."""
    ratio: RatioConfig = RatioConfig()
    """The ratio that the surrogate clips."""
    surrogate: SurrogateConfig = SurrogateConfig()
    """Use of that ratio in the loss: how it is clipped."""
    weight: WeightConfig = WeightConfig()
    """A factor on the loss that carries no gradient: the importance weight."""
    reject: tuple[RejectConfig, ...] = ()
    """Tokens and responses that are left out; an item goes if any entry rejects it."""
    aggregate: Aggregate = "token_mean"
    """How per-token losses become one number: over the whole mini-batch, but for
    token_mean_per_micro_batch: the mean of micro-batch token means, weighted by responses, as the
    reference implementation computes it (it depends on hardware.micro_batch_tokens)."""
    reference_kl: ReferenceKLConfig = ReferenceKLConfig()
    """Pull towards the starting policy."""
    entropy_bonus: NonNegativeFloat = 0.0
    """Times the next-token entropy of every token that no rejection took out, off the loss. The entropy is that of the
    policy whose log-probs are the ratio's numerator: with a perturbation the perturbed one's, whose forward has the
    gradient anyway; with gradient: clean its value is the perturbed one's and its gradient the clean one's."""
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
        weighted = self.weight.action != "none"
        if weighted and self.ratio.denominator == "rollout":
            raise ValueError(
                "ratio.denominator: rollout already contains pi_old/mu, so a weight would count the mismatch twice; "
                "set weight.action: none, or ratio.denominator: old"
            )
        if weighted and self.weight.of == "bypass" and self.ratio.denominator == "old":
            raise ValueError(
                "weight.of: bypass contains pi_theta/pi_old, which the ratio already holds, so the staleness would "
                "count twice; set weight.of: mismatch, or ratio.denominator: current with surrogate.kind: reinforce"
            )
        if self.ratio.denominator == "current" and self.surrogate.kind != "reinforce":
            raise ValueError(
                "ratio.denominator: current makes the ratio 1, so a clip can never act; "
                "set surrogate.kind: reinforce, or ratio.denominator: old"
            )
        return self

    @property
    def bounds(self) -> dict[str, tuple[str, ...]]:
        """List every bound that this method sets, each with the `receipt/` counts of the tokens it touched."""
        weight = {
            "none": (),
            "truncate": ("truncated",),
            "clip": ("truncated", "raised"),
            "mask": ("masked",),
        }[self.weight.action]
        band = () if self.surrogate.kind == "reinforce" else ("clipped_low", "clipped_high")
        dual = ("dual_clipped",) if self.surrogate.dual_clip is not None else ()
        found = {
            f"weight {self.weight.action} (upper {self.weight.upper:g})": weight,
            "rejection": ("rejected",) if self.reject else (),
            "clip band": (*band, *dual),
        }
        return {name: receipts for name, receipts in found.items() if receipts}

    @property
    def needs_logp_old(self) -> bool:
        """Whether the loss itself (not only a diagnostic) uses pi_old."""
        return self.ratio.denominator == "old" or "mismatch" in self.corrected

    @property
    def corrected(self) -> frozenset[str]:
        """Name the ratios that weight and rejections look at: mismatch, bypass, both or none."""
        return frozenset(
            [
                *([self.weight.of] if self.weight.action != "none" else []),
                *(r.of for r in self.reject),
            ]
        )

    @property
    def cut_matters(self) -> bool:
        """Whether the loss depends on how a mini-batch is cut into forwards: one published script's does."""
        return self.aggregate == "token_mean_per_micro_batch"

    @property
    def of_whole_batch(self) -> frozenset[str]:
        """Name the ratios that must be known for a whole mini-batch before its first micro-batch's loss."""
        weight = [self.weight.of] if self.weight.normalize == "batch" else []
        shrinking = [rule.of for rule in self.reject if rule.normalizer == "shrink"]
        return frozenset([*weight, *shrinking])
