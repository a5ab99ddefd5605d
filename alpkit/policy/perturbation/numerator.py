"""Combine perturbed log-probs with the clean policy's gradient (`perturbation.gradient: clean`)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def with_gradient_of(
    clean: Float[Tensor, "*shape"], perturbed: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Return the values of `perturbed`, to the bit, with the gradient of `clean`.

    A loss of it has the value of the perturbed ratio, and sends d loss / d log-prob, taken at that value,
    through the clean policy: the noise changes how much each token weighs and smooths nothing. The noise's
    size gets no gradient.
    """
    mixed: Tensor = _ValueOf.apply(clean, perturbed)  # type: ignore[no-untyped-call]
    return mixed


class _ValueOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clean: Tensor, perturbed: Tensor) -> Tensor:
        return perturbed.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
