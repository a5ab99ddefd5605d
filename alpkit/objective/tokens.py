"""The log-probs of one micro-batch, from which every part of the objective takes its ratios.

Values that are one per response stay [batch, 1] ("batch #tok") and broadcast. Marks are floats, 0 or 1,
and are multiplied with: on a CPU, torch's `where` and `masked_fill` take twenty times as long as a product.
Functions of this package leave the tensors that they are given as they are; an operation in place (`mul_`)
is always on a tensor that the same function has made, because a new one costs more than its arithmetic.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alpkit.config.correction import Of


@dataclass(frozen=True)
class TokenBatch:
    """Log-probs in nats of the tokens that were sampled, [batch, tok]; detached, float32 at least.

    `logp` is the ratio's numerator (perturbed or not). `real` is 1 for valid tokens: what the caller
    marked, less tokens with a log-prob that is no finite number, which `nonfinite` counts. `count` is the
    number of valid tokens per response. Values at other positions never matter.
    """

    logp: Float[Tensor, "batch tok"] | None
    logp_old: Float[Tensor, "batch tok"] | None
    logp_rollout: Float[Tensor, "batch tok"]
    real: Float[Tensor, "batch tok"]
    count: Float[Tensor, "batch 1"]
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
        given = as_float(mask, dtype)
        # A difference is finite exactly where all of its (moderate) terms are.
        difference = rollout
        for values in (now, old):
            difference = difference if values is None else difference - values
        real = difference.abs().lt_(torch.inf).mul_(given)
        count = real.sum(dim=1, keepdim=True)
        return cls(now, old, rollout, real, count, turn, given.sum() - count.sum())

    def numerator(self, of: Of) -> Float[Tensor, "batch tok"]:
        """Give log pi_old (mismatch) or the ratio's numerator (bypass); ValueError where it was not passed."""
        values = self.logp_old if of == "mismatch" else self.logp
        if values is None:
            name = "pi_old: pass logp_old" if of == "mismatch" else "pi_theta: pass logp"
            raise ValueError(f"this objective uses {name}")
        return values

    def over_rollout(self, of: Iterable[Of]) -> dict[Of, Float[Tensor, "batch tok"]]:
        """Compute the log ratios over mu that are named, each once, in nats; 0 where masked."""
        return {each: self.log_ratio(self.numerator(each), self.logp_rollout) for each in set(of)}

    def log_ratio(
        self, over: Float[Tensor, "batch tok"], under: Float[Tensor, "batch tok"]
    ) -> Float[Tensor, "batch tok"]:
        """Compute `over` - `under` in nats; exactly 0 where masked, whatever stands there."""
        return (over - under).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).mul_(self.real)

    def rows(self, values: Float[Tensor, "batch #tok"]) -> Float[Tensor, "batch 1"]:
        """Sum over each response's valid tokens; `values` are one per response, or 0 where masked."""
        if values.shape[1] == 1:
            return values * self.count
        return values.sum(dim=1, keepdim=True)

    def real_like(self, values: Float[Tensor, "batch #tok"]) -> Float[Tensor, "batch #tok"]:
        """The factor that makes `values` 0 where masked; 1 for values that are one per response."""
        return torch.ones_like(values) if values.shape[1] == 1 else self.real


def as_float(mask: Tensor, dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Turn a bool or 0/1 mask into floats; by way of uint8, which torch converts five times as fast as bool."""
    return (mask.view(torch.uint8) if mask.dtype == torch.bool else mask).to(dtype)


def marks(
    compare: Callable[..., Tensor],
    left: Float[Tensor, "*shape"],
    right: Float[Tensor, "*right"] | float,
) -> Float[Tensor, "*shape"]:
    """Mark with 1 where `compare(left, right)` holds (torch.lt, torch.eq, ...), else 0, in the shape of `left`.

    A comparison that writes floats takes a quarter of the time of one that writes bools.
    """
    return compare(left, right, out=torch.empty_like(left))


def clean(
    values: Float[Tensor, "*shape"], real: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Set `values` to 0 where `real` is 0, even inf and NaN; valid values are finite."""
    return values.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).mul_(real)
