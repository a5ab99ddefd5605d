"""`Inputs`: the per-token tensors of one micro-batch that every loss call passes.

policy_loss(**vars(inputs), config=config)
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Log-probs, mask and advantage of one micro-batch, named as `policy_loss` names them.

    Log-probs in nats, [batch, tok]. `logp` is the ratio's numerator: of the perturbed policy where the arm
    perturbs. `mask` is bool or 0/1, `advantage` [batch] or [batch, tok]. `logp_old` is None where no part of
    the objective uses it, `turn` (0-based ids, non-decreasing along tok) where every response is one turn.
    """

    logp: Float[Tensor, "batch tok"]
    logp_old: Float[Tensor, "batch tok"] | None
    logp_rollout: Float[Tensor, "batch tok"]
    mask: Tensor
    advantage: Tensor
    turn: Int[Tensor, "batch tok"] | None = None
