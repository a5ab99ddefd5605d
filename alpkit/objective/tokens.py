"""The log-probs of one micro-batch, from which every part of the objective takes its ratios.

Masks that multiply are float 0/1 here: on a CPU, torch's masked_fill and where take twenty times as
long as a product, and a comparison that writes floats a quarter of one that writes bools.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.correction import Of


@dataclass(frozen=True)
class TokenBatch:
    """Log-probs in nats of the tokens that were sampled, [batch, tok]; detached, float32 at least.

    `logp` is the ratio's numerator (perturbed or not). `mask` marks valid tokens: what the caller
    marked, less tokens with a log-prob that is no finite number; `real` is the same as float 0/1.
    Values at other positions never matter.
    """

    logp: Float[Tensor, "batch tok"] | None
    logp_old: Float[Tensor, "batch tok"] | None
    logp_rollout: Float[Tensor, "batch tok"]
    mask: Bool[Tensor, "batch tok"]
    real: Float[Tensor, "batch tok"]
    turn: Int[Tensor, "batch tok"] | None
    nonfinite: Float[Tensor, ""]

    @classmethod
    def of(
        cls,
        *,
        logp: Float[Tensor, "batch tok"] | None,
        logp_old: Float[Tensor, "batch tok"] | None,
        logp_rollout: Float[Tensor, "batch tok"],
        mask: Tensor,
        turn: Int[Tensor, "batch tok"] | None = None,
    ) -> "TokenBatch":
        """Detach, widen to float32 and take non-finite tokens out of the mask, counting them."""
        widest = logp_rollout if logp is None else logp
        dtype = torch.promote_types(widest.dtype, torch.float32)
        now, old = (None if x is None else x.detach().to(dtype) for x in (logp, logp_old))
        rollout = logp_rollout.detach().to(dtype)
        # One sum is finite exactly where all of its (moderate) terms are.
        total = rollout
        for values in (now, old):
            total = total if values is None else total + values
        given = mask.bool()
        valid = given & (total.abs() < torch.inf)
        lost = torch.count_nonzero(given ^ valid)
        return cls(now, old, rollout, valid, valid.to(dtype), turn, lost.to(dtype))

    def numerator(self, of: Of) -> Float[Tensor, "batch tok"]:
        """log pi_old (mismatch) or the ratio's numerator (bypass); ValueError where it was not given."""
        found = self.logp_old if of == "mismatch" else self.logp
        if found is None:
            name = "pi_old: pass logp_old" if of == "mismatch" else "pi_theta: pass logp"
            raise ValueError(f"this objective uses {name}")
        return found

    def log_ratio(
        self, over: Float[Tensor, "batch tok"], under: Float[Tensor, "batch tok"]
    ) -> Float[Tensor, "batch tok"]:
        """`over` - `under` in nats; exactly 0 where masked, whatever stands there."""
        return clean(over - under, self.real)


def clean(
    values: Float[Tensor, "batch tok"], real: Float[Tensor, "batch tok"]
) -> Float[Tensor, "batch tok"]:
    """0 where `real` is 0, even for inf and NaN; valid values are finite. Writes into `values`."""
    return values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).mul_(real)


def indicator(
    compare: Callable[..., Tensor],
    left: Float[Tensor, "batch tok"],
    right: Float[Tensor, "batch #tok"] | float,
) -> Float[Tensor, "batch tok"]:
    """`compare(left, right)` as float 0/1."""
    return compare(left, right, out=torch.empty_like(left))


def total(
    values: Float[Tensor, "batch tok"], factor: Float[Tensor, "batch #tok"]
) -> Float[Tensor, ""]:
    """Sum of values * factor; by rows where a row has one factor, which spares a pass."""
    if factor.shape[1] == 1:
        return (values.sum(dim=1) * factor[:, 0]).sum()
    return (values * factor).sum()
