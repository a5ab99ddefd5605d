"""Make the state of a `RatioSketch` on the log-probs' device, so that one vector leaves it and not every token.

Layout and meaning are `alpkit.diagnostics.sketch`'s; this file only fills the vector with torch.

    state = sketch_state(logp - logp_rollout, mask); RatioSketch(state.cpu().numpy()).quantile(0.98)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.diagnostics.overflow import K3_CAP
from alpkit.diagnostics.sketch import BINS, POWERS, STEP, TOP, UNIT
from alpkit.diagnostics.tails import SATURATION


def sketch_state(
    log_ratio: Float[Tensor, "*shape"], mask: Tensor | None = None
) -> Float[Tensor, " state"]:
    """Sketch log ratios (nats) on their device; float64 vector of `alpkit.diagnostics.sketch.SIZE` numbers, detached.

    `mask` (bool or 0/1, same shape): items that count; None: all. NaN and infinite items are counted
    and left out.
    """
    d = log_ratio.detach().double().flatten()
    if mask is not None:
        d = d[mask.bool().flatten()]
    given = d.numel()
    d = d[d.isfinite()]
    size, square = d.abs(), d.square()
    growth = d.clamp(max=K3_CAP).expm1()
    place = ((size / UNIT).asinh() / STEP).clamp(max=BINS - 1).long()
    counts = torch.bincount(place + BINS * (d > 0), minlength=2 * BINS).double()
    zero = (d == 0).sum()
    counts[0] -= zero
    sums = [
        d.new_tensor(d.numel()),
        zero,
        (size >= SATURATION).sum(),
        d.new_tensor(given - d.numel()),
        d.sum(),
        square.sum(),
        (square * d).sum(),
        square.square().sum(),
        (growth - d).sum(),
    ]
    logs = [torch.logsumexp(power * d, dim=0) for power in POWERS]
    return torch.cat([counts, _top(-d), _top(d), *(torch.stack(x).double() for x in (sums, logs))])


def _top(values: Float[Tensor, " item"]) -> Float[Tensor, " top"]:
    """Give the `TOP` largest, descending, padded with -inf."""
    largest = values.topk(min(TOP, values.numel())).values
    return torch.cat([largest, largest.new_full((TOP - largest.numel(),), -torch.inf)])
