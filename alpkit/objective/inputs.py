"""The six per-token tensors that every call of the loss takes, as one value that travels."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """What `policy_loss` takes of one micro-batch besides its settings; log-probs in nats.

    `policy_loss(**vars(inputs), config=config)` takes it as it is.
    """

    logp: Float[Tensor, "batch tok"]
    """The ratio's numerator, perturbed or not; carries the gradient."""
    logp_old: Float[Tensor, "batch tok"] | None
    """None where the objective does not use it."""
    logp_rollout: Float[Tensor, "batch tok"]
    mask: Tensor
    """Tokens that count, bool or 0/1."""
    advantage: Tensor
    """One per response, or one per token."""
    turn: Int[Tensor, "batch tok"] | None = None
    """Turn of each token, 0-based; None: one turn."""
