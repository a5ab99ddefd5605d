"""What the loss did to a micro-batch's tokens, as sums, so that micro-batches add up to a step.

Shares are made from them in `alpkit.measure`; `alpkit.metrics` says how to read each.
"""

from jaxtyping import Float
from torch import Tensor

from alpkit.objective.surrogate import Surrogate
from alpkit.objective.tokens import TokenBatch, total


def loss_receipt(
    tokens: TokenBatch,
    advantage: Float[Tensor, "batch #tok"],
    terms: Surrogate,
    alive: Float[Tensor, "batch tok"],
    removed: Float[Tensor, "batch tok"] | None,
) -> dict[str, Tensor]:
    """Counts by side and advantage sign, what lost its gradient, and how much |advantage| went.

    `alive`: 1 for valid tokens with a gradient; `removed`: 1 for those that weight or rejection took
    out, None where nothing can.
    """
    negative, positive = ((advantage < 0).to(alive.dtype), (advantage > 0).to(alive.dtype))
    size = advantage.abs()
    sums = {
        "sequences": tokens.real.amax(dim=1).sum(),
        "nonfinite": tokens.nonfinite,
        "surviving": alive.sum(),
        "advantage": total(tokens.real, size),
    }
    if removed is not None:
        sums["removed_negative"] = total(removed, negative)
        sums["removed_positive"] = total(removed, positive)
        sums["advantage_removed"] = total(removed, size)
    for side, outside, dies in (
        ("low", terms.below, "negative"),
        ("high", terms.above, "positive"),
    ):
        if outside is not None:
            # Masked tokens have ratio 1, which no band leaves out.
            by_sign = {"negative": total(outside, negative), "positive": total(outside, positive)}
            sums |= {f"outside_{side}_{sign}": count for sign, count in by_sign.items()}
            sums[f"clipped_{side}"] = outside.sum() if terms.alive is None else by_sign[dies]
    if terms.dual is not None:
        sums["dual_clipped"] = terms.dual.sum()
    return sums
