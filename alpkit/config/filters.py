"""Settings of the prompts, groups and responses that no step trains on (`rollout.filter`, `rollout.overlong`)."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from alpkit.config.base import Section

Overlong = Literal["keep", "mask", "zero_reward"]

_ROUNDS = 4


class FilterConfig(Section):
    """Choose what a step asks and trains on; reward/* stays that of the first draw, so that arms can be compared."""

    max_prompt: PositiveInt | None = None
    """Longest prompt, tokens: longer ones are never asked, and others take their place; null: any length."""
    zero_variance: Literal["keep", "drop", "refill"] = "keep"
    """Groups whose rewards are all equal, and which therefore teach nothing. keep: they still count in the loss's
    denominator; drop: they are left out of loss, statistics and token records; refill: another prompt takes their
    place, and what is equal after the last round is dropped."""
    rounds: PositiveInt = _ROUNDS
    """Most further draws of a step under refill."""

    @model_validator(mode="after")
    def _rounds_refill(self) -> Self:
        if self.zero_variance != "refill" and self.rounds != _ROUNDS:
            raise ValueError(
                f"rounds does nothing with zero_variance: {self.zero_variance}; remove it, or set "
                "zero_variance: refill"
            )
        return self


def sample_bounds(chosen: FilterConfig, overlong: Overlong) -> dict[str, tuple[str, ...]]:
    """List what a run was set to do to its samples, each with the `receipt/` counts of what it touched."""
    found: dict[str, tuple[str, ...]] = {}
    if chosen.max_prompt is not None:
        found["prompt filter"] = ("long_prompts",)
    if chosen.zero_variance != "keep":
        refilled = ("refilled_groups",) if chosen.zero_variance == "refill" else ()
        found[f"zero-variance {chosen.zero_variance}"] = ("dropped_groups", *refilled)
    if overlong != "keep":
        found[f"overlong {overlong}"] = ("overlong",)
    return found
