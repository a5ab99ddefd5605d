"""Per-token KL to a frozen reference policy, by Schulman's estimators."""

from typing import NamedTuple, assert_never

from jaxtyping import Float
from torch import Tensor

from alpkit.config.objective import Estimator

_CLAMP = 20.0


class ReferenceKL(NamedTuple):
    """`value` in nats per token; `slope`: what is used as its derivative with respect to log pi."""

    value: Float[Tensor, "batch tok"]
    slope: Float[Tensor, "batch tok"]


def reference_kl(log_ratio: Float[Tensor, "batch tok"], estimator: Estimator) -> ReferenceKL:
    """Estimate KL(pi || pi_ref) from d = log pi_ref - log pi of sampled tokens, nats; d into [-20, 20].

    k1: -d, whose slope is 1 everywhere: in expectation no gradient at all. k2: d^2/2, slope -d, which is
    the KL's gradient in expectation. k3: exp(d) - 1 - d, slope 1 - exp(d). k3_straight_through: k3's
    value with k2's slope. http://joschu.net/blog/kl-approx.html
    """
    d = log_ratio.clamp(-_CLAMP, _CLAMP)
    inside = d == log_ratio
    match estimator:
        case "k1":
            return ReferenceKL(-d, inside.to(d.dtype))
        case "k2":
            return ReferenceKL(d.square() / 2, -d * inside)
        case "k3":
            return ReferenceKL(d.expm1() - d, -d.expm1() * inside)
        case "k3_straight_through":
            return ReferenceKL(d.expm1() - d, -d * inside)
        case _:
            assert_never(estimator)
