"""Simulate low precision: round the sampler's weight matrices, to set a mismatch on any machine.

Round to nearest, symmetric, one scale per output row (what int8/int4 weight-only servers store): every
matrix of the decoder blocks, routers and experts included, each expert on its own. Embedding and LM
head stay, as in GPTQ and AWQ. Compute stays float32: only the weights differ.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alpkit.errors import ConfigError
from alpkit.policy.perturbation.sites import decoder_layers

Weights = Literal["float32", "bfloat16", "float16", "int8", "int4"]

MIN_SHARE = 0.95
"""Share of block weights below which a simulated precision is refused."""
# Modules whose matrices are applied as [out, in] though they are no nn.Linear end in one of these.
_ROUTERS = ("Router", "Gate")


class Matrix(NamedTuple):
    """One weight matrix; `transposed` where it is stored as [..., in, out] instead of [..., out, in]."""

    weight: Tensor
    transposed: bool


def round_trip(weight: Float[Tensor, "*stack out in"], kind: Weights) -> Tensor:
    """Quantise `weight` to `kind` and back, in its own dtype; a row of zeros stays zero."""
    match kind:
        case "float32":
            return weight.float().to(weight.dtype)
        case "bfloat16":
            return weight.bfloat16().to(weight.dtype)
        case "float16":
            return weight.half().to(weight.dtype)
        case "int8" | "int4":
            top = 127 if kind == "int8" else 7
            scale = weight.abs().amax(dim=-1, keepdim=True) / top
            steps = (weight / scale.clamp(min=torch.finfo(weight.dtype).tiny)).round()
            return steps.clamp(-top, top) * scale
        case _:
            assert_never(kind)


def rounded(matrix: Matrix, value: Tensor, kind: Weights) -> Tensor:
    """Round `value`, which is stored as `matrix` is, to `kind`."""
    if matrix.transposed:
        return round_trip(value.transpose(-1, -2), kind).transpose(-1, -2)
    return round_trip(value, kind)


def matrices(model: PreTrainedModel) -> list[Matrix]:
    """List every matrix that is rounded: those of the decoder blocks, and linear layers other than the LM head."""
    head, inside = model.get_output_embeddings(), set(map(id, _block_modules(model)))
    found = {}
    for module in model.modules():
        if module is head:
            continue
        for matrix in _matrices_of(module, in_block=id(module) in inside):
            found[id(matrix.weight)] = matrix
    return list(found.values())


def rounded_share(model: PreTrainedModel) -> float:
    """Give the share of the decoder blocks' matrix weights that can be rounded; works on meta models too."""
    known = {id(matrix.weight) for matrix in matrices(model)}
    total = reached = 0
    for name, value in _block_matrices(model):
        del name
        total += value.numel()
        reached += value.numel() if id(value) in known else 0
    return reached / max(total, 1)


def check_rounding(model: PreTrainedModel, kind: Weights) -> float:
    """Give `rounded_share`; `ConfigError` where it is below `MIN_SHARE` and `kind` rounds at all."""
    share = rounded_share(model)
    if kind != "float32" and share < MIN_SHARE:
        known = {id(matrix.weight) for matrix in matrices(model)}
        left = [name for name, value in _block_matrices(model) if id(value) not in known]
        raise ConfigError(
            f"rollout.weights: {kind} would round {share:.1%} of the block weights of "
            f"{type(model).__name__}",
            where="rollout.weights",
            why=f"the layout of {left[0]} and {len(left) - 1} more is not known, so that the mismatch "
            "would be smaller than the name says",
            fix="set rollout.weights: float32 or engine: vllm, or teach alpkit/rollout/precision.py "
            "its layout",
        )
    return share


@torch.no_grad()
def round_weights(model: PreTrainedModel, kind: Weights) -> None:
    """Round every matrix in place, except the embedding's and the LM head's."""
    for matrix in matrices(model):
        matrix.weight.copy_(rounded(matrix, matrix.weight, kind))


def _block_modules(model: PreTrainedModel) -> Iterator[nn.Module]:
    for layer in decoder_layers(model):
        yield from layer.modules()


def _block_matrices(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """List the blocks' parameters with two axes or more, without biases."""
    for number, layer in enumerate(decoder_layers(model)):
        for name, value in layer.named_parameters():
            if value.ndim >= 2 and not name.endswith("bias"):
                yield f"layer {number} {name}", value


def _matrices_of(module: nn.Module, *, in_block: bool) -> list[Matrix]:
    """List the module's own matrices, as far as their layout is known."""
    if isinstance(module, nn.Linear):
        return [Matrix(module.weight, transposed=False)]
    if not in_block:
        return []
    own = {n: p for n, p in module.named_parameters(recurse=False) if not n.endswith("bias")}
    if isinstance(module, Conv1D):
        return [Matrix(module.weight, transposed=True)]
    # Fused experts of transformers say themselves whether they multiply from the right.
    if isinstance(transposed := getattr(module, "is_transposed", None), bool):
        return [Matrix(p, transposed) for p in own.values() if p.ndim == 3]
    if type(module).__name__.endswith(_ROUTERS):
        return [Matrix(p, transposed=False) for p in own.values() if p.ndim == 2]
    return []
