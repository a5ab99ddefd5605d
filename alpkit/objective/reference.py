"""Per-token KL to a frozen reference policy, by Schulman's estimators."""

from typing import NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import ReferenceKLConfig
from alpkit.objective.tokens import marks


class ReferenceKL(NamedTuple):
    """Estimated KL per token in nats, and the slope that is used as its derivative by log pi.

    `log_ratio_clamped`, `value_clamped`: 1 where that clamp acted.
    """

    value: Float[Tensor, "batch tok"]
    slope: Float[Tensor, "batch tok"]
    log_ratio_clamped: Float[Tensor, "batch tok"]
    value_clamped: Float[Tensor, "batch tok"]


def reference_kl(log_ratio: Float[Tensor, "batch tok"], config: ReferenceKLConfig) -> ReferenceKL:
    """Estimate KL(pi || pi_ref) from d = log pi_ref - log pi of sampled tokens, nats.

    k1: -d, whose slope is 1 everywhere: in expectation no gradient at all. k2: d^2/2, slope -d, which is
    the KL's gradient in expectation. k3: exp(d) - 1 - d, slope 1 - exp(d). k3_straight_through: k3's
    value with k2's slope. A clamp that acts makes the slope 0, but that of the value does not touch the
    straight-through slope, which is not the value's. http://joschu.net/blog/kl-approx.html
    """
    bound = config.log_ratio_clamp
    d = log_ratio.clamp(-bound, bound)
    match config.estimator:
        case "k1":
            value, slope = -d, torch.ones_like(d)
        case "k2":
            value, slope = d.square() / 2, -d
        case "k3":
            value, slope = d.expm1() - d, -d.expm1()
        case "k3_straight_through":
            value, slope = d.expm1() - d, -d
        case _:
            assert_never(config.estimator)
    limit = torch.inf if config.value_clamp is None else config.value_clamp
    held = value.clamp(-limit, limit)
    log_ratio_clamped, value_clamped = marks(torch.ne, d, log_ratio), marks(torch.ne, held, value)
    slope = slope * (1 - log_ratio_clamped)
    if config.estimator != "k3_straight_through":
        slope = slope * (1 - value_clamped)
    return ReferenceKL(held, slope, log_ratio_clamped, value_clamped)
