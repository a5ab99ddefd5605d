"""The random batches that ours and a peer are compared on. Imports torch alone: peers' processes use it too."""

import torch
from torch import Tensor

ROWS, TOK = 6, 12


def batch(generator: torch.Generator) -> dict[str, Tensor]:
    """Ragged responses, heavy-tailed log ratios from nearly none to large ones; in half of the batches
    responses of several turns, with the tools' answers masked in one piece each.
    """
    mu = -torch.rand(ROWS, TOK, generator=generator) * 4
    size = torch.tensor([0.002, 0.1, 0.4])[torch.randint(3, (ROWS, 1), generator=generator)]
    normal, scale = (torch.randn(ROWS, TOK, generator=generator) for _ in range(2))
    old = mu + size * normal / scale.abs().clamp(min=0.05)  # Cauchy-like, up to some 60 spreads
    logp = old + 0.1 * torch.randn(ROWS, TOK, generator=generator)
    length = torch.randint(1, TOK + 1, (ROWS, 1), generator=generator)
    mask = torch.arange(TOK) < length
    if torch.rand((), generator=generator) < 0.5:
        mask &= torch.stack([turns(generator) for _ in range(ROWS)])
    advantage = torch.randn(ROWS, generator=generator)
    return {"rollout": mu, "old": old, "logp": logp, "mask": mask, "advantage": advantage}


def turns(generator: torch.Generator) -> Tensor:
    """One response's mask: spans of 1 to 4 sampled tokens with 1 to 3 tokens of a tool between them."""
    spans: list[Tensor] = []
    while sum(map(len, spans)) < TOK:
        for value, longest in ((True, 4), (False, 3)):
            count = int(torch.randint(1, longest + 1, (), generator=generator))
            spans.append(torch.full((count,), value))
    return torch.cat(spans)[:TOK]


def plain(values: object) -> object:
    """Tensors and numbers as JSON holds them: nine digits give every float32 back."""
    if isinstance(values, Tensor):
        return plain(values.tolist())
    if isinstance(values, dict):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    return float(f"{values:.9g}") if isinstance(values, float) else values
