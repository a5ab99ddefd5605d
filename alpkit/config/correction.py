"""Settings of importance weights, which multiply the loss, and of rejections, which leave tokens out of it.

Part of `alpkit.config.objective`; apart from it because TRL, verl or a notebook can use these two
without the rest (`alpkit.objective.mismatch_correction`). Not here: tensors.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from alpkit.config.base import Section

Level = Literal[
    "token", "cumulative", "cumulative_geometric", "turn", "cumulative_turn", "geometric", "product"
]
Of = Literal["mismatch", "bypass"]
When = Literal["always", "positive_advantage", "negative_advantage", "moving_away"]
Statistic = Literal["k1", "k2", "k3", "prob_gap", "signed_prob_gap", "binary_kl", "binary_kl_both"]
_SIGNED = ("k1", "signed_prob_gap")
_KL_MOST = 13.8155
"""Largest binary KL of two probabilities in [1e-6, 1 - 1e-6]."""


class WeightConfig(Section):
    action: Literal["none", "truncate", "clip", "mask"] = "none"
    """truncate: min(x, upper); clip: both sides; mask: x inside the band, else 0;
    a masked token stays in the normaliser."""
    of: Of = "mismatch"
    """mismatch: pi_old/mu; bypass: pi_theta/mu at the update."""
    level: Level = "token"
    """Level of the weight, independent of the ratio's."""
    lower: Annotated[float, Field(ge=0)] = 0.0
    """Lower bound in ratio units (clip and mask)."""
    upper: PositiveFloat = 2.0
    """Upper bound in ratio units."""
    normalize: Literal["none", "batch"] = "none"
    """batch: divide by the weights' mean over the whole mini-batch, after the action, before any rejection:
    over valid tokens, or over responses where a response has one weight."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_has_no_effect(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        settings = [key for key in data if key in cls.model_fields and key != "action"]
        if settings and "action" not in data:
            raise ValueError(
                f"{settings[0]} is set but no action: nothing would be weighted; "
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
                "lower does nothing: truncate bounds the weight from above only; use action: clip to keep it"
            )
        return data

    @model_validator(mode="after")
    def _bounds_are_a_band(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


class _Reject(Section):
    """A token (or a response) goes when its statistic lies outside [lower, upper]."""

    of: Of = "mismatch"
    """mismatch: x = pi_old/mu; bypass: x = pi_theta/mu at the update."""
    lower: float | None = None
    """Smallest value that stays; null: no lower bound."""
    upper: float | None = None
    """Largest value that stays; null: no upper bound."""
    when: When = "always"
    """Which tokens can go. positive_advantage, negative_advantage: those with such an advantage; moving_away:
    those whose update would take them further from mu, A log x > 0 with this rule's x of the token."""
    normalizer: Literal["keep", "shrink"] = "keep"
    """keep: rejected tokens still count in the loss's denominator; shrink: they leave it, so what is left
    takes a larger step."""

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        if self.lower is None and self.upper is None:
            raise ValueError(
                "lower and upper are both missing, so nothing is rejected; set a bound"
            )
        if None not in (self.lower, self.upper) and self.lower >= self.upper:  # type: ignore[operator]
            raise ValueError(f"lower {self.lower} must be below upper {self.upper}")
        return self


class RejectRatio(_Reject):
    """Reject by the ratio x itself; bounds in ratio units."""

    statistic: Literal["ratio"]
    level: Literal["token", "geometric", "product"] = "token"
    """ratio only. token: single tokens go; geometric, product: whole responses."""

    @model_validator(mode="after")
    def _bounds_are_ratios(self) -> Self:
        for name, bound in (("lower", self.lower), ("upper", self.upper)):
            if bound is not None and bound <= 0:
                raise ValueError(
                    f"{name} is in ratio units and a ratio is above 0; write a number > 0, or leave it out"
                )
        return self


class RejectDivergence(_Reject):
    """Reject by a divergence of the token, or of the response's tokens together."""

    statistic: Statistic
    """ratio: x itself, bounds in ratio units; k1 = -log x, k2 = (log x)^2/2, k3 = x - 1 - log x,
    signed_prob_gap = numerator's probability - mu's, prob_gap = its size, binary_kl = KL of mu over the
    numerator as two-way choices (this token or another), binary_kl_both = the larger of both directions."""
    reduce: Literal["token", "mean", "sum", "min", "max"] = "token"
    """All but ratio. token: single tokens go; otherwise whole responses, by their tokens' mean, sum, min or
    max."""

    @model_validator(mode="after")
    def _bounds_can_act(self) -> Self:
        signed = self.statistic in _SIGNED
        if not signed and self.lower is not None and self.lower <= 0:
            raise ValueError(f"lower does nothing: {self.statistic} is never below 0; leave it out")
        if not signed and self.upper is not None and self.upper < 0:
            raise ValueError(
                f"upper rejects everything: {self.statistic} is never below 0; write a number >= 0"
            )
        return self

    @model_validator(mode="after")
    def _bounds_lie_where_the_statistic_does(self) -> Self:
        if self.statistic.startswith("binary_kl") and self.lower is not None:
            raise ValueError(
                f"lower would keep only what is far from mu: a region of {self.statistic} has an upper bound; "
                "set upper"
            )
        if self.reduce == "sum":
            return self
        if self.statistic.endswith("prob_gap") and self.upper is not None and self.upper >= 1:
            raise ValueError(
                "upper does nothing: a probability gap is never above 1; write a number < 1"
            )
        if self.statistic == "signed_prob_gap" and self.lower is not None and self.lower <= -1:
            raise ValueError(
                "lower does nothing: a probability gap is never below -1; write a number > -1"
            )
        if self.statistic.startswith("binary_kl") and (self.upper or 0.0) >= _KL_MOST:
            raise ValueError(
                f"upper does nothing: {self.statistic} is never above {_KL_MOST:g}, probabilities being held in "
                "[1e-6, 1 - 1e-6]; write a smaller number"
            )
        return self


RejectConfig = Annotated[RejectRatio | RejectDivergence, Field(discriminator="statistic")]
