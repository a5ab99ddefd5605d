"""Whether a perturbation is of a size at which its arm says something: neither its control, nor another policy.

Sizes are standard deviations over response tokens, nats; a state's noise is relative to its rms.

    for text in size.cautions(): logger.warning(text)
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

NEARLY_NONE: Final = 0.05
"""Share of the ratio's own spread below which the noise is lost in it."""
ANOTHER_POLICY: Final = 1.0
"""Nats a token above which the ratio's numerator is no longer the policy that is trained."""


class NoiseSize(NamedTuple):
    """Size of one perturbation's noise, where it enters and where it arrives."""

    to_rms: Mapping[str, float]
    """Noise over the rms of the hidden state that it is added to, by layer (or by site without layers)."""
    perturbation: float
    """Std of log pi_theta,delta - log pi_theta, nats a token."""
    ratio: float
    """Std of the unperturbed log ratio that the loss would clip, nats a token."""

    @property
    def share(self) -> float | None:
        """The noise's spread over the ratio's; None where the ratio has none yet."""
        return self.perturbation / self.ratio if self.ratio > 0 else None

    def cautions(self) -> Iterator[str]:
        """Yield a caution where the noise is too small or too large to be compared with its control."""
        share = self.share
        if share is not None and share < NEARLY_NONE:
            yield (
                f"nearly its control: the noise moves log-probs by {self.perturbation:.2g} nats a token, {share:.1%} "
                f"of the ratio's own {self.ratio:.2g}; raise perturbation.sigma.init, or set sigma.target_ratio_std"
            )
        if self.perturbation > ANOTHER_POLICY:
            yield (
                f"another policy: the noise moves log-probs by {self.perturbation:.3g} nats a token, more than "
                f"{ANOTHER_POLICY:g}; lower perturbation.sigma.init, or set sigma.target_ratio_std"
            )

    def __str__(self) -> str:
        places = ", ".join(f"{place} {share:.3g}" for place, share in self.to_rms.items())
        share = "" if self.share is None else f", {self.share:.0%} of the ratio's {self.ratio:.3g}"
        return (
            f"noise over the state's rms: {places}; it moves log-probs by {self.perturbation:.3g} "
            f"nats a token{share}"
        )
