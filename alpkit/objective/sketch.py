"""The state of a `RatioSketch`, made where the log-probs are: one vector leaves the device, not every token.

Layout and meaning are `alpkit.diagnostics.sketch`'s; this file only fills the vector with torch.

    state = sketch_state(logp - logp_rollout, mask); RatioSketch(state.cpu().numpy()).quantile(0.98)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alpkit.diagnostics.overflow import K3_CAP
from alpkit.diagnostics.sketch import BINS, POWERS, STEP, SUMS, TOP, UNIT
from alpkit.diagnostics.tails import SATURATION

_SECTIONS = (2 * BINS, 2 * TOP, len(SUMS), len(POWERS))


def sketch_state(
    log_ratio: Float[Tensor, "*shape"], mask: Tensor | None = None
) -> Float[Tensor, " state"]:
    """Sketch log ratios (nats) on their device; float64 vector of `alpkit.diagnostics.sketch.SIZE` numbers, detached.

    `mask` (bool or 0/1, same shape): items that count; None: all. NaN and infinite items are counted
    and left out. States of several batches add up with `merge_states`.
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


def merge_states(states: Float[Tensor, "part state"]) -> Float[Tensor, " state"]:
    """One state from several: of micro-batches, or of ranks after an all-gather."""
    counts, top, sums, logs = states.split(_SECTIONS, dim=1)
    left, right = top.reshape(-1, 2, TOP).unbind(dim=1)
    return torch.cat(
        [
            counts.sum(dim=0),
            _top(left.flatten()),
            _top(right.flatten()),
            sums.sum(dim=0),
            logs.logsumexp(dim=0),
        ]
    )


def all_reduce_state(state: Float[Tensor, " state"]) -> Float[Tensor, " state"]:
    """The merged state of all ranks of the default process group, on every rank."""
    ranks = torch.distributed.get_world_size()
    gathered = [torch.empty_like(state) for _ in range(ranks)]
    torch.distributed.all_gather(gathered, state)
    return merge_states(torch.stack(gathered))


def _top(values: Float[Tensor, " item"]) -> Float[Tensor, " top"]:
    """The `TOP` largest, descending, padded with -inf."""
    largest = values.topk(min(TOP, values.numel())).values
    return torch.cat([largest, largest.new_full((TOP - largest.numel(),), -torch.inf)])
