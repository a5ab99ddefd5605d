"""The log-probs of one micro-batch, from which every part of the objective takes its ratios."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alpkit.config.correction import Of


@dataclass(frozen=True)
class TokenBatch:
    """Log-probs in nats of the tokens that were sampled, [batch, tok]; detached, float32 at least.

    `logp` is the ratio's numerator (perturbed or not). `mask` marks valid tokens: what the caller
    marked, less tokens with a log-prob that is no finite number. Values at other positions never matter.
    """

    logp: Float[Tensor, "batch tok"] | None
    logp_old: Float[Tensor, "batch tok"] | None
    logp_rollout: Float[Tensor, "batch tok"]
    mask: Bool[Tensor, "batch tok"]
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
        named = [None if x is None else x.detach().to(dtype) for x in (logp, logp_old)]
        rollout = logp_rollout.detach().to(dtype)
        given = mask.bool()
        valid = given
        for values in (*named, rollout):
            if values is not None:
                valid = valid & (values.abs() < torch.inf)
        lost = (torch.count_nonzero(given) - torch.count_nonzero(valid)).to(dtype)
        return cls(named[0], named[1], rollout, valid, turn, lost)

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
        return (over - under).masked_fill_(~self.mask, 0.0)
