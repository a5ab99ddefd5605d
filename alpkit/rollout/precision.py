"""Simulated low precision: the sampler's linear weights rounded, to dial a mismatch on any machine.

Round to nearest, symmetric, one scale per output row (what int8/int4 weight-only servers store); the
embedding and the LM head stay, as in GPTQ and AWQ. Compute stays float32: only the weights differ.
"""

from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

Weights = Literal["float32", "bfloat16", "float16", "int8", "int4"]


def round_trip(weight: Float[Tensor, "out in"], kind: Weights) -> Float[Tensor, "out in"]:
    """`weight` quantised to `kind` and back, in its own dtype; a row of zeros stays zero."""
    match kind:
        case "float32":
            return weight.float().to(weight.dtype)
        case "bfloat16":
            return weight.bfloat16().to(weight.dtype)
        case "float16":
            return weight.half().to(weight.dtype)
        case "int8" | "int4":
            top = 127 if kind == "int8" else 7
            scale = weight.abs().amax(dim=1, keepdim=True) / top
            steps = (weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)).round()
            return steps.clamp(-top, top) * scale
        case _:
            assert_never(kind)


@torch.no_grad()
def round_linear_weights(model: PreTrainedModel, kind: Weights) -> None:
    """Round every linear layer's weight in place, except the LM head's."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.weight.copy_(round_trip(module.weight, kind))
