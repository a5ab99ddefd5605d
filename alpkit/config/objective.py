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


_OWN_SETTINGS = {
    "epsilon_low": (("ppo", "cispo"), "bounds a clip"),
    "epsilon_high": (("ppo", "cispo"), "bounds a clip"),
    "tau_positive": (("sapo",), "shapes a sigmoid"),
    "tau_negative": (("sapo",), "shapes a sigmoid"),
    "power_positive": (("vespo",), "shapes a weight by the ratio"),
    "decay_positive": (("vespo",), "shapes a weight by the ratio"),
    "power_negative": (("vespo",), "shapes a weight by the ratio"),
    "decay_negative": (("vespo",), "shapes a weight by the ratio"),
}


class SurrogateConfig(Section):
    kind: Literal["ppo", "cispo", "reinforce", "sapo", "vespo"] = "ppo"
    """ppo: clipped surrogate; cispo: detached clipped ratio times log-prob; reinforce: detached ratio
    times log-prob; sapo: the ratio through a sigmoid instead of a clip; vespo: a detached weight that peaks
    near ratio 1 and falls to 0 on both sides, times log-prob."""
    epsilon_low: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Lower clip: the band starts at 1 - epsilon_low."""
    epsilon_high: Annotated[float, Field(ge=0)] = 0.2
    """Upper clip: the band ends at 1 + epsilon_high."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """For negative advantages the loss is capped at -A * dual_clip (ppo only)."""
    tau_positive: PositiveFloat = 1.0
    """Sharpness of the sigmoid for positive advantages (sapo only)."""
    tau_negative: PositiveFloat = 1.05
    """Sharpness of the sigmoid for negative advantages (sapo only)."""
    power_positive: NonNegativeFloat = 2.0
    """k of x^k exp(lambda (1 - x)) for advantages >= 0 (vespo only)."""
    decay_positive: Annotated[float, Field(ge=1e-4)] = 3.0
    """lambda of x^k exp(lambda (1 - x)) for advantages >= 0 (vespo only)."""
    power_negative: NonNegativeFloat = 3.0
    """k for negative advantages (vespo only)."""
    decay_negative: Annotated[float, Field(ge=1e-4)] = 2.0
    """lambda for negative advantages (vespo only)."""

    @model_validator(mode="before")
    @classmethod
    def _only_what_the_kind_has(cls, data: object) -> object:
        """Refuse another kind's settings: they would do nothing. A default is no setting."""
        if not isinstance(data, dict):
            return data
        kind = data.get("kind", "ppo")
        for key, (kinds, what) in _OWN_SETTINGS.items():
            if kind in kinds or data.get(key, cls.model_fields[key].default) == (
                cls.model_fields[key].default
            ):
                continue
            raise ValueError(f"{key} {what}, and {kind} has none; remove it")
        return data

    @property
    def has_band(self) -> bool:
        """Whether ratios outside [1 - epsilon_low, 1 + epsilon_high] are clipped."""
        return self.kind in ("ppo", "cispo")

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


class CenteringConfig(Section):
    kind: Literal["none", "score"] = "none"
    """score: subtract the mean of the weighted score over the sampler's likeliest tokens
    (rollout.top_logprobs) at every position, so that the mean gradient of a constant advantage is 0."""
    tail: Literal["floored", "softmax"] = "floored"
    """The rest of the vocabulary: the sampler's missing mass in the trainer's proportions. floored: both
    masses at least 1e-6 (as the trainers that have the method); softmax: the trainer's mass from its own
    log-sum-exp, right also where the head holds all but 1e-8."""

    @model_validator(mode="before")
    @classmethod
    def _no_tail_without_a_head(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("kind", "none") == "none" and "tail" in data:
            if data["tail"] != "floored":
                raise ValueError("tail does nothing without kind: score; set it, or remove tail")
        return data


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
    centering: CenteringConfig = CenteringConfig()
    """Score centering: what the policy would drift by whatever the advantages, taken out."""
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

    @model_validator(mode="after")
    def _one_weight_a_response(self) -> Self:
        if self.surrogate.kind != "vespo":
            return self
        if self.ratio.level != "product":
            raise ValueError(
                f"surrogate.kind: vespo weighs a response by its product ratio, and ratio.level: {self.ratio.level} "
                "is another quantity; set ratio.level: product"
            )
        if self.weight.action != "none":
            raise ValueError(
                "weight.action: vespo's weight is made of the ratio, and a second one would multiply it; set "
                "weight.action: none, and ratio.denominator: rollout to have pi_old/mu in it"
            )
        return self

    @model_validator(mode="after")
    def _centering_knows_every_candidate(self) -> Self:
        if self.centering.kind == "none":
            return self
        weight = self.weight
        for wrong, text in (
            (
                self.ratio.denominator != "current",
                "centering: the score is centred under pi_theta/mu, and another ratio beside it would reweigh the "
                "sampled token alone; set ratio.denominator: current and surrogate.kind: reinforce",
            ),
            (
                weight.action != "none" and weight.of != "bypass",
                "weight.of: mismatch has pi_old, of which only the sampled token is known; centering needs the "
                "weight of every candidate: set weight.of: bypass",
            ),
            (
                weight.action == "clip",
                "weight.action: clip is no weight of centering; set truncate, mask or none",
            ),
            (
                weight.action != "none" and weight.level != "token",
                f"weight.level: {weight.level} has no value for the candidates of one position; set level: token",
            ),
            (
                weight.normalize != "none",
                "weight.normalize: batch has no value for the candidates of one position; set normalize: none",
            ),
        ):
            if wrong:
                raise ValueError(text)
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
        band = ("clipped_low", "clipped_high") if self.surrogate.has_band else ()
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
